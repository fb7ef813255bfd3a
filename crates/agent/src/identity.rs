//! Who this machine is: given once, by a one-time token, and kept in `identity.json`.
//!
//! The file holds the HMAC secret of every later request, the machine's own private key and the
//! pinned key of the control plane, so it is 0600 and replaced atomically. Registering writes it
//! last: a token that is refused changes nothing on disk, and one that was taken is followed by one
//! write whose possibility was checked before.

use crate::transport::{Http, Outgoing, Transport, TransportError, send_within};
use api::UnixMillis;
use api::agent::{RegisterAnswer, RegisterRequest};
use api::error::{ApiError, ErrorCode};
use api::ids::ServerId;
use api::name::Name;
use api::secret::Secret;
use api::servers::ServerFacts;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const REGISTER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub server_id: ServerId,
    pub name: Name,
    pub index: u16,
    pub control_plane_url: String,
    /// Key of the HMAC over requests, base64.
    pub secret: Secret,
    /// The control plane's public key, base64: pinned.
    pub control_plane_key: String,
    /// This machine's Ed25519 key (PKCS#8, base64). Made here; it never leaves.
    pub machine_key: Secret,
    pub poll_interval_ms: u64,
    pub registered_at_ms: UnixMillis,
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the identity {} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the identity {} cannot be understood: {reason}. Restore it from a backup, or move it away and join again with a new token", path.display())]
    Content { path: PathBuf, reason: String },
    #[error("the identity {} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Identity {
    /// `None` when this machine has not joined yet.
    pub fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Read { path: path.to_owned(), source }),
        };
        match serde_json::from_str(&text) {
            Ok(identity) => Ok(Some(identity)),
            // The error of serde names the place, never a value of a secret field.
            Err(error) => Err(IdentityError::Content { path: path.to_owned(), reason: error.to_string() }),
        }
    }

    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::Write { path: path.to_owned(), source };
        let text = serde_json::to_vec_pretty(self).expect("an identity serializes to JSON");
        write_private(path, &text).map_err(failed)
    }
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("json.new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(directory)?.sync_all()
}

/// Why this machine could not join. Each is one sentence; nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error(
        "the join token was used already; each token joins one machine. Make a new one with `mainstay tokens create` or in the dashboard"
    )]
    TokenUsed,
    #[error("the join token has expired. Make a new one with `mainstay tokens create` or in the dashboard")]
    TokenExpired,
    #[error(
        "the control plane at {url} does not know this join token. Check that it was copied whole and that the address is right"
    )]
    TokenUnknown { url: String },
    #[error("`{url}` is not the address of a control plane: {reason}")]
    Url { url: String, reason: String },
    #[error(
        "the control plane at {url} could not be reached: {reason}. Check the address, the network and that `mainstay server` runs there"
    )]
    Unreachable { url: String, reason: String },
    #[error("the control plane at {url} refused to register this machine: {message}")]
    Refused { url: String, message: String },
    #[error("the control plane at {url} answered something that is not a registration: {reason}")]
    Answer { url: String, reason: String },
    #[error("{} cannot be written, so the token was not used: {reason}", path.display())]
    NotWritable { path: PathBuf, reason: String },
    #[error("the registration succeeded but could not be kept; the token is spent, join again with a new one")]
    Keep(#[source] IdentityError),
}

/// Exchanges a token for an identity and keeps it at `path`.
pub async fn register(
    path: &Path,
    url: &str,
    token: Secret,
    name: Option<Name>,
    facts: ServerFacts,
    now_ms: UnixMillis,
) -> Result<Identity, RegisterError> {
    let http = Http::new(url).map_err(|reason| RegisterError::Url { url: url.to_owned(), reason })?;
    register_over(&http, path, url, token, name, facts, now_ms).await
}

/// As [`register`], over any network.
pub async fn register_over(
    transport: &dyn Transport,
    path: &Path,
    url: &str,
    token: Secret,
    name: Option<Name>,
    facts: ServerFacts,
    now_ms: UnixMillis,
) -> Result<Identity, RegisterError> {
    check_writable(path)?;
    let url = url.trim_end_matches('/').to_owned();
    let machine_key = wire::SigningKey::generate();
    let public_key = wire::SigningKey::from_base64(&machine_key).expect("a generated key can be read").public_base64();
    let request = RegisterRequest { token, name, public_key, agent_version: crate::VERSION.into(), facts };
    let answer = post_registration(transport, &url, &request).await?;
    let unusable = |reason: String| RegisterError::Answer { url: url.clone(), reason };
    wire::RequestSigner::from_base64(&answer.secret).map_err(|e| unusable(e.to_string()))?;
    wire::VerifyingKey::from_base64(&answer.control_plane_key).map_err(|e| unusable(e.to_string()))?;
    let identity = Identity {
        server_id: answer.server_id,
        name: answer.name,
        index: answer.index,
        control_plane_url: url.clone(),
        secret: answer.secret,
        control_plane_key: answer.control_plane_key,
        machine_key,
        poll_interval_ms: answer.poll_interval_ms,
        registered_at_ms: now_ms,
    };
    identity.save(path).map_err(RegisterError::Keep)?;
    Ok(identity)
}

/// A spent token whose identity cannot be kept is lost, so this is asked first. Creates nothing.
fn check_writable(path: &Path) -> Result<(), RegisterError> {
    let existing = path.ancestors().skip(1).find(|p| p.exists()).unwrap_or(Path::new("/"));
    let access = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    access.map_err(|error| RegisterError::NotWritable { path: existing.to_owned(), reason: error.to_string() })
}

async fn post_registration(
    transport: &dyn Transport,
    url: &str,
    request: &RegisterRequest,
) -> Result<RegisterAnswer, RegisterError> {
    let address = format!("{url}/api/v1/agent/register");
    let address = reqwest::Url::parse(&address)
        .map_err(|error| RegisterError::Url { url: url.to_owned(), reason: error.to_string() })?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::to_vec(request).expect("nouns of the api serialize to JSON").into();
    let outgoing = Outgoing { method: Method::POST, url: address, headers, body };
    let answered = send_within(transport, outgoing, REGISTER_TIMEOUT).await;
    let answer = answered.map_err(|error| match error {
        TransportError::Unreachable(reason) => RegisterError::Unreachable { url: url.to_owned(), reason },
        error @ TransportError::TooLarge => RegisterError::Answer { url: url.to_owned(), reason: error.to_string() },
    })?;
    let (status, body) = (answer.status, answer.body);
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|e| RegisterError::Answer { url: url.to_owned(), reason: e.to_string() });
    }
    Err(match serde_json::from_slice::<ApiError>(&body) {
        Ok(ApiError { code: ErrorCode::TokenUsed, .. }) => RegisterError::TokenUsed,
        Ok(ApiError { code: ErrorCode::TokenExpired, .. }) => RegisterError::TokenExpired,
        Ok(ApiError { code: ErrorCode::TokenUnknown, .. }) => RegisterError::TokenUnknown { url: url.to_owned() },
        Ok(error) => RegisterError::Refused { url: url.to_owned(), message: error.message },
        Err(_) => RegisterError::Answer { url: url.to_owned(), reason: format!("HTTP status {status}") },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn identity() -> Identity {
        Identity {
            server_id: "srv_00000000000000000000000000000001".parse().unwrap(),
            name: "web-1".parse().unwrap(),
            index: 1,
            control_plane_url: "http://127.0.0.1:4600".into(),
            secret: wire::RequestSigner::generate_secret(),
            control_plane_key: "k".into(),
            machine_key: wire::SigningKey::generate(),
            poll_interval_ms: 10_000,
            registered_at_ms: 1,
        }
    }

    #[test]
    fn an_identity_is_private_and_survives_a_crash_halfway_through_writing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent/identity.json");
        identity().save(&path).unwrap();
        fs::write(path.with_extension("json.new"), "half").unwrap();
        identity().save(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Identity::load(&path).unwrap().unwrap().name.as_str(), "web-1");
    }

    #[test]
    fn a_damaged_identity_is_an_error_that_says_what_to_do_and_not_a_new_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity.json");
        assert_eq!(Identity::load(&path).unwrap(), None);
        fs::write(&path, "{\"server_id\": 5").unwrap();
        let error = Identity::load(&path).unwrap_err().to_string();
        assert!(error.contains("join again"), "{error}");
    }
}
