//! Hosts and their certificates. A private key comes in and never goes out.

use crate::actions::domains;
use crate::auth::Caller;
use crate::error::Result;
use crate::extract::{Body, Path};
use crate::state::AppState;
use api::domains::{AcmeSettings, CertificateRequest, DomainView};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

/// All hosts that a route names or that a certificate was given for, and how each stands with HTTPS.
#[utoipa::path(get, path = "/api/v1/domains", tag = "domains",
    responses((status = 200, body = Vec<DomainView>), (status = 401, body = api::error::ApiError)))]
pub async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<Vec<DomainView>>> {
    Ok(Json(domains::list(&state, &caller).await?))
}

/// Stores a certificate of one's own for a host or a wildcard; it is used for all hosts that it is for.
#[utoipa::path(put, path = "/api/v1/domains/{host}/certificate", tag = "domains", params(("host" = String, Path)),
    request_body = CertificateRequest,
    responses((status = 200, body = DomainView), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError)))]
pub async fn give(
    State(state): State<AppState>,
    caller: Caller,
    Path(host): Path<String>,
    Body(request): Body<CertificateRequest>,
) -> Result<Json<DomainView>> {
    Ok(Json(domains::give(&state, &caller, &host, &request).await?))
}

/// Forgets a certificate that was given, with its key.
#[utoipa::path(delete, path = "/api/v1/domains/{host}/certificate", tag = "domains",
    params(("host" = String, Path)),
    responses((status = 204), (status = 401, body = api::error::ApiError), (status = 404, body = api::error::ApiError)))]
pub async fn take_back(State(state): State<AppState>, caller: Caller, Path(host): Path<String>) -> Result<StatusCode> {
    domains::take_back(&state, &caller, &host).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Orders a certificate for a host now, also where it has one.
#[utoipa::path(post, path = "/api/v1/domains/{host}/renew", tag = "domains", params(("host" = String, Path)),
    responses((status = 200, body = DomainView), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError), (status = 409, body = api::error::ApiError)))]
pub async fn renew(
    State(state): State<AppState>,
    caller: Caller,
    Path(host): Path<String>,
) -> Result<Json<DomainView>> {
    Ok(Json(domains::renew(&state, &caller, &host).await?))
}

/// How automatic HTTPS is set up.
#[utoipa::path(get, path = "/api/v1/acme", tag = "domains",
    responses((status = 200, body = AcmeSettings), (status = 401, body = api::error::ApiError)))]
pub async fn settings(State(state): State<AppState>, caller: Caller) -> Result<Json<AcmeSettings>> {
    Ok(Json(domains::settings(&state, &caller).await?))
}

/// Sets automatic HTTPS up, changes it, or ends it.
#[utoipa::path(put, path = "/api/v1/acme", tag = "domains", request_body = AcmeSettings,
    responses((status = 200, body = AcmeSettings), (status = 400, body = api::error::ApiError),
        (status = 401, body = api::error::ApiError)))]
pub async fn set_up(
    State(state): State<AppState>,
    caller: Caller,
    Body(settings): Body<AcmeSettings>,
) -> Result<Json<AcmeSettings>> {
    Ok(Json(domains::set_up(&state, &caller, &settings).await?))
}
