//! `…/env`

use crate::harness::World;
use api::deployments::{Deployment, Stage};
use api::services::{EnvOrigin, EnvVariable};
use serde_json::json;

const ENV: &str = "/api/v1/stacks/shop/services/web/env";

#[tokio::test]
async fn a_variable_that_was_set_wins_over_the_manifest_and_its_value_shows_only_when_asked_for() {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    let manifest = repository.manifest("[services.web.env]\nCOLOUR = \"red\"\nSIZE = \"1\"\n");
    world.deploy_and_wait(&manifest).await;

    let waits: Option<Deployment> = world.patch(ENV, json!({"variables": {"COLOUR": "blue"}})).await.json();
    assert!(waits.is_none());
    let now: Option<Deployment> =
        world.patch(ENV, json!({"variables": {"TOKEN": "s3cret"}, "deploy": true})).await.json();
    let now = now.unwrap();
    assert_eq!(now.revision_number, 2);
    world.wait_for(&now, Stage::Running).await;
    let desired = agent.desired();
    let env = &desired.stacks[0].services[0].revisions.iter().find(|r| r.number == 2).unwrap().env;
    assert_eq!(env["COLOUR"].expose(), "blue");
    assert_eq!(env["SIZE"].expose(), "1");
    assert_eq!(env["TOKEN"].expose(), "s3cret");

    let hidden = world.get(ENV).await;
    assert!(!hidden.text.contains("s3cret") && !hidden.text.contains("blue"));
    let variables: Vec<EnvVariable> = world.get(&format!("{ENV}?reveal=true")).await.json();
    let find = |name: &str| variables.iter().find(|v| v.name == name).unwrap();
    assert_eq!((find("COLOUR").origin, find("COLOUR").value.as_ref().unwrap().expose()), (EnvOrigin::Set, "blue"));
    assert_eq!(find("SIZE").origin, EnvOrigin::Manifest);
    assert_eq!(find("PORT").origin, EnvOrigin::Injected);

    assert!(world.deploy_ok(&manifest).await.deployments.is_empty(), "the same manifest keeps what was set");
    let removed: Option<Deployment> =
        world.patch(ENV, json!({"variables": {"COLOUR": null}, "deploy": true})).await.json();
    world.wait_for(&removed.unwrap(), Stage::Running).await;
    let variables: Vec<EnvVariable> = world.get(&format!("{ENV}?reveal=true")).await.json();
    let colour = variables.iter().find(|v| v.name == "COLOUR").unwrap();
    assert_eq!((colour.origin, colour.value.as_ref().unwrap().expose()), (EnvOrigin::Manifest, "red"));
    let events = world.get("/api/v1/events?limit=100").await.text;
    assert!(events.contains("env_changed") && !events.contains("s3cret"));
}

#[tokio::test]
async fn a_name_that_no_process_could_have_and_a_name_of_ours_are_refused() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    for name in ["A=B", "", "1A", "A B", "PORT", "SERVICE_WEB_URL"] {
        let error = world.patch(ENV, json!({"variables": {name: "x"}})).await.error(400);
        assert!(!error.message.is_empty());
    }
    world.patch(ENV, json!({"variables": {"A": "x\u{0}y"}})).await.error(400);
}
