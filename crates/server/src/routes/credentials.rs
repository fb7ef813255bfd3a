//! Deploy keys and tokens of private repositories. What they hold is never shown again.

use crate::actions::credentials;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Body, Path};
use crate::state::AppState;
use api::desired::{CredentialRequest, CredentialView};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

/// All stored git credentials, without what they hold.
#[utoipa::path(get, path = "/api/v1/credentials", tag = "credentials",
    responses((status = 200, body = Vec<CredentialView>), (status = 401, body = api::error::ApiError)))]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<Vec<CredentialView>>> {
    Ok(Json(credentials::list(&state, &caller).await?))
}

/// Stores a git credential under a name; an older one of that name is replaced.
#[utoipa::path(post, path = "/api/v1/credentials", tag = "credentials", request_body = CredentialRequest,
    responses((status = 204), (status = 400, body = api::error::ApiError), (status = 401, body = api::error::ApiError)))]
pub async fn store(
    State(state): State<AppState>,
    caller: Caller,
    Body(request): Body<CredentialRequest>,
) -> Result<StatusCode> {
    credentials::store(&state, &caller, &request).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a git credential.
#[utoipa::path(delete, path = "/api/v1/credentials/{name}", tag = "credentials", params(("name" = String, Path)),
    responses((status = 204), (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn delete(State(state): State<AppState>, caller: Caller, Path(name): Path<String>) -> Result<StatusCode> {
    credentials::delete(&state, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
