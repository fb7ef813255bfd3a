//! How much services and servers used, over an hour, a day or a week.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::extract::{Path, Query};
use crate::metrics;
use crate::state::AppState;
use api::metrics::{MetricsRange, ServerMetrics, ServiceMetrics};
use axum::Json;
use axum::extract::State;
use serde::Deserialize;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct Range {
    /// `1h` (points of 30 s), `24h` (of 5 min) or `7d` (of an hour); `1h` unless told.
    #[serde(default)]
    range: Option<String>,
}

impl Range {
    fn get(&self) -> Result<MetricsRange> {
        let told = self.range.as_deref().map(str::parse).transpose();
        Ok(told.map_err(|problem| HttpError::invalid("range", problem))?.unwrap_or_default())
    }
}

/// What a service used and answered: CPU, memory, requests, latency, errors, restarts.
#[utoipa::path(get, path = "/api/v1/stacks/{stack}/services/{service}/metrics", tag = "services",
    params(("stack" = String, Path), ("service" = String, Path), Range),
    responses((status = 200, body = ServiceMetrics), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn of_service(
    State(state): State<AppState>,
    caller: Caller,
    Path((stack, service)): Path<(String, String)>,
    Query(range): Query<Range>,
) -> Result<Json<ServiceMetrics>> {
    Ok(Json(metrics::service(&state, caller.scope(), (&stack, &service), range.get()?).await?))
}

/// What a server used with all that runs on it: CPU, memory, disk.
#[utoipa::path(get, path = "/api/v1/servers/{server}/metrics", tag = "servers",
    params(("server" = String, Path), Range),
    responses((status = 200, body = ServerMetrics), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn of_server(
    State(state): State<AppState>,
    caller: Caller,
    Path(server): Path<String>,
    Query(range): Query<Range>,
) -> Result<Json<ServerMetrics>> {
    Ok(Json(metrics::server(&state, caller.scope(), &server, range.get()?).await?))
}
