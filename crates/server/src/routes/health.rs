//! Whether the control plane is up.

use crate::error::Result;
use crate::state::AppState;
use axum::extract::State;

/// Whether the control plane is up and its database answers.
#[utoipa::path(get, path = "/healthz", tag = "control plane", security(()),
    responses((status = 200, body = String), (status = 503, body = api::error::ApiError)))]
pub async fn healthz(State(state): State<AppState>) -> Result<&'static str> {
    state.store().ping().await?;
    Ok("ok\n")
}
