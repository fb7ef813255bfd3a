//! Events and log lines as pages want them: newest events first with paging back, a bounded tail.

use super::logs::{TAIL_LINES, matches};
use crate::error::Result;
use crate::state::AppState;
use api::events::{EventLevel, EventRecord};
use api::ids::{DeploymentId, ServerId, ServiceId, StackId};
use api::logs::LogRecord;
use store::{EventFilter, LogFilter, LogKind, Scope};

/// How many lines a filter looks through.
const LINES_SEARCHED: u32 = 2_000;
/// How many events are read at once, and how often, while looking for those of a level.
const EVENTS_AT_ONCE: u32 = 200;
const EVENT_READS: usize = 10;
/// How many lines one piece of a stream holds.
pub const LINES_AT_ONCE: u32 = 200;

/// Which events; every field narrows.
#[derive(Debug, Clone)]
pub struct EventQuery {
    pub stack_id: Option<StackId>,
    pub service_id: Option<ServiceId>,
    pub deployment_id: Option<DeploymentId>,
    pub server_id: Option<ServerId>,
    pub lowest_level: EventLevel,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self { stack_id: None, service_id: None, deployment_id: None, server_id: None, lowest_level: EventLevel::Info }
    }
}

/// The newest events before a sequence number, newest first.
pub async fn latest_events(
    state: &AppState,
    scope: &Scope,
    query: &EventQuery,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<EventRecord>> {
    let all = query.lowest_level == EventLevel::Info;
    let mut filter = EventFilter {
        after: None,
        before,
        limit: if all { u32::try_from(limit).unwrap_or(EVENTS_AT_ONCE) } else { EVENTS_AT_ONCE },
        stack_id: query.stack_id.clone(),
        service_id: query.service_id.clone(),
        deployment_id: query.deployment_id.clone(),
        server_id: query.server_id.clone(),
        problems_only: !all,
    };
    let mut found = Vec::new();
    for _ in 0..EVENT_READS {
        let read = state.store().event_list(scope, &filter).await?;
        let last = read.last().map(|record| record.sequence);
        let more = read.len() >= filter.limit as usize;
        found.extend(read.into_iter().filter(|record| record.event.level >= query.lowest_level));
        if found.len() >= limit || !more {
            break;
        }
        filter.before = last;
    }
    found.truncate(limit);
    Ok(found)
}

/// Which log.
#[derive(Debug, Clone)]
pub enum LogQuery {
    /// Output of all instances of a service.
    Service(ServiceId),
    /// Fetching and building for a deployment.
    Build(DeploymentId),
}

impl LogQuery {
    fn filter(&self, after: Option<i64>, limit: u32) -> LogFilter {
        let filter = LogFilter { after, limit, ..LogFilter::default() };
        match self {
            Self::Service(id) => LogFilter { service_ids: Some(vec![id.clone()]), kind: Some(LogKind::Run), ..filter },
            Self::Build(id) => LogFilter { deployment_id: Some(id.clone()), kind: Some(LogKind::Build), ..filter },
        }
    }
}

/// The last lines that hold a text, oldest first.
pub async fn log_tail(state: &AppState, scope: &Scope, query: &LogQuery, text: &str) -> Result<Vec<LogRecord>> {
    let limit = if text.is_empty() { TAIL_LINES as u32 } else { LINES_SEARCHED };
    let mut lines = state.store().log_list(scope, &query.filter(None, limit)).await?;
    lines.retain(|record| matches(record, text));
    Ok(lines)
}

/// The lines after a sequence number, oldest first, [`LINES_AT_ONCE`] at most.
pub async fn log_after(state: &AppState, scope: &Scope, query: &LogQuery, after: i64) -> Result<Vec<LogRecord>> {
    Ok(state.store().log_list(scope, &query.filter(Some(after), LINES_AT_ONCE)).await?)
}
