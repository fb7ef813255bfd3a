//! Log lines of builds and instances, as a list or as they come.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::extract::Query;
use crate::follow::{self, Begin, Followed, PAGE};
use crate::state::AppState;
use crate::views::{find_service_anywhere, find_stack, parse};
use api::logs::LogRecord;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use store::{LogFilter, LogKind, Scope, Store};
use tokio::sync::watch;

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
    let begin = query.after.map_or(Begin::Last(filter.limit), Begin::After);
    follow::answer(state, caller, filter, begin).await
}

impl Followed for LogFilter {
    type Record = LogRecord;
    const NAME: &'static str = "log";

    fn sequence(record: &LogRecord) -> i64 {
        record.sequence
    }

    fn wakeup(state: &AppState) -> watch::Receiver<u64> {
        state.wakeups().logs()
    }

    async fn newest(store: &Store, scope: &Scope) -> store::Result<i64> {
        store.log_newest(scope).await
    }

    async fn last(&self, store: &Store, scope: &Scope, up_to: i64, limit: u32) -> store::Result<Vec<LogRecord>> {
        let mut records = store.log_list(scope, &LogFilter { limit, ..self.clone() }).await?;
        records.retain(|record| record.sequence <= up_to);
        Ok(records)
    }

    async fn after(&self, store: &Store, scope: &Scope, after: i64) -> store::Result<Vec<LogRecord>> {
        store.log_list(scope, &LogFilter { after: Some(after), limit: PAGE, ..self.clone() }).await
    }
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
        before: None,
        limit: TAIL,
        service_ids,
        deployment_id: query.deployment.as_deref().map(|id| parse("deployment", id)).transpose()?,
        instance_id: query.instance.as_deref().map(|id| parse("instance", id)).transpose()?,
        kind,
        since_ms: None,
    })
}
