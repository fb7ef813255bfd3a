//! A control plane made of prepared answers. It keeps what it was asked.

use api::deployments::{Deployment, Stage};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET /api/v1/info`
    pub what: String,
    pub authorization: Option<String>,
    pub body: Value,
}

#[derive(Default)]
struct Inner {
    answers: HashMap<String, (u16, Value)>,
    /// Part of a query, and what to answer to it, whatever is asked without it.
    by_query: Vec<(String, Value)>,
    /// What comes on a stream whose query has this part.
    streams: Vec<(String, Vec<Value>)>,
    /// Lines of whole logs, the newest first, whose query has this part.
    files: Vec<(String, Vec<Value>)>,
    asked: Vec<Asked>,
}

#[derive(Clone)]
pub struct ControlPlane {
    pub address: String,
    inner: Arc<Mutex<Inner>>,
    end: Arc<tokio::sync::Notify>,
}

impl ControlPlane {
    /// Listens on loopback until the test ends.
    pub fn start() -> Self {
        let inner: Arc<Mutex<Inner>> = Arc::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let end = Arc::new(tokio::sync::Notify::new());
        let ended = end.clone();
        let router = Router::new().fallback(answer).with_state(inner.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = async { axum::serve(listener, router).await } => served.unwrap(),
                    () = ended.notified() => {}
                }
            });
        });
        let this = Self { address, inner, end };
        this.answers("GET /api/v1/info", info(true));
        this
    }

    /// Nobody answers at its address any more, and connections are closed.
    pub fn goes_away(&self) {
        self.end.notify_one();
    }

    pub fn answers(&self, what: &str, body: Value) {
        self.answers_with(what, 200, body);
    }

    pub fn answers_with(&self, what: &str, status: u16, body: Value) {
        self.inner.lock().unwrap().answers.insert(what.to_owned(), (status, body));
    }

    /// An answer to requests whose query contains this.
    pub fn answers_where(&self, query: &str, body: Value) {
        self.inner.lock().unwrap().by_query.push((query.to_owned(), body));
    }

    /// Records that come on a stream whose query contains this, which then stays open.
    pub fn streams(&self, query: &str, records: Vec<Value>) {
        self.inner.lock().unwrap().streams.push((query.to_owned(), records));
    }

    /// All lines that are kept, the newest first, for a query that contains this.
    pub fn keeps(&self, query: &str, lines: Vec<Value>) {
        self.inner.lock().unwrap().files.push((query.to_owned(), lines));
    }

    pub fn asked(&self, what: &str) -> Vec<Asked> {
        self.inner.lock().unwrap().asked.iter().filter(|asked| asked.what == what).cloned().collect()
    }

    /// A deploy that is accepted, and the deployment as it then is.
    pub fn deploys(&self, deployment: &Deployment) {
        let stack = json!({
            "id": deployment.stack_id, "name": "shop", "project_id": id("prj", 1), "project": "default", "version": 1,
            "condition": "applied", "problems": [], "manifest": "", "created_at_ms": 0, "updated_at_ms": 0,
            "services": [service("shop", "web", 1)],
        });
        self.answers(&format!("GET /api/v1/stacks/{}", deployment.stack_id), stack);
        let begun = Deployment { stage: Stage::Pending, failure: None, ended_at_ms: None, ..deployment.clone() };
        let answer = json!({
            "stack_id": deployment.stack_id, "stack": "shop", "version": 1, "plan": plan("create"), "deployments": [begun],
        });
        self.answers("POST /api/v1/deploy", answer);
        self.answers(&format!("GET /api/v1/deployments/{}", deployment.id), json!(deployment));
    }
}

async fn answer(
    State(inner): State<Arc<Mutex<Inner>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = uri.query().unwrap_or_default();
    if query.contains("follow=true") {
        let known = inner.lock().unwrap().streams.iter().find(|(part, _)| query.contains(part)).cloned();
        let events = known.map(|(_, records)| records).unwrap_or_default().into_iter();
        let events = events.map(|record| Ok::<_, Infallible>(Event::default().event("log").data(record.to_string())));
        let events: Vec<_> = events.collect();
        return Sse::new(futures_util::stream::iter(events).chain(futures_util::stream::pending())).into_response();
    }
    let what = format!("{method} {}", uri.path());
    let mut inner = inner.lock().unwrap();
    inner.asked.push(Asked {
        what: what.clone(),
        authorization: headers.get("authorization").map(|value| value.to_str().unwrap().to_owned()),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    });
    if uri.path() == "/api/v1/logs/file" {
        let known = inner.files.iter().find(|(part, _)| query.contains(part)).map(|(_, lines)| lines.clone());
        // An empty line is a sign of life.
        let lines = known.unwrap_or_default().into_iter().map(|line| format!("{line}\n\n"));
        return lines.collect::<String>().into_response();
    }
    let by_query = inner.by_query.iter().find(|(part, _)| query.contains(part));
    if let Some((_, body)) = by_query {
        return Json(body.clone()).into_response();
    }
    match inner.answers.get(&what) {
        Some((status, body)) => (StatusCode::from_u16(*status).unwrap(), Json(body.clone())).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"code": "not_found", "message": format!("nothing at {what}")})))
            .into_response(),
    }
}

pub fn id(prefix: &str, number: u32) -> String {
    format!("{prefix}_{number:032x}")
}

pub fn info(local_sources: bool) -> Value {
    json!({"version": "0.1.0", "organization": "default", "actor": "token cli", "database": "sqlite", "local_sources": local_sources})
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub fn deployment(stage: Stage) -> Deployment {
    serde_json::from_value(json!({
        "id": id("dep", 1), "stack_id": id("stk", 1), "service_id": id("svc", 1), "service": "web", "kind": "deploy",
        "revision_id": id("rev", 1), "revision_number": 3, "commit": COMMIT, "replicas": 1, "stage": stage,
        "stages": [{"stage": "pending", "at_ms": 0}, {"stage": stage, "at_ms": 1200}],
        "cause": {"actor": {"kind": "token", "name": "cli"}, "action": "deploy"},
        "created_at_ms": 0, "ended_at_ms": if stage.in_flight() { Value::Null } else { json!(1200) },
    }))
    .unwrap()
}

/// A deployment whose instances never became healthy, and the last lines of their log.
pub fn failed_deployment(log_tail: &[&str]) -> Deployment {
    let failure = json!({
        "stage": "starting", "message": "web never became healthy", "server_id": null, "log_tail": log_tail,
        "last_probe": {"ok": false, "at_ms": 0, "duration_ms": 1, "message": "GET /health answered 500"},
    });
    Deployment { failure: Some(serde_json::from_value(failure).unwrap()), ..deployment(Stage::Failed) }
}

pub fn plan(action: &str) -> Value {
    json!({
        "stack_id": null, "stack": "shop", "base_version": 0, "fingerprint": "print-1",
        "services": [{
            "service": "web", "action": action, "commit": COMMIT, "notes": [],
            "differences": if action == "keep" { json!([]) } else { json!([{"field": "run.command", "from": null, "to": "./run"}]) },
        }],
    })
}

pub fn service(stack: &str, name: &str, number: u32) -> Value {
    json!({
        "id": id("svc", number), "name": name, "stack_id": id("stk", 1), "stack": stack, "project_id": id("prj", 1),
        "intent": "run", "condition": "running", "replicas": 1, "instances": [], "routes": [],
        "urls": ["http://127.0.0.1:8080/"],
        "current": {"id": id("rev", 1), "number": 3, "commit": COMMIT, "created_at_ms": 0},
    })
}
