//! What must never be, and what must be in the end.
//!
//! The referee sees everything at once, which nobody within the fleet can. Here it watches the machines:
//! before and after each change on any of them it looks who serves, what is stopped and why. The rows of
//! the control plane are watched in `books`, its answers in `promises`.

use crate::machine::Machine;
use crate::promises::Promises;
use crate::story::Story;
use crate::time::locked;
use crate::world::World;
use agent::drivers::StartRequest;
use api::ids::InstanceId;
use api::logs::LogSource;
use api::observed::InstanceState;
use api::services::HealthCheck;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// Refusals after which an instance is stopped though the gateway still sends it requests.
const REFUSALS_BEFORE_STOP: u32 = 3;

#[derive(Debug, Clone)]
pub struct Known {
    pub service: String,
    revision: u64,
    pub check: String,
    started_at_ms: i64,
}

#[derive(Debug, Clone, Default)]
struct Truth {
    /// Instances that people asked for and were promised.
    wanted: u32,
    /// The most of them since it was calm.
    most: u32,
    /// The most that were asked for without an answer: nobody knows whether they are wanted.
    unanswered: u32,
    /// Fewer than this may not serve; `None` while something outside of the fleet's power is wrong.
    floor: Option<u32>,
}

/// An instance that was well, and that something outside of the fleet's power took away or cast doubt on.
///
/// Until it is back as it was, fewer may serve: whoever heard of it before may just have told other machines to
/// let go of what it replaces, and those do as they were told, however late, though others serve meanwhile.
#[derive(Debug, Clone, Copy, Default)]
struct Away {
    /// Its gateway asked it. Then it is back only when it is asked again.
    asked: bool,
    /// A check of it failed though it is well. Then it is back only when one succeeds.
    doubted: bool,
}

/// How many instances of a service serve.
#[derive(Debug, Clone, Copy, Default)]
struct Serving {
    now: u32,
    /// Those of them that the fleet may count on: nothing that is on its way takes them away, and what their machine
    /// heard last does not, either.
    lasting: u32,
}

#[derive(Default)]
pub struct Referee {
    pub instances: Mutex<BTreeMap<InstanceId, Known>>,
    services: Mutex<BTreeMap<String, Truth>>,
    away: Mutex<BTreeMap<InstanceId, Away>>,
    refusals: Mutex<BTreeMap<&'static str, u32>>,
    pub promises: Promises,
}

impl Referee {
    /// An instance that is about to be started: somebody must want it.
    pub fn about_to_start(&self, world: &World, machine: &Machine, request: &StartRequest) {
        self.learn(request, world.time.passed_ms());
        let id = &request.instance.instance_id;
        self.promises.log_begins(LogSource::Run { instance_id: id.clone() });
        if machine.no_document_wants(id) {
            let (name, what) = (machine.name, self.name_of(id));
            world.story.never(format_args!("{name} starts {what}, which no desired state of it wants to run"));
        }
    }

    fn learn(&self, request: &StartRequest, passed_ms: i64) {
        let check = match &request.revision.health.check {
            HealthCheck::Command { command } => command.clone(),
            _ => "good".into(),
        };
        let known = Known {
            service: request.service.to_string(),
            revision: request.revision.number,
            check,
            started_at_ms: passed_ms,
        };
        locked(&self.instances).insert(request.instance.instance_id.clone(), known);
    }

    pub fn name_of(&self, id: &InstanceId) -> String {
        match locked(&self.instances).get(id) {
            Some(known) => format!("{} {} ({})", known.service, known.revision, id.short()),
            None => id.short().to_owned(),
        }
    }

    fn check_says(&self, id: &InstanceId, passed_ms: i64) -> bool {
        let instances = locked(&self.instances);
        let Some(known) = instances.get(id) else { return false };
        let age_ms = passed_ms - known.started_at_ms;
        match known.check.as_str() {
            "good" => true,
            "late" => age_ms > 3_000,
            "breaks" => age_ms < 6_000,
            _ => false,
        }
    }

    /// Whether an instance answers well, now, in truth.
    pub fn is_well(&self, world: &World, machine: &Machine, id: &InstanceId) -> bool {
        let runs = machine.workloads.instances();
        let runs = runs.iter().any(|i| &i.instance_id == id && i.state == InstanceState::Running);
        runs && self.check_says(id, world.time.passed_ms())
    }

    /// From now on so many are wanted.
    pub fn want(&self, service: &str, wanted: u32) {
        let mut services = locked(&self.services);
        let truth = services.entry(service.to_owned()).or_default();
        truth.wanted = wanted;
        truth.most = truth.most.max(wanted);
        truth.floor = truth.floor.map(|floor| floor.min(wanted)).filter(|floor| *floor > 0);
    }

    /// So many were asked for, and the answer is lost.
    pub fn may_want(&self, service: &str, asked: u32) {
        let mut services = locked(&self.services);
        let truth = services.entry(service.to_owned()).or_default();
        truth.unanswered = truth.unanswered.max(asked);
    }

    pub fn wanted(&self, service: &str) -> u32 {
        locked(&self.services).get(service).map_or(0, |truth| truth.wanted)
    }

    /// So many instances are to run: never more than what serves and, beside it, what is to serve.
    pub fn look_at_running(&self, story: &Story, service: &str, running: usize) {
        let most = locked(&self.services).get(service).map_or(0, |truth| truth.most.max(truth.unanswered));
        let limit = 2 * most as usize;
        if running > limit {
            story.never(format_args!("{running} instances of {service} are to run, at most {limit} may"));
        }
    }

    /// Everything is as it should be: what was before does not count any longer.
    pub fn calm(&self) {
        for truth in locked(&self.services).values_mut() {
            truth.most = truth.wanted;
        }
    }

    /// Something outside of the fleet's power is about to take instances of a machine away.
    pub fn takes_away(&self, world: &World, machine: &Machine, ids: &[InstanceId]) {
        let asked = machine.asked();
        for id in ids.iter().filter(|id| self.is_well(world, machine, id)) {
            self.excuse(id).entry(id.clone()).or_default().asked |= asked.contains(id);
        }
    }

    /// Nothing is promised of the service of an instance until as many serve as are wanted.
    fn excuse(&self, id: &InstanceId) -> MutexGuard<'_, BTreeMap<InstanceId, Away>> {
        if let Some(known) = locked(&self.instances).get(id)
            && let Some(truth) = locked(&self.services).get_mut(&known.service)
        {
            truth.floor = None;
        }
        locked(&self.away)
    }

    /// The power of a machine is about to fail, and it loses all at once.
    pub fn power_fails(&self, world: &World, machine: &Machine) {
        let all: Vec<InstanceId> = machine.workloads.instances().into_iter().map(|i| i.instance_id).collect();
        self.takes_away(world, machine, &all);
    }

    /// A check says that an instance that is well is not: from here on it may be taken out of service.
    pub fn casts_doubt_on(&self, id: &InstanceId) {
        self.excuse(id).entry(id.clone()).or_default().doubted = true;
    }

    /// A check says what is true.
    pub fn checked(&self, id: &InstanceId) {
        if let Some(away) = locked(&self.away).get_mut(id) {
            away.doubted = false;
        }
    }

    /// Services with an instance that was taken away and is not yet back. One that is gone, or that its machine
    /// has heard is not to have its requests any more, takes no part in any hand-over to come.
    fn services_with_some_away(&self, world: &World) -> BTreeSet<String> {
        let mut all = locked(&self.away);
        all.retain(|id, away| {
            let here = |machine: &&Arc<Machine>| machine.workloads.instances().iter().any(|i| &i.instance_id == id);
            let Some(machine) = world.machines.iter().find(here) else { return false };
            let waits = away.asked && machine.is_to_ask(id) && !machine.asked().contains(id);
            away.doubted || waits || !self.is_well(world, machine, id)
        });
        let known = locked(&self.instances);
        all.keys().filter_map(|id| known.get(id).map(|known| known.service.clone())).collect()
    }

    /// Services of machines that could not keep a document and said that they go by it: others may have let go of
    /// theirs for that, and a machine that dies now goes by the document before.
    fn services_that_may_go_back(&self, world: &World) -> BTreeSet<String> {
        let machines = world.machines.iter().filter(|machine| !machine.holds_what_it_said());
        let instances = machines.flat_map(|machine| machine.workloads.instances());
        let known = locked(&self.instances);
        instances.filter_map(|i| known.get(&i.instance_id).map(|known| known.service.clone())).collect()
    }

    pub fn routes_refused(&self, machine: &Machine) {
        *locked(&self.refusals).entry(machine.name).or_default() += 1;
    }

    pub fn routes_applied(&self, machine: &Machine) {
        locked(&self.refusals).remove(machine.name);
    }

    /// Before an instance is asked to stop: nobody may want it, or still send it requests.
    pub fn about_to_stop(&self, world: &World, machine: &Machine, id: &InstanceId) {
        self.must_be_unwanted(world, machine, id, "stops");
        let hopeless = locked(&self.refusals).get(machine.name).is_some_and(|n| *n >= REFUSALS_BEFORE_STOP);
        let Some(config) = machine.gateway.config().filter(|_| !hopeless) else { return };
        let routed = config.services.iter().flat_map(|s| &s.upstreams).any(|u| &u.instance_id == id && !u.draining);
        if routed && self.is_well(world, machine, id) {
            let what = self.name_of(id);
            world.story.never(format_args!("{} stops {what} while its gateway still sends it requests", machine.name));
        }
    }

    /// An instance that every document says should run, as the revision that it is, is nobody's to end.
    fn must_be_unwanted(&self, world: &World, machine: &Machine, id: &InstanceId, verb: &str) {
        let here = machine.workloads.instances();
        let Some(instance) = here.iter().find(|i| &i.instance_id == id) else { return };
        if machine.every_document_wants(id, Some(&instance.revision_id)) {
            let (name, what) = (machine.name, self.name_of(id));
            world.story.never(format_args!("{name} {verb} {what}, which its desired state says should run"));
        }
    }

    /// Before an instance is removed. Keeps the lines of its log, which goes with it.
    pub fn about_to_remove(&self, world: &World, machine: &Machine, id: &InstanceId) {
        self.must_be_unwanted(world, machine, id, "removes");
        let source = LogSource::Run { instance_id: id.clone() };
        let lines = machine.workloads.log_lines(&source);
        if !lines.is_empty() {
            self.promises.log_goes(source, lines);
        }
    }

    /// After every change: how many serve, and whether anything runs twice.
    pub fn look(&self, world: &World, cause: &str) {
        let passed_ms = world.time.passed_ms();
        let mut serving: BTreeMap<String, Serving> = BTreeMap::new();
        let seen = world.seen.borrow();
        let mut fragile = BTreeSet::new();
        let mut running: BTreeMap<InstanceId, &str> = BTreeMap::new();
        for machine in &world.machines {
            let instances = machine.workloads.instances();
            for instance in instances.iter().filter(|i| i.state == InstanceState::Running) {
                let id = &instance.instance_id;
                if let Some(other) = running.insert(id.clone(), machine.name) {
                    let what = self.name_of(id);
                    world.story.never(format_args!("{what} runs on {other} and on {}", machine.name));
                }
                if let Some(known) = locked(&self.instances).get(id).filter(|known| known.check == "breaks") {
                    fragile.insert(known.service.clone());
                }
            }
            let Some(config) = machine.gateway.config() else { continue };
            let is_up_to_date = machine.is_up_to_date(&seen.generations);
            for service in &config.services {
                for upstream in service.upstreams.iter().filter(|u| !u.draining) {
                    let id = &upstream.instance_id;
                    let runs = instances.iter().any(|i| &i.instance_id == id && i.state == InstanceState::Running);
                    if runs && self.check_says(id, passed_ms) {
                        let serving = serving.entry(service.name.to_string()).or_default();
                        serving.now += 1;
                        serving.lasting += u32::from(is_up_to_date && !machine.is_to_let_go_of(id));
                    }
                }
            }
        }
        let mut some_away = self.services_with_some_away(world);
        some_away.extend(self.services_that_may_go_back(world));
        for (name, truth) in locked(&self.services).iter_mut() {
            let Serving { now: serve, lasting } = serving.get(name).copied().unwrap_or_default();
            if fragile.contains(name) || some_away.contains(name) {
                truth.floor = None;
            } else if truth.floor.is_some_and(|floor| serve < floor) {
                let floor = truth.floor.unwrap_or(0);
                world.story.never(format_args!("{serve} of {floor} instances of {name} serve after {cause}"));
                truth.floor = None;
            } else if truth.wanted > 0 && lasting >= truth.wanted {
                truth.floor = Some(truth.wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests;
