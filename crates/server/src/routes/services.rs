//! Services: how each is, and what can be asked of it. Every request that changes how a service runs
//! makes a deployment; its answer is that deployment, to be followed.

use crate::actions::services;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Body, Path, Query};
use crate::state::AppState;
use crate::views;
use api::deployments::{Deployment, RollbackRequest};
use api::services::{Revision, ScaleRequest, ServiceView};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;

type Named = Path<(String, String)>;

/// All services of all stacks.
#[utoipa::path(get, path = "/api/v1/services", tag = "services",
    responses((status = 200, body = Vec<ServiceView>), (status = 401, body = api::error::ApiError)))]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<Vec<ServiceView>>> {
    Ok(Json(views::services(&state, caller.scope()).await?))
}

/// One service, by names or ids.
#[utoipa::path(get, path = "/api/v1/stacks/{stack}/services/{service}", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = ServiceView), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn show(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
) -> Result<Json<ServiceView>> {
    Ok(Json(views::service(&state, caller.scope(), &stack, &name).await?))
}

/// Back to an earlier revision; while it is still warm, that is only a switch of routes.
#[utoipa::path(post, path = "/api/v1/stacks/{stack}/services/{service}/rollback", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path)), request_body = RollbackRequest,
    responses((status = 200, body = Deployment), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError), (status = 409, body = api::error::ApiError)))]
pub async fn rollback(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
    Body(request): Body<RollbackRequest>,
) -> Result<Json<Deployment>> {
    Ok(Json(services::rollback(&state, &caller, &stack, &name, &request).await?))
}

/// The same revision in new instances, without downtime.
#[utoipa::path(post, path = "/api/v1/stacks/{stack}/services/{service}/restart", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = Deployment), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError), (status = 409, body = api::error::ApiError)))]
pub async fn restart(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
) -> Result<Json<Deployment>> {
    Ok(Json(services::restart(&state, &caller, &stack, &name).await?))
}

/// Stops a service until it is started or deployed again.
#[utoipa::path(post, path = "/api/v1/stacks/{stack}/services/{service}/stop", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = Deployment), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError), (status = 409, body = api::error::ApiError)))]
pub async fn stop(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
) -> Result<Json<Deployment>> {
    Ok(Json(services::stop(&state, &caller, &stack, &name).await?))
}

/// Runs a stopped service again.
#[utoipa::path(post, path = "/api/v1/stacks/{stack}/services/{service}/start", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path)),
    responses((status = 200, body = Deployment), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError), (status = 409, body = api::error::ApiError)))]
pub async fn start(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
) -> Result<Json<Deployment>> {
    Ok(Json(services::start(&state, &caller, &stack, &name).await?))
}

/// Changes the number of instances.
#[utoipa::path(put, path = "/api/v1/stacks/{stack}/services/{service}/scale", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path)), request_body = ScaleRequest,
    responses((status = 200, body = Deployment), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError),
        (status = 409, body = api::error::ApiError)))]
pub async fn scale(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
    Body(request): Body<ScaleRequest>,
) -> Result<Json<Deployment>> {
    Ok(Json(services::scale(&state, &caller, &stack, &name, request.replicas).await?))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct Limit {
    /// At most so many, the newest; 20 unless told, 200 at most.
    #[serde(default)]
    limit: Option<u32>,
}

impl Limit {
    fn get(&self) -> u32 {
        self.limit.unwrap_or(20).clamp(1, 200)
    }
}

/// Deployments of a service, newest first.
#[utoipa::path(get, path = "/api/v1/stacks/{stack}/services/{service}/deployments", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path), Limit),
    responses((status = 200, body = Vec<Deployment>), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn deployments(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
    Query(limit): Query<Limit>,
) -> Result<Json<Vec<Deployment>>> {
    Ok(Json(views::deployments(&state, caller.scope(), &stack, &name, limit.get()).await?))
}

/// Revisions of a service, newest first. Values of environment variables are left out.
#[utoipa::path(get, path = "/api/v1/stacks/{stack}/services/{service}/revisions", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path), Limit),
    responses((status = 200, body = Vec<Revision>), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn revisions(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
    Query(limit): Query<Limit>,
) -> Result<Json<Vec<Revision>>> {
    Ok(Json(views::revisions(&state, caller.scope(), &stack, &name, limit.get()).await?))
}
