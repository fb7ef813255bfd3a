//! The agent's side: joining, the long-poll for the desired state, reports and logs.

use crate::actions::servers;
use crate::auth::agent::SignedRequest;
use crate::error::{HttpError, Result};
use crate::extract::{Body, parse_json};
use crate::requests::CurrentRequest;
use crate::state::AppState;
use crate::{desired, fleet, reports};
use api::agent::{RegisterAnswer, RegisterRequest, StatusAnswer, StatusReport};
use api::desired::SignedDesiredState;
use api::error::ErrorCode;
use api::logs::{LogUpload, LogUploadAnswer};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use serde::Deserialize;
use std::io::Read;
use std::time::Duration;

/// What a batch of logs may unpack to: a small upload cannot fill the memory.
const LOGS_LIMIT_BYTES: u64 = 32 * 1024 * 1024;
/// Logs of up to this size are unpacked on the spot: at most some megabytes come out of them, in some
/// milliseconds, and mostly a few lines, for which it costs more to wake another thread.
const UNPACKED_AT_ONCE_BYTES: usize = 4 * 1024;

/// Exchanges a one-time token for an identity.
#[utoipa::path(post, path = "/api/v1/agent/register", tag = "agent", security(()), request_body = RegisterRequest,
    responses((status = 200, body = RegisterAnswer), (status = 400, body = api::error::ApiError),
        (status = 403, body = api::error::ApiError, description = "the token is used, expired or unknown")))]
pub async fn register(
    State(state): State<AppState>,
    CurrentRequest(request_id): CurrentRequest,
    Body(request): Body<RegisterRequest>,
) -> Result<Json<RegisterAnswer>> {
    Ok(Json(servers::register(&state, &request, request_id).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct Poll {
    /// Generation that the agent has; 0 for none.
    #[serde(default)]
    after: u64,
    /// Seconds to wait for a newer one; 60 at most.
    #[serde(default)]
    wait: u64,
}

/// The desired state of the server if it is newer than `after`: at once, or the moment it is.
#[utoipa::path(get, path = "/api/v1/agent/expected-state", tag = "agent", security(("agent" = [])), params(Poll),
    responses((status = 200, body = SignedDesiredState), (status = 304, description = "nothing newer within the time"),
        (status = 401, body = api::error::ApiError)))]
pub async fn expected_state(
    State(state): State<AppState>,
    uri: axum::http::Uri,
    request: SignedRequest,
) -> Result<Response> {
    let (after, limit) = poll(&state, &uri)?;
    match desired::newer_than(&state, &request.scope, &request.server.id, after, limit).await? {
        Some(signed) => Ok(Json(signed).into_response()),
        None => Ok(StatusCode::NOT_MODIFIED.into_response()),
    }
}

/// Who else there is and which services run where, if it is newer than `after`: at once, or the moment it is.
#[utoipa::path(get, path = "/api/v1/agent/fleet-state", tag = "agent", security(("agent" = [])), params(Poll),
    responses((status = 200, body = SignedDesiredState), (status = 304, description = "nothing newer within the time"),
        (status = 401, body = api::error::ApiError)))]
pub async fn fleet_state(
    State(state): State<AppState>,
    uri: axum::http::Uri,
    request: SignedRequest,
) -> Result<Response> {
    let (after, limit) = poll(&state, &uri)?;
    match fleet::newer_than(&state, &request.scope, after, limit).await? {
        Some(signed) => Ok(Json(signed).into_response()),
        None => Ok(StatusCode::NOT_MODIFIED.into_response()),
    }
}

/// The generation that the agent has, and how long it waits.
fn poll(state: &AppState, uri: &axum::http::Uri) -> Result<(u64, Duration)> {
    let poll = axum::extract::Query::<Poll>::try_from_uri(uri)
        .map_err(|e| HttpError::new(ErrorCode::InvalidInput, format!("the query cannot be used: {}", e.body_text())))?;
    Ok((poll.after, Duration::from_secs(poll.wait).min(state.poll_limit)))
}

/// What the machine sees, and what happened on it.
#[utoipa::path(post, path = "/api/v1/agent/status", tag = "agent", security(("agent" = [])), request_body = StatusReport,
    responses((status = 200, body = StatusAnswer), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError)))]
pub async fn status(State(state): State<AppState>, request: SignedRequest) -> Result<Json<StatusAnswer>> {
    let report: StatusReport = parse_json(&request.body)?;
    Ok(Json(reports::take_status(&state, &request, report).await?))
}

/// Log lines of builds and instances, as gzip-compressed JSON; resumable by offset.
#[utoipa::path(post, path = "/api/v1/agent/logs", tag = "agent", security(("agent" = [])),
    request_body(content = LogUpload, content_type = "application/gzip"),
    responses((status = 200, body = LogUploadAnswer), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 413, body = api::error::ApiError)))]
pub async fn logs(State(state): State<AppState>, request: SignedRequest) -> Result<Json<LogUploadAnswer>> {
    let packed = request.body.clone();
    let text = if packed.len() <= UNPACKED_AT_ONCE_BYTES {
        unpack(&packed)?
    } else {
        tokio::task::spawn_blocking(move || unpack(&packed)).await.map_err(HttpError::internal)??
    };
    let upload: LogUpload = parse_json(&text)?;
    Ok(Json(reports::take_logs(&state, &request, upload).await?))
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    if !packed.starts_with(&[0x1f, 0x8b]) {
        return Err(HttpError::new(ErrorCode::InvalidInput, "the logs are not gzip-compressed"));
    }
    let mut text = Vec::new();
    let read = GzDecoder::new(packed).take(LOGS_LIMIT_BYTES + 1).read_to_end(&mut text);
    read.map_err(|e| HttpError::new(ErrorCode::InvalidInput, format!("the logs cannot be unpacked: {e}")))?;
    if text.len() as u64 > LOGS_LIMIT_BYTES {
        let message = format!("the logs unpack to more than {LOGS_LIMIT_BYTES} bytes; send smaller batches");
        return Err(HttpError::new(ErrorCode::TooLarge, message));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn pack(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_small_upload_that_unpacks_to_a_huge_one_is_refused() {
        let bomb = pack(&vec![b' '; LOGS_LIMIT_BYTES as usize + 1]);
        assert!(bomb.len() < 100_000);
        assert!(matches!(unpack(&bomb), Err(HttpError::Answer(e)) if e.code == ErrorCode::TooLarge));
        assert_eq!(unpack(&pack(b"{}")).unwrap(), b"{}");
        assert!(unpack(b"{}").is_err());
        assert!(unpack(&pack(b"{}")[..10]).is_err());
    }
}
