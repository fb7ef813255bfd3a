//! `…/restart`, `/stop`, `/start`, `/scale` and the lists of a service.

use crate::harness::World;
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::desired::DesiredState;
use api::services::{Revision, ServiceCondition, ServiceIntent};
use serde_json::json;

const WEB: &str = "/api/v1/stacks/shop/services/web";

async fn running() -> (World, crate::fake_agent::FakeAgent) {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("[services.web.rollout]\ndrain = \"1s\"\n")).await;
    (world, agent)
}

#[tokio::test]
async fn a_stopped_service_has_no_instances_until_it_is_started_again() {
    let (world, agent) = running().await;
    let stop: Deployment = world.post(&format!("{WEB}/stop"), json!({})).await.json();
    assert_eq!(stop.kind, DeploymentKind::Stop);
    world.wait_for(&stop, Stage::Stopped).await;
    let view = world.service_until("shop", "web", |v| v.instances.is_empty()).await;
    assert_eq!((view.intent, view.condition), (ServiceIntent::Stop, ServiceCondition::Stopped));
    let empty = |s: &DesiredState| s.stacks.iter().all(|s| s.services.iter().all(|s| s.instances.is_empty()));
    let desired = agent.desired_until(empty).await;
    let shown = &desired.stacks[0].services[0];
    assert_eq!(shown.routes.len(), 1, "its route leads to a page that says that it is stopped");
    world.post(&format!("{WEB}/stop"), json!({})).await.error(409);

    let start: Deployment = world.post(&format!("{WEB}/start"), json!({})).await.json();
    world.wait_for(&start, Stage::Running).await;
    let view = world.service("shop", "web").await;
    assert_eq!((view.intent, view.condition), (ServiceIntent::Run, ServiceCondition::Running));
    world.post(&format!("{WEB}/start"), json!({})).await.error(409);
}

#[tokio::test]
async fn a_restart_puts_new_instances_of_the_same_revision_in_place_of_the_old() {
    let (world, _agent) = running().await;
    let before = world.service("shop", "web").await;
    let restart: Deployment = world.post(&format!("{WEB}/restart"), json!({})).await.json();
    world.wait_for(&restart, Stage::Running).await;
    let after = world.service_until("shop", "web", |v| v.instances.len() == 1).await;
    assert_ne!(before.instances[0].id, after.instances[0].id);
    assert_eq!(before.current, after.current);
}

#[tokio::test]
async fn scaling_changes_the_number_of_instances_and_survives_the_next_deploy() {
    let (world, _agent) = running().await;
    let up: Deployment = world.put(&format!("{WEB}/scale"), json!({"replicas": 3})).await.json();
    world.wait_for(&up, Stage::Running).await;
    let view = world.service("shop", "web").await;
    assert_eq!((view.replicas, view.instances.len()), (3, 3));
    let ordinals: Vec<u32> = view.instances.iter().map(|i| i.ordinal).collect();
    assert_eq!(ordinals, [0, 1, 2]);

    let repository = crate::harness::Repository { path: world.directory.path().join("repositories/shop") };
    repository.commit("second");
    world.deploy_and_wait(&repository.manifest("")).await;
    assert_eq!(world.service("shop", "web").await.replicas, 3);

    let down: Deployment = world.put(&format!("{WEB}/scale"), json!({"replicas": 1})).await.json();
    world.wait_for(&down, Stage::Running).await;
    world.service_until("shop", "web", |v| v.instances.iter().filter(|i| i.revision_number == 2).count() == 1).await;
    for (replicas, part) in [(0, "stop"), (101, "100")] {
        let error = world.put(&format!("{WEB}/scale"), json!({"replicas": replicas})).await.error(400);
        assert!(format!("{error:?}").contains(part), "{error:?}");
    }
}

#[tokio::test]
async fn a_service_on_a_fixed_port_cannot_be_scaled_beyond_one() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("port = 3000")).await;
    let error = world.put(&format!("{WEB}/scale"), json!({"replicas": 2})).await.error(400);
    assert!(error.message.contains("3000"), "{error:?}");
}

#[tokio::test]
async fn deployments_and_revisions_are_listed_newest_first_without_values_of_variables() {
    let (world, _agent) = running().await;
    let repository = crate::harness::Repository { path: world.directory.path().join("repositories/shop") };
    let secret = "[services.web.env]\nPASSWORD = \"hunter2\"\n";
    world.deploy_and_wait(&repository.manifest(secret)).await;
    let deployments: Vec<Deployment> = world.get(&format!("{WEB}/deployments")).await.json();
    assert_eq!(deployments.iter().map(|d| d.revision_number).collect::<Vec<_>>(), [2, 1]);
    let one: Vec<Deployment> = world.get(&format!("{WEB}/deployments?limit=1")).await.json();
    assert_eq!(one.len(), 1);
    let answer = world.get(&format!("{WEB}/revisions")).await;
    assert!(answer.text.contains("PASSWORD") && !answer.text.contains("hunter2"), "{}", answer.text);
    let revisions: Vec<Revision> = answer.json();
    assert_eq!(revisions.iter().map(|r| r.number).collect::<Vec<_>>(), [2, 1]);
    let plan = world.plan(&repository.manifest(&secret.replace("hunter2", "hunter3"))).await;
    assert!(plan.text.contains("env.PASSWORD") && !plan.text.contains("hunter"), "{}", plan.text);
    let stacks = world.get("/api/v1/stacks").await.text;
    assert!(!stacks.contains("hunter2"), "{stacks}");
}

#[tokio::test]
async fn a_stack_or_service_that_is_not_there_is_not_found_by_name_or_id() {
    let (world, _agent) = running().await;
    let view = world.service("shop", "web").await;
    world
        .get(&format!("/api/v1/stacks/{}/services/{}", view.stack_id, view.id))
        .await
        .json::<api::services::ServiceView>();
    for path in [
        "/api/v1/stacks/nope",
        "/api/v1/stacks/shop/services/nope",
        "/api/v1/stacks/..%2F/services/web",
        "/api/v1/servers/nope",
    ] {
        world.get(path).await.error(404);
    }
    world.post("/api/v1/stacks/shop/services/nope/restart", json!({})).await.error(404);
}

#[tokio::test]
async fn the_services_of_an_unreachable_server_are_unknown_rather_than_guessed() {
    let world = World::with(|options| options.poll_interval_ms = 300).await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    agent.behave(|script| script.silent = true);
    world.service_until("shop", "web", |v| v.condition == ServiceCondition::Unknown).await;
    agent.behave(|script| script.silent = false);
    world.service_until("shop", "web", |v| v.condition == ServiceCondition::Running).await;
}
