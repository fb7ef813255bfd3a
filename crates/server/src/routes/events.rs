//! What happened, as a list or as it happens.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::extract::Query;
use crate::follow::{self, Begin, Followed, PAGE};
use crate::state::AppState;
use crate::views::{find_server, find_service_anywhere, find_stack, parse};
use api::cause::Actor;
use api::events::{EventKind, EventLevel, EventRecord, EventTopic};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::{EventFilter, Scope, Store};
use tokio::sync::watch;

const LIMIT: u32 = 1_000;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct EventQuery {
    /// Only those after this sequence, oldest first.
    after: Option<i64>,
    /// Only those before this sequence, the newest of them: how to page back.
    before: Option<i64>,
    /// At most so many: 100 unless told, 1000 at most. Without `after`, the newest.
    limit: Option<u32>,
    /// Name or id.
    stack: Option<String>,
    /// Name or id.
    service: Option<String>,
    /// Id.
    deployment: Option<String>,
    /// Name or id.
    server: Option<String>,
    /// What it is about.
    #[param(inline)]
    about: Option<EventTopic>,
    /// What happened, in one word: `build_failed`.
    kind: Option<EventKind>,
    /// This level and worse.
    level: Option<EventLevel>,
    /// Who asked for it: a name, or `user NAME` or `token NAME`.
    by: Option<String>,
    /// Id of the request that led to it, also through a deployment.
    request: Option<String>,
    /// Stay and send what comes, as server-sent events.
    #[serde(default)]
    follow: bool,
}

/// Events, oldest first; with `follow`, a stream of them.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventQuery),
    responses((status = 200, description = "a list, or with `follow` a stream whose events are named `event`", content(
            (Vec<EventRecord> = "application/json"), (String = "text/event-stream"))),
        (status = 400, body = api::error::ApiError), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn list(State(state): State<AppState>, caller: Caller, Query(query): Query<EventQuery>) -> Result<Response> {
    let mut filter = filter(&state, &caller, &query).await?;
    if !query.follow {
        filter.limit = query.limit.unwrap_or(100).clamp(1, LIMIT);
        return Ok(Json(oldest_first(state.store(), caller.scope(), &filter).await?).into_response());
    }
    // What is already there is shown only when asked for; then what comes, from there on.
    let begin = query.after.map_or(Begin::Last(query.limit.unwrap_or(0).min(LIMIT)), Begin::After);
    follow::answer(state, caller, filter, begin).await
}

impl Followed for EventFilter {
    type Record = EventRecord;
    const NAME: &'static str = "event";

    fn sequence(record: &EventRecord) -> i64 {
        record.sequence
    }

    fn wakeup(state: &AppState) -> watch::Receiver<u64> {
        state.wakeups().events()
    }

    async fn newest(store: &Store, scope: &Scope) -> store::Result<i64> {
        store.event_newest(scope).await
    }

    async fn last(&self, store: &Store, scope: &Scope, up_to: i64, limit: u32) -> store::Result<Vec<EventRecord>> {
        oldest_first(store, scope, &EventFilter { before: Some(up_to + 1), limit, ..self.clone() }).await
    }

    async fn after(&self, store: &Store, scope: &Scope, after: i64) -> store::Result<Vec<EventRecord>> {
        store.event_list(scope, &EventFilter { after: Some(after), limit: PAGE, ..self.clone() }).await
    }
}

async fn oldest_first(store: &Store, scope: &Scope, filter: &EventFilter) -> store::Result<Vec<EventRecord>> {
    let mut records = store.event_list(scope, filter).await?;
    records.sort_by_key(|record| record.sequence);
    Ok(records)
}

async fn filter(state: &AppState, caller: &Caller, query: &EventQuery) -> Result<EventFilter> {
    if query.after.is_some_and(|after| after < 0) {
        return Err(HttpError::invalid("after", "a sequence is not negative"));
    }
    let scope = caller.scope();
    let mut filter = EventFilter {
        after: query.after,
        before: query.before,
        kinds: EventTopic::kinds_wanted(query.about, query.kind),
        lowest_level: query.level,
        people: query.by.as_deref().map(Actor::people_named),
        request_id: query.request.as_deref().map(|id| parse("request", id)).transpose()?,
        ..EventFilter::default()
    };
    if let Some(stack) = &query.stack {
        filter.stack_id = Some(find_stack(state, scope, stack).await?.id);
    }
    if let Some(service) = &query.service {
        filter.service_id = Some(find_service_anywhere(state, scope, query.stack.as_deref(), service).await?.id);
    }
    if let Some(deployment) = &query.deployment {
        filter.deployment_id = Some(parse("deployment", deployment)?);
    }
    if let Some(server) = &query.server {
        filter.server_id = Some(find_server(state, scope, server).await?.id);
    }
    Ok(filter)
}
