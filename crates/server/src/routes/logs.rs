//! Log lines of builds and instances, as a list or as they come.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::extract::Query;
use crate::follow::{self, Follower, PAGE};
use crate::state::AppState;
use crate::views::{find_service_anywhere, find_stack, parse};
use api::logs::LogRecord;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::{LogFilter, LogKind};

const LIMIT: u32 = 10_000;
const TAIL: u32 = 200;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct LogQuery {
    /// Name or id.
    stack: Option<String>,
    /// Name or id.
    service: Option<String>,
    /// Id: the log of its build, and those of its instances.
    deployment: Option<String>,
    /// Id.
    instance: Option<String>,
    /// `build` or `run`; both unless told.
    kind: Option<String>,
    /// Only lines after this sequence.
    after: Option<i64>,
    /// The last so many lines: 200 unless told, 10000 at most.
    tail: Option<u32>,
    /// Stay and send what comes, as server-sent events.
    #[serde(default)]
    follow: bool,
}

/// Log lines, oldest first; with `follow`, a stream of them after the last `tail` ones.
#[utoipa::path(get, path = "/api/v1/logs", tag = "events", params(LogQuery),
    responses((status = 200, description = "a list, or with `follow` a stream whose events are named `log`", content(
            (Vec<LogRecord> = "application/json"), (String = "text/event-stream"))),
        (status = 400, body = api::error::ApiError), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn list(State(state): State<AppState>, caller: Caller, Query(query): Query<LogQuery>) -> Result<Response> {
    let mut filter = filter(&state, &caller, &query).await?;
    filter.limit = query.tail.unwrap_or(TAIL).min(LIMIT);
    if !query.follow {
        filter.limit = filter.limit.max(1);
        return Ok(Json(state.store().log_list(caller.scope(), &filter).await?).into_response());
    }
    let wakeup = state.wakeups().logs();
    let (first, after) = match query.after {
        Some(after) => (Vec::new(), after),
        None => {
            // Lines that come between the two reads are after `newest` or in `first`; those in both
            // are left out of `first`.
            let newest = state.store().log_newest(caller.scope()).await?;
            let mut first = match filter.limit {
                0 => Vec::new(),
                _ => state.store().log_list(caller.scope(), &filter).await?,
            };
            first.retain(|record| record.sequence <= newest);
            (first, newest)
        }
    };
    filter.limit = PAGE;
    let reader = (state.clone(), caller.clone(), filter);
    Ok(follow::answer(Follower {
        state,
        caller,
        name: "log",
        wakeup,
        first,
        after,
        sequence_of: |record: &LogRecord| record.sequence,
        read: move |after| read(reader.clone(), after),
    }))
}

async fn read((state, caller, filter): (AppState, Caller, LogFilter), after: i64) -> Result<(Vec<LogRecord>, i64)> {
    let filter = LogFilter { after: Some(after), ..filter };
    let records = state.store().log_list(caller.scope(), &filter).await?;
    let last = records.last().map_or(after, |record| record.sequence);
    Ok((records, last))
}

async fn filter(state: &AppState, caller: &Caller, query: &LogQuery) -> Result<LogFilter> {
    let scope = caller.scope();
    let kind = match query.kind.as_deref() {
        None => None,
        Some("build") => Some(LogKind::Build),
        Some("run") => Some(LogKind::Run),
        Some(_) => return Err(HttpError::invalid("kind", "the kind of a log is `build` or `run`")),
    };
    let service_ids = match (&query.stack, &query.service) {
        (stack, Some(service)) => Some(vec![find_service_anywhere(state, scope, stack.as_deref(), service).await?.id]),
        (Some(stack), None) => {
            let stack = find_stack(state, scope, stack).await?;
            let services = state.store().service_list(scope, Some(&stack.id)).await?;
            Some(services.into_iter().map(|service| service.id).collect())
        }
        (None, None) => None,
    };
    Ok(LogFilter {
        after: query.after,
        limit: TAIL,
        service_ids,
        deployment_id: query.deployment.as_deref().map(|id| parse("deployment", id)).transpose()?,
        instance_id: query.instance.as_deref().map(|id| parse("instance", id)).transpose()?,
        kind,
        since_ms: None,
    })
}
