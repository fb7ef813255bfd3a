//! What machines tell: reports of what they see, events and log lines.
//!
//! The signature says which server speaks, and a server is believed about itself only: its events
//! carry its own id whatever they claim, and its log lines go to logs of instances and builds that
//! it has.

use crate::auth::agent::SignedRequest;
use crate::clock;
use crate::error::{HttpError, Result};
use crate::metrics;
use crate::presence::{Heard, STORED_AGE_LIMIT_MS, essence};
use crate::state::{AppState, event};
use api::agent::{StatusAnswer, StatusReport};
use api::cause::Cause;
use api::events::{Event, EventKind, EventLevel};
use api::ids::ServiceId;
use api::logs::{LogAcknowledgement, LogBatch, LogSource, LogUpload, LogUploadAnswer};
use api::observed::ObservedState;
use api::servers::ServerFacts;
use std::collections::BTreeSet;
use std::sync::Arc;
use store::ReportWrite;

/// At most so many events in one report; the agent sends the rest with the next.
const EVENTS_LIMIT: usize = 1_000;
const MESSAGE_LIMIT_CHARACTERS: usize = 2_000;

/// A report: keeps what is new, wakes whom it concerns.
pub async fn take_status(state: &AppState, request: &SignedRequest, report: StatusReport) -> Result<StatusAnswer> {
    let StatusReport { observed, facts, events, held } = report;
    let (server, scope) = (&request.server, &request.scope);
    if observed.server_id != server.id {
        return Err(HttpError::invalid(
            "observed.server_id",
            "the report is about another server than the one that signed it",
        ));
    }
    let now_ms = clock::now_ms();
    let digest = essence(&observed);
    let before = state.heard(&server.id);
    let changed = before.as_ref().is_none_or(|heard| heard.digest != digest);
    let old_copy =
        before.as_ref().is_none_or(|heard| !(0..=STORED_AGE_LIMIT_MS).contains(&(now_ms - heard.stored_at_ms)));
    let version = &observed.agent.version;
    let new_facts = facts.as_ref().filter(|facts| *facts != &server.facts);
    let moved = request.from.is_some() && request.from != server.seen_from;
    let seen = old_copy || new_facts.is_some() || moved || version != &server.agent_version;
    let store_it = changed || old_copy;
    let events = own_events(request, events);
    let write = ReportWrite {
        seen: seen.then_some((version.as_str(), new_facts)),
        seen_from: request.from,
        observed: store_it.then_some(&observed),
        events: &events,
        back: (!server.online).then(|| came_back(request)),
    };
    let is_back = state.store().report_take(scope, &server.id, &write, now_ms).await?;
    if is_back || !events.is_empty() {
        state.wakeups().events_stored();
    }
    if let Some(previous) = before.as_ref().and_then(|heard| heard.observed.as_deref()) {
        let longest_ms = metrics::longest_ms(state.options().poll_interval_ms);
        state.metrics.record(&scope.organization, &server.id, (previous, &observed), now_ms, longest_ms);
    }
    let stored_at_ms = if store_it { now_ms } else { before.map_or(0, |heard| heard.stored_at_ms) };
    let observed = Arc::new(observed);
    let concerned = if changed { services_in(&observed) } else { BTreeSet::new() };
    state.hear(
        &server.id,
        Heard {
            at_ms: state.steady.now_ms(),
            reported_at_ms: now_ms,
            observed: Some(observed.clone()),
            digest,
            stored_at_ms,
        },
    );

    if is_back {
        state.wakeups().all_services_changed();
    }
    let in_mesh = |facts: &ServerFacts| facts.mesh.is_some();
    if (changed || is_back || moved || new_facts.is_some()) && in_mesh(new_facts.unwrap_or(&server.facts)) {
        state.wakeups().change_fleet();
        // What others wait for may be what it has just acknowledged.
        for service_id in state.fleet.known().take_waiting() {
            state.wakeups().service_changed(&service_id);
        }
    }
    let other_document =
        |facts: &ServerFacts| facts.root != server.facts.root || in_mesh(facts) != in_mesh(&server.facts);
    if new_facts.is_some_and(other_document) {
        crate::desired::refresh(state, scope, &server.id).await?;
    }
    if changed {
        for instance in state.store().instance_list_on_server(scope, &server.id).await? {
            state.wakeups().service_changed(&instance.service_id);
        }
        for service_id in &concerned {
            state.wakeups().service_changed(service_id);
        }
    }
    let generation = state.store().desired_state_head(scope, &server.id).await?.map_or(0, |(generation, _)| generation);
    let send_document = crate::recovery::on_report(state, request, &observed, held, generation).await?;
    let acknowledged_events = events.into_iter().map(|event| event.id).collect();
    Ok(StatusAnswer { acknowledged_events, generation, send_document })
}

fn services_in(observed: &ObservedState) -> BTreeSet<ServiceId> {
    let instances = observed.instances.iter().map(|instance| instance.service_id.clone());
    instances.chain(observed.preparations.iter().map(|preparation| preparation.service_id.clone())).collect()
}

/// A machine's events are about itself, and have a bound.
fn own_events(request: &SignedRequest, events: Vec<Event>) -> Vec<Event> {
    events
        .into_iter()
        .take(EVENTS_LIMIT)
        .map(|mut event| {
            event.server_id = Some(request.server.id.clone());
            if event.message.chars().count() > MESSAGE_LIMIT_CHARACTERS {
                event.message = event.message.chars().take(MESSAGE_LIMIT_CHARACTERS).chain(['…']).collect();
            }
            event
        })
        .collect()
}

fn came_back(request: &SignedRequest) -> Event {
    let message = format!("the server {} reports again", request.server.name);
    let cause = Cause {
        actor: request.scope.actor.clone(),
        action: "report".into(),
        request_id: Some(request.request_id.clone()),
        deployment_id: None,
    };
    let mut online = event(EventKind::ServerOnline, EventLevel::Info, message, cause);
    online.server_id = Some(request.server.id.clone());
    online
}

/// Log lines: kept from where the last ones ended.
pub async fn take_logs(state: &AppState, request: &SignedRequest, upload: LogUpload) -> Result<LogUploadAnswer> {
    let (scope, server) = (&request.scope, &request.server);
    // They wait where they are, with a bound, and are sent again.
    state.disk.room_for("no log lines are kept")?;
    let here = state.store().instance_list_on_server(scope, &server.id).await?;
    let mut good = Vec::new();
    let mut acknowledged = Vec::new();
    for batch in upload.batches {
        if is_own(state, request, &here, &batch).await? {
            good.push(batch);
        } else {
            // Nobody may send it again for ever; it is acknowledged and dropped.
            tracing::debug!(server = %server.name, log = batch.source.key(), "dropped log lines of a log that is not the server's");
            acknowledged.push(LogAcknowledgement { source: batch.source, next_offset: batch.next_offset });
        }
    }
    if !good.is_empty() {
        acknowledged.extend(state.store().log_append(scope, &server.id, &good).await?);
        state.wakeups().logs_stored();
    }
    Ok(LogUploadAnswer { acknowledged })
}

/// Whether a log is one that this server writes: it began it, or it has an instance that belongs to it.
async fn is_own(state: &AppState, request: &SignedRequest, here: &[store::Instance], batch: &LogBatch) -> Result<bool> {
    let has = here.iter().any(|instance| {
        instance.service_id == batch.service_id
            && match &batch.source {
                LogSource::Run { instance_id } => &instance.id == instance_id,
                LogSource::Build { deployment_id } => &instance.deployment_id == deployment_id,
            }
    });
    Ok(has || state.store().log_stream_exists(&request.scope, &batch.source, &request.server.id).await?)
}
