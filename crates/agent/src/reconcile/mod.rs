//! The loop: desired state → observe → plan → apply one change, verify by observing again → report.
//!
//! ```text
//!            a change of desired state, of an instance, of health, of the gateway,
//!            an ended preparation, a backoff that ran out, the poll interval
//!        ┌────────────────────────────────────────────────────────────────┐
//!        │                                                                ▼
//!      Idle ◀── nothing left, no progress possible, or 5 minutes ── Processing
//! ```
//!
//! One task owns all of it. *Idle* waits. *Processing* takes a snapshot of the desired state, and
//! then, again and again: looks at the machine, lets [`plan::host::plan`] say what is safe now, does
//! the first change of it, and looks again. A change that is planned again right after it was done
//! had no effect and counts as failed. A failed change backs off under its own subject and the plan
//! goes on with the others, so one broken service never holds up another. There is no stored plan:
//! a crash between any two changes is answered by looking again.
//!
//! Preparations (fetch, build) take minutes and run beside the loop, one task per revision; their
//! end wakes it. They are cancelled when no revision of the desired state needs them any more.
//!
//! Every look is compared with the one before ([`crate::transitions`]) and the difference kept as
//! events; every look is published to the reporter.

mod apply;
mod disk;
mod failures;
mod lately;
mod look;
mod preparations;

pub use look::Gateway;

use crate::clock::now_ms;
use crate::drivers::dns::DnsDriver;
use crate::drivers::mesh::MeshDriver;
use crate::drivers::{Keep, Workloads};
use crate::health::Health;
use crate::ledger::Ledger;
use crate::log_shipping::Shipped;
use crate::observe;
use crate::subscribe::Accepted;
use crate::transitions::{Told, transitions};
use api::desired::DesiredState;
use api::fleet::FleetState;
use api::ids::{EventId, InstanceId, ServerId, ServiceId};
use api::observed::{AgentObserved, AgentState, Blocked, InstanceState, ObservedState};
use disk::DiskWatch;
use failures::Failures;
use lately::Lately;
use look::Look;
use plan::host::{Change, HostPlan, Subject};
use preparations::Preparations;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The longest time in Processing; then a report, and from the start again.
const PROCESSING_LIMIT: Duration = Duration::from_secs(300);
/// How often the gateway's open requests are looked at while instances drain.
const DRAIN_LOOK: Duration = Duration::from_millis(200);
/// An instance that ends sooner after its start than this has failed to start.
const SETTLED: Duration = Duration::from_secs(10);
const LOG_LOOK: Duration = Duration::from_millis(100);
const GARBAGE_INTERVAL: Duration = Duration::from_secs(600);
/// Builds per service that are kept beyond what is wanted.
const WARM_BUILDS: usize = 3;

/// The edges that the loop works on.
pub struct Machine<W, G> {
    pub workloads: Arc<W>,
    pub gateway: Arc<G>,
    pub health: Arc<Health<W>>,
    pub dns: Arc<DnsDriver>,
    pub mesh: Arc<MeshDriver>,
    /// Where the use of the machine is read, and whose disk counts.
    pub proc: PathBuf,
    pub data: PathBuf,
    /// Says whom this machine asks for names.
    pub resolv_conf: PathBuf,
    /// How much of that disk new work leaves alone; `None`: what suits its size.
    pub disk_reserve_bytes: Option<u64>,
}

/// What the loop is told.
pub struct Inputs {
    pub accepted: watch::Receiver<Accepted>,
    /// Who else there is, and what runs there.
    pub fleet: watch::Receiver<Option<Arc<FleetState>>>,
}

/// What the loop tells the other tasks.
pub struct Outputs {
    pub observed: watch::Sender<Option<Arc<ObservedState>>>,
    pub state: watch::Sender<AgentState>,
    pub poll_interval: watch::Sender<Duration>,
}

pub struct Reconciler<W, G> {
    machine: Machine<W, G>,
    server_id: ServerId,
    ledger: Ledger,
    shipped: Shipped,
    accepted: watch::Receiver<Accepted>,
    fleet: watch::Receiver<Option<Arc<FleetState>>>,
    /// Generation of the fleet state that the live routes were made from.
    fleet_routed: u64,
    outputs: Outputs,
    started_at_ms: i64,
    failures: Failures,
    preparations: Preparations,
    desired: Option<Arc<DesiredState>>,
    /// Kept for the names of what is no longer wanted.
    former: Option<Arc<DesiredState>>,
    service_ports: BTreeMap<ServiceId, u16>,
    last: Option<ObservedState>,
    told: Told,
    /// When each instance was last started by this loop.
    started: BTreeMap<InstanceId, Instant>,
    garbage: Option<tokio::task::JoinHandle<()>>,
    garbage_at: Option<Instant>,
    lately: Lately,
    disk: DiskWatch,
    resources_at: Option<(Instant, api::observed::Resources)>,
}

impl<W: Workloads, G: Gateway> Reconciler<W, G> {
    pub async fn new(
        machine: Machine<W, G>,
        server_id: ServerId,
        ledger: Ledger,
        shipped: Shipped,
        inputs: Inputs,
        outputs: Outputs,
    ) -> Self {
        let failures = Failures::load(ledger.clone()).await;
        let disk = DiskWatch::new(&machine.data, machine.disk_reserve_bytes);
        Self {
            machine,
            server_id,
            ledger,
            shipped,
            accepted: inputs.accepted,
            fleet: inputs.fleet,
            fleet_routed: 0,
            outputs,
            started_at_ms: now_ms(),
            failures,
            preparations: Preparations::default(),
            desired: None,
            former: None,
            service_ports: BTreeMap::new(),
            last: None,
            told: Told::default(),
            started: BTreeMap::new(),
            garbage: None,
            garbage_at: Some(Instant::now()),
            lately: Lately::default(),
            disk,
            resources_at: None,
        }
    }

    /// Until `shutdown`. Services and gateway go on; preparations are cancelled.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut workloads = self.machine.workloads.changes();
        let mut gateway = self.machine.gateway.changes();
        let mut health = self.machine.health.changes();
        let mut mesh = self.machine.mesh.changes();
        loop {
            // What changes from here on wakes the next round; what changed before is seen by this one.
            workloads.borrow_and_update();
            gateway.borrow_and_update();
            health.borrow_and_update();
            mesh.borrow_and_update();
            let wake_at = self.process(&shutdown).await;
            // Every arm only waits, so dropping the others loses nothing: a watch channel remembers,
            // and an ended preparation stays in its set until it is taken.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = changed(&mut self.accepted) => {}
                () = changed(&mut self.fleet) => {}
                () = changed(&mut workloads) => {}
                () = changed(&mut gateway) => {}
                () = changed(&mut health) => {}
                () = changed(&mut mesh) => {}
                ended = self.preparations.ended() => self.preparation_ended(ended).await,
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
        self.preparations.cancel_all().await;
        if let Some(garbage) = self.garbage.take() {
            garbage.abort();
        }
    }

    /// One stay in Processing; answers when to look again though nothing happened.
    async fn process(&mut self, shutdown: &CancellationToken) -> Instant {
        self.take_snapshot().await;
        let deadline = Instant::now() + PROCESSING_LIMIT;
        let mut done: Option<Change> = None;
        loop {
            while let Some(ended) = self.preparations.try_ended() {
                self.preparation_ended(ended).await;
            }
            let look = self.look().await;
            let plan = self.plan(&look, &mut done).await;
            let (next, plan) = self.choose(&look, plan).await;
            let state = if next.is_some() { AgentState::Processing } else { AgentState::Idle };
            let wake_at = self.wake_at(&look, &plan);
            self.publish(&look, plan.blocked, state).await;
            let Some(change) = next else { return wake_at };
            if shutdown.is_cancelled() {
                return wake_at;
            }
            if Instant::now() > deadline {
                tracing::warn!("still not as desired after five minutes; reporting and beginning again");
                self.set_state(AgentState::Idle);
                return Instant::now() + Duration::from_millis(100);
            }
            done = self.apply(&look, change).await;
        }
    }

    /// The newest verified desired state; a preparation that it does not need is cancelled.
    async fn take_snapshot(&mut self) {
        let accepted = self.accepted.borrow_and_update().clone();
        let Some(desired) = accepted.desired else { return };
        if self.desired.as_ref().is_some_and(|current| Arc::ptr_eq(current, &desired)) {
            return;
        }
        let interval = Duration::from_millis(desired.poll_interval_ms.clamp(100, 600_000));
        self.outputs.poll_interval.send_replace(interval);
        self.preparations
            .retain(|revision| desired.services().any(|(_, s)| s.revisions.iter().any(|r| &r.revision_id == revision)));
        self.failures.retain_wanted(&desired).await;
        self.former = self.desired.replace(desired.clone());
        if let Some(former) = self.former.as_deref() {
            self.lately.replaced(Instant::now(), Keep::of(former, 0));
        }
        self.give_service_ports(&desired).await;
        // Not after the first: what was stopped before this agent started may be wanted any moment.
        if self.former.is_some() {
            self.garbage_at = None;
        }
    }

    /// Plans, and judges the change that was just done: planned again, it had no effect.
    async fn plan(&mut self, look: &Look, done: &mut Option<Change>) -> HostPlan {
        self.failures.mind_the_clock(look.at_ms);
        let mut plan = self.plan_once(look);
        if let Some(done) = done.take() {
            if plan.changes.contains(&done) {
                let message = "it was done, but looking again shows no effect".to_owned();
                self.failures.record(subject_of(&done), target_of(&done), message, true).await;
                plan = self.plan_once(look);
            } else if !matches!(done, Change::StartInstance { .. } | Change::Prepare { .. }) {
                self.failures.clear(&subject_of(&done)).await;
            }
        }
        self.clear_settled(look).await;
        plan
    }

    fn plan_once(&self, look: &Look) -> HostPlan {
        plan::host::plan(plan::host::HostInput {
            desired: self.desired.as_deref(),
            instances: &look.instances,
            preparations: &look.preparations,
            configs: &look.configs,
            gateway_active: &look.gateway.active,
            failures: &self.failures.list(),
            now_ms: look.at_ms,
        })
    }

    /// An instance that stayed up is a success; only then are its failed starts forgotten. A config
    /// that is live as desired needs no memory of what was refused before.
    async fn clear_settled(&mut self, look: &Look) {
        for instance in &look.instances {
            let alive = !matches!(instance.state, InstanceState::Absent | InstanceState::Exited);
            let settled = self.started.get(&instance.instance_id).is_none_or(|at| at.elapsed() >= SETTLED);
            if alive && settled {
                self.failures.clear_start(&instance.instance_id).await;
                self.started.remove(&instance.instance_id);
            }
        }
        for config in look.configs.iter().filter(|c| c.live_digest.as_ref() == Some(&c.desired_digest)) {
            self.failures.clear(&Subject::Config(config.kind)).await;
        }
        self.started.retain(|id, _| look.instances.iter().any(|i| &i.instance_id == id));
    }

    /// The first change that may be done now. What has to wait, waits as blocked.
    async fn choose(&mut self, look: &Look, mut plan: HostPlan) -> (Option<Change>, HostPlan) {
        for change in std::mem::take(&mut plan.changes) {
            let subject = subject_of(&change);
            if let Some(retry_at_ms) = self.failures.waits(&subject, &target_of(&change), now_ms()) {
                plan.blocked.push(Blocked {
                    subject: describe_subject(&subject),
                    reason: self.failures.message(&subject),
                    retry_at_ms: Some(retry_at_ms),
                });
                continue;
            }
            if let Some(blocked) = self.waits_for_room(&change) {
                plan.blocked.push(blocked);
                continue;
            }
            match &change {
                Change::RemoveInstance { instance_id } if self.log_is_on_its_way(look, instance_id).await => {
                    plan.blocked.push(Blocked {
                        subject: describe_subject(&subject),
                        reason: "its last log lines are being sent".into(),
                        retry_at_ms: None,
                    });
                }
                Change::StartInstance { instance_id, .. } if self.fell_over(instance_id) => {
                    let message = "its supervisor ended soon after the start".to_owned();
                    self.started.remove(instance_id);
                    self.failures.record(subject, target_of(&change), message, true).await;
                }
                Change::Prepare { revision_id, .. } if self.preparations.contains(revision_id) => {}
                _ => return (Some(change), plan),
            }
        }
        (None, plan)
    }

    /// Fetching and building fill the disk; nothing else that a plan holds does.
    fn waits_for_room(&self, change: &Change) -> Option<Blocked> {
        let Change::Prepare { service_id, .. } = change else { return None };
        let services = self.desired.iter().flat_map(|desired| desired.services());
        let name = services.map(|(_, s)| s).find(|s| &s.service_id == service_id).map(|s| s.name.as_str());
        self.disk.holds_back(name.unwrap_or(service_id.short()))
    }

    fn fell_over(&self, instance_id: &InstanceId) -> bool {
        self.started.get(instance_id).is_some_and(|at| at.elapsed() < SETTLED)
    }

    fn wake_at(&self, look: &Look, plan: &HostPlan) -> Instant {
        let mut wait = *self.outputs.poll_interval.borrow();
        let retries =
            plan.blocked.iter().filter_map(|b| b.retry_at_ms).chain(self.failures.next_retry_at_ms(look.at_ms));
        if let Some(soonest) = retries.min() {
            let until = u64::try_from(soonest - now_ms()).unwrap_or(0);
            wait = wait.min(Duration::from_millis(until.max(10)));
        }
        if self.desired.as_deref().is_some_and(observe::is_draining) {
            wait = wait.min(DRAIN_LOOK);
        }
        if plan.blocked.iter().any(|b| b.reason.contains("log lines are being sent")) {
            wait = wait.min(LOG_LOOK);
        }
        Instant::now() + wait
    }

    async fn publish(&mut self, look: &Look, mut blocked: Vec<Blocked>, state: AgentState) {
        let accepted = self.accepted.borrow().clone();
        if let Some(problem) = accepted.unkept {
            blocked.push(Blocked { subject: "ledger".into(), reason: problem, retry_at_ms: None });
        }
        blocked.extend(self.disk.problem());
        let observed = self.observed(look, blocked, state, accepted.refused);
        let known: Vec<&DesiredState> = self.desired.iter().chain(self.former.iter()).map(|d| &**d).collect();
        let mut fresh_id = || EventId::from_uuid(ambient::fresh_id());
        let events = transitions(self.last.as_ref(), &observed, &known, &mut self.told, &mut fresh_id);
        // Kept before the report that makes them be sent is triggered, and before the log speaks of them: what it
        // tells will also be told by the control plane.
        if let Err(error) = self.ledger.outbox_append(&events, now_ms()).await {
            tracing::error!(error = &error as &dyn std::error::Error, "events cannot be kept and are lost");
        }
        for event in &events {
            tracing::info!(kind = %event.kind.as_str(), cause = %event.cause.action, "{}", event.message);
        }
        self.last = Some(observed.clone());
        self.outputs.observed.send_replace(Some(Arc::new(observed)));
        self.set_state(state);
        if state == AgentState::Idle {
            self.collect_garbage();
        }
    }

    fn observed(
        &mut self,
        look: &Look,
        blocked: Vec<Blocked>,
        state: AgentState,
        refused: Option<String>,
    ) -> ObservedState {
        let stacks = match self.desired.as_deref() {
            Some(desired) => observe::stack_conditions(
                desired,
                &observe::Evidence {
                    instances: &look.instances,
                    preparations: &look.preparations,
                    configs: &look.configs,
                    failures: &self.failures.list(),
                    gateway: &look.gateway,
                },
            ),
            None => Vec::new(),
        };
        ObservedState {
            server_id: self.server_id.clone(),
            generation: self.desired.as_ref().map_or(0, |d| d.generation),
            observed_at_ms: look.at_ms,
            fleet_generation: self.fleet_routed,
            agent: AgentObserved { version: crate::VERSION.into(), state, started_at_ms: self.started_at_ms, refused },
            stacks,
            instances: self.with_start_problems(look),
            preparations: look.preparations.clone(),
            gateway: look.gateway.clone(),
            dns: look.dns.clone(),
            mesh: look.mesh.clone(),
            blocked,
            resources: self.resources(),
        }
    }

    fn set_state(&self, state: AgentState) {
        self.outputs.state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    /// Old builds, sources and logs go now and then, beside everything else.
    fn collect_garbage(&mut self) {
        let due = self.garbage_at.is_none_or(|at| at.elapsed() >= GARBAGE_INTERVAL);
        let running = self.garbage.as_ref().is_some_and(|task| !task.is_finished());
        let Some(desired) = self.desired.as_deref() else { return };
        if !due || running {
            return;
        }
        self.garbage_at = Some(Instant::now());
        let mut keep = Keep::of(desired, WARM_BUILDS);
        self.lately.add_to(Instant::now(), &mut keep);
        let workloads = self.machine.workloads.clone();
        self.garbage = Some(tokio::spawn(ambient::inherit(async move {
            match workloads.collect_garbage(&keep).await {
                Ok(0) => {}
                Ok(freed_bytes) => tracing::info!(freed_bytes, "removed builds, sources and logs that nothing needs"),
                Err(error) => tracing::warn!(error = %error.describe(), "old builds and sources cannot be removed"),
            }
        })));
    }
}

/// A sender that is gone will never change again; that is no news, over and over.
async fn changed<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn subject_of(change: &Change) -> Subject {
    match change {
        Change::Prepare { revision_id, .. } => Subject::Preparation(revision_id.clone()),
        Change::StopInstance { instance_id, .. }
        | Change::RemoveInstance { instance_id }
        | Change::StartInstance { instance_id, .. } => Subject::Instance(instance_id.clone()),
        Change::ApplyConfig { kind, .. } => Subject::Config(*kind),
    }
}

/// Before the revision, in the target of a start.
const START: &str = "start ";

/// What was tried on the subject: a failure to start does not hold up a stop.
fn target_of(change: &Change) -> String {
    match change {
        Change::Prepare { .. } => "prepare".into(),
        Change::StopInstance { .. } => "stop".into(),
        Change::RemoveInstance { .. } => "remove".into(),
        Change::StartInstance { revision_id, .. } => format!("{START}{revision_id}"),
        Change::ApplyConfig { digest, .. } => digest.clone(),
    }
}

fn describe_subject(subject: &Subject) -> String {
    match subject {
        Subject::Instance(id) => format!("instance {}", id.short()),
        Subject::Preparation(id) => format!("revision {}", id.short()),
        Subject::Config(kind) => kind.as_str().into(),
    }
}
