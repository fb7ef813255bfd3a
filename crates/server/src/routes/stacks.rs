//! Stacks: the services of a manifest together.

use crate::actions::stacks;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::Path;
use crate::state::AppState;
use crate::views;
use api::stacks::StackView;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

/// All stacks with their services.
#[utoipa::path(get, path = "/api/v1/stacks", tag = "stacks",
    responses((status = 200, body = Vec<StackView>), (status = 401, body = api::error::ApiError)))]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<Vec<StackView>>> {
    Ok(Json(views::stacks(&state, caller.scope()).await?))
}

/// One stack, by name or id.
#[utoipa::path(get, path = "/api/v1/stacks/{stack}", tag = "stacks", params(("stack" = String, Path)),
    responses((status = 200, body = StackView), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn show(State(state): State<AppState>, caller: Caller, Path(stack): Path<String>) -> Result<Json<StackView>> {
    Ok(Json(views::stack(&state, caller.scope(), &stack).await?))
}

/// Stops and removes all services of a stack, and the stack.
#[utoipa::path(delete, path = "/api/v1/stacks/{stack}", tag = "stacks", params(("stack" = String, Path)),
    responses((status = 204), (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn remove(State(state): State<AppState>, caller: Caller, Path(stack): Path<String>) -> Result<StatusCode> {
    stacks::remove(&state, &caller, &stack).await?;
    Ok(StatusCode::NO_CONTENT)
}
