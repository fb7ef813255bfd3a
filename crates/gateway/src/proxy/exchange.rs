//! The record of one request, from its first byte to the end of its answer.
//!
//! It is made before anything else and dropped last, so whatever happens in between (an answer, a
//! page of our own, a client that goes away) is counted and logged once.

use super::response_body::BodyError;
use crate::access_log::Entry;
use crate::serve::Peer;
use crate::upstreams::{OpenRequest, Service};
use http::{HeaderValue, Method, Request, Uri, Version};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Status in the access log of a request whose client went away before there was an answer.
const CLIENT_GONE: u16 = 499;

#[derive(Debug)]
pub struct Exchange {
    pub peer: Arc<Peer>,
    pub request_id: HeaderValue,
    pub host: Option<HeaderValue>,
    pub service: Option<Arc<Service>>,
    pub open: Option<OpenRequest>,
    started: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    status: u16,
    bytes: u64,
}

impl Exchange {
    pub fn begin<B>(peer: &Arc<Peer>, request: &Request<B>, request_id: HeaderValue) -> Box<Self> {
        peer.activity.request_began();
        Box::new(Self {
            peer: peer.clone(),
            request_id,
            host: None,
            service: None,
            open: None,
            started: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            status: CLIENT_GONE,
            bytes: 0,
        })
    }

    /// The head of the answer is known: the time to it and its kind count for the service.
    pub fn answered(&mut self, status: u16) {
        self.status = status;
        if let Some(service) = &self.service {
            service.counters.answered(status, self.started.elapsed());
        }
    }

    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub fn broke_off(&self, error: &BodyError) {
        let service = self.service.as_ref().map(|service| service.name.as_str()).unwrap_or_default();
        tracing::debug!(service, %error, request_id = ?self.request_id, "an answer ended too early");
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.peer.activity.request_ended();
        if let Some(service) = &self.service {
            service.counters.sent(self.bytes);
        }
        let log = &self.peer.shared.access_log;
        if !log.is_enabled() {
            return;
        }
        let duration = self.started.elapsed();
        log.write(Entry {
            at: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            request_id: self.request_id.clone(),
            method: std::mem::take(&mut self.method),
            host: self.host.take(),
            uri: std::mem::take(&mut self.uri),
            status: self.status,
            bytes: self.bytes,
            duration,
            service: self.service.take(),
            instance: self.open.as_ref().map(|open| open.upstream().clone()),
            peer: self.peer.address.ip(),
            version: self.version,
        });
    }
}
