//! Services: how each is, and what can be asked of it. Every request that changes how a service runs
//! makes a deployment; its answer is that deployment, to be followed.

use crate::actions::services;
use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::extract::{Body, Part, Path, Query};
use crate::state::AppState;
use crate::views::{self, ServiceQuery};
use api::deployments::{Deployment, RollbackRequest};
use api::plans::Difference;
use api::services::{Revision, ScaleRequest, ServiceCondition, ServiceView};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use store::{ServiceCursor, ServiceFilter};

type Named = Path<(String, String)>;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub struct ServiceList {
    /// Only those of this stack: name or id.
    stack: Option<String>,
    /// Only those with this in `stack/service`.
    search: Option<String>,
    /// Only those that are `running`, `deploying`, `degraded`, `down`, `stopped` or `unknown`.
    condition: Option<ServiceCondition>,
}

/// All services of all stacks, or a part of those that are looked for, by the name of their stack and their own.
///
/// A part has 500 at most; `after` is of the form `stack/service`.
#[utoipa::path(get, path = "/api/v1/services", tag = "services", params(ServiceList, Part),
    responses((status = 200, body = Vec<ServiceView>), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Query(list): Query<ServiceList>,
    Query(part): Query<Part>,
) -> Result<Json<Vec<ServiceView>>> {
    let scope = caller.scope();
    let ServiceList { stack, search, condition } = list;
    if stack.is_none() && search.is_none() && condition.is_none() && part.is_all() {
        return Ok(Json(views::services(&state, scope).await?));
    }
    let cursor = match part.after.as_deref().map(|after| after.split_once('/')) {
        None => None,
        Some(Some((stack, service))) => Some(ServiceCursor::After(stack.to_owned(), service.to_owned())),
        Some(None) => return Err(HttpError::invalid("after", "`after` is of the form `stack/service`")),
    };
    let stack_id = match stack {
        Some(stack) => Some(views::find_stack(&state, scope, &stack).await?.id),
        None => None,
    };
    let filter = ServiceFilter { stack_id, text: search.unwrap_or_default() };
    let query = ServiceQuery { filter, condition, cursor, limit: part.limit(PART_LIMIT) };
    Ok(Json(views::service_page(&state, scope, &query).await?.services))
}

/// Most services of one part.
const PART_LIMIT: u32 = 500;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct Revisions {
    /// Number of a revision.
    from: u64,
    /// Number of another.
    to: u64,
}

/// What differs between two revisions of a service. Of environment variables only that they differ.
#[utoipa::path(get, path = "/api/v1/stacks/{stack}/services/{service}/differences", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path), Revisions),
    responses((status = 200, body = Vec<Difference>), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn differences(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Named,
    Query(revisions): Query<Revisions>,
) -> Result<Json<Vec<Difference>>> {
    let Revisions { from, to } = revisions;
    Ok(Json(views::revision_differences(&state, caller.scope(), &stack, &name, from, to).await?))
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
