//! The one rollout engine: how a revision takes over from another, for every kind of workload.
//!
//! ```text
//!  pending → building → pulling → starting → healthy → dns_updating → routes_updating → stopping_old → running
//!     │          │                    │                                     │                │           │ bake
//!     └──────────┴────────────────────┴──────────── failed ◄────────────────┘                └── rolled_back
//! ```
//!
//! A tick looks at one service: its deployment, its instances as wanted and as reported, and the
//! time. It answers with the changes that are safe now and with the moment to look again. There is
//! no memory between ticks beside the rows themselves.
//!
//! While a deployment is in flight, its *targets* (the instances that it wants) are brought up
//! beside the *others*. Only when every target is healthy do routes switch, on each server in one
//! desired state; only when every gateway has acknowledged that switch do the others leave. A failure
//! before that leaves the others serving as if nothing had happened.
//!
//! When nothing is in flight the service *settles*: the current revision has its instances, the
//! one before stays warm for a while, all else is drained, stopped and forgotten. Failure, rollback,
//! cancelling and superseding need no code of their own to clean up: they end the deployment and
//! settling does the rest.
//!
//! Never are more to run than are wanted and as many again: what of earlier releases is in the way of
//! the next one leaves first (`room`).
//!
//! A fixed port cannot be shared, so there the order turns: targets are prepared first, the others
//! stopped, then the targets started. That is the only case with a gap, and `plan` says so.
//!
//! Absent on purpose: moving instances off a server that does not report. It is counted as holding
//! them, because a second copy is worse than a late one; failover has its own rules.

mod advance;
mod room;
mod settle;

use crate::placement::Candidate;
use api::UnixMillis;
use api::deployments::{Deployment, DeploymentFailure, Stage};
use api::desired::{InstanceIntent, Traffic};
use api::ids::{DeploymentId, InstanceId, RevisionId, ServerId};
use api::name::Name;
use api::observed::{Blocked, InstanceObserved, InstanceState, PreparationObserved};
use api::services::{PortSpec, RolloutSpec, ServiceIntent, Sole};

/// Everything about one service that a tick looks at.
#[derive(Debug, Clone)]
pub struct RolloutInput {
    pub service: Name,
    pub intent: ServiceIntent,
    /// Instances wanted of the current revision when nothing is in flight.
    pub replicas: u32,
    /// The revision that traffic goes to.
    pub current_revision_id: Option<RevisionId>,
    /// Where a rollback would go; its instances may still be warm.
    pub previous_revision_id: Option<RevisionId>,
    /// The newest deployment of the service, in flight or ended.
    pub deployment: Option<Deployment>,
    /// Every revision that the deployment or an instance names.
    pub revisions: Vec<RolloutRevision>,
    pub instances: Vec<RolloutInstance>,
    /// Preparations as the servers report them.
    pub preparations: Vec<(ServerId, PreparationObserved)>,
    /// Servers that may take new instances: online and bound to this stack or project.
    pub candidates: Vec<Candidate>,
    pub now_ms: UnixMillis,
}

/// What of a revision matters here.
#[derive(Debug, Clone)]
pub struct RolloutRevision {
    pub id: RevisionId,
    pub number: u64,
    pub port: PortSpec,
    /// What only one instance on a server may have at a time.
    pub sole: Option<Sole>,
    /// It is pulled, and not built.
    pub is_image: bool,
    pub rollout: RolloutSpec,
}

/// An instance row together with what its server says.
#[derive(Debug, Clone)]
pub struct RolloutInstance {
    pub id: InstanceId,
    pub revision_id: RevisionId,
    pub deployment_id: DeploymentId,
    pub server_id: ServerId,
    pub ordinal: u32,
    pub intent: InstanceIntent,
    pub traffic: Traffic,
    /// When `traffic` last changed: drain time counts from here.
    pub traffic_changed_at_ms: UnixMillis,
    /// What the server last said of it; `None` if it is not in the report, or the server is offline.
    pub observed: Option<InstanceObserved>,
    /// Whether that report answers the newest desired state of the server.
    pub caught_up: bool,
    /// Whether the server still exists in the organization.
    pub server_exists: bool,
    /// Whether the server reports.
    pub server_online: bool,
    /// Whether the gateway says that it sends new requests to this instance.
    pub routed: bool,
    /// Requests that the gateway says are open on it.
    pub open_requests: u64,
    /// What keeps the server's gateway from being as desired.
    pub gateway_problem: Option<String>,
}

impl RolloutInstance {
    fn state(&self) -> InstanceState {
        self.observed.as_ref().map_or(InstanceState::Absent, |o| o.state)
    }

    fn healthy(&self) -> bool {
        self.state() == InstanceState::Healthy
    }

    /// Nothing of it runs any more, by the server's own word, or because the server is no more. The
    /// word counts only once the server knows what is wanted now: until then it may still start it.
    fn gone(&self) -> bool {
        !self.server_exists || (self.caught_up && matches!(self.state(), InstanceState::Exited | InstanceState::Absent))
    }

    /// Whether nothing is known of it: its server has not reported, or not since it was asked.
    fn unknown(&self) -> bool {
        self.observed.is_none() && !self.caught_up
    }
}

/// One step for the control plane to write down. All of a tick go into one transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum RolloutChange {
    CreateInstance {
        revision_id: RevisionId,
        deployment_id: DeploymentId,
        server_id: ServerId,
        ordinal: u32,
        intent: InstanceIntent,
    },
    SetTraffic {
        instance_id: InstanceId,
        traffic: Traffic,
    },
    SetIntent {
        instance_id: InstanceId,
        intent: InstanceIntent,
    },
    DeleteInstance {
        instance_id: InstanceId,
    },
    /// The deployment enters a stage. `Running` carries how long it bakes and how long the release
    /// before stays warm.
    SetStage {
        deployment_id: DeploymentId,
        stage: Stage,
        failure: Option<DeploymentFailure>,
        bake_until_ms: Option<UnixMillis>,
        warm_until_ms: Option<UnixMillis>,
    },
    /// Traffic belongs to another revision from now on.
    SetCurrent {
        revision_id: Option<RevisionId>,
        previous_revision_id: Option<RevisionId>,
    },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RolloutPlan {
    pub changes: Vec<RolloutChange>,
    /// What is waited for, in words.
    pub blocked: Vec<Blocked>,
    /// The next moment at which time alone changes the answer.
    pub wake_at_ms: Option<UnixMillis>,
    /// Instances that are missing and for which there was no candidate. Whoever gave none may look for
    /// some and plan again; if this is 0, candidates would have changed nothing.
    pub without_server: u32,
}

/// Whether a deployment in this stage can still be cancelled: until traffic has moved.
pub fn can_cancel(stage: Stage) -> bool {
    stage < Stage::RoutesUpdating || stage == Stage::Unknown
}

/// One tick.
pub fn plan(input: &RolloutInput) -> RolloutPlan {
    let mut tick = Tick::new(input);
    match &input.deployment {
        Some(deployment) if deployment.stage.in_flight() => tick.advance(deployment),
        _ => tick.settle(),
    }
    tick.finish()
}

/// The state of one tick: a copy of the instances that later steps see as earlier ones changed it.
struct Tick<'a> {
    input: &'a RolloutInput,
    instances: Vec<RolloutInstance>,
    plan: RolloutPlan,
}

impl<'a> Tick<'a> {
    fn new(input: &'a RolloutInput) -> Self {
        let mut instances = input.instances.clone();
        instances.sort_by(|a, b| (a.ordinal, &a.id).cmp(&(b.ordinal, &b.id)));
        Self { input, instances, plan: RolloutPlan::default() }
    }

    fn finish(mut self) -> RolloutPlan {
        if !self.plan.changes.is_empty() {
            // Whoever applies changes looks again at once.
            self.plan.wake_at_ms = Some(self.input.now_ms);
        }
        self.plan
    }

    fn set_traffic(&mut self, index: usize, traffic: Traffic) {
        let instance = &mut self.instances[index];
        if instance.traffic != traffic {
            instance.traffic = traffic;
            instance.traffic_changed_at_ms = self.input.now_ms;
            instance.caught_up = false;
            self.plan.changes.push(RolloutChange::SetTraffic { instance_id: instance.id.clone(), traffic });
        }
    }

    fn set_intent(&mut self, index: usize, intent: InstanceIntent) {
        let instance = &mut self.instances[index];
        if instance.intent != intent {
            instance.intent = intent;
            instance.caught_up = false;
            self.plan.changes.push(RolloutChange::SetIntent { instance_id: instance.id.clone(), intent });
        }
    }

    fn block(&mut self, reason: impl Into<String>) {
        let subject = format!("service {}", self.input.service);
        let blocked = Blocked { subject, reason: reason.into(), retry_at_ms: None };
        if !self.plan.blocked.contains(&blocked) {
            self.plan.blocked.push(blocked);
        }
    }

    fn delete(&mut self, index: usize) {
        let change = RolloutChange::DeleteInstance { instance_id: self.instances[index].id.clone() };
        if !self.plan.changes.contains(&change) {
            self.plan.changes.push(change);
        }
    }

    /// Look again no later than this. A moment that is over changes nothing by itself: waking for it
    /// would be looking again without end.
    fn wake_at(&mut self, at_ms: UnixMillis) {
        let earlier = self.plan.wake_at_ms.is_none_or(|known| at_ms < known);
        if earlier && at_ms > self.input.now_ms {
            self.plan.wake_at_ms = Some(at_ms);
        }
    }

    fn is_deleted(&self, index: usize) -> bool {
        let id = &self.instances[index].id;
        self.plan
            .changes
            .iter()
            .any(|c| matches!(c, RolloutChange::DeleteInstance { instance_id } if instance_id == id))
    }

    fn sole_of(&self, id: &RevisionId) -> Option<Sole> {
        self.revision(id).and_then(|revision| revision.sole)
    }

    /// Whether its gateway was last heard to send it requests; a worker gets none.
    fn takes_requests(&self, index: usize) -> bool {
        !self.listens(index) || self.instances[index].routed
    }

    /// Whether its gateway has acknowledged the traffic that it has now. What the deployment in flight made
    /// had none before. Anything else may have lost its traffic and got it back, as a warm release does in a
    /// rollback; a report from before says that it is asked, and meanwhile it is not. So for those only a
    /// report counts that answers what is wanted now.
    fn has_acknowledged(&self, index: usize) -> bool {
        let instance = &self.instances[index];
        let deployment = self.input.deployment.as_ref().filter(|deployment| deployment.stage.in_flight());
        let new = deployment.is_some_and(|deployment| deployment.id == instance.deployment_id);
        !self.listens(index) || (instance.routed && (new || instance.caught_up))
    }

    fn listens(&self, index: usize) -> bool {
        self.revision(&self.instances[index].revision_id).is_some_and(|r| r.port != PortSpec::None)
    }

    fn revision(&self, id: &RevisionId) -> Option<&'a RolloutRevision> {
        self.input.revisions.iter().find(|r| &r.id == id)
    }

    fn rollout_spec(&self, id: &RevisionId) -> RolloutSpec {
        self.revision(id).map_or_else(RolloutSpec::default, |r| r.rollout.clone())
    }

    /// Moves an instance one step out of service: no new requests, drained, stopped, forgotten.
    /// `keep_warm` stops it short of being stopped.
    fn retire(&mut self, index: usize, keep_warm: bool) {
        let instance = &self.instances[index];
        if !instance.server_exists {
            self.delete(index);
            return;
        }
        match instance.traffic {
            Traffic::Active => self.set_traffic(index, Traffic::Draining),
            Traffic::Candidate => {
                self.set_traffic(index, Traffic::Out);
                self.set_intent(index, InstanceIntent::Stop);
            }
            Traffic::Draining => self.drain(index),
            Traffic::Out if keep_warm => {}
            Traffic::Out if instance.intent == InstanceIntent::Run => self.set_intent(index, InstanceIntent::Stop),
            Traffic::Out if instance.gone() => self.delete(index),
            Traffic::Out if instance.server_online => self.block("an instance that is no longer needed is stopping"),
            Traffic::Out => self.block("an instance that is no longer needed is on a server that does not report"),
        }
    }

    /// A draining instance is out once the gateway has taken it out and nothing is open on it, or
    /// once its time is over.
    fn drain(&mut self, index: usize) {
        let instance = &self.instances[index];
        let deadline = instance.traffic_changed_at_ms + self.rollout_spec(&instance.revision_id).drain_ms as i64;
        let quiet = instance.caught_up && !instance.routed && instance.open_requests == 0;
        if quiet || instance.gone() || self.input.now_ms >= deadline {
            self.set_traffic(index, Traffic::Out);
        } else {
            match instance.open_requests {
                0 => self.block("its gateway has not taken an instance that drains out of traffic yet"),
                1 => self.block("1 open request of an instance that drains is finishing"),
                open => self.block(format!("{open} open requests of an instance that drains are finishing")),
            }
            self.wake_at(deadline);
        }
    }

    /// Creates as many instances of a revision as are missing, with the lowest free ordinals.
    /// Answers whether there was a server for each.
    fn create(
        &mut self,
        missing: u32,
        revision_id: &RevisionId,
        deployment_id: &DeploymentId,
        taken: &[u32],
        intent: InstanceIntent,
    ) -> bool {
        let servers = crate::placement::place(missing, &self.input.candidates);
        let free = (0u32..).filter(|ordinal| !taken.contains(ordinal));
        for (server_id, ordinal) in servers.iter().zip(free) {
            self.plan.changes.push(RolloutChange::CreateInstance {
                revision_id: revision_id.clone(),
                deployment_id: deployment_id.clone(),
                server_id: server_id.clone(),
                ordinal,
                intent,
            });
        }
        let without = missing.saturating_sub(servers.len() as u32);
        self.plan.without_server += without;
        without == 0
    }
}

/// What is wrong with an instance that has served since `since_ms`, if anything. What somebody on the machine
/// asked to end (`mainstay down`) holds nothing up: it is started again as soon as an agent is back.
fn broken_since(instance: &RolloutInstance, since_ms: UnixMillis) -> Option<String> {
    let observed = instance.observed.as_ref().filter(|observed| !observed.was_put_down())?;
    let crashed = observed.last_exit.as_ref().filter(|exit| exit.at_ms > since_ms);
    match observed.state {
        _ if crashed.is_some() => crashed.map(|exit| format!("its process {}", exit.describe())),
        InstanceState::Unhealthy => Some(match &observed.last_probe {
            Some(probe) => format!("its health check fails: {}", probe.message),
            None => "its health check fails".into(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
