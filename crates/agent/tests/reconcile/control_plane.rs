//! The control plane's side of the wire, small: it checks signatures and nonces as the real one does
//! and remembers what it was told.

use crate::world::SERVER;
use agent::identity::Identity;
use api::agent::{RegisterRequest, StatusReport};
use api::desired::{DesiredState, SignedDesiredState};
use api::error::{ApiError, ErrorCode};
use api::events::Event;
use api::ids::EventId;
use api::logs::{LogLine, LogUpload};
use api::observed::ObservedState;
use api::secret::Secret;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use wire::request::{HEADER_CONTENT, HEADER_NONCE, HEADER_SERVER, HEADER_SIGNATURE, HEADER_TIMESTAMP};

pub struct FakeControlPlane {
    pub url: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    key: wire::SigningKey,
    secret: Secret,
    news: Notify,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    signed: Option<SignedDesiredState>,
    down: bool,
    reports: Vec<ObservedState>,
    facts: u32,
    /// Every delivery of an event, repeats included.
    deliveries: Vec<EventId>,
    events: BTreeMap<EventId, Event>,
    /// Answers to reports that are lost on the way.
    lose_answers: u32,
    logs: BTreeMap<String, (u64, Vec<LogLine>)>,
    log_uploads: Vec<(String, u64)>,
    nonces: BTreeSet<String>,
    problems: Vec<String>,
}

impl Drop for FakeControlPlane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeControlPlane {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            key: wire::SigningKey::from_base64(&wire::SigningKey::generate()).unwrap(),
            secret: wire::RequestSigner::generate_secret(),
            news: Notify::new(),
            state: Mutex::default(),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let shared = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let shared = shared.clone();
                        async move { shared.answer(request).await }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { url, shared, task }
    }

    pub fn identity(&self) -> Identity {
        Identity {
            server_id: SERVER.parse().unwrap(),
            name: "local".parse().unwrap(),
            index: 1,
            control_plane_url: self.url.clone(),
            secret: self.shared.secret.clone(),
            control_plane_key: self.shared.key.public_base64(),
            machine_key: wire::SigningKey::generate(),
            poll_interval_ms: 1_000,
            registered_at_ms: 0,
        }
    }

    pub fn publish(&self, desired: &DesiredState) {
        self.publish_signed(self.shared.key.sign(desired));
    }

    pub fn publish_signed(&self, signed: SignedDesiredState) {
        self.state().signed = Some(signed);
        self.shared.news.notify_waiters();
    }

    /// Answers nothing any more, or again.
    pub fn set_down(&self, down: bool) {
        self.state().down = down;
    }

    pub fn lose_answers(&self, count: u32) {
        self.state().lose_answers = count;
    }

    pub fn last_report(&self) -> Option<ObservedState> {
        self.state().reports.last().cloned()
    }

    pub fn report_count(&self) -> usize {
        self.state().reports.len()
    }

    pub fn facts_count(&self) -> u32 {
        self.state().facts
    }

    pub fn events(&self) -> Vec<Event> {
        self.state().events.values().cloned().collect()
    }

    pub fn deliveries(&self) -> Vec<EventId> {
        self.state().deliveries.clone()
    }

    pub fn log(&self, key: &str) -> Vec<String> {
        self.state().logs.get(key).map(|(_, lines)| lines.iter().map(|l| l.text.clone()).collect()).unwrap_or_default()
    }

    pub fn log_uploads(&self) -> Vec<(String, u64)> {
        self.state().log_uploads.clone()
    }

    /// What a real control plane would have refused.
    pub fn problems(&self) -> Vec<String> {
        self.state().problems.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }
}

type Answer = Result<Response<Full<Bytes>>, std::io::Error>;

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if self.state.lock().unwrap().down {
            // As a machine that is gone: the connection breaks.
            return Err(std::io::Error::other("down"));
        }
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        if parts.uri.path() == "/api/v1/agent/register" {
            return Ok(self.register(&body));
        }
        if let Err(problem) = self.check(&parts, &body) {
            self.state.lock().unwrap().problems.push(problem.clone());
            return Ok(refusal(StatusCode::UNAUTHORIZED, ErrorCode::SignatureRefused, &problem));
        }
        match parts.uri.path() {
            "/api/v1/agent/expected-state" => Ok(self.expected_state(parts.uri.query().unwrap_or("")).await),
            "/api/v1/agent/status" => self.status(&body),
            "/api/v1/agent/logs" => Ok(self.logs(&body)),
            path => Ok(refusal(StatusCode::NOT_FOUND, ErrorCode::NotFound, path)),
        }
    }

    fn check(&self, parts: &http::request::Parts, body: &[u8]) -> Result<(), String> {
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        if header(HEADER_SERVER) != SERVER {
            return Err("another server".into());
        }
        let given = wire::RequestSignature {
            timestamp_ms: header(HEADER_TIMESTAMP).parse().map_err(|_| "no timestamp")?,
            nonce: header(HEADER_NONCE),
            content_sha256: header(HEADER_CONTENT),
            signature: header(HEADER_SIGNATURE),
        };
        let signed = wire::request::RequestParts {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            query: parts.uri.query().unwrap_or(""),
            body,
        };
        let signer = wire::RequestSigner::from_base64(&self.secret).unwrap();
        signer.verify(&signed, &given, agent::clock::now_ms()).map_err(|e| e.to_string())?;
        if !self.state.lock().unwrap().nonces.insert(given.nonce) {
            return Err("a nonce came twice".into());
        }
        Ok(())
    }

    fn register(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let request: RegisterRequest = serde_json::from_slice(body).unwrap();
        let code = match request.token.expose() {
            "good" => {
                return json_answer(&json!({ "server_id": SERVER, "name": request.name.unwrap(), "index": 1,
                    "secret": self.secret, "control_plane_key": self.key.public_base64(), "poll_interval_ms": 1_000,
                    "a_field_of_a_newer_version": true }));
            }
            "used" => ErrorCode::TokenUsed,
            "expired" => ErrorCode::TokenExpired,
            _ => ErrorCode::TokenUnknown,
        };
        refusal(StatusCode::FORBIDDEN, code, "no")
    }

    async fn expected_state(&self, query: &str) -> Response<Full<Bytes>> {
        let number = |key: &str| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            pair.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
        };
        let (after, wait) = (number("after"), number("wait"));
        let newer = || {
            let state = self.state.lock().unwrap();
            state.signed.clone().filter(|signed| signed.generation != after)
        };
        let news = self.news.notified();
        if let Some(signed) = newer() {
            return json_answer(&signed);
        }
        let _ = tokio::time::timeout(Duration::from_secs(wait.min(2)), news).await;
        match newer() {
            Some(signed) => json_answer(&signed),
            None => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                response
            }
        }
    }

    fn status(&self, body: &[u8]) -> Answer {
        let report: StatusReport = serde_json::from_slice(body).unwrap();
        let mut state = self.state.lock().unwrap();
        state.facts += u32::from(report.facts.is_some());
        let ids: Vec<EventId> = report.events.iter().map(|e| e.id.clone()).collect();
        state.deliveries.extend(ids.iter().cloned());
        for event in report.events {
            state.events.insert(event.id.clone(), event);
        }
        state.reports.push(report.observed);
        if state.lose_answers > 0 {
            state.lose_answers -= 1;
            return Err(std::io::Error::other("the answer is lost"));
        }
        let generation = state.signed.as_ref().map_or(0, |s| s.generation);
        Ok(json_answer(&json!({ "acknowledged_events": ids, "generation": generation })))
    }

    fn logs(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let mut text = String::new();
        flate2::read::GzDecoder::new(body).read_to_string(&mut text).unwrap();
        let upload: LogUpload = serde_json::from_str(&text).unwrap();
        let mut state = self.state.lock().unwrap();
        let mut acknowledged: Vec<Value> = Vec::new();
        for batch in upload.batches {
            let key = batch.source.key();
            state.log_uploads.push((key.clone(), batch.offset));
            let kept = state.logs.entry(key.clone()).or_default();
            let expected = kept.0;
            if batch.offset == expected {
                kept.1.extend(batch.lines);
                kept.0 = batch.next_offset;
            } else {
                let problem = format!("{key}: offset {} instead of {expected}", batch.offset);
                state.problems.push(problem);
            }
            let next = state.logs[&key].0;
            acknowledged.push(json!({ "source": batch.source, "next_offset": next }));
        }
        json_answer(&json!({ "acknowledged": acknowledged }))
    }
}

fn json_answer(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from(serde_json::to_vec(value).unwrap())))
}

fn refusal(status: StatusCode, code: ErrorCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = json_answer(&ApiError::new(code, message));
    *response.status_mut() = status;
    response
}
