//! What the control plane hears, and how often.

use crate::world::{Service, World, document};
use api::events::EventKind;
use std::collections::BTreeMap;
use std::time::Duration;

#[tokio::test]
async fn an_event_is_sent_until_it_is_acknowledged_and_never_after() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.control_plane.lose_answers(3);
    world.apply(&document(1, &[Service::new("web", 1)])).await;
    // An agent that is killed and started again must not send acknowledged events again.
    tokio::time::sleep(Duration::from_millis(300)).await;
    agent.kill().await;
    let agent = world.agent().await;
    world.apply(&document(2, &[Service::new("web", 1), Service::new("api", 2)])).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    agent.stop().await;

    let mut times: BTreeMap<_, u32> = BTreeMap::new();
    for id in world.control_plane.deliveries() {
        *times.entry(id).or_default() += 1;
    }
    assert!(times.values().any(|n| *n > 1), "a lost answer makes its events be sent again");
    assert!(times.values().all(|n| *n <= 4), "three lost answers explain at most four deliveries: {times:?}");
    let events = world.control_plane.events();
    let count = |kind| events.iter().filter(|e| e.kind == kind).count();
    assert_eq!(count(EventKind::InstanceStarted), 2, "each instance started once");
    assert_eq!(count(EventKind::InstanceAdopted), 1, "and one was adopted by the second agent");
    assert_eq!(count(EventKind::BuildSucceeded), 2);
    let deployments =
        events.iter().filter(|e| e.kind == EventKind::InstanceStarted).all(|e| e.cause.deployment_id.is_some());
    assert!(deployments, "an event names the deployment that caused it");
}

#[tokio::test]
async fn without_news_there_is_one_heartbeat_per_poll_interval_and_facts_are_sent_once() {
    let world = World::new().await;
    let agent = world.agent().await;
    world.apply(&document(1, &[Service::new("web", 1)])).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = world.control_plane.report_count();
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let heartbeats = world.control_plane.report_count() - before;
    assert!((2..=5).contains(&heartbeats), "{heartbeats} reports in 3.5 s at an interval of 1 s");
    assert_eq!(world.control_plane.facts_count(), 1);
    assert_eq!(world.control_plane.problems(), Vec::<String>::new(), "every request was signed with a fresh nonce");
    agent.stop().await;
}
