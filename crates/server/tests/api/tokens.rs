//! `/api/v1/tokens`, `/api/v1/credentials`, `/api/v1/info`

use crate::harness::World;
use api::tokens::{Info, TokenCreated, TokenState, TokenView};
use serde_json::json;

#[tokio::test]
async fn a_token_is_shown_once_works_and_is_worth_nothing_after_it_was_revoked() {
    let world = World::new().await;
    let made: TokenCreated =
        world.post("/api/v1/tokens", json!({"name": "ci", "purpose": {"kind": "api"}})).await.json();
    let ask = || world.http.get(format!("{}/api/v1/info", world.base)).bearer_auth(made.token.expose());
    let info: Info = world.send(ask()).await.json();
    assert_eq!(info.actor, "token ci");
    assert!(info.local_sources);
    let list = world.get("/api/v1/tokens").await;
    assert!(!list.text.contains(made.token.expose()));
    assert_eq!(world.delete(&format!("/api/v1/tokens/{}", made.view.id)).await.status, 204);
    world.send(ask()).await.error(401);
    let list: Vec<TokenView> = world.get("/api/v1/tokens").await.json();
    assert_eq!(list.iter().find(|t| t.id == made.view.id).unwrap().state, TokenState::Revoked);
    world.delete("/api/v1/tokens/tok_00000000000000000000000000000001").await.error(404);
    world.delete("/api/v1/tokens/nonsense").await.error(404);
}

#[tokio::test]
async fn a_token_for_a_stack_or_project_that_is_not_there_is_refused() {
    let world = World::new().await;
    let join = |rest: serde_json::Value| {
        let mut purpose = json!({"kind": "join"});
        purpose.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        json!({"name": "x", "purpose": purpose})
    };
    world.post("/api/v1/tokens", join(json!({"project": "nope"}))).await.error(404);
    world.post("/api/v1/tokens", join(json!({"stack": "stk_00000000000000000000000000000001"}))).await.error(404);
    assert_eq!(world.post("/api/v1/tokens", join(json!({"project": "default"}))).await.status, 201);
    world.post("/api/v1/tokens", json!({"name": " ", "purpose": {"kind": "api"}})).await.error(400);
}

#[tokio::test]
async fn a_machine_bound_to_a_stack_takes_no_service_of_another() {
    let world = World::new().await;
    let _first = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    assert_eq!(world.delete("/api/v1/servers/fake").await.status, 204);
    let stack = world.service("shop", "web").await.stack_id;
    let purpose = json!({"kind": "join", "stack": stack});
    let token: TokenCreated = world.post("/api/v1/tokens", json!({"name": "m", "purpose": purpose})).await.json();
    let _bound = crate::fake_agent::FakeAgent::join(&world.base, token.token).await;
    world.service_until("shop", "web", |v| v.condition == api::services::ServiceCondition::Running).await;
    let other = repository.manifest("").replace("name = \"shop\"", "name = \"blog\"").replace("\"/\"", "\"/blog\"");
    let error = world.deploy(&other).await.error(409);
    assert!(error.message.contains("blog"), "{}", error.message);
}

#[tokio::test]
async fn a_stored_credential_is_listed_without_what_it_holds() {
    let world = World::new().await;
    let body = json!({"name": "github", "credential": {"kind": "token", "user": "me", "token": "s3cret"}});
    assert_eq!(world.post("/api/v1/credentials", body).await.status, 204);
    let list = world.get("/api/v1/credentials").await.text;
    assert!(list.contains("github") && !list.contains("s3cret"), "{list}");
    let key = json!({"name": "key", "credential": {"kind": "deploy_key", "private_key": "not a key"}});
    assert!(world.post("/api/v1/credentials", key).await.error(400).message.contains("private key"));
    assert_eq!(world.delete("/api/v1/credentials/github").await.status, 204);
    world.delete("/api/v1/credentials/github").await.error(404);
}
