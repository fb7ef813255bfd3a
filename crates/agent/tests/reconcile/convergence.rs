//! From a document to a machine that is as it says.

use crate::world::{Service, World, document, live, rarely_polled, rendered};
use agent::drivers::Workloads;
use agent::drivers::fake::{FakeDriver, Verb};
use api::events::EventKind;
use api::observed::{InstanceState, PreparationState, StackCondition};
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_document_becomes_running_services_routes_and_names() {
    let world = World::new().await;
    let agent = world.agent().await;
    let web = Service { instances: vec![(1, "run", "active"), (2, "run", "active")], ..Service::new("web", 1) };
    let desired = document(1, &[web.clone(), Service::new("api", 2)]);
    let observed = world.apply(&desired).await;
    assert_eq!(observed.instances.iter().filter(|i| i.state == InstanceState::Healthy).count(), 3);
    assert_eq!(observed.gateway.active.len(), 3);
    assert_eq!(live(&world.gateway).await, Some(wire::digest_of(&rendered(&world, &desired).await)));
    assert!(world.hosts().contains("127.0.0.1 web.svc.internal\n"), "{}", world.hosts());
    assert_eq!(observed.dns.names, ["api.svc.internal", "web.svc.internal"]);

    let observed = world.apply(&document(2, &[])).await;
    assert_eq!(observed.instances, vec![]);
    assert_eq!(world.hosts(), "127.0.0.1 localhost\n");
    assert_eq!(world.control_plane.problems(), Vec::<String>::new());
    agent.stop().await;
}

#[tokio::test]
async fn news_reach_the_machine_without_waiting_for_its_next_look() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.apply(&rarely_polled(document(1, &[Service::new("web", 1)]))).await;
    let quick = Service { check: "true", build: None, ..Service::new("api", 2) };
    world.control_plane.publish(&rarely_polled(document(2, &[Service::new("web", 1), quick.clone()])));
    let started = quick.instance_id(1);
    world.seen("the new instance", |o| o.instances.iter().any(|i| i.instance_id.as_str() == started)).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_service_that_fails_in_any_way_holds_up_no_other() {
    let world = World::new().await;
    let agent = world.agent().await;
    let services = [
        Service { build: Some("fail"), ..Service::new("broken", 1) },
        Service { build: Some("hang"), ..Service::new("hanging", 2) },
        Service { run: "exit", ..Service::new("crashing", 3) },
        Service { check: "fail", ..Service::new("unwell", 4) },
        Service::new("zebra", 5),
    ];
    world.control_plane.publish(&document(1, &services));
    let zebra = services[4].instance_id(1);
    let observed = world
        .seen("zebra healthy and routed beside the failures", |o| {
            let well = o.instances.iter().any(|i| i.instance_id.as_str() == zebra && i.state == InstanceState::Healthy);
            well && o.gateway.active.iter().any(|i| i.as_str() == zebra) && o.instances.iter().any(|i| i.crash_looping)
        })
        .await;
    let problems = observed.stacks[0].problems.join("\n");
    assert_eq!(observed.stacks[0].condition, StackCondition::Degraded);
    assert!(
        problems.contains("broken could not be prepared: the build command `fail` exited with code 1"),
        "{problems}"
    );
    assert!(problems.contains("crashing keeps crashing: its process exited with code 1"), "{problems}");
    let hanging = observed.preparations.iter().find(|p| p.revision_id.as_str() == services[1].revision_id()).unwrap();
    assert_eq!(hanging.state, PreparationState::Working);
    let looping = observed.instances.iter().find(|i| i.crash_looping).unwrap();
    assert!(!looping.log_tail.is_empty(), "what is wrong comes with its last lines");
    agent.stop().await;
}

#[tokio::test]
async fn a_change_that_fails_is_tried_again_and_said_meanwhile() {
    let world = World::new().await;
    world.machine.fail_next(Verb::Start, "no memory is left");
    world.machine.fail_next(Verb::Prepare, "the network is down");
    world.gateway.refuse_next(1);
    let agent = world.agent().await;
    let desired = document(1, &[Service::new("web", 1)]);
    world.control_plane.publish(&desired);
    let seen = world.seen("the failed start", |o| o.instances.iter().any(|i| i.problem.is_some())).await;
    assert_eq!(seen.instances[0].state, InstanceState::Absent);
    assert!(seen.instances[0].problem.as_ref().unwrap().contains("no memory is left"));
    assert!(seen.blocked.iter().any(|b| b.retry_at_ms.is_some()), "{:?}", seen.blocked);
    world.applied(&desired).await;
    let kinds: Vec<EventKind> = world.control_plane.events().iter().map(|e| e.kind).collect();
    assert!(kinds.contains(&EventKind::SyncFailed), "{kinds:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_preparation_that_nothing_needs_any_more_is_cancelled() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.control_plane.publish(&document(1, &[Service { build: Some("hang"), ..Service::new("web", 1) }]));
    world.seen("the build", |o| o.preparations.iter().any(|p| p.state == PreparationState::Working)).await;
    let begun = Instant::now();
    world.apply(&document(2, &[Service { revision: 2, ..Service::new("web", 1) }])).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "the new revision waited for the old build");
    let driver = FakeDriver::new(world.machine.clone());
    let working = driver.preparations().await.into_iter().filter(|p| p.state == PreparationState::Working).count();
    assert_eq!(working, 0);
    agent.stop().await;
}

#[tokio::test]
async fn an_instance_whose_supervisor_was_killed_is_started_again() {
    let world = World::new().await;
    let agent = world.agent().await;
    let web = Service::new("web", 1);
    let desired = document(1, std::slice::from_ref(&web));
    let before = world.apply(&desired).await;
    world.machine.kill_supervisor(&web.instance_id(1).parse().unwrap());
    let after = world
        .seen("another pid", |o| crate::world::is_applied(o, 1) && o.instances[0].pid != before.instances[0].pid)
        .await;
    assert_eq!(after.instances[0].port, before.instances[0].port, "it keeps its port");
    agent.stop().await;
}

#[tokio::test]
async fn a_gateway_that_died_gets_its_routes_again_at_once() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.apply(&rarely_polled(document(1, &[Service::new("web", 1)]))).await;
    world.gateway.die();
    world.seen("the routes again", |o| o.gateway.running && o.gateway.pid == Some(2)).await;
    let kinds: Vec<EventKind> = world.control_plane.events().iter().map(|e| e.kind).collect();
    assert!(kinds.iter().filter(|k| **k == EventKind::GatewayStarted).count() >= 2, "{kinds:?}");
    agent.stop().await;
}

#[tokio::test]
async fn a_stop_that_fails_backs_off_instead_of_being_tried_without_end() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.apply(&document(1, &[Service::new("web", 1)])).await;
    // For the next agent the instance has been up for long.
    agent.stop().await;
    let agent = world.agent().await;
    // A loop that spins uses these up in no time and then succeeds.
    for _ in 0..8 {
        world.machine.fail_next(Verb::Stop, "it does not listen");
    }
    world.control_plane.publish(&document(2, &[]));
    let blocked =
        world.seen("the failed stop", |o| o.blocked.iter().any(|b| b.reason.contains("it does not listen"))).await;
    assert!(blocked.blocked.iter().any(|b| b.retry_at_ms.is_some()));
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(world.control_plane.last_report().unwrap().instances.len(), 1, "the loop spins");
    agent.stop().await;
}
