//! Log lines of builds and instances, as a list or as they come.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::extract::Query;
use crate::follow::{self, Begin, Followed, PAGE};
use crate::log_file::{self, LineForm, LogFile, Words};
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
    /// Only lines before this sequence: how to page back.
    before: Option<i64>,
    /// Not older than this, in milliseconds since 1970.
    since_ms: Option<i64>,
    /// Not newer than this.
    until_ms: Option<i64>,
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
    let LogQuery { stack, service, deployment, instance, kind, .. } = &query;
    let choice = Choice {
        stack: stack.as_deref(),
        service: service.as_deref(),
        deployment: deployment.as_deref(),
        instance: instance.as_deref(),
        kind: kind.as_deref(),
    };
    let mut filter = filter(&state, caller.scope(), choice).await?;
    (filter.since_ms, filter.until_ms) = (query.since_ms, query.until_ms);
    (filter.after, filter.before) = (query.after, query.before);
    filter.limit = query.tail.unwrap_or(TAIL).min(LIMIT);
    if !query.follow {
        filter.limit = filter.limit.max(1);
        return Ok(Json(state.store().log_list(caller.scope(), &filter).await?).into_response());
    }
    let begin = query.after.map_or(Begin::Last(filter.limit), Begin::After);
    follow::answer(state, caller, filter, begin).await
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub struct LogFileQuery {
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
    /// Not older than this, in milliseconds since 1970.
    since_ms: Option<i64>,
    /// Not newer than this.
    until_ms: Option<i64>,
    /// Only lines that hold this, in any case.
    #[serde(default)]
    search: String,
    /// The newest first: whoever wants only the last ones stops reading.
    #[serde(default)]
    newest_first: bool,
    #[serde(default)]
    #[param(inline)]
    form: LineForm,
}

/// Every line that is kept of a choice, as a stream that is as fast as it is read. A stream that breaks off is not
/// all of it.
#[utoipa::path(get, path = "/api/v1/logs/file", tag = "events", params(LogFileQuery),
    responses((status = 200, description = "lines", content(
            (String = "application/x-ndjson"), (String = "text/plain"))),
        (status = 400, body = api::error::ApiError), (status = 401, body = api::error::ApiError),
        (status = 404, body = api::error::ApiError)))]
pub async fn file(
    State(state): State<AppState>,
    caller: Caller,
    Query(query): Query<LogFileQuery>,
) -> Result<Response> {
    let choice = Choice {
        stack: query.stack.as_deref(),
        service: query.service.as_deref(),
        deployment: query.deployment.as_deref(),
        instance: query.instance.as_deref(),
        kind: query.kind.as_deref(),
    };
    let filter = filter(&state, caller.scope(), choice).await?;
    let filter = LogFilter { since_ms: query.since_ms, until_ms: query.until_ms, ..filter };
    let words = Words::new(&query.search);
    log_file::answer(state, caller, LogFile { filter, words, newest_first: query.newest_first, form: query.form }).await
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

/// Whose lines.
struct Choice<'a> {
    stack: Option<&'a str>,
    service: Option<&'a str>,
    deployment: Option<&'a str>,
    instance: Option<&'a str>,
    kind: Option<&'a str>,
}

async fn filter(state: &AppState, scope: &Scope, choice: Choice<'_>) -> Result<LogFilter> {
    let kind = match choice.kind {
        None => None,
        Some("build") => Some(LogKind::Build),
        Some("run") => Some(LogKind::Run),
        Some(_) => return Err(HttpError::invalid("kind", "the kind of a log is `build` or `run`")),
    };
    let service_ids = match (choice.stack, choice.service) {
        (stack, Some(service)) => Some(vec![find_service_anywhere(state, scope, stack, service).await?.id]),
        (Some(stack), None) => {
            let stack = find_stack(state, scope, stack).await?;
            let services = state.store().service_list(scope, Some(&stack.id)).await?;
            Some(services.into_iter().map(|service| service.id).collect())
        }
        (None, None) => None,
    };
    Ok(LogFilter {
        limit: TAIL,
        service_ids,
        deployment_id: choice.deployment.map(|id| parse("deployment", id)).transpose()?,
        instance_id: choice.instance.map(|id| parse("instance", id)).transpose()?,
        kind,
        ..LogFilter::default()
    })
}
