//! Calls to the control plane: every request signed with a fresh nonce, every answer bounded in
//! time and size.
//!
//! Fields that this version does not know are ignored and missing ones have defaults (see `api`), so
//! an agent works with a control plane one version older or newer. Absent: retries. Each caller
//! knows best when to come back, and each try needs its own nonce and timestamp anyway.

use crate::clock::now_ms;
use crate::identity::Identity;
use crate::transport::{Http, Incoming, Outgoing, Transport, TransportError, send_within};
use api::agent::{StatusAnswer, StatusReport};
use api::desired::SignedDesiredState;
use api::error::{ApiError, ErrorCode};
use api::logs::{LogUpload, LogUploadAnswer};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Url;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use wire::request::{HEADER_CONTENT, HEADER_NONCE, HEADER_SERVER, HEADER_SIGNATURE, HEADER_TIMESTAMP, RequestParts};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Beyond the time that a long-poll asks the control plane to wait.
const LONG_POLL_SLACK: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    #[error("`{url}` is not the address of a control plane: {reason}")]
    Url { url: String, reason: String },
    #[error("the identity holds an unusable secret")]
    Secret(#[source] wire::SignatureError),
    #[error("{operation}: the control plane at {url} could not be reached: {reason}")]
    Unreachable { operation: &'static str, url: String, reason: String },
    #[error(
        "{operation}: this machine's clock is {} s {} that of the control plane; at most {} s are allowed. Set the clock (NTP)",
        difference_ms.unsigned_abs() / 1000,
        if *difference_ms > 0 { "ahead of" } else { "behind" },
        wire::CLOCK_WINDOW_MS / 1000
    )]
    Clock { operation: &'static str, difference_ms: i64 },
    #[error("{operation}: the control plane refused it with status {status}: {message}")]
    Refused { operation: &'static str, status: u16, code: ErrorCode, message: String },
    #[error("{operation}: the control plane's answer cannot be understood: {reason}")]
    Answer { operation: &'static str, reason: String },
}

/// What kind of no it was: a new kind is worth a new sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Unreachable,
    Clock,
    Refused,
    Other,
}

impl ControlPlaneError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::Clock { .. } => Kind::Clock,
            Self::Refused { .. } if self.is_refusal() => Kind::Refused,
            _ => Kind::Other,
        }
    }

    /// The answer was a no that trying again does not change, as opposed to a network that is down.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if (400..500).contains(status) && *status != 429 && *status != 408)
    }
}

/// An HTTP client for one control plane. Proxies from the environment are not asked for loopback.
pub fn http_client(url: &str) -> Result<reqwest::Client, String> {
    let parsed = Url::parse(url).map_err(|e| e.to_string())?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(format!("its scheme is `{}`; use http:// or https://", parsed.scheme()));
    }
    let host = parsed.host_str().unwrap_or_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("mainstay-agent/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(2)
        .redirect(reqwest::redirect::Policy::none());
    if matches!(host, "localhost" | "[::1]") || host.starts_with("127.") {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| plain_reason(&e))
}

/// The innermost reasons of an HTTP error in one line, without the URL that the caller names itself.
pub fn plain_reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it did not answer in time".into();
    }
    let mut innermost = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        innermost = cause.to_string();
        source = cause.source();
    }
    innermost
}

pub struct ControlPlane {
    transport: Arc<dyn Transport>,
    base: Url,
    server_id: String,
    signer: wire::RequestSigner,
}

impl ControlPlane {
    /// Over HTTP.
    pub fn new(identity: &Identity) -> Result<Self, ControlPlaneError> {
        let url = &identity.control_plane_url;
        let http = Http::new(url).map_err(|reason| ControlPlaneError::Url { url: url.clone(), reason })?;
        Self::over(Arc::new(http), identity)
    }

    /// Over any network.
    pub fn over(transport: Arc<dyn Transport>, identity: &Identity) -> Result<Self, ControlPlaneError> {
        let url = identity.control_plane_url.clone();
        let base = Url::parse(&url).map_err(|e| ControlPlaneError::Url { url, reason: e.to_string() })?;
        let signer = wire::RequestSigner::from_base64(&identity.secret).map_err(ControlPlaneError::Secret)?;
        Ok(Self { transport, base, server_id: identity.server_id.to_string(), signer })
    }

    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The desired state if it is newer than `after`, waiting up to `wait` for one.
    pub async fn expected_state(
        &self,
        after: u64,
        wait: Duration,
    ) -> Result<Option<SignedDesiredState>, ControlPlaneError> {
        self.document("asking for the desired state", "/api/v1/agent/expected-state", after, wait).await
    }

    /// The fleet state if it is newer than `after`, waiting up to `wait` for one.
    pub async fn fleet_state(
        &self,
        after: u64,
        wait: Duration,
    ) -> Result<Option<SignedDesiredState>, ControlPlaneError> {
        self.document("asking for the fleet state", "/api/v1/agent/fleet-state", after, wait).await
    }

    /// A signed document, by a long-poll.
    async fn document(
        &self,
        operation: &'static str,
        path: &'static str,
        after: u64,
        wait: Duration,
    ) -> Result<Option<SignedDesiredState>, ControlPlaneError> {
        let call = Call {
            operation,
            method: Method::GET,
            path,
            query: format!("after={after}&wait={}", wait.as_secs()),
            body: Bytes::new(),
            gzip: false,
            timeout: wait + LONG_POLL_SLACK,
        };
        match self.send(&call).await? {
            Some(body) => parse(call.operation, &body).map(Some),
            None => Ok(None),
        }
    }

    pub async fn status(&self, report: &StatusReport) -> Result<StatusAnswer, ControlPlaneError> {
        let operation = "reporting";
        let body = serde_json::to_vec(report).expect("nouns of the api serialize to JSON");
        self.post(operation, "/api/v1/agent/status", body.into(), false).await
    }

    pub async fn logs(&self, upload: &LogUpload) -> Result<LogUploadAnswer, ControlPlaneError> {
        let operation = "sending logs";
        let body = serde_json::to_vec(upload).expect("nouns of the api serialize to JSON");
        self.post(operation, "/api/v1/agent/logs", compress(&body).into(), true).await
    }

    async fn post<T: serde::de::DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &'static str,
        body: Bytes,
        gzip: bool,
    ) -> Result<T, ControlPlaneError> {
        let call =
            Call { operation, method: Method::POST, path, query: String::new(), body, gzip, timeout: CALL_TIMEOUT };
        match self.send(&call).await? {
            Some(body) => parse(operation, &body),
            None => Err(ControlPlaneError::Answer { operation, reason: "it is empty".into() }),
        }
    }

    /// `None` for 304 and 204.
    async fn send(&self, call: &Call) -> Result<Option<Bytes>, ControlPlaneError> {
        let operation = call.operation;
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}", self.base.path().trim_end_matches('/'), call.path));
        url.set_query((!call.query.is_empty()).then_some(call.query.as_str()));
        let parts =
            RequestParts { method: call.method.as_str(), path: url.path(), query: &call.query, body: &call.body };
        // A nonce is good once, so every try gets its own.
        let signed = self.signer.sign(&parts, now_ms(), hex::encode(wire::random_bytes::<16>()));
        let mut headers = HeaderMap::new();
        for (name, text) in [
            (HEADER_SERVER, self.server_id.clone()),
            (HEADER_TIMESTAMP, signed.timestamp_ms.to_string()),
            (HEADER_NONCE, signed.nonce),
            (HEADER_CONTENT, signed.content_sha256),
            (HEADER_SIGNATURE, signed.signature),
        ] {
            let value = HeaderValue::from_str(&text).expect("ids, numbers, hex and base64 are good in a header");
            headers.insert(name, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if call.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let request = Outgoing { method: call.method.clone(), url, headers, body: call.body.clone() };
        let answered = send_within(&*self.transport, request, call.timeout).await;
        let Incoming { status, headers, body } = answered.map_err(|error| match error {
            TransportError::Unreachable(reason) => {
                ControlPlaneError::Unreachable { operation, url: self.url().to_owned(), reason }
            }
            error @ TransportError::TooLarge => ControlPlaneError::Answer { operation, reason: error.to_string() },
        })?;
        match status {
            StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT => Ok(None),
            status if status.is_success() => Ok(Some(body)),
            status => Err(refusal(operation, status, &body, date_of(&headers))),
        }
    }
}

struct Call {
    operation: &'static str,
    method: Method,
    path: &'static str,
    query: String,
    body: Bytes,
    gzip: bool,
    timeout: Duration,
}

/// The `Date` header in milliseconds: how the control plane's clock stands.
fn date_of(headers: &HeaderMap) -> Option<i64> {
    let text = headers.get("date")?.to_str().ok()?;
    parse_http_date(text)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers send (RFC 9110).
fn parse_http_date(text: &str) -> Option<i64> {
    let mut words = text.split_ascii_whitespace().skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = i64::try_from(months.iter().position(|m| *m == month)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since the epoch by the civil calendar, with March as the first month of the year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * m + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000)
}

fn refusal(operation: &'static str, status: StatusCode, body: &[u8], their_clock: Option<i64>) -> ControlPlaneError {
    let error = serde_json::from_slice::<ApiError>(body)
        .unwrap_or_else(|_| ApiError::new(ErrorCode::Other, format!("HTTP status {status}")));
    if error.code == ErrorCode::SignatureRefused
        && let Some(theirs) = their_clock
    {
        let difference_ms = now_ms() - theirs;
        if difference_ms.abs() > wire::CLOCK_WINDOW_MS {
            return ControlPlaneError::Clock { operation, difference_ms };
        }
    }
    let message = match error.help {
        Some(help) => format!("{}; {help}", error.message),
        None => error.message,
    };
    ControlPlaneError::Refused { operation, status: status.as_u16(), code: error.code, message }
}

fn parse<T: serde::de::DeserializeOwned>(operation: &'static str, body: &[u8]) -> Result<T, ControlPlaneError> {
    serde_json::from_slice(body).map_err(|e| ControlPlaneError::Answer { operation, reason: e.to_string() })
}

fn compress(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read_so_that_a_wrong_clock_can_be_measured() {
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777_000));
        assert_eq!(parse_http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800_000));
        assert_eq!(parse_http_date("yesterday"), None);
    }

    #[test]
    fn a_refusal_because_of_the_clock_says_by_how_much_and_in_which_direction() {
        let body = serde_json::to_vec(&ApiError::new(ErrorCode::SignatureRefused, "no")).unwrap();
        let error = refusal("reporting", StatusCode::UNAUTHORIZED, &body, Some(now_ms() - 3_600_000));
        let text = error.to_string();
        assert!(text.contains("3600 s ahead of"), "{text}");
        let near = refusal("reporting", StatusCode::UNAUTHORIZED, &body, Some(now_ms()));
        assert!(matches!(near, ControlPlaneError::Refused { .. }), "{near}");
    }
}
