//! Table of contents: every address of the control plane and the layers around it.
//!
//! ```text
//! identify (id, span, headers)
//!   └ catch panics
//!       ├ ordinary requests    60 s at most, body 2 MiB at most
//!       ├ plan, deploy         110 s at most: they ask repositories far away
//!       ├ reports and logs     60 s at most, bodies bounded by their own extractor
//!       └ streams, long-poll   no limit of time; they bound themselves
//! ```
//!
//! Authentication is not a layer: each handler takes a [`Caller`](crate::auth::Caller) or a
//! [`SignedRequest`](crate::auth::agent::SignedRequest), without which it cannot call the store. A
//! test walks the OpenAPI document and asks every address without a credential.

use crate::requests;
use crate::routes::{
    agent, credentials, deployments, domains, env, events, health, info, logs, metrics, plans, servers, services,
    session, stacks, tokens,
};
use crate::state::AppState;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use std::sync::{Arc, OnceLock};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{Components, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// A manifest is some kilobytes; nothing else that people send is larger.
const BODY_LIMIT_BYTES: usize = 2 * 1024 * 1024;

/// The whole service.
pub fn router(state: AppState) -> Router {
    // The description of every address takes some milliseconds; tests and the simulation start many a
    // control plane in one process.
    static TABLE: OnceLock<Router<AppState>> = OnceLock::new();
    TABLE.get_or_init(table).clone().with_state(state)
}

fn table() -> Router<AppState> {
    let (api, document) = api_router();
    let document = Arc::new(document);
    api.route("/api/v1/openapi.json", get(move || async move { Json(document) }))
        .merge(crate::web::router().layer(middleware::from_fn(without_time_limit_for_streams)))
        .fallback(requests::no_such_path)
        .method_not_allowed_fallback(requests::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(CatchPanicLayer::custom(requests::panic_answer))
        .layer(middleware::from_fn(crate::web::errors_for_people))
        .layer(middleware::from_fn(requests::identify))
}

/// The OpenAPI document, for `cargo xtask` and tests.
pub fn openapi() -> OpenApi {
    api_router().1
}

fn api_router() -> (Router<AppState>, OpenApi) {
    let ordinary = OpenApiRouter::new()
        .routes(routes!(health::healthz))
        .routes(routes!(info::show))
        .routes(routes!(session::create, session::delete))
        .routes(routes!(session::password))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(credentials::list, credentials::store))
        .routes(routes!(credentials::delete))
        .routes(routes!(domains::list))
        .routes(routes!(domains::give, domains::take_back))
        .routes(routes!(domains::renew))
        .routes(routes!(domains::settings, domains::set_up))
        .routes(routes!(stacks::list))
        .routes(routes!(stacks::show, stacks::remove))
        .routes(routes!(services::list))
        .routes(routes!(services::show))
        .routes(routes!(services::rollback))
        .routes(routes!(services::restart))
        .routes(routes!(services::stop))
        .routes(routes!(services::start))
        .routes(routes!(services::scale))
        .routes(routes!(env::list, env::patch))
        .routes(routes!(services::deployments))
        .routes(routes!(services::revisions))
        .routes(routes!(services::differences))
        .routes(routes!(metrics::of_service))
        .routes(routes!(deployments::show))
        .routes(routes!(deployments::cancel))
        .routes(routes!(servers::list))
        .routes(routes!(servers::show, servers::remove))
        .routes(routes!(servers::accept_restore))
        .routes(routes!(metrics::of_server))
        .routes(routes!(agent::register))
        .routes(routes!(agent::status))
        .routes(routes!(agent::logs))
        .layer(middleware::from_fn(requests::limit_time));
    let slow = OpenApiRouter::new()
        .routes(routes!(plans::plan))
        .routes(routes!(plans::deploy))
        .layer(middleware::from_fn(requests::limit_slow_time));
    let unbounded = OpenApiRouter::new()
        .routes(routes!(events::list))
        .routes(routes!(logs::list))
        .routes(routes!(logs::file))
        .routes(routes!(agent::expected_state))
        .routes(routes!(agent::fleet_state));
    OpenApiRouter::with_openapi(description()).merge(ordinary).merge(slow).merge(unbounded).split_for_parts()
}

/// Pages are ordinary requests, except the streams behind them, which the page code marks by path.
async fn without_time_limit_for_streams(
    request: axum::extract::Request,
    next: middleware::Next,
) -> axum::response::Response {
    if request.uri().path().ends_with("/stream") || request.uri().path().ends_with("/live") {
        return next.run(request).await;
    }
    requests::limit_time(request, next).await
}

fn description() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Mainstay")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The control plane's API. People and programs authenticate with `Authorization: Bearer TOKEN` \
             or the dashboard's session cookie; agents sign every request. Every error has the body `ApiError`.",
        ))
        .build();
    let mut components = Components::new();
    components.add_security_scheme(
        "token",
        SecurityScheme::Http(
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("An API token.")).build(),
        ),
    );
    components.add_security_scheme(
        "session",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(crate::auth::session::COOKIE))),
    );
    components.add_security_scheme(
        "agent",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(
            wire::request::HEADER_SIGNATURE,
            "HMAC-SHA256 over method, path, query, body hash, timestamp and nonce.",
        ))),
    );
    let none: [&str; 0] = [];
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components))
        .security(Some([SecurityRequirement::new("token", none), SecurityRequirement::new("session", none)]))
        .build()
}
