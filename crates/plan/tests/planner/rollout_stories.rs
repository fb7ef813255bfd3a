//! Whole stories: people ask for things, servers come and go, gateways refuse, and the planners of
//! the control plane and of every machine work on together. What must never be, and where it ends.

use crate::fleet::{Fleet, ROUND_MS, Server};
use crate::machine::{Fate, Luck};
use crate::samples::cases;
use api::deployments::{DeploymentKind, Stage};
use api::desired::{InstanceIntent, Traffic};
use api::services::{PortSpec, ServiceIntent};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Event {
    Deploy(Fate),
    Rollback,
    Restart,
    Scale(u32),
    Stop,
    Start,
    Cancel,
    Offline(usize),
    Online(usize),
    Remove(usize),
    GatewayRefuses(usize),
    GatewayTakes(usize),
    /// A new control plane has its rows, and no report yet.
    ControlPlaneRestarts,
    /// A new agent has its document, and neither probes nor failures.
    AgentRestarts(usize),
    MachineReboots(usize),
    Time,
}

fn fate() -> impl Strategy<Value = Fate> {
    use Fate::*;
    prop_oneof![
        6 => Just(Healthy), 1 => Just(NeverHealthy), 1 => Just(Crashes), 1 => Just(BuildFails), 1 => Just(FlakyBuild), 1 => Just(Breaks)
    ]
}

/// What people do; and, with `faults`, what happens to them.
fn event(faults: bool) -> BoxedStrategy<Event> {
    let people = prop_oneof![
        4 => fate().prop_map(Event::Deploy),
        1 => Just(Event::Rollback),
        1 => Just(Event::Restart),
        1 => (1..4_u32).prop_map(Event::Scale),
        1 => Just(Event::Stop),
        1 => Just(Event::Start),
        1 => Just(Event::Cancel),
        2 => Just(Event::Time),
    ];
    if !faults {
        return people.boxed();
    }
    let faults = prop_oneof![
        (0..3_usize).prop_map(Event::Offline),
        (0..3_usize).prop_map(Event::Online),
        (0..3_usize).prop_map(Event::Remove),
        (0..3_usize).prop_map(Event::GatewayRefuses),
        (0..3_usize).prop_map(Event::GatewayTakes),
        Just(Event::ControlPlaneRestarts),
        (0..3_usize).prop_map(Event::AgentRestarts),
        (0..3_usize).prop_map(Event::MachineReboots),
    ];
    prop_oneof![3 => people, 2 => faults].boxed()
}

fn happen(fleet: &mut Fleet, event: &Event) {
    let fixed = matches!(fleet.port, PortSpec::Fixed { .. });
    let count = fleet.servers.len();
    match (event, fleet.current.clone()) {
        (Event::Deploy(fate), _) => fleet.deploy(*fate),
        (Event::Rollback, Some(current)) => {
            let target = fleet.previous.clone().filter(|previous| previous != &current);
            if let Some(target) = target {
                fleet.intent = ServiceIntent::Run;
                fleet.begin(DeploymentKind::Rollback, target);
            }
        }
        (Event::Restart, Some(current)) if fleet.intent == ServiceIntent::Run => {
            fleet.begin(DeploymentKind::Restart, current);
        }
        (Event::Scale(replicas), Some(current)) if fleet.intent == ServiceIntent::Run && !fixed => {
            let other = fleet.deployment.as_ref().is_some_and(|d| d.stage.in_flight() && d.revision_id != current);
            if !other {
                fleet.replicas = *replicas;
                fleet.begin(DeploymentKind::Scale, current);
            }
        }
        (Event::Stop, current) if fleet.intent == ServiceIntent::Run => {
            let known = current.or(fleet.deployment.as_ref().map(|d| d.revision_id.clone()));
            if let Some(revision) = known {
                fleet.intent = ServiceIntent::Stop;
                fleet.begin(DeploymentKind::Stop, revision);
            }
        }
        (Event::Start, Some(current)) if fleet.intent == ServiceIntent::Stop => {
            fleet.intent = ServiceIntent::Run;
            fleet.begin(DeploymentKind::Start, current);
        }
        (Event::Cancel, _) => fleet.cancel(),
        (Event::Offline(index), _) => {
            fleet.servers[index % count].online = false;
            fleet.tell(format!("server {} is offline", index % count + 1));
        }
        (Event::Online(index), _) => {
            fleet.servers[index % count].online = true;
            fleet.tell(format!("server {} is online", index % count + 1));
        }
        (Event::Remove(index), _) if fleet.servers.iter().filter(|server| server.exists).count() > 1 => {
            fleet.servers[index % count].exists = false;
            fleet.floor = 0;
            fleet.tell(format!("server {} is removed", index % count + 1));
        }
        (Event::GatewayRefuses(index), _) => {
            fleet.servers[index % count].machine.gateway_works = false;
            fleet.tell(format!("the gateway of server {} refuses", index % count + 1));
        }
        (Event::GatewayTakes(index), _) => fleet.servers[index % count].machine.gateway_works = true,
        (Event::ControlPlaneRestarts, _) => {
            fleet.tell("the control plane restarts");
            fleet.servers.iter_mut().for_each(Server::forget_report);
        }
        (Event::AgentRestarts(index), _) => {
            fleet.tell(format!("the agent of server {} restarts", index % count + 1));
            fleet.servers[index % count].machine.restart_agent();
        }
        (Event::MachineReboots(index), _) => fleet.reboot(index % count),
        _ => {}
    }
}

/// One round: ticks until nothing changes, what must always hold, then everybody else.
fn round(fleet: &mut Fleet, luck: &mut Luck) -> Result<bool, TestCaseError> {
    let mut quiet = true;
    for tick in 0.. {
        prop_assert!(tick < 12, "a tick always finds something to change\n{}", fleet.told());
        let plan = fleet.tick();
        if plan.changes.is_empty() {
            let due = plan.wake_at_ms.is_some_and(|at_ms| at_ms <= fleet.now_ms);
            prop_assert!(!due, "it wants to be woken in the past\n{}", fleet.told());
            prop_assert!(!fleet.in_flight() || !plan.blocked.is_empty(), "it waits without a word\n{}", fleet.told());
            break;
        }
        quiet = false;
    }
    let started =
        fleet.rows.iter().filter(|row| row.intent == InstanceIntent::Run).filter(|row| {
            fleet.servers.iter().any(|s| s.exists && row.server_id == crate::samples::id("srv", s.number))
        });
    let started = started.count();
    prop_assert!(
        started <= 2 * fleet.most as usize,
        "{started} instances are to run, though at most {} were asked for\n{}",
        fleet.most,
        fleet.told()
    );
    fleet.round(luck);
    for server in &fleet.servers {
        prop_assert!(!server.shares_a_port(&fleet.port), "two processes on one port\n{}", fleet.told());
    }
    // A current release that breaks by itself is not the planner's doing.
    let broken = fleet.current.as_ref().is_some_and(|current| fleet.fate(current) == Fate::Breaks);
    if broken {
        fleet.floor = 0;
    }
    let serving = fleet.serving();
    prop_assert!(serving >= fleet.floor, "{serving} serve instead of {}\n{}", fleet.floor, fleet.told());
    Ok(quiet)
}

/// Longer than any timeout of the planner, so that what is still then stays so.
const QUIET_ROUNDS: usize = 70;

/// Faults end, and so must everything: within the longest timeouts, then nothing changes any more.
fn settle(fleet: &mut Fleet, luck: &mut Luck) -> Result<(), TestCaseError> {
    for server in &mut fleet.servers {
        server.online = true;
        server.machine.gateway_works = true;
    }
    fleet.tell("all is well from here on");
    let rounds = 300_000 / ROUND_MS;
    let mut quiet = 0;
    for _ in 0..rounds {
        quiet = if round(fleet, luck)? { quiet + 1 } else { 0 };
        if quiet > QUIET_ROUNDS {
            break;
        }
    }
    prop_assert!(quiet > QUIET_ROUNDS, "it still changes\n{}", fleet.told());
    prop_assert!(!fleet.in_flight(), "the deployment never ends\n{}", fleet.told());
    for server in fleet.servers.iter().filter(|server| server.exists) {
        let plan = server.machine.plan();
        prop_assert!(plan.changes.is_empty(), "server {}: {plan:?}\n{}", server.number, fleet.told());
    }
    let wanted = match (&fleet.intent, &fleet.current) {
        (ServiceIntent::Run, Some(_)) => fleet.replicas as usize,
        _ => 0,
    };
    let well = fleet.current.as_ref().is_some_and(|c| matches!(fleet.fate(c), Fate::Healthy | Fate::FlakyBuild));
    // A release that never gets well does not get the traffic of another that it was to go back to.
    let kept = plan::rollout::plan(&fleet.input()).blocked.iter().any(|b| b.reason.contains("another release serves"));
    prop_assert!(!kept || !well, "{}", fleet.told());
    let rows = fleet.rows.len();
    prop_assert!(rows == wanted || kept && rows <= 2 * wanted, "{rows} instances: {:?}\n{}", fleet.rows, fleet.told());
    let processes: usize =
        fleet.servers.iter().filter(|server| server.exists).map(|server| server.machine.alive().count()).sum();
    prop_assert_eq!(processes, rows, "{}", fleet.told());
    if wanted > 0 && well {
        prop_assert!(fleet.rows.iter().all(|row| row.traffic == Traffic::Active), "{}", fleet.told());
        prop_assert!(fleet.rows.iter().all(|row| Some(&row.revision_id) == fleet.current.as_ref()));
    }
    Ok(())
}

fn story(
    events: &[(Event, u64)],
    servers: u64,
    port: PortSpec,
    replicas: u32,
    seed: u64,
) -> Result<Fleet, TestCaseError> {
    let mut luck = Luck::new(seed);
    let mut fleet = Fleet::new(servers, port, replicas);
    for (event, rounds) in events {
        happen(&mut fleet, event);
        for _ in 0..*rounds {
            round(&mut fleet, &mut luck)?;
        }
    }
    settle(&mut fleet, &mut luck)?;
    Ok(fleet)
}

fn events(faults: bool) -> impl Strategy<Value = Vec<(Event, u64)>> {
    // Some follow at once, some when all has settled.
    prop::collection::vec((event(faults), prop_oneof![0..5_u64, 5..40_u64, Just(60)]), 1..9)
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn whatever_people_ask_for_a_service_keeps_serving_and_settles(
        events in events(false), servers in 1..4_u64, replicas in 1..4_u32, seed: u64
    ) {
        story(&events, servers, PortSpec::Injected, replicas, seed)?;
    }

    #[test]
    fn with_servers_and_gateways_that_fail_a_service_keeps_serving_and_settles(
        events in events(true), servers in 1..4_u64, replicas in 1..4_u32, seed: u64
    ) {
        story(&events, servers, PortSpec::Injected, replicas, seed)?;
    }

    #[test]
    fn on_a_fixed_port_two_processes_never_meet_and_the_service_settles(
        events in events(true), servers in 1..3_u64, seed: u64
    ) {
        story(&events, servers, PortSpec::Fixed { port: 3000 }, 1, seed)?;
    }

    #[test]
    fn a_good_release_ends_running_with_all_its_instances(
        before in prop::option::of(fate()), servers in 1..4_u64, replicas in 1..4_u32, seed: u64
    ) {
        let mut events: Vec<(Event, u64)> = before.into_iter().map(|fate| (Event::Deploy(fate), 60)).collect();
        events.push((Event::Deploy(Fate::Healthy), 0));
        let fleet = story(&events, servers, PortSpec::Injected, replicas, seed)?;
        prop_assert_eq!(fleet.deployment.as_ref().map(|d| d.stage), Some(Stage::Running), "{}", fleet.told());
        prop_assert_eq!(fleet.serving(), replicas as usize);
    }
}
