//! The record of one request, from its first byte to the end of its answer.
//!
//! It is made before anything else and dropped last, so whatever happens in between (an answer, a
//! page of our own, a client that goes away) is counted and logged once.

use super::response_body::BodyError;
use crate::access_log::{Described, Entry};
use crate::serve::Peer;
use crate::upstreams::{OpenRequest, Service};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Status in the access log of a request whose client went away before there was an answer.
const CLIENT_GONE: u16 = 499;
const REQUEST_ID_LIMIT: usize = 128;

/// Under what a request is found again: the client's own word if it is sane, else 128 random bits.
#[derive(Debug, Clone)]
pub enum RequestId {
    Made([u8; 32]),
    Given(Box<[u8]>),
}

impl RequestId {
    pub fn of(given: Option<&[u8]>) -> Self {
        let sane = |bytes: &&[u8]| {
            (1..=REQUEST_ID_LIMIT).contains(&bytes.len()) && bytes.iter().all(|b| b.is_ascii_graphic() && *b != b'"')
        };
        if let Some(given) = given.filter(sane) {
            return Self::Given(given.into());
        }
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let random = fastrand::u128(..).to_be_bytes();
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(random) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        Self::Made(text)
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Made(text) => text,
            Self::Given(text) => text,
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct Exchange {
    pub peer: Arc<Peer>,
    pub request_id: RequestId,
    pub service: Option<Arc<Service>>,
    pub open: Option<OpenRequest>,
    started: Instant,
    status: u16,
    bytes: u64,
    /// For the access log, if there is one.
    described: Option<Described>,
    /// The connection keeps count of what is open on it.
    counted: bool,
}

impl Exchange {
    pub fn begin(peer: &Arc<Peer>, request_id: RequestId, describe: impl FnOnce() -> Described) -> Self {
        Self {
            peer: peer.clone(),
            request_id,
            service: None,
            open: None,
            started: Instant::now(),
            status: CLIENT_GONE,
            bytes: 0,
            described: peer.shared.access_log.is_enabled().then(describe),
            counted: false,
        }
    }

    /// Notes it as open on its connection, which may have many at once.
    pub fn counted(mut self) -> Self {
        self.peer.activity.request_began();
        self.counted = true;
        self
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// The head of the answer is known: the time to it and its kind count for the service.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
        if let Some(service) = &self.service {
            service.counters.answered(status, self.started.elapsed());
        }
    }

    pub fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    pub fn broke_off(&self, error: &BodyError) {
        let service = self.service.as_ref().map(|service| service.name.as_str()).unwrap_or_default();
        tracing::debug!(service, %error, request_id = self.request_id.as_str(), "an answer ended too early");
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.counted {
            self.peer.activity.request_ended();
        }
        if let Some(service) = &self.service {
            service.counters.sent(self.bytes);
        }
        let Some(described) = self.described.take() else { return };
        let duration = self.started.elapsed();
        self.peer.shared.access_log.write(Entry {
            at: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            request_id: &self.request_id,
            described,
            status: self.status,
            bytes: self.bytes,
            duration,
            service: self.service.as_ref().map(|service| service.name.as_str()),
            instance: self.open.as_ref().map(|open| open.upstream().instance_id.as_str()),
            peer: self.peer.address.ip(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_kept_if_sane_and_made_otherwise() {
        assert_eq!(RequestId::of(Some(b"abc-1")).as_str(), "abc-1");
        for bad in ["", "a b", &"x".repeat(129), "a\"b"] {
            let made = RequestId::of(Some(bad.as_bytes()));
            assert_eq!(made.as_str().len(), 32, "{bad:?} gave {made:?}");
        }
    }
}
