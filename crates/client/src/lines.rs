//! An answer of any length: one JSON record per line, read as it is asked for.
//!
//! Unlike a stream that is followed, it has an end, and it is not opened again after a break: what came of it is
//! not all, and whoever asked is told so.

use crate::client::Client;
use crate::error::{ClientError, root_cause};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// A record is a line of a log; a larger one means that something else answers.
const LINE_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// Records in the order of the answer. Dropping it ends the reading at both ends.
pub struct Lines<T> {
    client: Client,
    answer: reqwest::Response,
    noun: &'static str,
    buffer: Vec<u8>,
    /// What of the buffer was given out.
    taken: usize,
    record: PhantomData<T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(crate) fn new(client: Client, answer: reqwest::Response, noun: &'static str) -> Self {
        Self { client, answer, noun, buffer: Vec::new(), taken: 0, record: PhantomData }
    }

    /// The next record; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            let rest = &self.buffer[self.taken..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line = self.taken..self.taken + end;
                self.taken += end + 1;
                if line.is_empty() {
                    // A sign of life, while much is looked through and little is found.
                    continue;
                }
                let record = serde_json::from_slice(&self.buffer[line]).map_err(|error| {
                    self.client.not_mainstay(format!("a line of its {} cannot be read: {error}", self.noun))
                })?;
                return Ok(Some(record));
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            match self.answer.chunk().await {
                Ok(Some(chunk)) if self.buffer.len() + chunk.len() <= LINE_LIMIT_BYTES => {
                    self.buffer.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    return Err(self.client.not_mainstay(format!("a line of its {} is larger than 4 MiB", self.noun)));
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    let reason = format!("its {} broke off ({})", self.noun, root_cause(&error));
                    return Err(ClientError::Unreachable { url: self.client.address().to_owned(), reason });
                }
            }
        }
    }
}
