//! Events and log lines as pages want them: newest events first with paging back, a bounded tail.

use super::events::Topic;
use super::log_page::LogPlace;
use super::logs::{TAIL_LINES, matches};
use super::names::Names;
use crate::error::Result;
use crate::state::AppState;
use api::events::{EventLevel, EventRecord};
use api::ids::{DeploymentId, ServerId, ServiceId, StackId};
use api::logs::LogRecord;
use std::collections::{BTreeMap, BTreeSet};
use store::{EventFilter, LogFilter, LogKind, Scope};

/// How many lines a filter looks through.
const LINES_SEARCHED: u32 = 2_000;
/// How often lines are read while looking for some.
const LOG_READS: usize = 10;
/// How many lines a file holds at most.
const LINES_IN_FILE: u32 = 20_000;
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
    pub topic: Option<Topic>,
    /// Words that the message holds, in any case.
    pub text: String,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self {
            stack_id: None,
            service_id: None,
            deployment_id: None,
            server_id: None,
            lowest_level: EventLevel::Info,
            topic: None,
            text: String::new(),
        }
    }
}

impl EventQuery {
    /// What the database does not look for.
    fn fits(&self, record: &EventRecord) -> bool {
        let event = &record.event;
        event.level >= self.lowest_level
            && self.topic.is_none_or(|topic| topic == Topic::of(event.kind))
            && (self.text.is_empty() || event.message.to_lowercase().contains(&self.text.to_lowercase()))
    }
}

/// Events, newest first, and where to go on from.
#[derive(Debug, Clone, Default)]
pub struct FoundEvents {
    pub records: Vec<EventRecord>,
    /// There may be older ones before this sequence number.
    pub older_than: Option<i64>,
}

/// The newest events before a sequence number. Those that the database cannot look for are looked for among a
/// bounded number; `older_than` tells where to look on.
pub async fn latest_events(
    state: &AppState,
    scope: &Scope,
    query: &EventQuery,
    before: Option<i64>,
    limit: usize,
) -> Result<FoundEvents> {
    let problems_only = query.lowest_level > EventLevel::Info;
    let selective = query.lowest_level == EventLevel::Error || query.topic.is_some() || !query.text.is_empty();
    let at_once = if selective { EVENTS_AT_ONCE } else { u32::try_from(limit + 1).unwrap_or(EVENTS_AT_ONCE) };
    let mut filter = EventFilter {
        after: None,
        before,
        limit: at_once,
        stack_id: query.stack_id.clone(),
        service_id: query.service_id.clone(),
        deployment_id: query.deployment_id.clone(),
        server_id: query.server_id.clone(),
        problems_only,
    };
    let mut found = FoundEvents::default();
    for _ in 0..EVENT_READS {
        let read = state.store().event_list(scope, &filter).await?;
        let last = read.last().map(|record| record.sequence);
        let more = read.len() >= filter.limit as usize;
        found.records.extend(read.into_iter().filter(|record| query.fits(record)));
        found.older_than = last.filter(|_| more);
        if found.records.len() > limit || !more {
            break;
        }
        filter.before = last;
    }
    if found.records.len() > limit {
        found.records.truncate(limit);
        found.older_than = found.records.last().map(|record| record.sequence);
    }
    Ok(found)
}

/// Names of all that these events are about.
pub async fn names_of_events(state: &AppState, scope: &Scope, events: &[EventRecord]) -> Result<Names> {
    let about = || events.iter().map(|record| &record.event);
    let stacks = about().filter_map(|event| event.stack_id.clone()).collect();
    let services = about().filter_map(|event| event.service_id.as_ref()).collect();
    let servers = about().filter_map(|event| event.server_id.as_ref()).collect();
    names(state, scope, stacks, services, servers).await
}

/// Names of these things, as far as they are still there.
pub async fn names(
    state: &AppState,
    scope: &Scope,
    mut stacks: BTreeSet<StackId>,
    services: BTreeSet<&ServiceId>,
    servers: BTreeSet<&ServerId>,
) -> Result<Names> {
    let store = state.store();
    let services = store.service_list_of(scope, services).await?;
    stacks.extend(services.iter().map(|service| service.stack_id.clone()));
    let stacks: BTreeMap<StackId, String> =
        store.stack_list_of(scope, &stacks).await?.into_iter().map(|s| (s.id, s.name.to_string())).collect();
    let servers = store.server_list_of(scope, servers).await?.into_iter().map(|s| (s.id, s.name.to_string()));
    let services = services.into_iter().filter_map(|service| {
        let stack = stacks.get(&service.stack_id)?.clone();
        Some((service.id, (stack, service.name.to_string())))
    });
    let services: Vec<_> = services.collect();
    Ok(Names::new(stacks, services, servers))
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

/// Lines, oldest first, and where older ones begin.
pub struct FoundLines {
    pub records: Vec<LogRecord>,
    pub older_than: Option<i64>,
}

/// A page of a log that stands still: the newest lines, those before one, or those around one.
pub async fn log_page(state: &AppState, scope: &Scope, query: &LogQuery, place: &LogPlace) -> Result<FoundLines> {
    let store = state.store();
    if let Some(at) = place.at {
        let newer = store.log_list(scope, &query.filter(Some(at - 1), LINES_AT_ONCE / 2)).await?;
        let filter = LogFilter { before: Some(at), ..query.filter(None, LINES_AT_ONCE / 2) };
        let mut records = store.log_list(scope, &filter).await?;
        let older_than = records.first().map(|record| record.sequence);
        records.extend(newer);
        return Ok(FoundLines { records, older_than });
    }
    let mut before = place.before;
    let mut found: Vec<LogRecord> = Vec::new();
    let mut older_than = None;
    // What is looked for may be rare; the reader is not kept waiting for it without bound.
    for _ in 0..LOG_READS {
        let limit = if place.filter.is_empty() { LINES_AT_ONCE } else { LINES_SEARCHED };
        let read = store.log_list(scope, &LogFilter { before, ..query.filter(None, limit) }).await?;
        let more = read.len() >= limit as usize;
        before = read.first().map(|record| record.sequence);
        older_than = before.filter(|_| more);
        found.splice(0..0, read.into_iter().filter(|record| matches(record, &place.filter)));
        if found.len() >= LINES_AT_ONCE as usize || !more {
            break;
        }
    }
    let beyond = found.len().saturating_sub(LINES_AT_ONCE as usize);
    if beyond > 0 {
        found.drain(..beyond);
        older_than = found.first().map(|record| record.sequence);
    }
    Ok(FoundLines { records: found, older_than })
}

/// The newest lines that hold a text, as plain text, oldest first.
pub async fn log_file(state: &AppState, scope: &Scope, query: &LogQuery, text: &str) -> Result<String> {
    let lines = state.store().log_list(scope, &query.filter(None, LINES_IN_FILE)).await?;
    let mut file = String::new();
    for record in lines.iter().filter(|record| matches(record, text)) {
        let at = super::times::exact_text(record.line.at_ms);
        file.push_str(&format!("{at} {}\n", record.line.text.trim_end_matches(['\r', '\n'])));
    }
    Ok(file)
}

/// The lines after a sequence number, oldest first, [`LINES_AT_ONCE`] at most.
pub async fn log_after(state: &AppState, scope: &Scope, query: &LogQuery, after: i64) -> Result<Vec<LogRecord>> {
    Ok(state.store().log_list(scope, &query.filter(Some(after), LINES_AT_ONCE)).await?)
}
