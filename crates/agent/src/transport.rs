//! The way to the control plane: a request goes, an answer comes, or it does not.
//!
//! Everything that both ends must agree on (signatures, compression, limits of time, what an answer
//! means) lies above, in [`crate::control_plane`] and [`crate::identity`]. What is left is the network,
//! and there are two: HTTP, and the one of the simulation, which loses, doubles, delays and reorders.

use crate::control_plane::{http_client, plain_reason};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode};
use std::time::Duration;

const ANSWER_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// A request as it leaves the agent: complete and signed.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub method: Method,
    /// The address of the control plane and the path below it.
    pub url: reqwest::Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer as it arrived, whole.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    #[error("{0}")]
    Unreachable(String),
    #[error("its answer is larger than {ANSWER_LIMIT_BYTES} bytes")]
    TooLarge,
}

/// A network. A request may never be answered, so it is sent by [`send_within`].
pub trait Transport: Send + Sync + 'static {
    fn send(&self, request: Outgoing) -> BoxFuture<'_, Result<Incoming, TransportError>>;
}

/// Sends, and waits so long for the answer. A network that says nothing is one that does not reach.
pub async fn send_within(
    transport: &dyn Transport,
    request: Outgoing,
    limit: Duration,
) -> Result<Incoming, TransportError> {
    tokio::time::timeout(limit, transport.send(request))
        .await
        .unwrap_or_else(|_| Err(TransportError::Unreachable("it did not answer in time".into())))
}

/// The real one.
pub struct Http {
    client: reqwest::Client,
}

impl Http {
    /// For one control plane; an error says what is wrong with the address.
    pub fn new(url: &str) -> Result<Self, String> {
        Ok(Self { client: http_client(url)? })
    }
}

impl Transport for Http {
    fn send(&self, request: Outgoing) -> BoxFuture<'_, Result<Incoming, TransportError>> {
        Box::pin(async move {
            let unreachable = |error: reqwest::Error| TransportError::Unreachable(plain_reason(&error));
            let call = self.client.request(request.method, request.url).headers(request.headers).body(request.body);
            let mut response = call.send().await.map_err(unreachable)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
                if body.len() + chunk.len() > ANSWER_LIMIT_BYTES {
                    return Err(TransportError::TooLarge);
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Incoming { status, headers, body: body.into() })
        })
    }
}
