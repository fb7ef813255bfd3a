//! Signing in and out of the dashboard.

use crate::actions::sign_in;
use crate::auth::{Caller, session};
use crate::error::Result;
use crate::extract::Body;
use crate::requests::CurrentRequest;
use crate::state::AppState;
use api::tokens::{PasswordChange, SignInRequest};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;

/// Signs in: a session cookie for a user and password.
#[utoipa::path(post, path = "/api/v1/session", tag = "session", security(()), request_body = SignInRequest,
    responses((status = 204, description = "signed in; the session is in the cookie"),
        (status = 401, body = api::error::ApiError), (status = 429, body = api::error::ApiError)))]
pub async fn create(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    CurrentRequest(request_id): CurrentRequest,
    headers: HeaderMap,
    Body(request): Body<SignInRequest>,
) -> Result<Response> {
    let signed_in = sign_in::sign_in(&state, &request, peer.ip(), &request_id).await?;
    let cookie = session::cookie(&signed_in, session::is_secure(&state, &headers));
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response())
}

/// Signs out: the session of the cookie ends everywhere at once.
#[utoipa::path(delete, path = "/api/v1/session", tag = "session",
    responses((status = 204, description = "signed out"), (status = 401, body = api::error::ApiError)))]
pub async fn delete(State(state): State<AppState>, caller: Caller) -> Result<Response> {
    sign_in::sign_out(&state, &caller).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, session::no_cookie())]).into_response())
}

/// Another password for the person who signed in. Every other session of theirs ends.
#[utoipa::path(put, path = "/api/v1/session/password", tag = "session", request_body = PasswordChange,
    responses((status = 204, description = "changed"), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 429, body = api::error::ApiError)))]
pub async fn password(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    caller: Caller,
    Body(change): Body<PasswordChange>,
) -> Result<StatusCode> {
    sign_in::change_password(&state, &caller, &change, peer.ip()).await?;
    Ok(StatusCode::NO_CONTENT)
}
