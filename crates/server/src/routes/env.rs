//! Environment variables of a service, over those of its manifest.

use crate::actions::env;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Body, Path, Query};
use crate::state::AppState;
use api::deployments::Deployment;
use api::services::{EnvPatch, EnvVariable};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct Reveal {
    /// Show the values, too.
    #[serde(default)]
    reveal: bool,
}

/// Environment variables of a service with their origin; values only with `reveal=true`.
#[utoipa::path(get, path = "/api/v1/stacks/{stack}/services/{service}/env", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path), Reveal),
    responses((status = 200, body = Vec<EnvVariable>), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn list(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Path<(String, String)>,
    Query(query): Query<Reveal>,
) -> Result<Json<Vec<EnvVariable>>> {
    Ok(Json(env::list(&state, &caller, &stack, &name, query.reveal).await?))
}

/// Sets and removes variables; with `deploy` at once, otherwise with the next deployment.
#[utoipa::path(patch, path = "/api/v1/stacks/{stack}/services/{service}/env", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path)), request_body = EnvPatch,
    responses((status = 200, body = Option<Deployment>), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError),
        (status = 409, body = api::error::ApiError)))]
pub async fn patch(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, name)): Path<(String, String)>,
    Body(patch): Body<EnvPatch>,
) -> Result<Json<Option<Deployment>>> {
    Ok(Json(env::patch(&state, &caller, &stack, &name, &patch).await?))
}
