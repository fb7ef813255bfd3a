//! Stacks: the services of a manifest together.

use crate::actions::stacks;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Path, Query};
use crate::state::AppState;
use crate::views;
use api::stacks::StackView;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

/// Most stacks of one page. A stack has 200 services at most.
const PAGE_LIMIT: u32 = 50;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct StackList {
    /// Name of the last one of the page before: go on behind it.
    after: Option<String>,
    /// At most so many, 50 at most. Without it and `after` all stacks come.
    limit: Option<u32>,
}

/// All stacks with their services, or a page of them, by name.
#[utoipa::path(get, path = "/api/v1/stacks", tag = "stacks", params(StackList),
    responses((status = 200, body = Vec<StackView>), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(list): Query<StackList>,
) -> Result<Json<Vec<StackView>>> {
    if list.after.is_none() && list.limit.is_none() {
        return Ok(Json(views::stacks(&state, caller.scope()).await?));
    }
    let limit = list.limit.unwrap_or(PAGE_LIMIT).clamp(1, PAGE_LIMIT);
    Ok(Json(views::stack_page(&state, caller.scope(), &list.after.unwrap_or_default(), limit).await?))
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
