//! What a machine's plan never does and always does, whatever the machine looks like.

use crate::host_worlds::{self, HostWorld, NOW_MS, host_world};
use crate::machine::{Fate, Luck, Machine};
use crate::samples::{cases, id};
use api::desired::{InstanceDesired, InstanceIntent, ServiceDesired, Traffic};
use api::ids::InstanceId;
use api::observed::{InstanceState, PreparationState};
use plan::host::{Change, HostPlan, StopReason, Subject};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn wanted_of<'a>(world: &'a HostWorld, id: &InstanceId) -> Option<(&'a ServiceDesired, &'a InstanceDesired)> {
    let mut services = world.desired.services().map(|(_, service)| service);
    services.find_map(|s| s.instances.iter().find(|i| &i.instance_id == id).map(|i| (s, i)))
}

fn instance_of(change: &Change) -> Option<&InstanceId> {
    match change {
        Change::StopInstance { instance_id, .. }
        | Change::RemoveInstance { instance_id }
        | Change::StartInstance { instance_id, .. } => Some(instance_id),
        Change::Prepare { .. } | Change::ApplyConfig { .. } => None,
    }
}

fn up(state: InstanceState) -> bool {
    matches!(state, InstanceState::Running | InstanceState::Healthy | InstanceState::Unhealthy)
}

/// Every difference between wanted and seen, as the words that a change or a reason about it may use.
/// Written without looking at the planner: this is what "as desired" means.
fn differences(world: &HostWorld) -> Vec<Difference> {
    let mut found = Vec::new();
    for (_, service) in world.desired.services() {
        for wanted in &service.instances {
            let seen = world.seen(&wanted.instance_id);
            let state = seen.map_or(InstanceState::Absent, |seen| seen.state);
            let right = seen.is_some_and(|seen| seen.revision_id == wanted.revision_id);
            let unprepared =
                world.prepared(&wanted.revision_id).is_none_or(|prepared| prepared.state != PreparationState::Ready);
            let as_desired = match wanted.intent {
                InstanceIntent::Run => up(state) && right,
                InstanceIntent::Stop if state == InstanceState::Absent && wanted.traffic == Traffic::Candidate => {
                    !unprepared && service.revision(&wanted.revision_id).is_some()
                }
                InstanceIntent::Stop => matches!(state, InstanceState::Absent | InstanceState::Exited),
            };
            if !as_desired {
                found.push(Difference::Wanted(Box::new((service.clone(), wanted.clone()))));
            }
        }
    }
    for seen in &world.instances {
        if wanted_of(world, &seen.instance_id).is_none() && seen.state != InstanceState::Absent {
            found.push(Difference::Orphan(seen.instance_id.clone()));
        }
    }
    for config in &world.configs {
        if config.live_digest.as_ref() != Some(&config.desired_digest) {
            found.push(Difference::Config(config.kind));
        }
    }
    found
}

#[derive(Debug)]
enum Difference {
    Wanted(Box<(ServiceDesired, InstanceDesired)>),
    Orphan(InstanceId),
    Config(plan::host::ConfigKind),
}

impl Difference {
    fn is_answered(&self, plan: &HostPlan) -> bool {
        let reason = |subject: String| plan.blocked.iter().any(|b| b.subject == subject && !b.reason.is_empty());
        let change = |id: &InstanceId| plan.changes.iter().any(|change| instance_of(change) == Some(id));
        match self {
            Self::Wanted(both) => {
                let (service, wanted) = both.as_ref();
                change(&wanted.instance_id)
                    || plan
                        .changes
                        .iter()
                        .any(|c| matches!(c, Change::Prepare { revision_id, .. } if revision_id == &wanted.revision_id))
                    || reason(format!("service {}", service.name))
                    || reason(format!("instance {}", wanted.instance_id.short()))
            }
            Self::Orphan(id) => change(id) || reason(format!("instance {}", id.short())),
            Self::Config(kind) => {
                plan.changes.iter().any(|c| matches!(c, Change::ApplyConfig { kind: k, .. } if k == kind))
                    || reason(kind.as_str().to_owned())
            }
        }
    }
}

fn rank(change: &Change) -> u32 {
    match change {
        Change::Prepare { .. } => 0,
        Change::StopInstance { reason: StopReason::Orphan | StopReason::Asked, .. } => 1,
        Change::StartInstance { .. } => 2,
        Change::StopInstance { reason: StopReason::WrongRevision, .. } => 3,
        // Of an orphan with the stops, of a wrong revision with the replacements.
        Change::RemoveInstance { .. } => 1,
        Change::ApplyConfig { .. } => 4,
    }
}

proptest! {
    #![proptest_config(cases(700))]

    #[test]
    fn only_what_is_ours_is_touched_and_only_for_a_reason_that_holds(world in host_world()) {
        for change in world.plan().changes {
            match &change {
                Change::StopInstance { instance_id, reason } => {
                    let seen = world.seen(instance_id);
                    prop_assert!(seen.is_some_and(|s| s.state != InstanceState::Exited && !s.stopping), "{change:?}");
                    let wanted = wanted_of(&world, instance_id).map(|(_, wanted)| wanted);
                    let holds = match reason {
                        StopReason::Orphan => wanted.is_none(),
                        StopReason::Asked => wanted.is_some_and(|w| w.intent == InstanceIntent::Stop),
                        StopReason::WrongRevision => {
                            wanted.is_some_and(|w| Some(&w.revision_id) != seen.map(|s| &s.revision_id))
                        }
                    };
                    prop_assert!(holds, "{change:?}");
                }
                Change::RemoveInstance { instance_id } => {
                    let seen = world.seen(instance_id);
                    prop_assert!(seen.is_some_and(|s| s.state == InstanceState::Exited), "{change:?}");
                    let wanted = wanted_of(&world, instance_id).map(|(_, wanted)| &wanted.revision_id);
                    prop_assert!(wanted != seen.map(|s| &s.revision_id), "what is wanted is removed: {change:?}");
                }
                Change::StartInstance { instance_id, revision_id, service_id } => {
                    let wanted = wanted_of(&world, instance_id);
                    prop_assert!(wanted.is_some_and(|(service, wanted)| {
                        wanted.intent == InstanceIntent::Run
                            && &wanted.revision_id == revision_id
                            && &service.service_id == service_id
                            && service.revision(revision_id).is_some()
                    }), "{change:?}");
                }
                Change::Prepare { service_id, revision_id, .. } => {
                    let mut services = world.desired.services().map(|(_, service)| service);
                    let service = services.find(|s| &s.service_id == service_id);
                    prop_assert!(service.is_some_and(|s| s.revision(revision_id).is_some()), "{change:?}");
                }
                Change::ApplyConfig { kind, digest } => {
                    let config = world.configs.iter().find(|config| &config.kind == kind);
                    prop_assert!(config.is_some_and(|c| &c.desired_digest == digest && c.live_digest.as_ref() != Some(digest)));
                }
            }
        }
        let unverified = world.plan_for(None);
        prop_assert!(unverified.changes.is_empty() && !unverified.blocked.is_empty(), "{unverified:?}");
    }

    #[test]
    fn nothing_is_stopped_while_the_gateway_sends_it_requests(world in host_world()) {
        for change in world.plan().changes {
            if let Change::StopInstance { instance_id, .. } = change {
                let routed = world.gateway_active.contains(&instance_id);
                prop_assert!(!routed || world.routes_live() || world.routes_given_up(), "{instance_id} is stopped");
            }
        }
    }

    #[test]
    fn nothing_is_started_twice_or_before_its_release_is_ready(world in host_world()) {
        for change in world.plan().changes {
            if let Change::StartInstance { instance_id, revision_id, .. } = change {
                let state = world.seen(&instance_id).map_or(InstanceState::Absent, |seen| seen.state);
                prop_assert!(matches!(state, InstanceState::Absent | InstanceState::Exited), "{instance_id} is {state:?}");
                let ready = world.prepared(&revision_id).is_some_and(|p| p.state == PreparationState::Ready);
                prop_assert!(ready, "{instance_id} is started though {revision_id} is not ready");
            }
        }
    }

    #[test]
    fn what_failed_is_not_tried_again_before_its_time(world in host_world()) {
        for change in world.plan().changes {
            let subject = match &change {
                Change::StartInstance { instance_id, .. } => Subject::Instance(instance_id.clone()),
                Change::Prepare { revision_id, .. } => Subject::Preparation(revision_id.clone()),
                Change::ApplyConfig { kind, .. } => Subject::Config(*kind),
                Change::StopInstance { .. } | Change::RemoveInstance { .. } => continue,
            };
            prop_assert!(!world.backs_off(&subject), "{change:?}");
        }
    }

    #[test]
    fn every_difference_of_a_machine_has_a_change_or_a_reason(world in host_world()) {
        let plan = world.plan();
        let differences = differences(&world);
        for difference in &differences {
            prop_assert!(difference.is_answered(&plan), "{difference:?} has neither in {plan:?}");
        }
        prop_assert_eq!(differences.is_empty(), plan.is_empty(), "{:?}", plan);
        for blocked in &plan.blocked {
            prop_assert!(!blocked.reason.trim().is_empty() && blocked.retry_at_ms.is_none_or(|at| at > NOW_MS));
        }
    }

    #[test]
    fn each_thing_is_changed_once_and_in_the_order_of_the_loop(world in host_world()) {
        let plan = world.plan();
        for (index, change) in plan.changes.iter().enumerate() {
            prop_assert!(!plan.changes[..index].contains(change), "twice: {change:?}");
            let same = |other: &&Change| instance_of(other).is_some() && instance_of(other) == instance_of(change);
            prop_assert!(plan.changes[..index].iter().find(same).is_none(), "two changes of one: {change:?}");
        }
        let ranks: Vec<u32> =
            plan.changes.iter().filter(|c| !matches!(c, Change::RemoveInstance { .. })).map(rank).collect();
        prop_assert!(ranks.is_sorted(), "{:?}", plan.changes);
    }

    #[test]
    fn the_order_of_what_is_seen_does_not_change_the_plan_of_a_machine(
        (world, other) in host_world().prop_flat_map(host_worlds::shuffled)
    ) {
        prop_assert_eq!(world.plan(), other.plan());
    }

    #[test]
    fn neither_generation_nor_time_of_issue_change_the_plan_of_a_machine(world in host_world(), generation: u64, at: i64) {
        let mut other = world.clone();
        other.desired.generation = generation;
        other.desired.issued_at_ms = at;
        prop_assert_eq!(world.plan(), other.plan());
    }

    #[test]
    fn a_service_is_planned_as_if_it_were_alone_on_its_machine(world in host_world(), chosen in 1..=host_worlds::SERVICES) {
        let service = id("svc", chosen);
        let mut alone = world.clone();
        let own = |id: &InstanceId| wanted_of(&world, id).is_some_and(|(s, _)| s.service_id == service);
        alone.desired.stacks[0].services.retain(|s| s.service_id == service);
        alone.instances.retain(|seen| own(&seen.instance_id));
        let about = |plan: HostPlan| -> Vec<Change> {
            plan.changes.into_iter().filter(|change| instance_of(change).is_some_and(own)).collect()
        };
        prop_assert_eq!(about(world.plan()), about(alone.plan()));
    }
}

/// Passes that any machine of the generator needs at most, with time for builds, starts and backoffs.
const PASSES: usize = 250;

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Healthy),
        1 => Just(Fate::NeverHealthy),
        1 => Just(Fate::BuildFails),
        1 => Just(Fate::FlakyBuild)
    ]
}

proptest! {
    #![proptest_config(cases(150))]

    /// Builds fail, starts fail, the gateway refuses for a while; then the faults end.
    #[test]
    fn a_machine_in_any_state_reaches_its_desired_state_and_stays_there(
        world in host_world(),
        fates in prop::collection::vec(fate(), 2 * host_worlds::SERVICES as usize),
        seed: u64,
        refusing in 0..20_usize,
        start_fails_one_in in prop_oneof![Just(0), 2..5_u64],
    ) {
        let mut luck = Luck::new(seed);
        let mut machine = machine_of(&world, &fates);
        machine.start_fails_one_in = start_fails_one_in;
        let mut quiet = 0;
        for pass in 0..PASSES {
            machine.gateway_works = pass >= refusing;
            if pass == PASSES / 4 {
                machine.start_fails_one_in = 0;
            }
            let plan = machine.pass(&mut luck, 1_000);
            let is_final = |reason: &str| reason.contains("could not be prepared") || reason.contains("does not hold");
            let settled = plan.changes.is_empty() && plan.blocked.iter().all(|b| is_final(&b.reason));
            prop_assert!(settled || quiet < 5, "it moved after it was settled: {plan:?}\n{}", machine.told());
            quiet = if settled && pass > PASSES / 4 { quiet + 1 } else { 0 };
        }
        prop_assert!(quiet >= 5, "not settled after {PASSES} passes: {:?}\n{}", machine.plan(), machine.told());
        check_settled(&machine)?;
    }
}

fn machine_of(world: &HostWorld, fates: &[Fate]) -> Machine {
    let mut machine = Machine::new(NOW_MS);
    machine.desired = Some(world.desired.clone());
    machine.fates = fates
        .iter()
        .enumerate()
        .map(|(index, fate)| (id("rev", 10 * (index as u64 / 2 + 1) + index as u64 % 2 + 1), *fate))
        .collect();
    let seen = world.instances.iter().filter(|seen| seen.state != InstanceState::Absent);
    machine.instances = seen
        .map(|seen| {
            let mut seen = seen.clone();
            // A process that stops is between two states.
            if seen.stopping {
                seen.state = InstanceState::Transient;
            }
            (seen.instance_id.clone(), seen)
        })
        .collect();
    machine.preparations = world.preparations.iter().map(|p| (p.revision_id.clone(), p.clone())).collect();
    machine.failures = world.failures.iter().map(|f| (f.subject.clone(), f.clone())).collect::<BTreeMap<_, _>>();
    // Its gateway still runs what an earlier document said: everything active.
    let mut before = world.desired.clone();
    for instance in before.stacks[0].services.iter_mut().flat_map(|service| &mut service.instances) {
        instance.traffic = Traffic::Active;
        instance.intent = InstanceIntent::Run;
    }
    machine.gateway = Some(plan::gateway::render(&before, &world.instances, &[], &Default::default()));
    machine
}

fn check_settled(machine: &Machine) -> Result<(), TestCaseError> {
    let desired = machine.desired.as_ref().unwrap();
    let mut runs = 0;
    for (_, service) in desired.services() {
        for wanted in &service.instances {
            let seen = machine.instances.get(&wanted.instance_id);
            let alive = seen.filter(|seen| seen.state != InstanceState::Exited);
            match wanted.intent {
                InstanceIntent::Stop => prop_assert!(alive.is_none(), "{seen:?} should have stopped"),
                InstanceIntent::Run => {
                    let known = service.revision(&wanted.revision_id).is_some();
                    let ready = machine.preparations.get(&wanted.revision_id);
                    let can = known && ready.is_some_and(|p| p.state == PreparationState::Ready);
                    if let Some(alive) = alive {
                        prop_assert_eq!(&alive.revision_id, &wanted.revision_id);
                        prop_assert!(up(alive.state), "{alive:?}");
                        runs += 1;
                    } else {
                        prop_assert!(!can, "{} does not run, and nothing keeps it from it", wanted.instance_id);
                    }
                }
            }
        }
    }
    prop_assert_eq!(runs, machine.alive().count(), "something runs that nothing wants");
    Ok(())
}
