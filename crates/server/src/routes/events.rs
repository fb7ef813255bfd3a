//! What happened, as a list or as it happens.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::extract::Query;
use crate::follow::{self, Follower, PAGE};
use crate::state::AppState;
use crate::views::{find_server, find_service_anywhere, find_stack, parse};
use api::events::EventRecord;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::EventFilter;

const LIMIT: u32 = 1_000;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct EventQuery {
    /// Only those after this sequence, oldest first.
    after: Option<i64>,
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
        return Ok(Json(newest_last(&state, &caller, &filter).await?).into_response());
    }
    let wakeup = state.wakeups().events();
    // What is already there is shown only when asked for; then what comes, from there on.
    let (first, after) = match query.after {
        Some(after) => (Vec::new(), after),
        None => {
            let newest = state.store().event_newest(caller.scope()).await?;
            filter.limit = query.limit.unwrap_or(0).min(LIMIT);
            filter.before = Some(newest + 1);
            let first = if filter.limit == 0 { Vec::new() } else { newest_last(&state, &caller, &filter).await? };
            filter.before = None;
            (first, newest)
        }
    };
    filter.limit = PAGE;
    let reader = (state.clone(), caller.clone(), filter);
    Ok(follow::answer(Follower {
        state,
        caller,
        name: "event",
        wakeup,
        first,
        after,
        sequence_of: |record: &EventRecord| record.sequence,
        read: move |after| read(reader.clone(), after),
    }))
}

async fn read((state, caller, filter): (AppState, Caller, EventFilter), after: i64) -> Result<(Vec<EventRecord>, i64)> {
    let filter = EventFilter { after: Some(after), ..filter };
    let records = state.store().event_list(caller.scope(), &filter).await?;
    let last = records.last().map_or(after, |record| record.sequence);
    Ok((records, last))
}

async fn newest_last(state: &AppState, caller: &Caller, filter: &EventFilter) -> Result<Vec<EventRecord>> {
    let mut records = state.store().event_list(caller.scope(), filter).await?;
    records.sort_by_key(|record| record.sequence);
    Ok(records)
}

async fn filter(state: &AppState, caller: &Caller, query: &EventQuery) -> Result<EventFilter> {
    if query.after.is_some_and(|after| after < 0) {
        return Err(HttpError::invalid("after", "a sequence is not negative"));
    }
    let scope = caller.scope();
    let mut filter = EventFilter { after: query.after, ..EventFilter::default() };
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
