//! The engine's API: HTTP with JSON over a Unix socket.
//!
//! Podman and Docker both speak it, and this driver needs some twenty calls of it. They are made over the HTTP library
//! that is in the tree already. A client library for the whole API was tried and is not used, because it has no way to
//! make a call outside of Docker's own, and one is needed: Podman's Docker-like call for networks cannot leave its
//! name server out, only its own call can.
//!
//! Every call has a limit of time, an answer a limit of size, and each begins its own connection: an engine that was
//! restarted is found again without anything to mend.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// For calls that change or read one thing. Creating a container mounts its layers; on a slow disk that takes seconds.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// Why a call did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("the container engine at {} cannot be reached: {reason}", socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    #[error("the container engine did not answer `{call}` within {seconds} s; it may be overloaded, or hang")]
    Silent { call: String, seconds: u64 },
    /// In the engine's own words.
    #[error("{message}")]
    Refused { status: u16, message: String },
    #[error("the container engine answered `{call}` with something that is not understood: {reason}")]
    Unexpected { call: String, reason: String },
}

impl ApiError {
    /// Whether the engine itself is away, rather than that it refused something.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Silent { .. })
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Podman answers 500 for what Docker answers 409 for.
    pub fn is_name_taken(&self) -> bool {
        match self {
            Self::Refused { status: 409, .. } => true,
            Self::Refused { message, .. } => message.contains("already in use") || message.contains("already exists"),
            _ => false,
        }
    }
}

/// One engine, at its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    socket: PathBuf,
    /// `/v1.41`
    prefix: String,
}

impl Api {
    /// Without a version in its paths: what every engine answers.
    pub fn unversioned(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), prefix: String::new() }
    }

    pub fn with_prefix(&self, prefix: String) -> Self {
        Self { socket: self.socket.clone(), prefix }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.json(Method::GET, path, None).await
    }

    /// `None` where the engine has no such thing.
    pub async fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ApiError> {
        match self.get(path).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.json(Method::POST, path, Some(encoded(path, body)?)).await
    }

    /// A call whose answer is only whether it was done. Done already (304) is done.
    pub async fn order(&self, method: Method, path: &str) -> Result<(), ApiError> {
        let call = format!("{method} {path}");
        within(&call, CALL_TIMEOUT, async {
            let response = self.send(method, path, &[], None).await?;
            whole(&call, response.into_body()).await.map(|_| ())
        })
        .await
    }

    /// An answer that comes in pieces for as long as the caller reads; only its beginning has a limit of time.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Bytes>,
    ) -> Result<Incoming, ApiError> {
        let call = format!("{method} {path}");
        let response = within(&call, CALL_TIMEOUT, self.send(method, path, headers, body)).await?;
        Ok(response.into_body())
    }

    async fn json<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<T, ApiError> {
        let call = format!("{method} {path}");
        let data = within(&call, CALL_TIMEOUT, async {
            let response = self.send(method, path, &[], body).await?;
            whole(&call, response.into_body()).await
        })
        .await?;
        serde_json::from_slice(&data).map_err(|error| unexpected(&call, error.to_string()))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Bytes>,
    ) -> Result<Response<Incoming>, ApiError> {
        let call = format!("{method} {path}");
        let away = |reason: String| ApiError::Unreachable { socket: self.socket.clone(), reason };
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket));
        let stream = match connecting.await {
            Ok(connected) => connected.map_err(|error| away(error.to_string()))?,
            Err(_) => return Err(away("it does not accept connections".into())),
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| away(error.to_string()))?;
        tokio::spawn(async move {
            // How it ends is told by the answer.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.prefix)).header("host", "d");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| unexpected(&call, format!("it cannot be asked: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| away(error.to_string()))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::NOT_MODIFIED || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let data = whole(&call, response.into_body()).await.unwrap_or_default();
        Err(ApiError::Refused { status: status.as_u16(), message: message_of(&data, status) })
    }
}

/// `{"message": …}`, or whatever it says instead.
fn message_of(data: &[u8], status: StatusCode) -> String {
    #[derive(serde::Deserialize)]
    struct Said {
        message: String,
    }
    let said = serde_json::from_slice::<Said>(data).map(|said| said.message);
    let text = said.unwrap_or_else(|_| String::from_utf8_lossy(data).trim().chars().take(500).collect());
    if text.is_empty() { format!("the container engine answered {status}") } else { text }
}

fn encoded(path: &str, body: &impl Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| unexpected(path, error.to_string()))
}

fn unexpected(call: &str, reason: String) -> ApiError {
    ApiError::Unexpected { call: call.split('?').next().unwrap_or_default().to_owned(), reason }
}

async fn within<T>(
    call: &str,
    limit: Duration,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        let call = call.split('?').next().unwrap_or_default().to_owned();
        Err(ApiError::Silent { call, seconds: limit.as_secs() })
    })
}

async fn whole(call: &str, mut body: Incoming) -> Result<Vec<u8>, ApiError> {
    let mut data = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| unexpected(call, error.to_string()))?;
        if let Some(piece) = frame.data_ref() {
            if data.len() + piece.len() > ANSWER_LIMIT_BYTES {
                return Err(unexpected(call, format!("more than {ANSWER_LIMIT_BYTES} bytes")));
            }
            data.extend_from_slice(piece);
        }
    }
    Ok(data)
}

/// JSON documents, one after the other, as they arrive.
pub struct JsonStream {
    body: Incoming,
    pending: Vec<u8>,
}

impl JsonStream {
    pub fn new(body: Incoming) -> Self {
        Self { body, pending: Vec::new() }
    }

    /// `None` at the end. What cannot be read as `T` is passed over.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            while let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=at).collect();
                if let Ok(found) = serde_json::from_slice(&line) {
                    return Ok(Some(found));
                }
            }
            match self.body.frame().await {
                None => {
                    let rest = std::mem::take(&mut self.pending);
                    return Ok(serde_json::from_slice(&rest).ok());
                }
                Some(Err(error)) => return Err(unexpected("a stream", error.to_string())),
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref() {
                        if self.pending.len() + piece.len() > ANSWER_LIMIT_BYTES {
                            return Err(unexpected("a stream", "one line of it never ends".into()));
                        }
                        self.pending.extend_from_slice(piece);
                    }
                }
            }
        }
    }
}

/// Text as part of a path or query.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// `filters={"label":["a=b"]}`, for a query.
pub fn label_filter(labels: &[(&str, &str)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("filters={}", escaped(&serde_json::json!({ "label": labels }).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_query_cannot_end_it() {
        assert_eq!(escaped("a b&c=d/é"), "a%20b%26c%3Dd%2F%C3%A9");
        assert_eq!(
            label_filter(&[("mainstay.owner", "x")]),
            "filters=%7B%22label%22%3A%5B%22mainstay.owner%3Dx%22%5D%7D"
        );
    }

    #[test]
    fn the_engines_own_words_are_what_is_told() {
        let said = message_of(br#"{"cause":"x","message":"no such image: a","response":404}"#, StatusCode::NOT_FOUND);
        assert_eq!(said, "no such image: a");
        assert_eq!(message_of(b"plain\n", StatusCode::BAD_REQUEST), "plain");
        assert!(message_of(b"", StatusCode::BAD_GATEWAY).contains("502"));
    }
}
