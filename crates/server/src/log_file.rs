//! A whole log as one answer: every line of a choice, however many there are.
//!
//! A log may hold two million lines. So the answer is a stream: a piece is read from the database when the
//! client has taken the one before, no transaction is open in between, and what waits in memory is one piece.
//! Who stops reading stops the reading. The end is known from the beginning (the newest line of that moment), so
//! that a service which writes without pause does not keep the answer from ending.
//!
//! Text that is searched for is looked for here, line by line, as people read it: in any case, and without the
//! control sequences that a program colours its words with.
//!
//! A piece that cannot be read breaks the connection. A client must not take half of a log for all of it.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use crate::web::exact_time;
use api::logs::{LogRecord, plain_text};
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::io;
use std::time::{Duration, Instant};
use store::LogFilter;

/// How many lines are read at once. A line has 16 KiB at most.
const LINES_AT_ONCE: u32 = 500;
/// How often the right to read on is looked at again.
const RIGHT_CHECKED_EVERY: Duration = Duration::from_secs(15);
/// What is rare may be far away: an empty line tells a program that it is still looked for.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(10);

/// A text that lines are searched for.
#[derive(Debug, Clone, Default)]
pub struct Words(String);

impl Words {
    pub fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    /// Whether the line holds them, as a person sees it.
    pub fn are_in(&self, line: &str) -> bool {
        self.0.is_empty() || plain_text(line).to_lowercase().contains(&self.0)
    }
}

/// As what the lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineForm {
    /// One `LogRecord` per line, as JSON.
    #[default]
    Json,
    /// The time, and the line without control sequences.
    Text,
}

impl LineForm {
    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/x-ndjson",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    fn write(self, record: &LogRecord, piece: &mut String) -> io::Result<()> {
        match self {
            Self::Json => piece.push_str(&serde_json::to_string(record)?),
            Self::Text => {
                piece.push_str(&exact_time(record.line.at_ms));
                piece.push(' ');
                piece.push_str(plain_text(&record.line.text).trim_end());
            }
        }
        piece.push('\n');
        Ok(())
    }
}

/// Which lines, and how.
#[derive(Debug, Clone)]
pub struct LogFile {
    /// Without places and a limit: all of it is meant.
    pub filter: LogFilter,
    pub words: Words,
    pub newest_first: bool,
    pub form: LineForm,
}

/// Where the reading is.
struct Reading {
    state: AppState,
    caller: Caller,
    file: LogFile,
    checked_at: Instant,
    told_at: Instant,
    ended: bool,
}

/// The answer, which reads while it is taken.
pub async fn answer(state: AppState, caller: Caller, mut file: LogFile) -> Result<Response> {
    let newest = state.store().log_newest(caller.scope()).await?;
    file.filter.limit = LINES_AT_ONCE;
    file.filter.before = Some(newest + 1);
    file.filter.after = (!file.newest_first).then_some(0);
    let content_type = file.form.content_type();
    let reading = Reading { state, caller, file, checked_at: Instant::now(), told_at: Instant::now(), ended: false };
    let pieces = stream::try_unfold(reading, |mut reading| async move {
        Ok::<_, io::Error>(reading.next().await?.map(|piece| (Bytes::from(piece), reading)))
    });
    Ok(([(CONTENT_TYPE, content_type)], Body::from_stream(pieces)).into_response())
}

impl Reading {
    /// The next lines that are meant; `None` after the last ones.
    async fn next(&mut self) -> io::Result<Option<String>> {
        while !self.ended {
            self.check_right().await?;
            let mut piece = self.read().await?;
            if piece.is_empty() && self.file.form == LineForm::Json && self.told_at.elapsed() >= SIGN_OF_LIFE_EVERY {
                piece.push('\n');
            }
            if !piece.is_empty() {
                self.told_at = Instant::now();
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> io::Result<String> {
        let read = self.state.store().log_list(self.caller.scope(), &self.file.filter).await;
        let mut records = read.map_err(|error| {
            // Nobody can be answered any more; it is logged where errors of the store are.
            let _ = HttpError::from(error).to_answer();
            io::Error::other("the log could not be read on")
        })?;
        self.ended = records.len() < LINES_AT_ONCE as usize;
        if self.file.newest_first {
            self.file.filter.before = records.first().map(|record| record.sequence);
            records.reverse();
        } else {
            self.file.filter.after = records.last().map(|record| record.sequence);
        }
        let mut piece = String::new();
        for record in records.iter().filter(|record| self.file.words.are_in(&record.line.text)) {
            self.file.form.write(record, &mut piece)?;
        }
        Ok(piece)
    }

    async fn check_right(&mut self) -> io::Result<()> {
        if self.checked_at.elapsed() < RIGHT_CHECKED_EVERY {
            return Ok(());
        }
        self.checked_at = Instant::now();
        match self.caller.still_good(&self.state).await {
            true => Ok(()),
            false => Err(io::Error::other("the session or token ended")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_as_a_person_sees_them() {
        assert!(Words::new("Error").are_in("an ERROR"));
        assert!(Words::new("no stock").are_in("no \x1b[1mst\x1b[0mock"));
        assert!(!Words::new("[1m").are_in("no \x1b[1mstock"));
        assert!(Words::new("").are_in(""));
        assert!(Words::new("ÜBER").are_in("es war über"));
    }
}
