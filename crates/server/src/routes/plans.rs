//! What would happen, and making it happen.

use crate::actions::{deploy, planning};
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::Body;
use crate::state::AppState;
use api::plans::{DeployAnswer, DeployRequest, PlanRequest, StackPlan};
use axum::Json;
use axum::extract::State;

/// What deploying this manifest would change. Changes nothing.
#[utoipa::path(post, path = "/api/v1/plan", tag = "deploying", request_body = PlanRequest,
    responses((status = 200, body = StackPlan), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 409, body = api::error::ApiError),
        (status = 422, body = api::error::ApiError)))]
pub async fn plan(
    State(state): State<AppState>,
    caller: Caller,
    Body(request): Body<PlanRequest>,
) -> Result<Json<StackPlan>> {
    Ok(Json(planning::plan(&state, &caller, &request).await?))
}

/// Deploys a manifest. With the fingerprint of a plan, exactly that plan or nothing.
#[utoipa::path(post, path = "/api/v1/deploy", tag = "deploying", request_body = DeployRequest,
    responses((status = 200, body = DeployAnswer), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 409, body = api::error::ApiError),
        (status = 422, body = api::error::ApiError)))]
pub async fn deploy(
    State(state): State<AppState>,
    caller: Caller,
    Body(request): Body<DeployRequest>,
) -> Result<Json<DeployAnswer>> {
    Ok(Json(deploy::deploy(&state, &caller, &request).await?))
}
