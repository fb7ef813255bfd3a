//! A stream of records that survives breaks.
//!
//! The control plane sends server-sent events whose data is a record with a rising sequence number.
//! When the connection breaks, the follower opens it again with `after=<last sequence>`, with
//! exponential backoff and jitter, and drops what it has seen already; it gives up after
//! [`PATIENCE`] without a connection. A refusal (a bad token, an unknown service) is final at once.

use crate::client::Client;
use crate::error::ClientError;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// How long a broken stream is tried again until the follower gives up.
const PATIENCE: Duration = Duration::from_secs(120);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(5);
/// One event is a line of a log or a sentence; a larger one means that something else answers.
const EVENT_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// Records as they come. Ask with [`Self::next`]; dropping it closes the stream.
pub struct Follow<T> {
    client: Client,
    noun: &'static str,
    query: Vec<(&'static str, String)>,
    sequence_of: fn(&T) -> i64,
    last_sequence: Option<i64>,
    connection: Option<Connection>,
    ever_connected: bool,
    broken_since: Option<Instant>,
    backoff: Duration,
    record: PhantomData<T>,
}

struct Connection {
    answer: reqwest::Response,
    parser: EventParser,
}

impl<T: DeserializeOwned> Follow<T> {
    pub(crate) fn new(
        client: Client,
        noun: &'static str,
        query: Vec<(&'static str, String)>,
        sequence_of: fn(&T) -> i64,
    ) -> Self {
        Self {
            client,
            noun,
            query,
            sequence_of,
            last_sequence: None,
            connection: None,
            ever_connected: false,
            broken_since: None,
            backoff: FIRST_BACKOFF,
            record: PhantomData,
        }
    }

    /// The next record; waits for it. Safe to cancel: what arrived stays for the next call.
    pub async fn next(&mut self) -> Result<T, ClientError> {
        loop {
            if self.connection.is_none() {
                self.connect().await?;
            }
            let Some(connection) = &mut self.connection else { continue };
            while let Some(data) = connection.parser.next_event() {
                let record: T = serde_json::from_str(&data).map_err(|error| {
                    self.client.not_mainstay(format!("a record of its {} cannot be read: {error}", self.noun))
                })?;
                let sequence = (self.sequence_of)(&record);
                if self.last_sequence.is_some_and(|last| sequence <= last) {
                    continue;
                }
                self.last_sequence = Some(sequence);
                return Ok(record);
            }
            match connection.answer.chunk().await {
                Ok(Some(chunk)) if connection.parser.buffered() + chunk.len() <= EVENT_LIMIT_BYTES => {
                    connection.parser.push(&chunk);
                    self.broken_since = None;
                    self.backoff = FIRST_BACKOFF;
                }
                Ok(Some(_)) => {
                    return Err(self.client.not_mainstay("one event of its stream is larger than 4 MiB".into()));
                }
                Ok(None) | Err(_) => {
                    tracing::debug!(stream = self.noun, "the stream broke; opening it again");
                    self.connection = None;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<(), ClientError> {
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if self.ever_connected {
            // Waits on every reconnection, also when the last one was accepted and ended at once.
            let jitter = 0.5 + fastrand::f64();
            tokio::time::sleep(self.backoff.mul_f64(jitter)).await;
            self.backoff = (self.backoff * 2).min(BACKOFF_LIMIT);
        }
        match self.client.open_stream(&["api", "v1", self.noun], &self.query_now()).await {
            Ok(answer) => {
                self.connection = Some(Connection { answer, parser: EventParser::default() });
                self.ever_connected = true;
                Ok(())
            }
            Err(error) if self.ever_connected && error.is_passing() && since.elapsed() < PATIENCE => {
                tracing::debug!(stream = self.noun, %error, "could not open the stream again yet");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn query_now(&self) -> Vec<(&'static str, String)> {
        let mut query: Vec<_> = match self.last_sequence {
            // What came before is known: no tail and no older start.
            Some(_) => {
                self.query.iter().filter(|(key, _)| !matches!(*key, "after" | "tail" | "limit")).cloned().collect()
            }
            None => self.query.clone(),
        };
        query.extend(self.last_sequence.map(|last| ("after", last.to_string())));
        query.push(("follow", "true".to_owned()));
        query
    }
}

/// The part of the event-stream format that a reader of data needs: `data:` lines up to an empty line.
/// Comments (signs of life) and other fields are skipped.
#[derive(Default)]
struct EventParser {
    buffer: Vec<u8>,
    /// Where the search for the next line end goes on.
    searched: usize,
    data: Option<String>,
}

impl EventParser {
    fn buffered(&self) -> usize {
        self.buffer.len() + self.data.as_ref().map_or(0, String::len)
    }

    fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    fn next_event(&mut self) -> Option<String> {
        loop {
            let Some(found) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = self.searched + found;
            let line = String::from_utf8_lossy(&self.buffer[..end]).trim_end_matches('\r').to_owned();
            self.buffer.drain(..=end);
            self.searched = 0;
            if line.is_empty() {
                if let Some(data) = self.data.take() {
                    return Some(data);
                }
            } else if let Some(rest) = line.strip_prefix("data:") {
                let rest = rest.strip_prefix(' ').unwrap_or(rest);
                match &mut self.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(rest);
                    }
                    None => self.data = Some(rest.to_owned()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> Vec<String> {
        let mut parser = EventParser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk.as_bytes());
            while let Some(event) = parser.next_event() {
                events.push(event);
            }
        }
        events
    }

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let text = ": hello\n\nevent: log\nid: 7\ndata: {\"a\":\ndata: 1}\n\nid: 8\r\ndata:x\r\n\r\n";
        let whole = parse(&[text]);
        assert_eq!(whole, ["{\"a\":\n1}", "x"]);
        let bytes: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(parse(&bytes.iter().map(String::as_str).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn an_unfinished_event_is_not_given_out() {
        assert!(parse(&["data: half\n"]).is_empty());
    }
}
