//! Events and log lines as pages want them: newest events first with paging back, a bounded tail.

use super::log_page::LogPlace;
use super::logs::{TAIL_LINES, TAIL_LINES_BESIDE};
use super::names::Names;
use crate::error::Result;
use crate::log_file::Words;
use crate::state::AppState;
use api::events::EventRecord;
use api::ids::{DeploymentId, ServerId, ServiceId, StackId};
use api::logs::LogRecord;
use std::collections::{BTreeMap, BTreeSet};
use store::{EventFilter, LogFilter, LogKind, Scope};

/// How many lines a filter looks through.
const LINES_SEARCHED: u32 = 2_000;
/// How often lines are read while looking for some.
const LOG_READS: usize = 10;
/// How many events are read at once, and how often, while looking for words in them.
const EVENTS_AT_ONCE: u32 = 200;
const EVENT_READS: usize = 10;
/// How many lines one piece of a stream holds.
pub const LINES_AT_ONCE: u32 = 200;

/// Events, newest first, and where to go on from.
#[derive(Debug, Clone, Default)]
pub struct FoundEvents {
    pub records: Vec<EventRecord>,
    /// There may be older ones before this sequence number.
    pub older_than: Option<i64>,
}

/// The newest events that a filter lets through. Words of a message are looked for among a bounded number of
/// them; `older_than` tells where to look on.
pub async fn latest_events(
    state: &AppState,
    scope: &Scope,
    filter: EventFilter,
    text: &str,
    limit: usize,
) -> Result<FoundEvents> {
    let at_once = if text.is_empty() { u32::try_from(limit + 1).unwrap_or(EVENTS_AT_ONCE) } else { EVENTS_AT_ONCE };
    let mut filter = EventFilter { after: None, limit: at_once, ..filter };
    let words = text.to_lowercase();
    let mut found = FoundEvents::default();
    for _ in 0..EVENT_READS {
        let read = state.store().event_list(scope, &filter).await?;
        let last = read.last().map(|record| record.sequence);
        let more = read.len() >= filter.limit as usize;
        found.records.extend(read.into_iter().filter(|record| record.event.message.to_lowercase().contains(&words)));
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
    /// How many lines the page of it begins with.
    fn shown(&self) -> u32 {
        match self {
            Self::Service(_) => TAIL_LINES_BESIDE as u32,
            Self::Build(_) => TAIL_LINES as u32,
        }
    }

    pub fn filter(&self, after: Option<i64>, limit: u32) -> LogFilter {
        let filter = LogFilter { after, limit, ..LogFilter::default() };
        match self {
            Self::Service(id) => LogFilter { service_ids: Some(vec![id.clone()]), kind: Some(LogKind::Run), ..filter },
            Self::Build(id) => LogFilter { deployment_id: Some(id.clone()), kind: Some(LogKind::Build), ..filter },
        }
    }
}

/// The last lines that hold a text, oldest first.
pub async fn log_tail(state: &AppState, scope: &Scope, query: &LogQuery, text: &str) -> Result<Vec<LogRecord>> {
    let limit = if text.is_empty() { query.shown() } else { LINES_SEARCHED };
    let mut lines = state.store().log_list(scope, &query.filter(None, limit)).await?;
    let words = Words::new(text);
    lines.retain(|record| words.are_in(&record.line.text));
    Ok(lines)
}

/// Lines, oldest first, and where older ones begin.
pub struct FoundLines {
    pub records: Vec<LogRecord>,
    pub older_than: Option<i64>,
}

/// A page of a log that stands still: the newest lines, those before one, or those around one.
pub async fn log_page(state: &AppState, scope: &Scope, chosen: &LogFilter, place: &LogPlace) -> Result<FoundLines> {
    let store = state.store();
    let chosen = |after, limit| LogFilter { after, limit, ..chosen.clone() };
    if let Some(at) = place.at {
        let newer = store.log_list(scope, &chosen(Some(at - 1), LINES_AT_ONCE / 2)).await?;
        let filter = LogFilter { before: Some(at), ..chosen(None, LINES_AT_ONCE / 2) };
        let mut records = store.log_list(scope, &filter).await?;
        let older_than = records.first().map(|record| record.sequence);
        records.extend(newer);
        return Ok(FoundLines { records, older_than });
    }
    let mut before = place.before;
    let mut found: Vec<LogRecord> = Vec::new();
    let mut older_than = None;
    let words = Words::new(&place.filter);
    // What is looked for may be rare; the reader is not kept waiting for it without bound.
    for _ in 0..LOG_READS {
        let limit = if place.filter.is_empty() { LINES_AT_ONCE } else { LINES_SEARCHED };
        let read = store.log_list(scope, &LogFilter { before, ..chosen(None, limit) }).await?;
        let more = read.len() >= limit as usize;
        before = read.first().map(|record| record.sequence);
        older_than = before.filter(|_| more);
        found.splice(0..0, read.into_iter().filter(|record| words.are_in(&record.line.text)));
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

/// The lines after a sequence number, oldest first, [`LINES_AT_ONCE`] at most.
pub async fn log_after(state: &AppState, scope: &Scope, query: &LogQuery, after: i64) -> Result<Vec<LogRecord>> {
    Ok(state.store().log_list(scope, &query.filter(Some(after), LINES_AT_ONCE)).await?)
}
