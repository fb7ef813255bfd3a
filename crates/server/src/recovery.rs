//! The day a control plane is restored from yesterday's backup.
//!
//! Its machines are ahead of it: they hold documents that it signed after the backup was made and does
//! not remember. Left alone, one of two things would happen. Either its documents have lower numbers, and
//! every agent refuses them for good; or its numbers catch up one day, and the machines silently become
//! what they were yesterday. Both are wrong, so a restored control plane first listens:
//!
//! ```text
//!  restore ─► unheard ──(the agent holds what the backup knows, or less)──► nothing special
//!                │
//!                ▼  it holds something newer, or something else under the same number
//!              ahead ──(a person looks at what would change, and agrees)──► replacing ──► nothing special
//! ```
//!
//! *Unheard* and *ahead*: the document of that server is frozen and nothing new is handed out. The machine
//! goes on with what it has, refuses the old document aloud, and shows what it holds. *Replacing*: a
//! document with a number above all that the machine has seen, in which the services that run go on
//! serving (they are *carried*) until the restored instances are healthy, and are drained then.
//!
//! A machine can be ahead of a control plane that was never restored with `mainstay restore`, too, for
//! example when its virtual machine was set back: a number above ours, or ours with another hash, is enough.
//!
//! **Trust.** What a machine claims moves nothing by itself. The document that it shows has to carry our own
//! signature and name that server. And whatever happens here, an agent accepts only what the pinned key
//! signed under a number above all before: an old row or a replayed document commands nobody.
//!
//! Deliberately absent: taking over what runs into the restored database. The document does not hold all
//! of it (manifest, rollout settings, history); deploying again does, from the repository.

use crate::auth::Caller;
use crate::auth::agent::SignedRequest;
use crate::certificates;
use crate::clock;
use crate::desired;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event};
use crate::views;
use api::UnixMillis;
use api::agent::HeldDocument;
use api::cause::Cause;
use api::desired::{DesiredState, InstanceDesired, InstanceIntent, ServiceDesired, SignedDesiredState, Traffic};
use api::events::{Event, EventKind, EventLevel};
use api::ids::{InstanceId, ServerId, StackId};
use api::observed::{InstanceState, ObservedState};
use api::servers::{RecoveryAction, RecoveryChange, RecoveryState, ServerRecovery, ServerView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use store::{Scope, Store};

/// Names of settings; the server's id follows.
const SETTING: &str = "recovery/";
/// How long instances that were replaced may finish their requests.
const DRAIN_LIMIT_MS: i64 = 60_000;
/// A machine cannot move our numbers to where none are left.
const GENERATION_LIMIT: u64 = 1 << 53;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Recovery {
    Unheard {
        since_ms: UnixMillis,
        /// Of the document in the backup.
        generation: u64,
        sha256: String,
    },
    Ahead {
        since_ms: UnixMillis,
        /// What the machine holds.
        generation: u64,
        document: Option<Box<SignedDesiredState>>,
    },
    Replacing {
        since_ms: UnixMillis,
        /// The next document has a higher number than this.
        floor: u64,
        carried: Vec<Carried>,
    },
}

/// A service as the machine runs it, which goes on until the restored one takes its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    pub stack_id: StackId,
    /// With those instances and their revisions only.
    pub service: ServiceDesired,
    /// Set once the restored instances serve.
    pub draining_since_ms: Option<UnixMillis>,
}

impl Recovery {
    /// Whether the document of the server stays as it is.
    fn freezes(&self) -> bool {
        !matches!(self, Self::Replacing { .. })
    }
}

/// All servers that are not yet as they should be after a restore.
#[derive(Debug, Default)]
pub struct Recoveries {
    states: Mutex<HashMap<ServerId, Recovery>>,
    /// What each agent was last seen to hold rightly, so that most reports cost one comparison.
    confirmed: Mutex<HashMap<ServerId, (u64, String)>>,
    /// Held by whoever changes a state.
    turn: tokio::sync::Mutex<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recoveries {
    pub async fn load(store: &Store, scope: &Scope) -> store::Result<Self> {
        let kept: Vec<(String, Recovery)> = store.setting_list(scope, SETTING).await?;
        let states = kept.into_iter().filter_map(|(id, recovery)| Some((id.parse().ok()?, recovery))).collect();
        Ok(Self { states: Mutex::new(states), ..Self::default() })
    }

    pub fn get(&self, id: &ServerId) -> Option<Recovery> {
        locked(&self.states).get(id).cloned()
    }

    /// Whether the server's document is frozen.
    pub fn freezes(&self, id: &ServerId) -> bool {
        locked(&self.states).get(id).is_some_and(Recovery::freezes)
    }

    async fn set(&self, state: &AppState, scope: &Scope, id: &ServerId, recovery: Option<Recovery>) -> Result<()> {
        let name = format!("{SETTING}{id}");
        match recovery {
            Some(recovery) => {
                state.store().setting_put(scope, &name, &recovery).await?;
                locked(&self.states).insert(id.clone(), recovery);
            }
            None => {
                state.store().setting_delete(scope, &name).await?;
                locked(&self.states).remove(id);
            }
        }
        Ok(())
    }

    /// The server is gone.
    pub async fn forget(&self, state: &AppState, scope: &Scope, id: &ServerId) -> Result<()> {
        locked(&self.confirmed).remove(id);
        if self.get(id).is_some() { self.set(state, scope, id, None).await } else { Ok(()) }
    }
}

/// Notes for every server of a restored database that its agent may be ahead.
pub async fn mark_restored(store: &Store, scope: &Scope, now_ms: UnixMillis) -> store::Result<()> {
    for server in store.server_list(scope).await? {
        let kept = store.desired_state_get(scope, &server.id).await?;
        let (generation, sha256) = kept.map_or((0, String::new()), |row| (row.generation, row.signed.sha256));
        let recovery = Recovery::Unheard { since_ms: now_ms, generation, sha256 };
        store.setting_put(scope, &format!("{SETTING}{}", server.id), &recovery).await?;
    }
    Ok(())
}

/// An agent asks for what is newer than `after`. Answers whether it may have our document.
///
/// One that is ahead gets the old document at once: it refuses that aloud, in its log and in its reports.
pub async fn on_poll(state: &AppState, scope: &Scope, id: &ServerId, after: u64, newest: u64) -> Result<bool> {
    if after > newest {
        let known = matches!(state.recoveries.get(id), Some(Recovery::Ahead { generation, .. }) if generation == after);
        if !known {
            let _turn = state.recoveries.turn.lock().await;
            is_ahead(state, scope, id, after).await?;
        }
        return Ok(true);
    }
    Ok(match state.recoveries.get(id) {
        Some(Recovery::Ahead { generation, .. }) => after == newest && generation == newest,
        _ => after < newest,
    })
}

/// A report came. Answers whether the agent is to show the document that it holds.
pub async fn on_report(
    state: &AppState,
    request: &SignedRequest,
    observed: &ObservedState,
    held: Option<HeldDocument>,
    newest: u64,
) -> Result<bool> {
    let (scope, id) = (&request.scope, &request.server.id);
    let held = held.unwrap_or(HeldDocument { generation: observed.generation, sha256: String::new(), document: None });
    let recoveries = &state.recoveries;
    if recoveries.get(id).is_none() {
        let same =
            locked(&recoveries.confirmed).get(id).is_some_and(|(g, s)| *g == held.generation && *s == held.sha256);
        if same || held.generation < newest || held.generation == 0 {
            return Ok(false);
        }
    }
    let _turn = recoveries.turn.lock().await;
    match recoveries.get(id) {
        None => {
            if is_ours(state, scope, id, &held).await? {
                locked(&recoveries.confirmed).insert(id.clone(), (held.generation, held.sha256));
            } else {
                is_ahead(state, scope, id, held.generation).await?;
            }
        }
        Some(Recovery::Unheard { generation, sha256, .. }) => {
            let same = held.generation == generation && (held.sha256.is_empty() || held.sha256 == sha256);
            if same || held.generation < generation {
                recoveries.set(state, scope, id, None).await?;
                desired::refresh(state, scope, id).await?;
            } else {
                is_ahead(state, scope, id, held.generation).await?;
            }
        }
        Some(Recovery::Ahead { generation, document, since_ms }) => {
            if held.generation <= newest && is_ours(state, scope, id, &held).await? {
                recoveries.set(state, scope, id, None).await?;
                desired::refresh(state, scope, id).await?;
            } else if held.generation != generation {
                is_ahead(state, scope, id, held.generation).await?;
            } else if let (None, Some(shown)) = (&document, held.document) {
                genuine(state, id, &shown)?;
                let mut shown = shown;
                // It may hold private keys.
                shown.document = certificates::seal_document(state, scope, id, &shown.document);
                let document = Some(Box::new(shown));
                recoveries.set(state, scope, id, Some(Recovery::Ahead { since_ms, generation, document })).await?;
            }
        }
        Some(Recovery::Replacing { since_ms, floor, carried }) => {
            let left = advance(state, scope, id, observed, carried.clone()).await?;
            if left != carried || left.is_empty() {
                let next = Recovery::Replacing { since_ms, floor, carried: left };
                let done = matches!(&next, Recovery::Replacing { carried, .. } if carried.is_empty()) && newest > floor;
                recoveries.set(state, scope, id, (!done).then_some(next)).await?;
                desired::refresh(state, scope, id).await?;
            }
        }
    }
    Ok(matches!(recoveries.get(id), Some(Recovery::Ahead { document: None, .. })))
}

/// Whether the machine holds what we hold.
async fn is_ours(state: &AppState, scope: &Scope, id: &ServerId, held: &HeldDocument) -> Result<bool> {
    let ours = state.store().desired_state_get(scope, id).await?;
    Ok(ours.is_some_and(|row| {
        let same = held.sha256.is_empty() || row.signed.sha256 == held.sha256;
        // A newer one was made since; what it holds cannot be compared any more.
        row.generation > held.generation || row.generation == held.generation && same
    }))
}

async fn is_ahead(state: &AppState, scope: &Scope, id: &ServerId, generation: u64) -> Result<()> {
    let already =
        matches!(state.recoveries.get(id), Some(Recovery::Ahead { generation: known, .. }) if known == generation);
    if already || generation >= GENERATION_LIMIT {
        return Ok(());
    }
    let ours = state.store().desired_state_head(scope, id).await?.map_or(0, |(generation, _)| generation);
    let recovery = Recovery::Ahead { since_ms: clock::now_ms(), generation, document: None };
    state.recoveries.set(state, scope, id, Some(recovery)).await?;
    let name = state.store().server_get(scope, id).await?.name;
    let which = if generation > ours {
        format!("holds generation {generation}, and this control plane knows only up to {ours}")
    } else {
        format!("holds another generation {generation} than this control plane")
    };
    let message = format!(
        "the server {name} {which}: the control plane was set back, probably restored from a backup. What runs on {name} \
         goes on, and it gets nothing new until you agree: mainstay servers accept-restore {name}"
    );
    tracing::error!(server = %name, "{message}");
    let cause = Cause::system("recovery", "a server is ahead");
    crate::events::record(
        state,
        scope,
        vec![about_server(id, event(EventKind::ConfigRefused, EventLevel::Error, message, cause))],
    )
    .await
}

/// A document that a machine shows is believed if we signed it, for that machine.
fn genuine(state: &AppState, id: &ServerId, shown: &SignedDesiredState) -> Result<DesiredState> {
    let ours = wire::VerifyingKey::from_base64(&state.signing_key.public_base64()).map_err(HttpError::internal)?;
    let refused = |reason: String| {
        HttpError::invalid("held.document", format!("the document that was shown is not believed: {reason}"))
    };
    let shown = certificates::open_document(state, &state.organization, id, shown.clone())?;
    let document: DesiredState = ours.verify(&shown).map_err(|error| refused(error.to_string()))?;
    if document.server_id != *id {
        return Err(refused("it is of another server".into()));
    }
    Ok(document)
}

fn about_server(id: &ServerId, mut event: Event) -> Event {
    event.server_id = Some(id.clone());
    event
}

/// Instances that serve.
fn serving(service: &ServiceDesired) -> Vec<&InstanceDesired> {
    let serves = |i: &&InstanceDesired| i.intent == InstanceIntent::Run && i.traffic == Traffic::Active;
    service.instances.iter().filter(serves).collect()
}

fn find<'a>(document: &'a DesiredState, like: &ServiceDesired) -> Option<&'a ServiceDesired> {
    document.services().map(|(_, service)| service).find(|service| service.service_id == like.service_id)
}

/// Whether the restored instances are others than those that run.
fn replaces(held: &ServiceDesired, restored: &ServiceDesired) -> bool {
    let (old, new) = (serving(held), serving(restored));
    !old.is_empty() && !new.is_empty() && !new.iter().any(|i| old.iter().any(|o| o.instance_id == i.instance_id))
}

/// What has to go on until the restored state serves.
fn carry(held: &DesiredState, restored: &DesiredState) -> Vec<Carried> {
    let replaced =
        held.services().filter(|(_, service)| find(restored, service).is_some_and(|new| replaces(service, new)));
    replaced
        .map(|(stack, service)| {
            let instances: Vec<InstanceDesired> = serving(service).into_iter().cloned().collect();
            let needed = |id| instances.iter().any(|i: &InstanceDesired| &i.revision_id == id);
            let revisions = service.revisions.iter().filter(|r| needed(&r.revision_id)).cloned().collect();
            let service = ServiceDesired { revisions, instances, ..service.clone() };
            Carried { stack_id: stack.stack_id.clone(), service, draining_since_ms: None }
        })
        .collect()
}

/// Puts what is carried into the document: it serves, and the restored instances are candidates beside it;
/// then the other way round.
pub fn apply(state: &AppState, id: &ServerId, document: &mut DesiredState) -> u64 {
    let Some(Recovery::Replacing { floor, carried, .. }) = state.recoveries.get(id) else { return 0 };
    put_carried(document, &carried);
    floor
}

fn put_carried(document: &mut DesiredState, carried: &[Carried]) {
    for old in carried {
        let stack = document.stacks.iter_mut().find(|stack| stack.stack_id == old.stack_id);
        let service = stack.and_then(|s| s.services.iter_mut().find(|s| s.service_id == old.service.service_id));
        let Some(service) = service else { continue };
        let mut instances = old.service.instances.clone();
        if old.draining_since_ms.is_some() {
            instances.iter_mut().for_each(|instance| instance.traffic = Traffic::Draining);
        } else {
            let active = service.instances.iter_mut().filter(|i| i.traffic == Traffic::Active);
            active.for_each(|instance| instance.traffic = Traffic::Candidate);
            service.routes = old.service.routes.clone();
        }
        service.instances.extend(instances);
        for revision in &old.service.revisions {
            if service.revision(&revision.revision_id).is_none() {
                service.revisions.push(revision.clone());
            }
        }
    }
    for stack in &mut document.stacks {
        stack.hash = wire::digest_of(&stack.services);
    }
}

/// One step on for each carried service whose turn it is; those that are done are left out.
async fn advance(
    state: &AppState,
    scope: &Scope,
    id: &ServerId,
    observed: &ObservedState,
    carried: Vec<Carried>,
) -> Result<Vec<Carried>> {
    let Some(ours) = state.store().desired_state_get(scope, id).await? else { return Ok(Vec::new()) };
    if observed.generation < ours.generation {
        // It has not seen the last step yet.
        return Ok(carried);
    }
    let rows = desired::document_of(state, scope, id).await?;
    Ok(carried.into_iter().filter_map(|old| step(old, rows.as_ref(), observed, clock::now_ms())).collect())
}

fn step(
    mut old: Carried,
    rows: Option<&DesiredState>,
    observed: &ObservedState,
    now_ms: UnixMillis,
) -> Option<Carried> {
    let restored = rows.and_then(|rows| find(rows, &old.service));
    let wanted: Vec<&InstanceDesired> = restored.map(serving).unwrap_or_default();
    if wanted.is_empty() {
        // It was stopped or removed meanwhile.
        return None;
    }
    let healthy =
        |id: &InstanceId| observed.instances.iter().any(|i| &i.instance_id == id && i.state == InstanceState::Healthy);
    match old.draining_since_ms {
        None if wanted.iter().all(|i| healthy(&i.instance_id)) => {
            old.draining_since_ms = Some(now_ms);
            Some(old)
        }
        None => Some(old),
        Some(since_ms) => {
            let ids: BTreeSet<&InstanceId> = old.service.instances.iter().map(|i| &i.instance_id).collect();
            let routed = observed.gateway.active.iter().any(|id| ids.contains(id));
            let open = observed.gateway.open.iter().any(|open| ids.contains(&open.instance_id) && open.requests > 0);
            let waits = (routed || open) && (0..DRAIN_LIMIT_MS).contains(&(now_ms - since_ms));
            waits.then_some(old)
        }
    }
}

/// A person agrees that a server becomes what the restored control plane says.
pub async fn accept(state: &AppState, caller: &Caller, key: &str, held_generation: u64) -> Result<ServerView> {
    let scope = caller.scope();
    let server = views::find_server(state, scope, key).await?;
    let _turn = state.recoveries.turn.lock().await;
    let Some(Recovery::Ahead { generation, document, .. }) = state.recoveries.get(&server.id) else {
        let conflict = HttpError::conflict(format!("the server {} is not ahead of this control plane", server.name));
        return Err(conflict.help("there is nothing to accept; `mainstay servers` shows how each one stands"));
    };
    if generation != held_generation {
        let message = format!("the server {} holds generation {generation} now, not {held_generation}", server.name);
        return Err(HttpError::conflict(message).help("look again at what would change"));
    }
    let restored = desired::document_of(state, scope, &server.id).await?;
    let carried = match (document, restored) {
        (Some(document), Some(restored)) => carry(&genuine(state, &server.id, &document)?, &restored),
        _ => Vec::new(),
    };
    let replacing = Recovery::Replacing { since_ms: clock::now_ms(), floor: generation, carried };
    state.recoveries.set(state, scope, &server.id, Some(replacing)).await?;
    desired::refresh(state, scope, &server.id).await?;
    let message = format!(
        "the server {} becomes what the restored control plane says; it held generation {generation} from after the backup",
        server.name
    );
    let cause = caller.cause("accept a restore");
    let accepted = about_server(&server.id, event(EventKind::ConfigReceived, EventLevel::Warning, message, cause));
    crate::events::record(state, scope, vec![accepted]).await?;
    state.wakeups().all_services_changed();
    views::server(state, scope, server.id.as_str()).await
}

/// Where a server stands, for a person.
pub async fn view(state: &AppState, scope: &Scope, id: &ServerId, generation: u64) -> Result<Option<ServerRecovery>> {
    let Some(recovery) = state.recoveries.get(id) else { return Ok(None) };
    let mut view = ServerRecovery {
        state: RecoveryState::Unheard,
        since_ms: 0,
        held_generation: 0,
        generation,
        document_known: false,
        changes: Vec::new(),
    };
    match recovery {
        Recovery::Unheard { since_ms, .. } => view.since_ms = since_ms,
        Recovery::Replacing { since_ms, floor, .. } => {
            view.state = RecoveryState::Replacing;
            (view.since_ms, view.held_generation) = (since_ms, floor);
        }
        Recovery::Ahead { since_ms, generation, document } => {
            view.state = RecoveryState::Ahead;
            (view.since_ms, view.held_generation) = (since_ms, generation);
            if let (Some(document), Some(restored)) = (document, desired::document_of(state, scope, id).await?) {
                view.document_known = true;
                view.changes = changes(&genuine(state, id, &document)?, &restored);
            }
        }
    }
    Ok(Some(view))
}

fn changes(held: &DesiredState, restored: &DesiredState) -> Vec<RecoveryChange> {
    let nothing = Vec::new();
    let mut changes = Vec::new();
    for (stack, service) in held.services().filter(|(_, service)| !serving(service).is_empty()) {
        let new = find(restored, service);
        let stays = new.map_or(&nothing, |new| &new.instances);
        let action = match new {
            Some(new) if replaces(service, new) => RecoveryAction::Replace,
            _ if !stays.iter().any(|i| i.intent == InstanceIntent::Run) => RecoveryAction::Stop,
            _ => continue,
        };
        let to = new.filter(|_| action == RecoveryAction::Replace).map(what_runs);
        changes.push(RecoveryChange {
            action,
            service: format!("{}/{}", stack.name, service.name),
            from: Some(what_runs(service)),
            to,
        });
    }
    for (stack, service) in restored.services().filter(|(_, service)| !serving(service).is_empty()) {
        if find(held, service).is_none_or(|held| serving(held).is_empty()) {
            let service_name = format!("{}/{}", stack.name, service.name);
            let to = Some(what_runs(service));
            changes.push(RecoveryChange { action: RecoveryAction::Start, service: service_name, from: None, to });
        }
    }
    changes
}

/// `revision 7 (commit 1a2b3c4)`, as often as there are different ones.
fn what_runs(service: &ServiceDesired) -> String {
    let ids: BTreeSet<_> = serving(service).into_iter().map(|i| &i.revision_id).collect();
    let words = service
        .revisions
        .iter()
        .filter(|r| ids.contains(&r.revision_id))
        .map(|revision| format!("revision {} ({})", revision.number, revision.source.label()));
    words.collect::<Vec<_>>().join(" and ")
}
