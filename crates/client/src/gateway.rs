//! The agent's end of the gateway's control socket.
//!
//! The gateway is a process of its own that outlives the agent, so all that passes between them is
//! HTTP/1.1 with JSON over a Unix socket in the gateway's directory: the file's mode is the access
//! control, no port is spent and no secret is kept. Every call opens one connection, is answered and
//! closes it: calls are rare (one per change of the config, one per report), and a fresh connection
//! always reaches the process that owns the socket now, also in the middle of an upgrade.

use api::gateway::{GatewayConfig, GatewayObserved};
use api::mesh_device::{GatewayMesh, GatewayMeshLive};
use api::tls::CertificateDesired;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// How long one call may take. Applying a config binds sockets and writes one file.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer larger than this is not one of ours.
const ANSWER_LIMIT_BYTES: usize = 16 * 1024 * 1024;

/// Why a call to the gateway gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Nothing answers at the socket: the gateway is to be started.
    #[error("no gateway listens on {}: is it running?", path.display())]
    NotRunning { path: PathBuf, source: io::Error },
    #[error("cannot reach the gateway on {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the gateway did not answer {call} within {} s", CALL_TIMEOUT.as_secs())]
    Timeout { call: &'static str },
    #[error("the connection to the gateway broke during {call}")]
    Broken { call: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// What was given was refused; the gateway goes on with what it had.
    #[error("the gateway refused {call}: {problem}")]
    Refused { call: &'static str, problem: String },
    #[error("the gateway answered {call} with {status}: {text}")]
    Unexpected { call: &'static str, status: u16, text: String },
}

impl GatewayError {
    /// Whether starting the gateway is what helps.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}

/// Answer to a config that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigAccepted {
    /// `wire::digest_of` the config that is live now.
    pub digest: String,
}

/// Answer to the question which certificates there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesHeld {
    pub digests: Vec<String>,
}

/// Answer to a request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub problem: String,
}

/// Speaks to the gateway whose directory this is.
#[derive(Debug, Clone)]
pub struct GatewayClient {
    socket: PathBuf,
}

impl GatewayClient {
    /// The client of the gateway that was started on `directory`.
    pub fn new(directory: impl AsRef<Path>) -> Self {
        Self { socket: directory.as_ref().join("control.sock") }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Replaces the config whole and returns the digest of what is live afterwards.
    pub async fn put_config(&self, config: &GatewayConfig) -> Result<String, GatewayError> {
        let call = "PUT /config";
        let body = serde_json::to_vec(config).expect("a gateway config serializes to JSON");
        let (status, bytes) = self.call(call, Method::PUT, "/config", body).await?;
        match status {
            StatusCode::OK => parse::<ConfigAccepted>(call, status, &bytes).map(|accepted| accepted.digest),
            StatusCode::UNPROCESSABLE_ENTITY => {
                let refusal = parse::<Refusal>(call, status, &bytes)?;
                Err(GatewayError::Refused { call, problem: refusal.problem })
            }
            _ => Err(unexpected(call, status, &bytes)),
        }
    }

    /// Digests of the certificates that the gateway holds.
    pub async fn certificates(&self) -> Result<Vec<String>, GatewayError> {
        let call = "GET /certificates";
        let (status, bytes) = self.call(call, Method::GET, "/certificates", Vec::new()).await?;
        match status {
            StatusCode::OK => parse::<CertificatesHeld>(call, status, &bytes).map(|held| held.digests),
            _ => Err(unexpected(call, status, &bytes)),
        }
    }

    /// Brings a certificate that a later config may name.
    pub async fn put_certificate(&self, certificate: &CertificateDesired) -> Result<(), GatewayError> {
        let call = "PUT /certificates";
        if !certificate.digest.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(GatewayError::Refused { call, problem: "its digest is none".into() });
        }
        let body = serde_json::to_vec(&certificate.material).expect("a certificate serializes to JSON");
        let path = format!("/certificates/{}", certificate.digest);
        let (status, bytes) = self.call(call, Method::PUT, &path, body).await?;
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::UNPROCESSABLE_ENTITY => {
                let refusal = parse::<Refusal>(call, status, &bytes)?;
                Err(GatewayError::Refused { call, problem: refusal.problem })
            }
            _ => Err(unexpected(call, status, &bytes)),
        }
    }

    /// What the gateway does right now.
    pub async fn status(&self) -> Result<GatewayObserved, GatewayError> {
        let call = "GET /status";
        let (status, bytes) = self.call(call, Method::GET, "/status", Vec::new()).await?;
        match status {
            StatusCode::OK => parse(call, status, &bytes),
            _ => Err(unexpected(call, status, &bytes)),
        }
    }

    /// Tells the gateway what it does for the mesh, whole.
    pub async fn put_mesh(&self, told: &GatewayMesh) -> Result<(), GatewayError> {
        let call = "PUT /mesh";
        let body = serde_json::to_vec(told).expect("what a gateway does for the mesh serializes to JSON");
        let (status, bytes) = self.call(call, Method::PUT, "/mesh", body).await?;
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::UNPROCESSABLE_ENTITY => {
                let refusal = parse::<Refusal>(call, status, &bytes)?;
                Err(GatewayError::Refused { call, problem: refusal.problem })
            }
            _ => Err(unexpected(call, status, &bytes)),
        }
    }

    /// What the gateway is to the mesh right now.
    pub async fn mesh(&self) -> Result<GatewayMeshLive, GatewayError> {
        let call = "GET /mesh";
        let (status, bytes) = self.call(call, Method::GET, "/mesh", Vec::new()).await?;
        match status {
            StatusCode::OK => parse(call, status, &bytes),
            _ => Err(unexpected(call, status, &bytes)),
        }
    }

    /// Asks the gateway to stop accepting, finish what is open and exit. It answers at once.
    pub async fn stop(&self) -> Result<(), GatewayError> {
        let call = "POST /stop";
        let (status, bytes) = self.call(call, Method::POST, "/stop", Vec::new()).await?;
        if status.is_success() { Ok(()) } else { Err(unexpected(call, status, &bytes)) }
    }

    async fn call(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), GatewayError> {
        match tokio::time::timeout(CALL_TIMEOUT, self.exchange(call, method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(GatewayError::Timeout { call }),
        }
    }

    async fn exchange(
        &self,
        call: &'static str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), GatewayError> {
        let broken = |source: hyper::Error| GatewayError::Broken { call, source: source.into() };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.connect_error(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "gateway")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("the parts of this request are constants and a digest");
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await;
            let body = body.map_err(|source| GatewayError::Broken { call, source })?;
            // With the last sender gone, the connection below ends.
            drop(sender);
            Ok((status, body.to_bytes()))
        };
        let (answer, _) = tokio::join!(answer, connection);
        answer
    }

    fn connect_error(&self, source: io::Error) -> GatewayError {
        let path = self.socket.clone();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => GatewayError::NotRunning { path, source },
            _ => GatewayError::Connect { path, source },
        }
    }
}

fn parse<T: for<'a> Deserialize<'a>>(call: &'static str, status: StatusCode, bytes: &[u8]) -> Result<T, GatewayError> {
    serde_json::from_slice(bytes).map_err(|_| unexpected(call, status, bytes))
}

fn unexpected(call: &'static str, status: StatusCode, bytes: &[u8]) -> GatewayError {
    let text = String::from_utf8_lossy(bytes).chars().take(400).collect();
    GatewayError::Unexpected { call, status: status.as_u16(), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_without_a_gateway_says_that_none_is_running() {
        let directory = std::env::temp_dir().join("mainstay-no-gateway-here");
        let error = GatewayClient::new(&directory).status().await.unwrap_err();
        assert!(error.is_not_running(), "{error}");
        assert!(error.to_string().contains("control.sock"), "{error}");
    }
}
