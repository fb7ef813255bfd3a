//! Machines with an agent.

use crate::actions::servers;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Body, Path, Query};
use crate::state::AppState;
use crate::{recovery, views};
use api::servers::{AcceptRestoreRequest, ServerView};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

/// Most servers of one page.
const PAGE_LIMIT: u32 = 100;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct ServerList {
    /// Name or id of the last one of the page before: go on behind it.
    after: Option<String>,
    /// At most so many, 100 at most. Without it and `after` all servers come.
    limit: Option<u32>,
}

/// All servers with their last reports, or a page of them, in the order in which they joined.
#[utoipa::path(get, path = "/api/v1/servers", tag = "servers", params(ServerList),
    responses((status = 200, body = Vec<ServerView>), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(list): Query<ServerList>,
) -> Result<Json<Vec<ServerView>>> {
    if list.after.is_none() && list.limit.is_none() {
        return Ok(Json(views::servers(&state, caller.scope()).await?));
    }
    let limit = list.limit.unwrap_or(PAGE_LIMIT).clamp(1, PAGE_LIMIT);
    Ok(Json(views::server_page(&state, caller.scope(), list.after.as_deref(), limit).await?))
}

/// One server, by name or id.
#[utoipa::path(get, path = "/api/v1/servers/{server}", tag = "servers", params(("server" = String, Path)),
    responses((status = 200, body = ServerView), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path(server): Path<String>,
) -> Result<Json<ServerView>> {
    Ok(Json(views::server(&state, caller.scope(), &server).await?))
}

/// Forgets a server: its identity is not good any more, and instances on it are placed elsewhere
/// with the next deployment.
#[utoipa::path(delete, path = "/api/v1/servers/{server}", tag = "servers", params(("server" = String, Path)),
    responses((status = 204), (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError),
        (status = 409, body = api::error::ApiError)))]
pub async fn remove(State(state): State<AppState>, caller: Caller, Path(server): Path<String>) -> Result<StatusCode> {
    servers::remove(&state, &caller, &server).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Agrees that a server which is ahead of a restored control plane becomes what that one says.
#[utoipa::path(post, path = "/api/v1/servers/{server}/accept-restore", tag = "servers", params(("server" = String, Path)),
    request_body = AcceptRestoreRequest,
    responses((status = 200, body = ServerView), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError), (status = 409, body = api::error::ApiError)))]
pub async fn accept_restore(
    State(state): State<AppState>,
    caller: Caller,
    Path(server): Path<String>,
    Body(request): Body<AcceptRestoreRequest>,
) -> Result<Json<ServerView>> {
    Ok(Json(recovery::accept(&state, &caller, &server, request.held_generation).await?))
}
