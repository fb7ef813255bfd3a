//! The dashboard: pages rendered on the server, live by one stream of events.
//!
//! Reading and acting work without a script. Every page is a pure function from the API's own views
//! to markup; every form posts to a handler that calls the same action as the API's endpoint and
//! then redirects back with a message. What a page adds of its own is only words and layout, so a
//! page can never show or do something that the API could not.
//!
//! `live.js` follows `/live/…/stream`, which sends a part of the page again when it differs from
//! what was sent before, and log lines as they are written. Parts hold no text field, so nothing
//! that a person types is ever replaced.
//!
//! ```text
//! handlers ──► subject ──► views (of the API) ──► <noun>.rs: page and fragments ──► frame
//! live ────────┘                                                        ▲
//! forms ─────► actions (of the API)                        words, times, ansi, logs
//! ```
//!
//! Absent on purpose: client-side state, a bundler, inline script and style (the policy forbids
//! both), and any address outside of this server.

mod ansi;
mod asks;
mod assets;
mod builds;
mod charts;
mod confirm;
mod deployments;
mod domains;
mod edit;
mod events;
mod forms;
mod frame;
mod handlers;
mod history;
mod instances;
mod live;
mod log_page;
mod logs;
mod map;
mod metrics;
mod names;
mod overview;
mod problems;
mod reads;
mod reference;
#[cfg(test)]
mod samples;
mod schemas;
mod search;
mod server_mesh;
mod servers;
mod service_list;
mod services;
mod settings;
mod sign_in;
mod stacks;
mod subject;
mod times;
mod tokens;
mod visitor;
mod words;

pub use times::exact_text as exact_time;

pub use visitor::{errors_for_people, remember_visitor};

use crate::state::AppState;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Router, middleware};

/// A form holds a few names and a password, and one of them a manifest.
const FORM_LIMIT_BYTES: usize = 160 * 1024;

/// All pages, forms, streams and assets.
pub fn router() -> Router<AppState> {
    let pages = Router::new()
        .route("/", get(handlers::overview))
        .route("/services", get(handlers::services))
        .route("/stacks/{stack}", get(handlers::stack))
        .route("/stacks/{stack}/plan", get(handlers::plan).post(forms::plan_edited))
        .route("/stacks/{stack}/edit", get(handlers::edit).post(forms::edit))
        .route("/stacks/{stack}/services/{service}", get(handlers::service))
        .route("/stacks/{stack}/services/{service}/revisions", get(handlers::revisions))
        .route("/stacks/{stack}/services/{service}/logs", get(handlers::logs))
        .route("/stacks/{stack}/services/{service}/logs.txt", get(handlers::logs_file))
        .route("/deployments/{id}/log.txt", get(handlers::build_log_file))
        .route("/deployments/{id}", get(handlers::deployment))
        .route("/servers", get(handlers::servers))
        .route("/servers/new", get(handlers::join).post(forms::make_join_token))
        .route("/servers/{server}", get(handlers::server))
        .route("/events", get(handlers::events))
        .route("/builds", get(handlers::builds))
        .route("/settings", get(handlers::settings))
        .route("/domains", get(handlers::domains))
        .route("/search", get(handlers::search))
        .route("/search/hits", get(handlers::search_hits))
        .route("/tokens", get(handlers::tokens).post(forms::make_token))
        .route("/docs", get(handlers::docs))
        .route("/docs/endpoints/{slug}", get(handlers::docs_endpoint))
        .route("/docs/schemas/{name}", get(handlers::docs_schema));
    let forms = Router::new()
        .route("/login", get(handlers::sign_in).post(forms::sign_in))
        .route("/logout", post(forms::sign_out))
        .route("/stacks/{stack}/deploy", post(forms::deploy))
        .route("/stacks/{stack}/remove", post(forms::remove_stack))
        .route("/stacks/{stack}/services/{service}/restart", get(asks::restart).post(forms::restart))
        .route("/stacks/{stack}/services/{service}/stop", get(asks::stop).post(forms::stop))
        .route("/stacks/{stack}/services/{service}/start", get(asks::start).post(forms::start))
        .route("/stacks/{stack}/services/{service}/scale", get(asks::scale).post(forms::scale))
        .route("/stacks/{stack}/services/{service}/rollback", get(asks::rollback).post(forms::rollback))
        .route("/stacks/{stack}/services/{service}/env", post(forms::set_variable))
        .route("/stacks/{stack}/services/{service}/env/remove", get(asks::remove_variable).post(forms::remove_variable))
        .route("/settings/password", post(forms::change_password))
        .route("/deployments/{id}/cancel", get(asks::cancel).post(forms::cancel))
        .route("/servers/{server}/remove", post(forms::remove_server))
        .route("/tokens/{id}/revoke", get(asks::revoke_token).post(forms::revoke_token));
    let streams = Router::new()
        .route("/live/overview/stream", get(live::overview))
        .route("/live/services/stream", get(live::services))
        .route("/live/stacks/{stack}/stream", get(live::stack))
        .route("/live/stacks/{stack}/services/{service}/stream", get(live::service))
        .route("/live/deployments/{id}/stream", get(live::deployment))
        .route("/live/servers/stream", get(live::servers))
        .route("/live/servers/{server}/stream", get(live::server))
        .route("/live/builds/stream", get(live::builds))
        .route("/live/events/stream", get(live::events))
        .route("/live/join/{id}/stream", get(live::join));
    pages
        .merge(forms)
        .merge(streams)
        .layer(DefaultBodyLimit::max(FORM_LIMIT_BYTES))
        .layer(middleware::from_fn(visitor::around_pages))
        .route("/assets/{file}", get(assets::asset))
}
