//! Machines with an agent.

use crate::actions::servers;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Body, Part, Path, Query};
use crate::state::AppState;
use crate::{recovery, views};
use api::servers::{AcceptRestoreRequest, ServerView};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

/// Most servers of one part.
const PART_LIMIT: u32 = 100;

/// All servers with their last reports, or a part of them, in the order in which they joined.
///
/// A part has 100 at most; `after` may be an id, too.
#[utoipa::path(get, path = "/api/v1/servers", tag = "servers", params(Part),
    responses((status = 200, body = Vec<ServerView>), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(part): Query<Part>,
) -> Result<Json<Vec<ServerView>>> {
    if part.is_all() {
        return Ok(Json(views::servers(&state, caller.scope()).await?));
    }
    let limit = part.limit(PART_LIMIT);
    Ok(Json(views::server_page(&state, caller.scope(), part.after.as_deref(), limit).await?))
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
