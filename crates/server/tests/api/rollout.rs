//! Deployments on their way, with a machine that plays its part.

use crate::fake_agent::{Behaviour, FakeAgent};
use crate::harness::World;
use api::deployments::{Deployment, Stage};
use api::desired::Traffic;
use api::services::{ServiceCondition, ServiceView};
use std::collections::BTreeMap;
use std::time::Instant;

const BAKE: &str = "[services.web.rollout]\nbake = \"20s\"\nwarm = \"60s\"\ndrain = \"1s\"\nhealthy_within = \"2s\"";

#[tokio::test]
async fn a_deployment_passes_every_stage_and_ends_running_with_an_address() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let began = Instant::now();
    let done = world.deploy_and_wait(&repository.manifest("")).await;
    println!("from deploy to running on a machine that does nothing: {:?}", began.elapsed());
    let stages: Vec<Stage> = done[0].stages.iter().map(|s| s.stage).collect();
    assert_eq!(stages, Stage::PATH);
    assert_eq!(done[0].source_subject, "first");
    let view = world.service_until("shop", "web", |v| v.condition == ServiceCondition::Running).await;
    assert_eq!(view.urls, ["http://127.0.0.1:8080/"]);
    assert_eq!(view.current.unwrap().number, 1);
    assert_eq!(view.instances[0].traffic, Traffic::Active);
    let events = world.get(&format!("/api/v1/events?deployment={}&limit=100", done[0].id)).await;
    let events: Vec<api::events::EventRecord> = events.json();
    assert!(events.iter().all(|e| e.event.cause.deployment_id.as_ref() == Some(&done[0].id)
        || e.event.deployment_id.as_ref() == Some(&done[0].id)));
    assert!(events.iter().any(|e| e.event.cause.request_id.is_some()), "the request is the cause");
}

#[tokio::test]
async fn a_release_that_never_gets_healthy_fails_with_probe_and_log_and_the_old_one_keeps_serving() {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest(BAKE)).await;
    repository.commit("second");
    agent.behave(|script| {
        script.revisions.insert(2, Behaviour::NeverHealthy);
    });
    let deployment = world.deploy_ok(&repository.manifest(BAKE)).await.deployments.remove(0);
    let failed = world.wait_for(&deployment, Stage::Failed).await;
    let failure = failed.failure.unwrap();
    assert!(failure.last_probe.unwrap().message.contains("connection refused"));
    assert_eq!(failure.log_tail, ["listening on 8080"]);
    let view = world.service_until("shop", "web", |v| v.instances.len() == 1).await;
    assert_eq!((view.current.unwrap().number, view.instances[0].traffic), (1, Traffic::Active));
    assert_eq!(view.condition, ServiceCondition::Running);
}

#[tokio::test]
async fn services_deployed_together_are_spread_evenly_over_the_servers() {
    const SERVERS: usize = 3;
    const EACH: usize = 4;
    let world = World::new().await;
    let mut agents = Vec::new();
    for _ in 0..SERVERS {
        agents.push(world.agent().await);
    }
    let url = world.repository("shop").url();
    let service = |n: usize| format!("[services.web-{n}]\ngit = \"{url}\"\nrun = \"serve\"\nroute = \"/{n}\"\n");
    let services: String = (0..SERVERS * EACH).map(service).collect();
    world.deploy_and_wait(&format!("name = \"shop\"\n\n{services}")).await;
    let mut on_server: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..SERVERS * EACH {
        let view = world.service("shop", &format!("web-{n}")).await;
        *on_server.entry(view.instances[0].server.to_string()).or_default() += 1;
    }
    assert_eq!(on_server.into_values().collect::<Vec<_>>(), [EACH; SERVERS]);
}

/// The first release of a service, on a machine on which that becomes of it.
async fn first_release(behaviour: Behaviour) -> (World, FakeAgent, Deployment) {
    let world = World::new().await;
    let agent = world.agent().await;
    agent.behave(|script| {
        script.revisions.insert(1, behaviour);
    });
    let repository = world.repository("shop");
    let deployment = world.deploy_ok(&repository.manifest("")).await.deployments.remove(0);
    (world, agent, deployment)
}

#[tokio::test]
async fn a_build_that_fails_fails_the_deployment_with_the_end_of_its_log() {
    let (world, _agent, deployment) = first_release(Behaviour::BuildFails).await;
    let failure = world.wait_for(&deployment, Stage::Failed).await.failure.unwrap();
    assert_eq!(failure.stage, Stage::Building);
    assert!(failure.message.contains("code 2") && failure.log_tail[0].contains("main.c"), "{failure:?}");
}

async fn two_releases(world: &World) -> Vec<Deployment> {
    let repository = world.repository("shop");
    let mut done = world.deploy_and_wait(&repository.manifest(BAKE)).await;
    repository.commit("second");
    done.extend(world.deploy_and_wait(&repository.manifest(BAKE)).await);
    done
}

#[tokio::test]
async fn a_release_that_breaks_while_it_bakes_is_rolled_back_by_itself() {
    let world = World::new().await;
    let agent = world.agent().await;
    let done = two_releases(&world).await;
    agent.behave(|script| script.crashed_revisions.push(2));
    let rolled_back = world.wait_for(&done[1], Stage::RolledBack).await;
    assert!(rolled_back.failure.unwrap().message.contains("exited with code 3"));
    let view = world.service_until("shop", "web", |v| v.condition == ServiceCondition::Running).await;
    assert_eq!(view.current.unwrap().number, 1);
}

#[tokio::test]
async fn a_rollback_to_the_warm_release_starts_nothing_and_then_there_is_nothing_before() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let done = two_releases(&world).await;
    let out = |view: &ServiceView| view.instances.iter().find(|i| i.traffic == Traffic::Out).map(|i| i.id.clone());
    let warm = out(&world.service_until("shop", "web", |view| out(view).is_some()).await);
    let rollback: Deployment =
        world.post("/api/v1/stacks/shop/services/web/rollback", serde_json::json!({})).await.json();
    assert_eq!(rollback.revision_id, done[0].revision_id);
    world.wait_for(&rollback, Stage::Running).await;
    let view = world.service("shop", "web").await;
    let serving = view.instances.iter().find(|i| i.traffic == Traffic::Active).map(|i| i.id.clone());
    assert_eq!(serving, warm, "the instance that was kept warm serves again");
    assert_eq!(view.current.unwrap().number, 1);
    let to_second = world.post("/api/v1/stacks/shop/services/web/rollback", serde_json::json!({"revision": 2})).await;
    world.wait_for(&to_second.json(), Stage::Running).await;
    world.post("/api/v1/stacks/shop/services/web/rollback", serde_json::json!({"revision": 9})).await.error(404);
}

#[tokio::test]
async fn a_rollback_to_a_route_that_another_stack_has_taken_meanwhile_is_refused() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest(BAKE)).await;
    let moved = repository.manifest(BAKE).replace("\"/\"", "\"/shop\"");
    world.deploy_and_wait(&moved).await;
    let other = repository.manifest("").replace("name = \"shop\"", "name = \"blog\"");
    world.deploy_and_wait(&other).await;
    let error = world.post("/api/v1/stacks/shop/services/web/rollback", serde_json::json!({})).await.error(409);
    assert!(error.message.contains("blog"), "{}", error.message);
}

#[tokio::test]
async fn a_rollback_with_nothing_to_go_back_to_is_refused_with_help() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    let error = world.post("/api/v1/stacks/shop/services/web/rollback", serde_json::json!({})).await.error(409);
    assert!(error.help.is_some(), "{error:?}");
}

#[tokio::test]
async fn a_deployment_that_does_not_move_says_what_it_waits_for_until_it_moves() {
    let (world, agent, deployment) = first_release(Behaviour::StillBuilding).await;
    let path = format!("/api/v1/deployments/{}", deployment.id);
    let waits = |view: &ServiceView| {
        view.deployment.as_ref().is_some_and(|d| d.stage == Stage::Building && !d.waits_for.is_empty())
    };
    let shown = world.service_until("shop", "web", waits).await.deployment.unwrap();
    assert_eq!(shown.waits_for, ["its release is being prepared"]);
    let alone: Deployment = world.get(&path).await.json();
    let listed: Vec<Deployment> = world.get("/api/v1/stacks/shop/services/web/deployments").await.json();
    assert_eq!((&alone.waits_for, &listed[0].waits_for), (&shown.waits_for, &shown.waits_for));
    agent.behave(|script| {
        script.revisions.insert(1, Behaviour::Healthy);
    });
    world.wait_for(&deployment, Stage::Running).await;
    let answer: serde_json::Value = world.get(&path).await.json();
    assert_eq!(answer.get("waits_for"), None, "it is over");
}

#[tokio::test]
async fn a_deployment_in_flight_can_be_cancelled_and_a_finished_one_cannot() {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    let done = world.deploy_and_wait(&repository.manifest(BAKE)).await;
    world.post(&format!("/api/v1/deployments/{}/cancel", done[0].id), serde_json::json!({})).await.error(409);
    repository.commit("second");
    agent.behave(|script| {
        script.revisions.insert(2, Behaviour::StillBuilding);
    });
    let deployment = world.deploy_ok(&repository.manifest(BAKE)).await.deployments.remove(0);
    world.wait_for(&deployment, Stage::Building).await;
    let cancelled = world.post(&format!("/api/v1/deployments/{}/cancel", deployment.id), serde_json::json!({})).await;
    assert_eq!(cancelled.json::<Deployment>().stage, Stage::Cancelled);
    let view = world.service_until("shop", "web", |v| v.instances.len() == 1).await;
    assert_eq!(view.current.unwrap().number, 1);
    world.get("/api/v1/deployments/dep_00000000000000000000000000000001").await.error(404);
}

#[tokio::test]
async fn a_control_plane_that_was_down_goes_on_where_it_was() {
    let (world, agent, deployment) = first_release(Behaviour::StillBuilding).await;
    world.wait_for(&deployment, Stage::Building).await;
    let identity = agent.identity.answer.clone();
    drop(agent);
    let world = world.restart().await;
    let agent = crate::fake_agent::FakeAgent::with_identity(&world.base, identity);
    let done = world.wait_for(&deployment, Stage::Running).await;
    assert_eq!(done.stages.len(), Stage::PATH.len());
    drop(agent);
}
