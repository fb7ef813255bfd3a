//! Stacks: the services of a manifest together.

use crate::actions::stacks;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Part, Path, Query};
use crate::state::AppState;
use crate::views;
use api::stacks::StackView;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

/// Most stacks of one part. A stack has 200 services at most.
const PART_LIMIT: u32 = 50;

/// All stacks with their services, or a part of them, by name.
///
/// A part has 50 at most.
#[utoipa::path(get, path = "/api/v1/stacks", tag = "stacks", params(Part),
    responses((status = 200, body = Vec<StackView>), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(part): Query<Part>,
) -> Result<Json<Vec<StackView>>> {
    if part.is_all() {
        return Ok(Json(views::stacks(&state, caller.scope()).await?));
    }
    let limit = part.limit(PART_LIMIT);
    Ok(Json(views::stack_page(&state, caller.scope(), &part.after.unwrap_or_default(), limit).await?))
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
