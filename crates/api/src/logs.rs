//! Log lines on their way from a process to a person.
//!
//! A log is a sequence of lines with byte offsets, one per build and one per instance, written on
//! the machine first and shipped in batches that resume at an offset. An offset that was
//! acknowledged is never sent again and never lost.

use crate::UnixMillis;
use crate::ids::{DeploymentId, InstanceId, ServiceId};
use serde::{Deserialize, Serialize};

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LogSource {
    /// Fetching and building for a deployment.
    Build { deployment_id: DeploymentId },
    /// Output of a running instance.
    Run { instance_id: InstanceId },
}

impl LogSource {
    /// A key for tables: `build:dep_…` or `run:ins_…`.
    pub fn key(&self) -> String {
        match self {
            Self::Build { deployment_id } => format!("build:{deployment_id}"),
            Self::Run { instance_id } => format!("run:{instance_id}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LogStream {
    Stdout,
    Stderr,
    /// Written by Mainstay itself: `started with pid 12`, `exited with code 1`.
    Mainstay,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogLine {
    pub at_ms: UnixMillis,
    pub stream: LogStream,
    pub text: String,
}

/// Lines of one log from `offset` on. `next_offset` is where the next batch begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogBatch {
    pub source: LogSource,
    pub service_id: ServiceId,
    pub offset: u64,
    pub next_offset: u64,
    pub lines: Vec<LogLine>,
}

/// Body of `POST /api/v1/agent/logs`, gzip-compressed JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogUpload {
    pub batches: Vec<LogBatch>,
}

/// Per batch: the offset up to which everything is kept. Lower than sent: send again from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogUploadAnswer {
    pub acknowledged: Vec<LogAcknowledgement>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogAcknowledgement {
    pub source: LogSource,
    pub next_offset: u64,
}

/// One line as `GET /logs` and its stream answer, in the order of `sequence`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogRecord {
    /// Rises within the control plane; pass the last one seen as `after`.
    pub sequence: i64,
    pub service_id: ServiceId,
    pub service: String,
    pub source: LogSource,
    #[serde(flatten)]
    pub line: LogLine,
}

/// A line of a foreign program as people read it and search in it, and as it may safely stand on a
/// terminal: without control sequences.
pub fn plain_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => skip_sequence(&mut letters),
            '\t' => out.push(' '),
            letter if letter.is_control() => {}
            letter => out.push(letter),
        }
    }
    out
}

fn skip_sequence(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match letters.next() {
        // CSI: up to its final byte.
        Some('[') => {
            letters.find(|letter| ('\x40'..='\x7e').contains(letter));
        }
        // OSC: up to BEL or ST.
        Some(']') => {
            while let Some(letter) = letters.next() {
                if letter == '\x07' || (letter == '\x1b' && letters.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_colours_and_titles_do_not_reach_the_terminal() {
        assert_eq!(plain_text("\x1b[1;32mok\x1b[0m \x1b]0;title\x07done\tnow\r"), "ok done now");
        assert_eq!(plain_text("\x1b["), "");
        assert_eq!(plain_text("a\x1b]8;;http://x\x1b\\b"), "ab");
    }
}
