//! One control plane, spoken to over HTTP.

use crate::error::{ClientError, root_cause};
use api::error::{ApiError, ErrorCode};
use api::secret::Secret;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, SET_COOKIE};
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use url::Url;

/// Where a control plane listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:4600";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Planning resolves branches of repositories far away.
pub(crate) const SLOW_REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// A stream that is silent for this long is broken: the control plane sends a sign of life every 15 s.
const STREAM_SILENCE_LIMIT: Duration = Duration::from_secs(45);
/// No answer of the API comes near it; something else that answers could.
const ANSWER_LIMIT_BYTES: usize = 64 * 1024 * 1024;

/// A typed client of one control plane. Cheap to clone; connections are shared.
#[derive(Clone, Debug)]
pub struct Client {
    base: Url,
    token: Option<Secret>,
    requests: reqwest::Client,
    streams: reqwest::Client,
}

/// What an answer says beside its content.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// The time of day there (RFC 9110, to the second).
    pub date: Option<String>,
    /// Of whoever ends TLS there, in DER; `None` without TLS.
    pub certificate: Option<Vec<u8>>,
}

impl Client {
    /// `address` is the control plane's base URL; a path prefix is kept.
    pub fn new(address: &str, token: Option<Secret>) -> Result<Self, ClientError> {
        let base = parse_address(address)?;
        let fail =
            |error: reqwest::Error| ClientError::Address { value: address.to_owned(), reason: root_cause(&error) };
        let builder = || {
            let builder = reqwest::Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
                .redirect(reqwest::redirect::Policy::none());
            // A proxy from the environment cannot reach this machine's own loopback.
            if is_loopback(&base) { builder.no_proxy() } else { builder }
        };
        Ok(Self {
            requests: builder().timeout(REQUEST_TIMEOUT).build().map_err(fail)?,
            streams: builder().read_timeout(STREAM_SILENCE_LIMIT).build().map_err(fail)?,
            base,
            token,
        })
    }

    /// The base URL without a slash at its end.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether the control plane is on this very machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    pub(crate) fn url(&self, segments: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http URL has a path").pop_if_empty().extend(segments);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn headers(&self) -> Result<HeaderMap, ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| ClientError::Api {
                    status: 401,
                    error: Box::new(
                        ApiError::new(ErrorCode::Unauthenticated, "the token holds characters that no token has")
                            .help("look at --token, MAINSTAY_TOKEN or sign in again with `mainstay login`"),
                    ),
                })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// Sends one request and reads the JSON of its answer.
    pub(crate) async fn send<B: Serialize, T: DeserializeOwned>(&self, call: Call<'_, B>) -> Result<T, ClientError> {
        let answer = self.execute(&call).await?;
        self.read_json(answer, call.action).await
    }

    /// Sends one request whose answer has no content.
    pub(crate) async fn send_for_nothing<B: Serialize>(&self, call: Call<'_, B>) -> Result<(), ClientError> {
        self.execute(&call).await.map(|_| ())
    }

    async fn execute<B: Serialize>(&self, call: &Call<'_, B>) -> Result<Response, ClientError> {
        let url = self.url(&call.path, &call.query);
        let mut request =
            self.requests.request(call.method.clone(), url).headers(self.headers()?).timeout(call.timeout);
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.explain(&error, call.action, call.timeout))?;
        self.refuse_errors(answer).await
    }

    /// What an answer says beside its content, for whoever examines a connection. On one of its own: nobody
    /// else pays for certificates that are kept.
    pub async fn greet(&self) -> Result<Greeting, ClientError> {
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .tls_info(true);
        let builder = if self.is_loopback() { builder.no_proxy() } else { builder };
        let requests = builder.build().map_err(|error| self.explain(&error, "say hello", REQUEST_TIMEOUT))?;
        let asked = Self { requests, ..self.clone() };
        let call: Call<'_> = Call::new(Method::GET, &["healthz"], "say hello");
        let answer = asked.execute(&call).await?;
        let date = answer.headers().get(reqwest::header::DATE).and_then(|value| value.to_str().ok());
        let certificate = answer.extensions().get::<reqwest::tls::TlsInfo>().and_then(|info| info.peer_certificate());
        Ok(Greeting { date: date.map(str::to_owned), certificate: certificate.map(<[u8]>::to_vec) })
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn open_stream(&self, path: &[&str], query: &[(&str, String)]) -> Result<Response, ClientError> {
        let mut headers = self.headers()?;
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let opening = self.streams.get(self.url(path, query)).headers(headers).send();
        let action = "open a stream";
        let answer = match tokio::time::timeout(REQUEST_TIMEOUT, opening).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error, action, REQUEST_TIMEOUT))?,
            Err(_) => return Err(self.timed_out(action, REQUEST_TIMEOUT)),
        };
        self.refuse_errors(answer).await
    }

    /// Signs in as a person and gives back the session's cookie, good for [`Self::with_cookie`].
    pub(crate) async fn session_cookie(&self, body: &impl Serialize) -> Result<Option<String>, ClientError> {
        let call = Call { body: Some(body), ..Call::new(Method::POST, &["api", "v1", "session"], "sign in") };
        let answer = self.execute(&call).await?;
        let cookie = answer.headers().get(SET_COOKIE).and_then(|value| value.to_str().ok());
        Ok(cookie.map(|text| text.split(';').next().unwrap_or(text).to_owned()))
    }

    /// The same client with a session's cookie in place of a token.
    pub(crate) fn with_cookie(&self, cookie: &str) -> Result<Self, ClientError> {
        let fail = || ClientError::NotMainstay {
            url: self.address().to_owned(),
            reason: "its session cookie is malformed".into(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(reqwest::header::COOKIE, HeaderValue::from_str(cookie).map_err(|_| fail())?);
        // A request with a cookie must show that it was not made by a page of somebody else.
        headers.insert(
            reqwest::header::ORIGIN,
            HeaderValue::from_str(&self.base.origin().ascii_serialization()).map_err(|_| fail())?,
        );
        let builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .default_headers(headers);
        let builder = if self.is_loopback() { builder.no_proxy() } else { builder };
        let requests = builder.build().map_err(|_| fail())?;
        Ok(Self { base: self.base.clone(), token: None, requests, streams: self.streams.clone() })
    }

    async fn read_json<T: DeserializeOwned>(&self, mut answer: Response, action: &str) -> Result<T, ClientError> {
        let mut body = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_LIMIT_BYTES => body.extend_from_slice(&chunk),
                Ok(Some(_)) => {
                    return Err(self.not_mainstay(format!("its answer is larger than {ANSWER_LIMIT_BYTES} bytes")));
                }
                Ok(None) => break,
                Err(error) => return Err(self.explain(&error, action, REQUEST_TIMEOUT)),
            }
        }
        serde_json::from_slice(&body)
            .map_err(|error| self.not_mainstay(format!("asked to {action}, its answer cannot be read: {error}")))
    }

    async fn refuse_errors(&self, answer: Response) -> Result<Response, ClientError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let path = answer.url().path().to_owned();
        let body =
            tokio::time::timeout(CONNECT_TIMEOUT, answer.bytes()).await.ok().and_then(Result::ok).unwrap_or_default();
        if let Ok(error) = serde_json::from_slice::<ApiError>(&body) {
            return Err(ClientError::Api { status: status.as_u16(), error: Box::new(error) });
        }
        if status.is_redirection() || status == StatusCode::NOT_FOUND || status == StatusCode::METHOD_NOT_ALLOWED {
            return Err(self.not_mainstay(format!("{path} answered {status}")));
        }
        let code = if status.is_server_error() { ErrorCode::Unavailable } else { ErrorCode::Other };
        let error = ApiError::new(code, format!("the control plane at {} answered {status} to {path}", self.address()));
        Err(ClientError::Api { status: status.as_u16(), error: Box::new(error) })
    }

    pub(crate) fn explain(&self, error: &reqwest::Error, action: &str, timeout: Duration) -> ClientError {
        if error.is_timeout() && !error.is_connect() {
            return self.timed_out(action, timeout);
        }
        let reason = if error.is_timeout() { "no connection within 5 s".to_owned() } else { root_cause(error) };
        ClientError::Unreachable { url: self.address().to_owned(), reason }
    }

    fn timed_out(&self, action: &str, timeout: Duration) -> ClientError {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        ClientError::TimedOut { url: self.address().to_owned(), action: action.to_owned(), timeout_ms }
    }

    pub(crate) fn not_mainstay(&self, reason: String) -> ClientError {
        ClientError::NotMainstay { url: self.address().to_owned(), reason }
    }
}

/// One request before it is sent.
pub(crate) struct Call<'a, B: Serialize = ()> {
    pub method: Method,
    pub path: Vec<&'a str>,
    pub query: Vec<(&'a str, String)>,
    pub body: Option<&'a B>,
    pub timeout: Duration,
    /// Ends the sentence "while asked to …".
    pub action: &'a str,
}

impl<'a, B: Serialize> Call<'a, B> {
    pub fn new(method: Method, path: &[&'a str], action: &'a str) -> Self {
        Self { method, path: path.to_vec(), query: Vec::new(), body: None, timeout: REQUEST_TIMEOUT, action }
    }
}

fn parse_address(address: &str) -> Result<Url, ClientError> {
    let fail =
        |reason: &str| ClientError::Address { value: address.chars().take(200).collect(), reason: reason.to_owned() };
    let text = address.trim();
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).map_err(|error| fail(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fail("it must begin with http:// or https://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(fail("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fail("it holds a user or password; a token goes into --token or MAINSTAY_TOKEN"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(fail("it has a query or fragment"));
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_scheme_is_taken_as_http_and_nonsense_is_refused_with_a_reason() {
        assert_eq!(Client::new("localhost:4600", None).unwrap().address(), "http://localhost:4600");
        assert!(Client::new("http://[::1]:4600/", None).unwrap().is_loopback());
        for bad in ["ftp://a", "http://", "http://user:pw@host", "http://a?b=c", "http://a b"] {
            let error = Client::new(bad, None).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("http://127.0.0.1:4600"), "{error}");
        }
    }

    #[test]
    fn a_name_in_a_path_cannot_leave_its_place() {
        let client = Client::new("http://h/prefix", None).unwrap();
        assert_eq!(
            client.url(&["api", "v1", "stacks", "../x?y#z"], &[]).as_str(),
            "http://h/prefix/api/v1/stacks/..%2Fx%3Fy%23z"
        );
    }
}
