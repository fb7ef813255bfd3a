//! Which documents are acted on.

use crate::world::{RunningAgent, Service, World, document};
use agent::drivers::fake::FakeMachine;
use api::desired::DesiredState;

fn key() -> wire::SigningKey {
    wire::SigningKey::from_base64(&wire::SigningKey::generate()).unwrap()
}

async fn running() -> (World, RunningAgent, DesiredState) {
    let world = World::new().await;
    let agent = world.agent().await;
    let good = document(5, &[Service::new("web", 1)]);
    world.apply(&good).await;
    (world, agent, good)
}

/// The document is refused with these words, what runs goes on, and a good one ends the matter.
async fn check_refused(world: &World, reason: &str) {
    let observed = world.seen("a refusal", |o| o.agent.refused.is_some()).await;
    let refused = observed.agent.refused.clone().unwrap();
    assert!(refused.contains(reason), "{refused}");
    assert_eq!((observed.generation, observed.instances.len()), (5, 1), "the document before stays in force");
    world.apply(&document(9, &[Service::new("web", 1)])).await;
    world.seen("no refusal any more", |o| o.agent.refused.is_none()).await;
    let events = world.control_plane.events();
    let said = events.iter().filter(|e| e.message.contains("was refused")).count();
    assert_eq!(said, 1, "said once, not at every try");
}

#[tokio::test]
async fn a_document_that_was_altered_is_refused() {
    let (world, agent, _) = running().await;
    let mut signed = key().sign(&document(6, &[]));
    signed.document = signed.document.replace("local", "other");
    world.control_plane.publish_signed(signed);
    check_refused(&world, "does not have the hash").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_document_of_a_foreign_key_is_refused() {
    let (world, agent, _) = running().await;
    world.control_plane.publish_signed(key().sign(&document(6, &[])));
    check_refused(&world, "not signed by the control plane that this machine joined").await;
    agent.stop().await;
}

#[tokio::test]
async fn an_older_document_is_refused_even_if_it_is_genuine() {
    let (world, agent, _) = running().await;
    world.control_plane.publish(&document(4, &[]));
    check_refused(&world, "offers generation 4, but this machine accepted 5 before").await;
    agent.stop().await;
}

#[tokio::test]
async fn a_document_for_another_server_is_refused() {
    let (world, agent, _) = running().await;
    let mut other = document(6, &[]);
    other.server_id = format!("srv_{:032x}", 2).parse().unwrap();
    world.control_plane.publish(&other);
    check_refused(&world, "this machine is srv_").await;
    agent.stop().await;
}

#[tokio::test]
async fn after_a_reboot_everything_starts_again_without_a_control_plane() {
    let (mut world, agent, good) = running().await;
    agent.kill().await;
    world.control_plane.set_down(true);
    // A reboot: no process is left. The ledger and the disk are.
    world.machine = FakeMachine::default();
    world.gateway.die();
    let agent = world.agent().await;
    let begun = std::time::Instant::now();
    while world.machine.starts() == 0 || world.gateway.applied() < 2 {
        assert!(begun.elapsed().as_secs() < 20, "it did not start from the ledger");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    world.control_plane.set_down(false);
    world.applied(&good).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_kept_document_that_was_tampered_with_is_not_acted_on() {
    let (mut world, agent, _) = running().await;
    agent.stop().await;
    let forged = key().sign(&document(7, &[]));
    let ledger = agent::ledger::Ledger::open(&world.ledger_path()).await.unwrap().ledger;
    ledger.desired_accept(&forged, 0).await.unwrap();
    ledger.close().await;
    world.control_plane.publish_signed(forged);
    world.machine = world.machine.clone();
    let agent = world.agent().await;
    let observed = world.seen("the refusal", |o| o.agent.refused.is_some()).await;
    assert!(observed.agent.refused.unwrap().contains("not signed by"));
    assert_eq!(observed.instances.len(), 1, "nothing is stopped on the word of a forged document");
    agent.stop().await;
}
