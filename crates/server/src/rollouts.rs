//! One tick of one service: rows and reports in, [`plan::rollout`], rows and events out.

use crate::actions::deploy::about;
use crate::clock;
use crate::desired::{self, may_take};
use crate::error::Result;
use crate::fleet::acknowledged::Word;
use crate::state::{AppState, event, fresh};
use crate::tasks::presence::patience_ms;
use api::cause::Cause;
use api::deployments::{Deployment, Stage, StageEntry};
use api::desired::Traffic;
use api::events::{Event, EventKind, EventLevel};
use api::ids::{InstanceId, RevisionId, ServerId, ServiceId};
use api::observed::ObservedState;
use api::services::{Revision, RunSpec, SourceSpec};
use plan::placement::Candidate;
use plan::rollout::{RolloutChange, RolloutInput, RolloutInstance, RolloutPlan, RolloutRevision};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use store::{Error, Instance, InstanceChange, RolloutWrite, Scope, ServerBinding, Service};

/// What a tick came to.
pub enum Outcome {
    /// Rows changed: look again at once.
    Changed,
    /// Nothing to do before `wait` is over, unless somebody has news.
    Quiet { wait: Option<Duration> },
    /// The service was forgotten.
    Gone,
}

/// One tick.
pub async fn tick(state: &AppState, service_id: &ServiceId) -> Result<Outcome> {
    let scope = state.system_scope("rollout");
    let deciding = state.deciding.read().await;
    let service = match state.store().service_get(&scope, service_id).await {
        Ok(service) => service,
        Err(Error::NotFound { .. }) => return Ok(Outcome::Gone),
        Err(error) => return Err(error.into()),
    };
    let Read { mut input, instances, containers } = read(state, &scope, &service).await?;
    let mut plan = plan::rollout::plan(&input);
    // Looking for servers reads all of them, and hardly any tick places something.
    let mut placing = None;
    if plan.without_server > 0 {
        placing = Some(state.placing.lock().await);
        input.candidates = candidates(state, &scope, &service, input.deployment.as_ref()).await?;
        plan = plan::rollout::plan(&input);
    }
    if plan.changes.is_empty() {
        if state.waits.note(&service.id, input.deployment.as_ref(), &plan.blocked) {
            // Whoever watches looks again.
            state.wakeups().events_stored();
        }
        let flying = input.deployment.as_ref().is_some_and(|d| d.stage.in_flight());
        if service.removing && instances.is_empty() && !flying {
            return forget(state, &scope, &service).await;
        }
        let wait = plan.wake_at_ms.map(|at_ms| Duration::from_millis((at_ms - input.now_ms).max(1) as u64));
        return Ok(Outcome::Quiet { wait });
    }
    let rows = Rows { instances: &instances, containers: &containers };
    let touches_machines = match write(state, &scope, &service, &input, rows, plan).await {
        Ok(touches_machines) => touches_machines,
        // A person asked for something else in between: look again at what is true now.
        Err(Error::Stale { .. }) => return Ok(Outcome::Changed),
        Err(error) => return Err(error.into()),
    };
    state.wakeups().events_stored();
    drop((placing, deciding));
    if touches_machines {
        desired::refresh_service(state, &scope, &service, &instances).await?;
    }
    Ok(Outcome::Changed)
}

/// A removed service without instances is forgotten, and its stack with the last of them.
async fn forget(state: &AppState, scope: &Scope, service: &Service) -> Result<Outcome> {
    let cause = Cause::system("rollout", "its last service was removed");
    let mut removed =
        event(EventKind::StackRemoved, EventLevel::Info, "the stack is gone: all its services were removed", cause);
    removed.stack_id = Some(service.stack_id.clone());
    if state.store().service_delete(scope, &service.id, &[removed]).await? {
        state.wakeups().events_stored();
    }
    desired::refresh_all(state, scope).await?;
    Ok(Outcome::Gone)
}

/// What a tick looks at.
struct Read {
    input: RolloutInput,
    instances: Vec<Instance>,
    /// Revisions whose instances are containers, and so have addresses.
    containers: BTreeSet<RevisionId>,
}

/// What rows a tick's changes are about.
#[derive(Clone, Copy)]
struct Rows<'a> {
    instances: &'a [Instance],
    containers: &'a BTreeSet<RevisionId>,
}

async fn read(state: &AppState, scope: &Scope, service: &Service) -> Result<Read> {
    let store = state.store();
    let deployment = store.deployment_newest(scope, &service.id).await?;
    let instances = store.instance_list_of_service(scope, &service.id).await?;

    let mut wanted: BTreeSet<&RevisionId> = instances.iter().map(|instance| &instance.revision_id).collect();
    wanted.extend(deployment.iter().flat_map(|d| [Some(&d.revision_id), d.previous_revision_id.as_ref()]).flatten());
    wanted.extend(service.current_revision_id.iter().chain(&service.previous_revision_id));
    // One that retention forgot is not among them; nothing can go back to it any more.
    let revisions = store.revision_list_of(scope, wanted).await?;
    let in_container = |revision: &&Revision| matches!(revision.spec.run, RunSpec::Container(_));
    let containers = revisions.iter().filter(in_container).map(|revision| revision.id.clone()).collect();
    let revision = |revision: Revision| RolloutRevision {
        id: revision.id,
        number: revision.number,
        sole: revision.spec.sole(),
        is_image: matches!(revision.spec.source, SourceSpec::Image(_)),
        port: revision.spec.port,
        rollout: revision.spec.rollout,
    };
    let revisions = revisions.into_iter().map(revision).collect();
    let servers = instances.iter().map(|instance| &instance.server_id).collect();
    let reports = reports(state, scope, servers).await?;
    let now_ms = state.steady.now_ms();
    // What machines report bears the time of day; here everything is compared by the steady clock.
    let shift_ms = now_ms - clock::now_ms();
    let input = RolloutInput {
        service: service.name.clone(),
        intent: service.intent,
        replicas: service.replicas,
        current_revision_id: service.current_revision_id.clone(),
        previous_revision_id: service.previous_revision_id.clone(),
        deployment,
        revisions,
        instances: instances
            .iter()
            .map(|instance| {
                let seen = seen(instance, reports.get(&instance.server_id), shift_ms);
                with_other_gateways(state, instance, seen)
            })
            .collect(),
        preparations: preparations(&reports, &service.id),
        candidates: Vec::new(),
        now_ms,
    };
    Ok(Read { input, instances, containers })
}

/// What is known of the servers that have an instance of the service.
async fn reports(state: &AppState, scope: &Scope, servers: BTreeSet<&ServerId>) -> Result<BTreeMap<ServerId, Report>> {
    let mut reports = BTreeMap::new();
    for (server_id, online, newest) in state.store().server_heads(scope, servers).await? {
        let observed = state.heard(&server_id).and_then(|heard| heard.observed);
        // After a restore, what a machine that is ahead reports is no answer to what is wanted here.
        let generation = if state.recoveries.freezes(&server_id) { u64::MAX } else { newest };
        reports.insert(server_id, Report { online, observed, generation });
    }
    Ok(reports)
}

/// A server's word, and how new the word is that it was given.
struct Report {
    online: bool,
    observed: Option<Arc<ObservedState>>,
    generation: u64,
}

fn seen(instance: &Instance, report: Option<&Report>, shift_ms: i64) -> RolloutInstance {
    let said = report.filter(|report| report.online).and_then(|report| report.observed.as_deref());
    let gateway = said.map(|observed| &observed.gateway);
    let open = gateway.and_then(|gateway| gateway.open.iter().find(|open| open.instance_id == instance.id));
    let mut observed = said.and_then(|s| s.instances.iter().find(|o| o.instance_id == instance.id).cloned());
    if let Some(exit) = observed.as_mut().and_then(|observed| observed.last_exit.as_mut()) {
        exit.at_ms = exit.at_ms.saturating_add(shift_ms);
    }
    RolloutInstance {
        id: instance.id.clone(),
        revision_id: instance.revision_id.clone(),
        deployment_id: instance.deployment_id.clone(),
        server_id: instance.server_id.clone(),
        ordinal: instance.ordinal,
        intent: instance.intent,
        traffic: instance.traffic,
        traffic_changed_at_ms: instance.traffic_changed_at_ms,
        observed,
        caught_up: said.is_some_and(|s| report.is_some_and(|report| s.generation >= report.generation)),
        server_exists: report.is_some(),
        server_online: report.is_some_and(|report| report.online),
        routed: gateway.is_some_and(|gateway| gateway.active.contains(&instance.id)),
        open_requests: open.map_or(0, |open| open.requests),
        gateway_problem: gateway.and_then(|gateway| gateway.problem.clone()),
    }
}

/// An instance that other servers reach as well gets requests from their gateways, too.
fn with_other_gateways(state: &AppState, instance: &Instance, mut seen: RolloutInstance) -> RolloutInstance {
    if instance.address.is_none() || !state.fleet.known().is_active() {
        return seen;
    }
    let members = state.fleet.known().members().clone();
    let heard_since = state.steady.now_ms() - patience_ms(state.options().poll_interval_ms);
    let others = members.into_iter().filter(|id| id != &instance.server_id);
    let others: Vec<Word> = others
        .filter_map(|id| state.heard(&id).filter(|heard| heard.at_ms >= heard_since)?.observed)
        .map(|observed| {
            let open = observed.gateway.open.iter().find(|open| open.instance_id == instance.id);
            Word { generation: observed.fleet_generation, open_requests: open.map_or(0, |open| open.requests) }
        })
        .collect();
    let mut known = state.fleet.known();
    let before = seen.routed;
    seen.routed = match seen.traffic {
        Traffic::Active => seen.routed && known.all_may_send(&instance.id, &others),
        Traffic::Candidate | Traffic::Draining | Traffic::Out => {
            seen.routed || known.some_may_send(&instance.id, &others)
        }
    };
    seen.open_requests += others.iter().map(|word| word.open_requests).sum::<u64>();
    if seen.routed != before || seen.open_requests > 0 {
        known.wait(&instance.service_id);
    }
    seen
}

fn preparations(
    reports: &BTreeMap<ServerId, Report>,
    service_id: &ServiceId,
) -> Vec<(ServerId, api::observed::PreparationObserved)> {
    let said = reports.iter().filter_map(|(id, report)| report.observed.as_ref().map(|observed| (id, observed)));
    said.flat_map(|(id, observed)| {
        let own = observed.preparations.iter().filter(|preparation| &preparation.service_id == service_id);
        own.map(|preparation| (id.clone(), preparation.clone())).collect::<Vec<_>>()
    })
    .collect()
}

/// Servers that new instances may go to: the least loaded ones, as many as could be needed.
async fn candidates(
    state: &AppState,
    scope: &Scope,
    service: &Service,
    deployment: Option<&Deployment>,
) -> Result<Vec<Candidate>> {
    let store = state.store();
    let stack = store.stack_get(scope, &service.stack_id).await?;
    let projects = store.project_list(scope).await?;
    let fit = |binding: &ServerBinding| may_take(binding, &stack, &projects);
    // Each placement takes the first in this order and adds to its load, so no server behind the first N
    // is ever chosen for N instances.
    let most = deployment.map_or(0, |deployment| deployment.replicas).max(service.replicas).max(1);
    let servers = store.server_list_least_loaded(scope, &service.id, fit, most).await?;
    let candidate = |server: store::LeastLoaded| Candidate {
        server_id: server.id,
        index: server.index,
        of_service: server.of_service,
        of_all: server.of_all,
    };
    Ok(servers.into_iter().map(candidate).collect())
}

/// Answers whether a machine's document may be another one now: a stage alone changes none.
async fn write(
    state: &AppState,
    scope: &Scope,
    service: &Service,
    input: &RolloutInput,
    read: Rows<'_>,
    plan: RolloutPlan,
) -> store::Result<bool> {
    let now_ms = input.now_ms;
    let mut deployment = input.deployment.clone();
    let mut events = Vec::new();
    let mut rows = Vec::new();
    let mut current = None;
    let mut stage_changed = false;
    for change in plan.changes {
        match change {
            RolloutChange::SetCurrent { revision_id, previous_revision_id } => {
                current = Some((revision_id, previous_revision_id));
            }
            RolloutChange::SetStage { deployment_id, stage, failure, bake_until_ms, warm_until_ms } => {
                let Some(deployment) = deployment.as_mut().filter(|d| d.id == deployment_id) else { continue };
                stage_changed = true;
                deployment.stage = stage;
                deployment.stages.push(StageEntry { stage, at_ms: now_ms });
                deployment.failure = failure.or(deployment.failure.take());
                deployment.bake_until_ms = bake_until_ms;
                deployment.warm_until_ms = warm_until_ms;
                if !stage.in_flight() {
                    deployment.ended_at_ms = Some(now_ms);
                }
                events.push(stage_event(deployment, service));
            }
            other => rows.extend(row_of(other, service, read, now_ms)),
        }
    }
    let expected = input.deployment.as_ref().map(|before| before.stage);
    let write = RolloutWrite {
        service_id: service.id.clone(),
        newest: input.deployment.as_ref().map(|before| before.id.clone()),
        deployment: deployment.filter(|_| stage_changed).zip(expected),
        instances: rows,
        current,
    };
    state.store().rollout_apply_with_events(scope, &write, &events, now_ms).await?;
    Ok(write.current.is_some() || !write.instances.is_empty())
}

fn row_of(change: RolloutChange, service: &Service, rows: Rows<'_>, now_ms: i64) -> Option<InstanceChange> {
    match change {
        RolloutChange::CreateInstance { revision_id, deployment_id, server_id, ordinal, intent } => {
            let in_container = rows.containers.contains(&revision_id);
            let instance = Instance {
                id: fresh(InstanceId::from_uuid),
                service_id: service.id.clone(),
                revision_id,
                deployment_id,
                server_id,
                ordinal,
                intent,
                traffic: api::desired::Traffic::Candidate,
                traffic_changed_at_ms: now_ms,
                address: None,
            };
            Some(if in_container {
                InstanceChange::CreateWithAddress(instance)
            } else {
                InstanceChange::Create(instance)
            })
        }
        RolloutChange::SetTraffic { instance_id: id, traffic } => Some(InstanceChange::SetTraffic { id, traffic }),
        RolloutChange::SetIntent { instance_id: id, intent } => Some(InstanceChange::SetIntent { id, intent }),
        RolloutChange::DeleteInstance { instance_id: id } => {
            rows.instances.iter().any(|instance| instance.id == id).then_some(InstanceChange::Delete { id })
        }
        RolloutChange::SetStage { .. } | RolloutChange::SetCurrent { .. } => None,
    }
}

fn stage_event(deployment: &Deployment, service: &Service) -> Event {
    let (level, message) = match (&deployment.failure, deployment.stage) {
        (Some(failure), Stage::Failed) => (EventLevel::Error, failure.message.clone()),
        (Some(failure), Stage::RolledBack) => (EventLevel::Warning, failure.message.clone()),
        (_, stage) => {
            let (kind, name, number) = (deployment.kind, &service.name, deployment.revision_number);
            (EventLevel::Info, format!("{kind} of {name} (revision {number}): {}", words(stage)))
        }
    };
    let mut cause = deployment.cause.clone();
    cause.deployment_id = Some(deployment.id.clone());
    about(deployment, event(EventKind::DeploymentStageChanged, level, message, cause))
}

/// What a stage means, for a person.
fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::Pending => "waiting to begin",
        Stage::Building => "building",
        Stage::Pulling => "fetching what it runs",
        Stage::Starting => "starting",
        Stage::Healthy => "the new instances are healthy",
        Stage::DnsUpdating => "updating internal names",
        Stage::RoutesUpdating => "switching routes",
        Stage::StoppingOld => "draining the old instances",
        Stage::Running => "running",
        Stage::Failed => "failed",
        Stage::RolledBack => "rolled back",
        Stage::Stopped => "stopped",
        Stage::Cancelled => "cancelled",
        Stage::Superseded => "superseded by a newer deployment",
        Stage::Unknown => "not known",
    }
}
