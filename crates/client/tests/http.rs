//! The client against a small real server on loopback.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has found one")]

use api::error::{ApiError, ErrorCode, ErrorDetail};
use api::secret::Secret;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, Sse};
use axum::routing::get;
use axum::{Json, Router};
use client::{Client, ClientError, LogQuery};
use futures_util::stream;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn record(sequence: i64) -> String {
    serde_json::json!({
        "sequence": sequence, "service_id": format!("svc_{:032x}", 1), "service": "web",
        "source": {"kind": "run", "instance_id": format!("ins_{:032x}", 1)},
        "at_ms": 0, "stream": "stdout", "text": format!("line {sequence}"),
    })
    .to_string()
}

#[tokio::test]
async fn nobody_listening_is_said_with_the_address_the_reason_and_the_mend() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::new(&address, None).unwrap().info().await.unwrap_err();
    assert!(error.is_unreachable());
    let text = error.to_string();
    let expected = format!(
        "cannot reach the control plane at {address}: connection refused; is it running? start it with `mainstay up` or name another with --server"
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn the_control_planes_own_error_arrives_whole() {
    let refuse = || async {
        let detail = ErrorDetail {
            field: Some("port".into()),
            line: Some(3),
            column: Some(7),
            message: "no".into(),
            help: None,
        };
        let error = ApiError {
            details: vec![detail],
            ..ApiError::new(ErrorCode::InvalidManifest, "the manifest has 1 problem")
        };
        (StatusCode::BAD_REQUEST, Json(error))
    };
    let address = serve(Router::new().route("/api/v1/stacks", get(refuse))).await;
    let error = Client::new(&address, None).unwrap().stacks().await.unwrap_err();
    assert!(error.has_code(ErrorCode::InvalidManifest));
    assert_eq!(error.api().unwrap().details[0].line, Some(3));
}

#[tokio::test]
async fn a_page_that_is_not_the_api_is_recognised() {
    let address = serve(Router::new().route("/api/v1/stacks", get(|| async { "<html>hello</html>" }))).await;
    let error = Client::new(&address, None).unwrap().stacks().await.unwrap_err();
    assert!(matches!(error, ClientError::NotMainstay { .. }), "{error}");
}

#[tokio::test]
async fn the_token_travels_as_bearer_and_never_shows_in_debug_output() {
    let check = |headers: HeaderMap| async move {
        let good = headers.get("authorization").is_some_and(|value| value == "Bearer s3cret");
        (if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, Json(serde_json::json!([])))
    };
    let address = serve(Router::new().route("/api/v1/tokens", get(check))).await;
    let client = Client::new(&address, Some(Secret::new("s3cret"))).unwrap();
    assert!(client.tokens().await.unwrap().is_empty());
    assert!(!format!("{client:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_broken_stream_goes_on_after_the_last_record_without_repeating_one() {
    let queries: Arc<Mutex<Vec<String>>> = Arc::default();
    // Every connection ends after its records, and the second begins with one that was sent before.
    let handler = |State(queries): State<Arc<Mutex<Vec<String>>>>, RawQuery(query): RawQuery| async move {
        let mut seen = queries.lock().unwrap();
        seen.push(query.unwrap_or_default());
        let sequences = if seen.len() == 1 { vec![1, 2] } else { vec![2, 3] };
        Sse::new(stream::iter(
            sequences
                .into_iter()
                .map(|s| Ok::<_, Infallible>(Event::default().event("log").id(s.to_string()).data(record(s)))),
        ))
    };
    let address = serve(Router::new().route("/api/v1/logs", get(handler)).with_state(queries.clone())).await;
    let query = LogQuery { service: Some("web".into()), tail: Some(10), ..LogQuery::default() };
    let mut follow = Client::new(&address, None).unwrap().follow_logs(&query);
    let mut texts = Vec::new();
    for _ in 0..3 {
        let line = tokio::time::timeout(Duration::from_secs(20), follow.next()).await.unwrap().unwrap();
        texts.push(line.line.text);
    }
    assert_eq!(texts, ["line 1", "line 2", "line 3"]);
    assert_eq!(*queries.lock().unwrap(), ["service=web&tail=10&follow=true", "service=web&after=2&follow=true"]);
}

#[tokio::test]
async fn a_refused_stream_is_not_tried_again() {
    let refuse = || async { (StatusCode::NOT_FOUND, Json(ApiError::new(ErrorCode::NotFound, "no service `web`"))) };
    let address = serve(Router::new().route("/api/v1/logs", get(refuse))).await;
    let error = Client::new(&address, None).unwrap().follow_logs(&LogQuery::default()).next().await.unwrap_err();
    assert!(error.has_code(ErrorCode::NotFound), "{error}");
}
