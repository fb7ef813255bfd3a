//! What happened between two looks at the machine, as events with their causes. Pure.
//!
//! The loop does not emit events where it acts: an act that did nothing is no news, and much of what
//! happens (a crash, a health check that fails, an end of the gateway) is not an act of the agent. So
//! events are the difference of two observations. After a restart of the agent there is no former
//! observation; what runs then is said to be adopted, and nothing else is claimed to have happened.

use api::UnixMillis;
use api::cause::Cause;
use api::desired::DesiredState;
use api::events::{Event, EventKind, EventLevel};
use api::ids::{DeploymentId, EventId, InstanceId, RevisionId, ServiceId, StackId};
use api::mesh::MeshPeerState;
use api::observed::{
    InstanceObserved, InstanceState, ObservedState, PreparationObserved, PreparationState, PreparationStep,
    StackCondition, StackObserved,
};
use std::collections::BTreeMap;

/// What was last told of what is applied. A machine that settles after a restart or a crash is between two
/// conditions for a moment, and comes back to the one that everybody knows.
#[derive(Debug, Default)]
pub struct Told {
    /// Of the whole desired state: its generation.
    generation: Option<u64>,
    /// Of each stack: its version, and how it was.
    stacks: BTreeMap<StackId, (u64, StackCondition)>,
}

impl Told {
    /// What is so at the first look is no news.
    fn begin(&mut self, first: &ObservedState) {
        self.generation = is_applied(first).then_some(first.generation);
        first.stacks.iter().filter(|stack| stack.condition == StackCondition::Applied).for_each(|stack| {
            self.keep(stack);
        });
    }

    fn keep(&mut self, stack: &StackObserved) -> Option<(u64, StackCondition)> {
        self.stacks.insert(stack.stack_id.clone(), (stack.version, stack.condition))
    }
}

fn is_applied(state: &ObservedState) -> bool {
    !state.stacks.is_empty() && state.stacks.iter().all(|stack| stack.condition == StackCondition::Applied)
}

/// Makes the events; `ids` are drawn by the shell.
pub fn transitions(
    before: Option<&ObservedState>,
    after: &ObservedState,
    desired: &[&DesiredState],
    told: &mut Told,
    ids: &mut (dyn FnMut() -> EventId + '_),
) -> Vec<Event> {
    let names = Names::of(desired);
    told.stacks.retain(|id, _| after.stacks.iter().any(|stack| stack.stack_id == *id));
    let mut out = Collector { names: &names, after, ids, events: Vec::new() };
    match before {
        None => {
            told.begin(after);
            out.adopted();
        }
        Some(before) => {
            out.config(before, told);
            out.preparations(before);
            out.instances(before);
            out.network(before);
            out.mesh(before);
            out.stacks(before, told);
        }
    }
    out.disk(before.is_some_and(|before| before.resources.disk_low));
    out.events
}

/// What an id is called, from the newest desired state that knows it.
#[derive(Default)]
struct Names {
    services: BTreeMap<ServiceId, (String, StackId)>,
    stacks: BTreeMap<StackId, String>,
    deployments: BTreeMap<InstanceId, DeploymentId>,
    builds: BTreeMap<RevisionId, bool>,
}

impl Names {
    fn of(desired: &[&DesiredState]) -> Self {
        let mut names = Self::default();
        for state in desired {
            for stack in &state.stacks {
                names.stacks.entry(stack.stack_id.clone()).or_insert_with(|| stack.name.to_string());
                for service in &stack.services {
                    let entry = (service.name.to_string(), stack.stack_id.clone());
                    names.services.entry(service.service_id.clone()).or_insert(entry);
                    for instance in &service.instances {
                        let deployment = instance.deployment_id.clone();
                        names.deployments.entry(instance.instance_id.clone()).or_insert(deployment);
                    }
                    for revision in &service.revisions {
                        names.builds.entry(revision.revision_id.clone()).or_insert(revision.build.is_some());
                    }
                }
            }
        }
        names
    }

    fn service<'a>(&'a self, id: &'a ServiceId) -> &'a str {
        self.services.get(id).map_or_else(|| id.short(), |(name, _)| name.as_str())
    }
}

struct Collector<'a> {
    names: &'a Names,
    after: &'a ObservedState,
    ids: &'a mut (dyn FnMut() -> EventId + 'a),
    events: Vec<Event>,
}

impl Collector<'_> {
    fn push(&mut self, kind: EventKind, level: EventLevel, message: String, action: impl Into<String>) -> &mut Event {
        self.events.push(Event {
            id: (self.ids)(),
            at_ms: self.after.observed_at_ms,
            kind,
            level,
            message,
            cause: Cause::system("agent", action),
            stack_id: None,
            service_id: None,
            deployment_id: None,
            instance_id: None,
            server_id: Some(self.after.server_id.clone()),
        });
        self.events.last_mut().expect("an event was just pushed")
    }

    fn of_instance(
        &mut self,
        instance: &InstanceObserved,
        kind: EventKind,
        level: EventLevel,
        message: String,
        action: impl Into<String>,
    ) {
        let names = self.names;
        let event = self.push(kind, level, message, action);
        event.service_id = Some(instance.service_id.clone());
        event.instance_id = Some(instance.instance_id.clone());
        event.stack_id = names.services.get(&instance.service_id).map(|(_, stack)| stack.clone());
        event.deployment_id = names.deployments.get(&instance.instance_id).cloned();
        event.cause.deployment_id = event.deployment_id.clone();
    }

    fn of_preparation(
        &mut self,
        preparation: &PreparationObserved,
        kind: EventKind,
        level: EventLevel,
        message: String,
        action: impl Into<String>,
    ) {
        let names = self.names;
        let event = self.push(kind, level, message, action);
        event.service_id = Some(preparation.service_id.clone());
        event.stack_id = names.services.get(&preparation.service_id).map(|(_, stack)| stack.clone());
        event.deployment_id = Some(preparation.deployment_id.clone());
        event.cause.deployment_id = event.deployment_id.clone();
    }

    fn adopted(&mut self) {
        for instance in self.after.instances.iter().filter(|i| is_alive(i.state)) {
            let name = self.names.service(&instance.service_id).to_owned();
            let pid = instance.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let message =
                format!("{name}: instance {} was found running{pid} and adopted", instance.instance_id.short());
            self.of_instance(instance, EventKind::InstanceAdopted, EventLevel::Info, message, "the agent started");
        }
    }

    fn config(&mut self, before: &ObservedState, told: &mut Told) {
        let after = self.after;
        if after.generation != before.generation {
            let message = format!("desired state {} received", after.generation);
            let action = format!("the control plane published generation {}", after.generation);
            self.push(EventKind::ConfigReceived, EventLevel::Info, message, action);
        }
        if let Some(reason) = &after.agent.refused
            && before.agent.refused.as_ref() != Some(reason)
        {
            let message = format!("a desired state was refused: {reason}");
            self.push(EventKind::ConfigRefused, EventLevel::Error, message, "verification failed");
        }
        if is_applied(self.after) && told.generation.replace(after.generation) != Some(after.generation) {
            let message = format!("desired state {} applied", after.generation);
            self.push(EventKind::ConfigApplied, EventLevel::Info, message, "everything is as desired");
        }
    }

    fn preparations(&mut self, before: &ObservedState) {
        let former: BTreeMap<&RevisionId, &PreparationObserved> =
            before.preparations.iter().map(|p| (&p.revision_id, p)).collect();
        for now in &self.after.preparations {
            let was = former.get(&now.revision_id).copied();
            let fresh = |at: Option<UnixMillis>| at.is_some_and(|at| at >= before.observed_at_ms);
            let name = self.names.service(&now.service_id).to_owned();
            let builds = self.names.builds.get(&now.revision_id).copied().unwrap_or(true);
            let building = |p: &PreparationObserved| p.step == PreparationStep::Build;
            let began = builds
                && building(now)
                && match was {
                    Some(was) => {
                        !(building(was) && was.state == PreparationState::Working)
                            && (was.step != now.step || was.state != now.state || was.attempts != now.attempts)
                    }
                    None => now.state == PreparationState::Working || fresh(now.started_at_ms),
                };
            if began && (now.state == PreparationState::Working || fresh(now.ended_at_ms)) {
                let message = format!("{name}: the build of its release began");
                self.of_preparation(now, EventKind::BuildStarted, EventLevel::Info, message, "deploy");
            }
            let ended = match was {
                Some(was) => was.state != now.state || was.attempts != now.attempts,
                None => fresh(now.ended_at_ms),
            };
            match now.state {
                PreparationState::Ready if ended && builds && building(now) && fresh(now.ended_at_ms) => {
                    let message = format!("{name}: its release was built{}", took(now));
                    self.of_preparation(now, EventKind::BuildSucceeded, EventLevel::Info, message, "deploy");
                }
                PreparationState::Failed if ended => self.preparation_failed(now, &name),
                _ => {}
            }
        }
    }

    fn preparation_failed(&mut self, now: &PreparationObserved, name: &str) {
        let error = now.error.clone().unwrap_or_else(|| "no reason is known".into());
        let (kind, what) = match now.step {
            PreparationStep::Sync => (EventKind::SyncFailed, "its source could not be fetched"),
            PreparationStep::Build => (EventKind::BuildFailed, "its build failed"),
            PreparationStep::Pull => (EventKind::SyncFailed, "its image could not be pulled"),
        };
        let level = if now.retryable { EventLevel::Warning } else { EventLevel::Error };
        let again = if now.retryable { "; it is tried again" } else { "" };
        self.of_preparation(now, kind, level, format!("{name}: {what}: {error}{again}"), error);
    }

    fn instances(&mut self, before: &ObservedState) {
        let former: BTreeMap<&InstanceId, &InstanceObserved> =
            before.instances.iter().map(|i| (&i.instance_id, i)).collect();
        for now in &self.after.instances {
            match former.get(&now.instance_id).copied() {
                None => self.appeared(now),
                Some(was) => self.changed(was, now),
            }
        }
        for was in &before.instances {
            let gone = !self.after.instances.iter().any(|now| now.instance_id == was.instance_id);
            if gone && is_alive(was.state) {
                self.stopped(was);
            }
        }
    }

    fn appeared(&mut self, now: &InstanceObserved) {
        if now.state == InstanceState::Absent {
            return;
        }
        self.started(now, "deploy");
        self.exits(0, now);
        self.health(InstanceState::Transient, now);
        if now.state == InstanceState::Exited {
            self.ended(now);
        }
    }

    fn changed(&mut self, was: &InstanceObserved, now: &InstanceObserved) {
        self.exits(was.restarts, now);
        if now.crash_looping && !was.crash_looping {
            let exit = now.last_end();
            let name = self.names.service(&now.service_id);
            let message = format!(
                "{name}: instance {} is crash-looping: its process {exit} {}",
                now.instance_id.short(),
                api::words::count(now.restarts, "time")
            );
            let action = format!("process {exit}");
            self.of_instance(now, EventKind::InstanceCrashLooping, EventLevel::Error, message, action);
        }
        match (was.state, now.state) {
            (InstanceState::Exited | InstanceState::Absent, state) if is_alive(state) => {
                self.started(now, "it was not running")
            }
            (former, InstanceState::Exited) if is_alive(former) && (was.stopping || now.stopping) => self.stopped(now),
            (former, InstanceState::Exited) if is_alive(former) => self.ended(now),
            _ => {}
        }
        self.health(was.state, now);
    }

    fn started(&mut self, now: &InstanceObserved, action: &str) {
        let port = now.port.map(|port| format!(" on port {port}")).unwrap_or_default();
        let message =
            format!("{}: instance {} started{port}", self.names.service(&now.service_id), now.instance_id.short());
        self.of_instance(now, EventKind::InstanceStarted, EventLevel::Info, message, action);
    }

    /// Crashes that its supervisor already answered with a restart.
    fn exits(&mut self, restarts_before: u32, now: &InstanceObserved) {
        if now.restarts <= restarts_before {
            return;
        }
        let exit = now.last_end();
        let times = match now.restarts - restarts_before {
            1 => String::new(),
            n => format!(" ({n} times)"),
        };
        let name = self.names.service(&now.service_id);
        let message =
            format!("{name}: the process of instance {} {exit}{times} and is started again", now.instance_id.short());
        let action = format!("process {exit}");
        self.of_instance(now, EventKind::InstanceExited, EventLevel::Warning, message, action);
    }

    fn stopped(&mut self, instance: &InstanceObserved) {
        let name = self.names.service(&instance.service_id);
        let message = format!("{name}: instance {} stopped", instance.instance_id.short());
        self.of_instance(instance, EventKind::InstanceStopped, EventLevel::Info, message, "no longer wanted");
    }

    fn ended(&mut self, now: &InstanceObserved) {
        // A process that ends at once when it is asked to is not always seen while it stops.
        if now.was_put_down() {
            return self.stopped(now);
        }
        let exit = now.last_end();
        let why = now.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
        let message = format!(
            "{}: the process of instance {} {exit}{why}",
            self.names.service(&now.service_id),
            now.instance_id.short()
        );
        let action = format!("process {exit}");
        self.of_instance(now, EventKind::InstanceExited, EventLevel::Error, message, action);
    }

    fn health(&mut self, was: InstanceState, now: &InstanceObserved) {
        let (level, what) = match (was, now.state) {
            (was, InstanceState::Healthy) if was != InstanceState::Healthy => (EventLevel::Info, "is healthy"),
            (was, InstanceState::Unhealthy) if was != InstanceState::Unhealthy => (EventLevel::Warning, "is unhealthy"),
            _ => return,
        };
        let probe = now.last_probe.as_ref().map(|p| p.message.clone());
        let detail = probe.as_ref().map(|p| format!(": {p}")).unwrap_or_default();
        let name = self.names.service(&now.service_id);
        let message = format!("{name}: instance {} {what}{detail}", now.instance_id.short());
        self.of_instance(now, EventKind::HealthChanged, level, message, probe.unwrap_or_else(|| "health check".into()));
    }

    fn mesh(&mut self, before: &ObservedState) {
        let (was, now) = (&before.mesh, &self.after.mesh);
        for peer in &now.peers {
            let before = was.peers.iter().find(|other| other.server_id == peer.server_id).map(|other| other.state);
            let (level, message, action) = match peer.state {
                state if Some(state) == before => continue,
                MeshPeerState::Connecting => continue,
                MeshPeerState::Direct => {
                    let at = peer.endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
                    (EventLevel::Info, format!("{} is reached through the mesh{at}", peer.name), "handshake".to_owned())
                }
                MeshPeerState::Unreachable => {
                    let reason = peer.reason.clone().unwrap_or_else(|| "no handshake".into());
                    let message = format!("{} is not reached through the mesh: {reason}", peer.name);
                    (EventLevel::Warning, message, reason)
                }
            };
            self.push(EventKind::MeshPeerChanged, level, message, action);
        }
        if let Some(repair) = now.repaired.as_ref().filter(|repair| was.repaired.as_ref() != Some(*repair)) {
            let what = repair.what.join("; ");
            let message = format!("the mesh was not as this agent had left it, and was put right: {what}");
            self.push(EventKind::MeshRepaired, EventLevel::Warning, message, what);
        }
    }

    fn network(&mut self, before: &ObservedState) {
        let (was, now) = (&before.gateway, &self.after.gateway);
        if now.running && (!was.running || was.pid != now.pid) {
            let action = match (was.running, was.version == now.version) {
                (true, false) => "upgrade",
                (true, true) => "the former one was replaced",
                (false, _) => "none was running",
            };
            let version = now.version.as_deref().unwrap_or("of unknown version");
            self.push(EventKind::GatewayStarted, EventLevel::Info, format!("the gateway {version} runs"), action);
        }
        if was.running && !now.running {
            let reason = now.problem.clone().unwrap_or_else(|| "its process ended".into());
            self.push(
                EventKind::GatewayStopped,
                EventLevel::Error,
                format!("the gateway does not run: {reason}"),
                reason,
            );
        }
        if now.problem.is_some() && now.problem != was.problem && now.running {
            let problem = now.problem.clone().unwrap_or_default();
            let message = format!("routes are not as desired: {problem}");
            self.push(EventKind::RoutesChanged, EventLevel::Error, message, problem);
        } else if now.running && now.digest.is_some() && now.digest != was.digest && now.active != was.active {
            let message = match now.active.len() {
                0 => "routes changed: no instance gets requests".to_owned(),
                n => format!(
                    "routes changed: {} {} requests",
                    api::words::count(n, "instance"),
                    if n == 1 { "gets" } else { "get" }
                ),
            };
            let action = format!("desired state {}", self.after.generation);
            self.push(EventKind::RoutesChanged, EventLevel::Info, message, action);
        }
        let (was, now) = (&before.dns, &self.after.dns);
        if now.names != was.names || (now.problem != was.problem && now.problem.is_some()) {
            let (level, message) = match &now.problem {
                Some(problem) => (EventLevel::Warning, format!("internal names do not resolve: {problem}")),
                None if now.names.is_empty() => (EventLevel::Info, "no internal name is left".to_owned()),
                None => {
                    (EventLevel::Info, format!("internal names resolve by {}: {}", now.method, now.names.join(", ")))
                }
            };
            let action = format!("desired state {}", self.after.generation);
            self.push(EventKind::DnsChanged, level, message, action);
        }
    }

    fn disk(&mut self, was_low: bool) {
        let resources = &self.after.resources;
        match (was_low, resources.disk_low) {
            (false, true) => {
                let why = self.after.blocked.iter().find(|b| b.subject == "disk").map(|b| b.reason.clone());
                let why = why.unwrap_or_else(|| "no room is left for anything new".into());
                let message = format!("the disk is nearly full: {why}; what runs goes on");
                self.push(EventKind::DiskLow, EventLevel::Warning, message, "only the reserve is left");
            }
            (true, false) => {
                let message = "the disk has room again; what was held back goes on".to_owned();
                self.push(EventKind::DiskFreed, EventLevel::Info, message, "space was freed");
            }
            _ => {}
        }
    }

    fn stacks(&mut self, before: &ObservedState, told: &mut Told) {
        for now in &self.after.stacks {
            let was = before.stacks.iter().find(|s| s.stack_id == now.stack_id);
            let name = self.names.stacks.get(&now.stack_id).cloned().unwrap_or_else(|| now.stack_id.short().to_owned());
            let condition_was = was.map(|w| w.condition);
            let (kind, level, message, action) = match now.condition {
                StackCondition::Applied => {
                    let again = match told.keep(now) {
                        Some((version, StackCondition::Applied)) if version == now.version => continue,
                        Some((version, _)) if version == now.version => " again",
                        _ => "",
                    };
                    let message = format!("{name}: version {} is applied{again}", now.version);
                    (EventKind::StackApplied, EventLevel::Info, message, "everything is as desired".to_owned())
                }
                StackCondition::Degraded
                    if condition_was != Some(StackCondition::Degraded)
                        || was.is_some_and(|w| w.problems != now.problems) =>
                {
                    told.keep(now);
                    let problems = now.problems.join("; ");
                    (EventKind::StackDegraded, EventLevel::Warning, format!("{name} is degraded: {problems}"), problems)
                }
                _ => continue,
            };
            let event = self.push(kind, level, message, action);
            event.stack_id = Some(now.stack_id.clone());
        }
    }
}

fn is_alive(state: InstanceState) -> bool {
    !matches!(state, InstanceState::Absent | InstanceState::Exited)
}

fn took(preparation: &PreparationObserved) -> String {
    match (preparation.started_at_ms, preparation.ended_at_ms) {
        (Some(from), Some(to)) if to >= from => format!(" in {:.1} s", (to - from) as f64 / 1000.0),
        _ => String::new(),
    }
}

#[cfg(test)]
#[path = "transitions_tests.rs"]
mod tests;
