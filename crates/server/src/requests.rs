//! What every request gets, whatever it asks: an id, a span, an answer within a bounded time, and
//! headers that keep a browser strict.
//!
//! The id is made here and nowhere else. It is in the log, in the answer's `x-request-id`, in the
//! body of every error and in the cause of every event, so that one text leads from a complaint to
//! what happened. An id sent by the client is not taken over: it would let one caller write another
//! caller's history.

use crate::error::HttpError;
use crate::state::AppState;
use api::error::{ApiError, ErrorCode};
use api::ids::RequestId;
use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::{Duration, Instant};
use tracing::Instrument;

pub const HEADER_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long an ordinary request may take. Streams and the long-poll are routed outside of this.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// The id of the current request, for causes.
#[derive(Debug, Clone)]
pub struct CurrentRequest(pub RequestId);

impl<S: Send + Sync> FromRequestParts<S> for CurrentRequest {
    type Rejection = HttpError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HttpError> {
        let found = parts.extensions.get::<CurrentRequest>().cloned();
        found.ok_or_else(|| HttpError::internal(anyhow::anyhow!("the request layer did not run")))
    }
}

/// The outermost layer: id, span, log line, headers.
pub async fn identify(mut request: Request, next: Next) -> Response {
    let id = RequestId::from_uuid(ambient::fresh_id());
    request.extensions_mut().insert(CurrentRequest(id.clone()));
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id = %id, %method, path);
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.in_scope(|| {
        tracing::debug!(status = status.as_u16(), took_ms = began.elapsed().as_millis() as u64, "answered")
    });

    if let Some(mut answer) = response.extensions_mut().remove::<ApiError>() {
        answer.request_id = Some(id.clone());
        let (mut parts, _) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        let (_, body) = Json(&answer).into_response().into_parts();
        response = Response::from_parts(parts, body);
    }
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(HEADER_REQUEST_ID, value);
    }
    add_security_headers(&mut response);
    response
}

/// No foreign script, style or frame; no guessing of types; nothing of the API in a cache.
fn add_security_headers(response: &mut Response) {
    const POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
                          frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'";
    let headers = response.headers_mut();
    let fixed = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in fixed {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// How long planning and deploying may take: they ask repositories far away.
pub const SLOW_REQUEST_LIMIT: Duration = Duration::from_secs(110);

/// Ends what takes longer than [`REQUEST_LIMIT`].
pub async fn limit_time(request: Request, next: Next) -> Response {
    limit(request, next, REQUEST_LIMIT).await
}

/// Ends what takes longer than [`SLOW_REQUEST_LIMIT`].
pub async fn limit_slow_time(request: Request, next: Next) -> Response {
    limit(request, next, SLOW_REQUEST_LIMIT).await
}

async fn limit(request: Request, next: Next, limit: Duration) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let limit = limit.as_secs();
            HttpError::Unavailable(anyhow::anyhow!("a request took longer than {limit} s and was ended"))
                .into_response()
        }
    }
}

/// A panic in a handler is a bug of ours: the connection lives on, the client gets the ordinary 500.
pub fn panic_answer(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    HttpError::internal(anyhow::anyhow!("a handler panicked: {}", text.unwrap_or("no message"))).into_response()
}

pub async fn no_such_path(State(state): State<AppState>, request: Request) -> HttpError {
    let (mut parts, _) = request.into_parts();
    crate::web::remember_visitor(&mut parts, &state).await;
    let path = parts.uri.path();
    HttpError::not_found("page or endpoint", path).help(match path.starts_with("/api") {
        true => "GET /docs lists what there is",
        false => "look whether the address is right; what it led to may have been removed",
    })
}

pub async fn wrong_method(State(state): State<AppState>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    crate::web::remember_visitor(&mut parts, &state).await;
    let message = format!("{} is not possible on {}", parts.method, parts.uri.path());
    let answer = ApiError::new(ErrorCode::InvalidInput, message).help("GET /docs lists what there is");
    let mut response = (StatusCode::METHOD_NOT_ALLOWED, Json(&answer)).into_response();
    response.extensions_mut().insert(answer);
    response
}
