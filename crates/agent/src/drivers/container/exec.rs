//! Running a health check inside a container.

use super::answers::{Created, ExecInspect};
use super::api::{Api, ApiError, escaped};
use crate::drivers::CheckOutcome;
use crate::drivers::process::procfs;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const OUTPUT_LIMIT_BYTES: usize = 16 * 1024;
const SHOWN_CHARACTERS: usize = 300;

/// Of a check that ended, what is left: the session's id.
pub struct Ended {
    pub outcome: CheckOutcome,
    pub session: String,
}

/// `command` is an argument vector; `shown` is what people call it.
pub async fn check(
    api: &Api,
    container: &str,
    command: &[String],
    shown: &str,
    timeout: Duration,
) -> Result<Ended, ApiError> {
    let create = json!({ "AttachStdout": true, "AttachStderr": true, "Cmd": command });
    let exec: Created = api.post(&format!("/containers/{}/exec", escaped(container)), &create).await?;
    let inspect = format!("/exec/{}/json", escaped(&exec.id));
    let begin = Bytes::from_static(br#"{"Detach":false,"Tty":false}"#);
    let path = format!("/exec/{}/start", escaped(&exec.id));
    let output = tokio::time::timeout(timeout, async {
        let body = api.stream(http::Method::POST, &path, &[], Some(begin)).await?;
        Ok::<_, ApiError>(read(body).await)
    });
    let Ok(output) = output.await else {
        end(api, &inspect).await;
        let message = format!("{shown} took longer than {} ms", timeout.as_millis());
        return Ok(Ended { outcome: CheckOutcome { ok: false, message }, session: exec.id });
    };
    let output = output?;
    let code = api.get::<ExecInspect>(&inspect).await?.exit_code.unwrap_or(-1);
    let last = output.trim().lines().last().unwrap_or_default();
    let last: String = last.chars().take(SHOWN_CHARACTERS).collect();
    let end = match code {
        126 | 127 if last.is_empty() => {
            format!("{shown} could not be run in the container (code {code}); is it in the image?")
        }
        _ => format!("{shown} exited with code {code}"),
    };
    let message = if last.is_empty() { end } else { format!("{end}: {last}") };
    Ok(Ended { outcome: CheckOutcome { ok: code == 0, message }, session: exec.id })
}

/// Podman keeps two processes of its own for five minutes after each command that was run over its API, asleep until they
/// take the session out of its books. A check every few seconds would gather a hundred of them. What sleeps is woken by
/// SIGTERM, and does then at once what it would have done later.
pub fn wake_sleepers(sessions: &BTreeSet<String>) {
    let all: BTreeMap<u32, (u32, String)> = procfs::processes()
        .into_iter()
        .filter_map(|stat| {
            let line = std::fs::read(format!("/proc/{}/cmdline", stat.pid)).ok()?;
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let is_conmon = words.first().is_some_and(|program| program.ends_with(b"conmon"));
            let at = words.iter().position(|word| *word == b"-u").filter(|_| is_conmon)?;
            let session = String::from_utf8_lossy(words.get(at + 1)?).into_owned();
            sessions.contains(&session).then_some((stat.pid, (stat.parent, session)))
        })
        .collect();
    for (pid, (parent, session)) in &all {
        // The child of the two is the one that sleeps.
        let sleeps = all.get(parent).is_some_and(|(_, of)| of == session);
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).filter(|_| sleeps);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// A check that hangs would stay in the container, once per interval. The API has no call to end it.
async fn end(api: &Api, inspect: &str) {
    let Ok(found) = api.get::<ExecInspect>(inspect).await else { return };
    if let Some(pid) = i32::try_from(found.pid).ok().filter(|pid| *pid > 1).and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Both streams as they come, the end of them if they are long.
async fn read(mut body: Incoming) -> String {
    let mut frames = Frames::default();
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            frames.push(data);
        }
    }
    String::from_utf8_lossy(&frames.text).into_owned()
}

/// Takes the engine's frames apart: one byte for the stream, three of nothing, four for the length.
#[derive(Default)]
struct Frames {
    pending: Vec<u8>,
    text: Vec<u8>,
}

impl Frames {
    fn push(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
        while let Some((head, rest)) = self.pending.split_first_chunk::<8>() {
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            if rest.len() < length {
                break;
            }
            self.text.extend_from_slice(&rest[..length]);
            self.pending.drain(..8 + length);
        }
        if self.text.len() > OUTPUT_LIMIT_BYTES {
            self.text.drain(..self.text.len() - OUTPUT_LIMIT_BYTES);
        }
        if self.pending.len() > 1024 * 1024 {
            self.pending.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_put_together_however_they_are_cut() {
        let mut data = b"\x01\0\0\0\0\0\0\x03hi\n".to_vec();
        data.extend(b"\x02\0\0\0\0\0\0\x04bad\n");
        let mut frames = Frames::default();
        for byte in data {
            frames.push(&[byte]);
        }
        assert_eq!(frames.text, b"hi\nbad\n");
        assert!(frames.pending.is_empty());
    }
}
