//! Deployments by id.

use crate::actions::services;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::Path;
use crate::state::AppState;
use crate::views;
use api::deployments::Deployment;
use axum::Json;
use axum::extract::State;

/// One deployment with the stages it passed.
#[utoipa::path(get, path = "/api/v1/deployments/{id}", tag = "deployments", params(("id" = String, Path)),
    responses((status = 200, body = Deployment), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn show(State(state): State<AppState>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deployment>> {
    Ok(Json(views::deployment(&state, caller.scope(), &id).await?))
}

/// Ends a deployment that is in flight; what served before goes on serving.
#[utoipa::path(post, path = "/api/v1/deployments/{id}/cancel", tag = "deployments", params(("id" = String, Path)),
    responses((status = 200, body = Deployment), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError), (status = 409, body = api::error::ApiError)))]
pub async fn cancel(State(state): State<AppState>, caller: Caller, Path(id): Path<String>) -> Result<Json<Deployment>> {
    Ok(Json(services::cancel(&state, &caller, &id).await?))
}
