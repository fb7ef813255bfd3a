//! Join tokens and API tokens.

use crate::actions::tokens;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Body, Path};
use crate::state::AppState;
use api::ids::TokenId;
use api::tokens::{TokenCreated, TokenRequest, TokenView};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

/// All tokens, without what they hold.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens",
    responses((status = 200, body = Vec<TokenView>), (status = 401, body = api::error::ApiError)))]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<Vec<TokenView>>> {
    Ok(Json(tokens::list(&state, &caller).await?))
}

/// Makes a token; this answer is the one time that it is shown.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = TokenRequest,
    responses((status = 201, body = TokenCreated), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn create(
    State(state): State<AppState>,
    caller: Caller,
    Body(request): Body<TokenRequest>,
) -> Result<(StatusCode, Json<TokenCreated>)> {
    Ok((StatusCode::CREATED, Json(tokens::create(&state, &caller, &request).await?)))
}

/// Revokes a token: it is not good any more from this moment on.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = TokenId, Path)),
    responses((status = 204), (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn revoke(State(state): State<AppState>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode> {
    tokens::revoke(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
