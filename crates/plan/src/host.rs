//! One machine: from the desired state and what is seen to the changes that are safe now.
//!
//! The order of the changes is the order to do them in: preparations first, because they run beside
//! everything else, then stop orphans, start what is stopped, deploy what is missing, replace what
//! is wrong, internal names, routes. One rule bends that order: an instance that the live gateway
//! still sends requests to is not stopped before the routes without it are live. That alone keeps a
//! removed or replaced service from answering 502.
//!
//! Absent on purpose: rollout. Which instances should exist, and who gets traffic, was decided by
//! the control plane; this only makes it so.

use api::UnixMillis;
use api::desired::{DesiredState, InstanceDesired, InstanceIntent, ServiceDesired, Traffic};
use api::ids::{DeploymentId, InstanceId, RevisionId, ServiceId};
use api::name::Name;
use api::observed::{Blocked, InstanceObserved, InstanceState, PreparationObserved, PreparationState};
use std::collections::{BTreeMap, BTreeSet};

/// Things that are replaced whole, in the order in which they are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigKind {
    Dns,
    Routes,
    Mesh,
}

impl ConfigKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Routes => "routes",
            Self::Mesh => "mesh",
        }
    }
}

/// A config as wanted and as live. `live` is `None` when nothing of ours is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigView {
    pub kind: ConfigKind,
    pub desired_digest: String,
    pub live_digest: Option<String>,
}

/// What a failure is about: it backs off alone and holds up nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Instance(InstanceId),
    Preparation(RevisionId),
    Config(ConfigKind),
}

/// The last tries at one subject failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub subject: Subject,
    pub attempts: u32,
    pub message: String,
    /// Not to be tried again before.
    pub retry_at_ms: UnixMillis,
}

/// Everything that planning looks at.
#[derive(Debug, Clone, Copy)]
pub struct HostInput<'a> {
    /// `None`: no desired state was ever verified, so nothing is known to be unwanted.
    pub desired: Option<&'a DesiredState>,
    /// Every instance that carries our mark, wanted or not.
    pub instances: &'a [InstanceObserved],
    pub preparations: &'a [PreparationObserved],
    pub configs: &'a [ConfigView],
    /// Instances that the live gateway sends new requests to.
    pub gateway_active: &'a [InstanceId],
    pub failures: &'a [Failure],
    pub now_ms: UnixMillis,
}

/// One step. Every variant can be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Fetch and build a revision; runs beside the other changes.
    Prepare {
        service_id: ServiceId,
        revision_id: RevisionId,
        deployment_id: DeploymentId,
    },
    /// Ask an instance to stop; it is gone some time after.
    StopInstance {
        instance_id: InstanceId,
        reason: StopReason,
    },
    /// Forget an instance that ended: its files and its cgroup.
    RemoveInstance {
        instance_id: InstanceId,
    },
    StartInstance {
        service_id: ServiceId,
        instance_id: InstanceId,
        revision_id: RevisionId,
    },
    ApplyConfig {
        kind: ConfigKind,
        digest: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Nothing in the desired state names it.
    Orphan,
    /// The desired state says stop.
    Asked,
    /// It runs another revision than it should.
    WrongRevision,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPlan {
    pub changes: Vec<Change>,
    pub blocked: Vec<Blocked>,
}

impl HostPlan {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.blocked.is_empty()
    }
}

/// How often routes may fail to apply until an instance behind the old ones is stopped all the same.
const ROUTE_ATTEMPTS_BEFORE_STOP: u32 = 3;

/// What to do now, in order, and what is held back, with reasons.
pub fn plan(input: HostInput<'_>) -> HostPlan {
    let Some(desired) = input.desired else {
        let reason = "no desired state has been verified yet, so nothing is touched".into();
        let blocked = Blocked { subject: "machine".into(), reason, retry_at_ms: None };
        return HostPlan { changes: Vec::new(), blocked: vec![blocked] };
    };
    let mut planner = Planner::new(input, desired);
    planner.instances(desired);
    planner.orphans();
    planner.configs();
    planner.finish()
}

struct Planner<'a> {
    input: HostInput<'a>,
    observed: BTreeMap<&'a InstanceId, &'a InstanceObserved>,
    preparations: BTreeMap<&'a RevisionId, &'a PreparationObserved>,
    failures: BTreeMap<&'a Subject, &'a Failure>,
    wanted: BTreeSet<&'a InstanceId>,
    /// Instances whose stop has to wait for the routes.
    routed: BTreeSet<&'a InstanceId>,
    prepare: Vec<Change>,
    stop: Vec<Change>,
    start: Vec<Change>,
    replace: Vec<Change>,
    apply: Vec<Change>,
    blocked: Vec<Blocked>,
}

impl<'a> Planner<'a> {
    fn new(input: HostInput<'a>, desired: &'a DesiredState) -> Self {
        let routes = input.configs.iter().find(|c| c.kind == ConfigKind::Routes);
        let routes_live = routes.is_none_or(|c| c.live_digest.as_ref() == Some(&c.desired_digest));
        let failures: BTreeMap<_, _> = input.failures.iter().map(|f| (&f.subject, f)).collect();
        let routes_hopeless = failures
            .get(&Subject::Config(ConfigKind::Routes))
            .is_some_and(|failure| failure.attempts >= ROUTE_ATTEMPTS_BEFORE_STOP);
        let routed =
            if routes_live || routes_hopeless { BTreeSet::new() } else { input.gateway_active.iter().collect() };
        let wanted = desired.services().flat_map(|(_, s)| s.instances.iter().map(|i| &i.instance_id)).collect();
        Self {
            observed: input.instances.iter().map(|i| (&i.instance_id, i)).collect(),
            preparations: input.preparations.iter().map(|p| (&p.revision_id, p)).collect(),
            failures,
            wanted,
            routed,
            prepare: Vec::new(),
            stop: Vec::new(),
            start: Vec::new(),
            replace: Vec::new(),
            apply: Vec::new(),
            blocked: Vec::new(),
            input,
        }
    }

    fn instances(&mut self, desired: &'a DesiredState) {
        let mut services: Vec<&ServiceDesired> = desired.services().map(|(_, service)| service).collect();
        services.sort_by(|a, b| (&a.name, &a.service_id).cmp(&(&b.name, &b.service_id)));
        for service in services {
            let mut instances: Vec<&InstanceDesired> = service.instances.iter().collect();
            instances.sort_by_key(|i| (i.ordinal, &i.instance_id));
            for instance in instances {
                self.instance(service, instance);
            }
        }
    }

    fn instance(&mut self, service: &'a ServiceDesired, instance: &'a InstanceDesired) {
        let observed = self.observed.get(&instance.instance_id).copied();
        let state = observed.map_or(InstanceState::Absent, |o| o.state);
        let wrong = observed.is_some_and(|o| o.revision_id != instance.revision_id);
        match (instance.intent, state) {
            (InstanceIntent::Run, InstanceState::Absent) => self.deploy(service, instance),
            (InstanceIntent::Run, InstanceState::Exited) if wrong => {
                self.replace.push(Change::RemoveInstance { instance_id: instance.instance_id.clone() });
            }
            (InstanceIntent::Run, InstanceState::Exited) => self.deploy(service, instance),
            (InstanceIntent::Run, _) if wrong => self.stop(service.name.as_str(), observed, StopReason::WrongRevision),
            (InstanceIntent::Run, InstanceState::Transient) => {
                self.block(&service.name, transient_reason(observed), None);
            }
            (InstanceIntent::Run, InstanceState::Running | InstanceState::Healthy | InstanceState::Unhealthy) => {}
            // A candidate that must not run yet is prepared all the same: what it replaces is
            // stopped only once this one could start at once.
            (InstanceIntent::Stop, InstanceState::Absent) if instance.traffic == Traffic::Candidate => {
                self.prepared(service, instance);
            }
            (InstanceIntent::Stop, InstanceState::Absent | InstanceState::Exited) => {}
            (InstanceIntent::Stop, _) => self.stop(service.name.as_str(), observed, StopReason::Asked),
        }
    }

    /// Starts the instance if its revision is ready, otherwise sees to that.
    fn deploy(&mut self, service: &'a ServiceDesired, instance: &'a InstanceDesired) {
        if !self.prepared(service, instance)
            || self.backs_off(&service.name, Subject::Instance(instance.instance_id.clone()))
        {
            return;
        }
        self.start.push(Change::StartInstance {
            service_id: service.service_id.clone(),
            instance_id: instance.instance_id.clone(),
            revision_id: instance.revision_id.clone(),
        });
    }

    /// Whether the revision is ready to start; if not, plans or explains its preparation.
    fn prepared(&mut self, service: &'a ServiceDesired, instance: &'a InstanceDesired) -> bool {
        if service.revision(&instance.revision_id).is_none() {
            let reason = format!("the desired state does not hold revision {}", instance.revision_id);
            self.block(&service.name, reason, None);
            return false;
        }
        let preparation = self.preparations.get(&instance.revision_id).copied();
        match preparation.map_or(PreparationState::Absent, |p| p.state) {
            PreparationState::Ready => return true,
            PreparationState::Working => {
                self.block(&service.name, "its release is being prepared".into(), None);
            }
            PreparationState::Failed if !preparation.is_some_and(|p| p.retryable) => {
                let error = preparation.and_then(|p| p.error.clone()).unwrap_or_default();
                self.block(&service.name, format!("its release could not be prepared: {error}"), None);
            }
            PreparationState::Failed | PreparationState::Absent => self.prepare(service, instance),
        }
        false
    }

    fn prepare(&mut self, service: &ServiceDesired, instance: &InstanceDesired) {
        if self.backs_off(&service.name, Subject::Preparation(instance.revision_id.clone())) {
            return;
        }
        let change = Change::Prepare {
            service_id: service.service_id.clone(),
            revision_id: instance.revision_id.clone(),
            deployment_id: service
                .revision(&instance.revision_id)
                .map_or_else(|| instance.deployment_id.clone(), |r| r.deployment_id.clone()),
        };
        if !self.prepare.contains(&change) {
            self.prepare.push(change);
        }
    }

    /// Whether a subject failed lately; says so.
    fn backs_off(&mut self, name: &Name, subject: Subject) -> bool {
        let Some(failure) = self.failures.get(&subject).copied() else {
            return false;
        };
        if failure.retry_at_ms <= self.input.now_ms {
            return false;
        }
        self.block(
            name,
            format!("it failed {}: {}", api::words::count(failure.attempts, "time"), failure.message),
            Some(failure.retry_at_ms),
        );
        true
    }

    fn stop(&mut self, subject: &str, observed: Option<&InstanceObserved>, reason: StopReason) {
        let Some(observed) = observed else { return };
        if observed.stopping {
            self.blocked.push(Blocked {
                subject: format!("instance {}", observed.instance_id.short()),
                reason: format!("{subject} is stopping"),
                retry_at_ms: None,
            });
        } else if self.routed.contains(&observed.instance_id) {
            self.blocked.push(Blocked {
                subject: format!("instance {}", observed.instance_id.short()),
                reason: "the gateway still sends it requests; it is stopped once the new routes are live".into(),
                retry_at_ms: None,
            });
        } else {
            let change = Change::StopInstance { instance_id: observed.instance_id.clone(), reason };
            match reason {
                StopReason::WrongRevision => self.replace.push(change),
                StopReason::Orphan | StopReason::Asked => self.stop.push(change),
            }
        }
    }

    fn orphans(&mut self) {
        let mut orphans: Vec<&InstanceObserved> =
            self.input.instances.iter().filter(|o| !self.wanted.contains(&o.instance_id)).collect();
        orphans.sort_by_key(|o| &o.instance_id);
        for orphan in orphans {
            match orphan.state {
                InstanceState::Absent => {}
                InstanceState::Exited => {
                    self.stop.push(Change::RemoveInstance { instance_id: orphan.instance_id.clone() });
                }
                _ => self.stop("an instance that nothing wants", Some(orphan), StopReason::Orphan),
            }
        }
    }

    fn configs(&mut self) {
        let mut configs: Vec<&ConfigView> = self.input.configs.iter().collect();
        configs.sort_by_key(|c| c.kind);
        for config in configs {
            if config.live_digest.as_ref() == Some(&config.desired_digest) {
                continue;
            }
            if let Some(failure) = self.failures.get(&Subject::Config(config.kind)).copied()
                && failure.retry_at_ms > self.input.now_ms
            {
                self.blocked.push(Blocked {
                    subject: config.kind.as_str().into(),
                    reason: failure.message.clone(),
                    retry_at_ms: Some(failure.retry_at_ms),
                });
                continue;
            }
            self.apply.push(Change::ApplyConfig { kind: config.kind, digest: config.desired_digest.clone() });
        }
    }

    fn block(&mut self, name: &Name, reason: String, retry_at_ms: Option<UnixMillis>) {
        let blocked = Blocked { subject: format!("service {name}"), reason, retry_at_ms };
        if !self.blocked.contains(&blocked) {
            self.blocked.push(blocked);
        }
    }

    fn finish(self) -> HostPlan {
        let mut changes = self.prepare;
        changes.extend(self.stop);
        changes.extend(self.start);
        changes.extend(self.replace);
        changes.extend(self.apply);
        HostPlan { changes, blocked: self.blocked }
    }
}

fn transient_reason(observed: Option<&InstanceObserved>) -> String {
    match observed {
        Some(o) if o.stopping => "its instance is stopping; it is started again after that".into(),
        Some(InstanceObserved { last_exit: Some(exit), .. }) => {
            format!("its process {} and waits to be started again", exit.describe())
        }
        _ => "its process is being started".into(),
    }
}

#[cfg(test)]
mod tests;
