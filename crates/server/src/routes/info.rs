//! Which control plane this is, and who the caller is to it.

use crate::auth::Caller;
use crate::error::Result;
use crate::state::AppState;
use api::tokens::Info;
use axum::Json;
use axum::extract::State;

/// Which control plane this is, and who you are to it.
#[utoipa::path(get, path = "/api/v1/info", tag = "control plane",
    responses((status = 200, body = Info), (status = 401, body = api::error::ApiError)))]
pub async fn show(State(state): State<AppState>, caller: Caller) -> Result<Json<Info>> {
    Ok(Json(Info {
        version: env!("CARGO_PKG_VERSION").into(),
        organization: state.organization_name().into(),
        actor: caller.actor().label(),
        database: state.store().dialect_name().into(),
        local_sources: state.options().allow_local_sources,
        disk_low: state.disk.problem(),
    }))
}
