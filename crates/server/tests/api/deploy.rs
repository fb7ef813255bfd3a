//! `POST /api/v1/plan` and `POST /api/v1/deploy`: from a manifest to deployments, or to a clear no.

use crate::harness::World;
use api::deployments::Stage;
use api::error::ErrorCode;
use api::plans::ServicePlanAction;
use serde_json::json;

#[tokio::test]
async fn planning_says_what_would_happen_and_changes_nothing() {
    let world = World::new().await;
    let repository = world.repository("shop");
    let plan = world.plan_ok(&repository.manifest("")).await;
    assert_eq!((plan.base_version, plan.stack.as_str()), (0, "shop"));
    assert_eq!(plan.services[0].action, ServicePlanAction::Create);
    assert_eq!(plan.services[0].source_version.as_ref().unwrap().as_str(), repository.git(&["rev-parse", "HEAD"]));
    assert_eq!(plan, world.plan_ok(&repository.manifest("")).await, "the same plan twice");
    assert_eq!(world.get("/api/v1/stacks").await.text, "[]");
}

#[tokio::test]
async fn a_plan_that_no_longer_holds_is_refused_and_the_refusal_says_what_moved() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let manifest = repository.manifest("");
    let plan = world.plan_ok(&manifest).await;
    repository.commit("second");
    let body = json!({"manifest": manifest, "fingerprint": plan.fingerprint});
    let error = world.post("/api/v1/deploy", body.clone()).await.error(409);
    assert_eq!(error.code, ErrorCode::StalePlan);
    assert!(error.message.contains("commit"), "{}", error.message);
    assert_eq!(world.get("/api/v1/stacks").await.text, "[]", "nothing was changed");

    let fresh = world.plan_ok(&manifest).await;
    let body = json!({"manifest": manifest, "fingerprint": fresh.fingerprint});
    let answer: api::plans::DeployAnswer = world.post("/api/v1/deploy", body.clone()).await.json();
    assert_eq!(answer.deployments.len(), 1);
    let error = world.post("/api/v1/deploy", body).await.error(409);
    assert!(error.message.contains("version"), "{}", error.message);
}

#[tokio::test]
async fn a_double_click_and_two_deploys_at_once_make_one_deployment() {
    let world = World::new().await;
    let agent = world.agent().await;
    agent.behave(|script| {
        script.revisions.insert(1, crate::fake_agent::Behaviour::StillBuilding);
    });
    let repository = world.repository("shop");
    let manifest = repository.manifest("");
    let (a, b) = tokio::join!(world.deploy_ok(&manifest), world.deploy_ok(&manifest));
    assert_eq!(a.deployments.len() + b.deployments.len(), 1, "{a:#?} {b:#?}");
    assert!(world.deploy_ok(&manifest).await.deployments.is_empty());
    let forced = world.post("/api/v1/deploy", json!({"manifest": manifest, "force": true})).await;
    let forced: api::plans::DeployAnswer = forced.json();
    assert_eq!(forced.deployments.len(), 1);
    let first = a.deployments.iter().chain(&b.deployments).next().unwrap();
    assert_eq!(world.deployment(first).await.stage, Stage::Superseded);
    let events = world.get(&format!("/api/v1/events?deployment={}", first.id)).await.text;
    assert!(events.contains("superseded by"), "{events}");
}

#[tokio::test]
async fn a_manifest_with_mistakes_is_answered_with_line_and_column_of_each_and_changes_nothing() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let manifest = "name = \"shop\"\n\n[services.web]\ngit = \"--upload-pack=touch /tmp/x\"\nrn = \"serve\"\n";
    let error = world.deploy(manifest).await.error(400);
    assert_eq!(error.code, ErrorCode::InvalidManifest);
    let lines: Vec<_> = error.details.iter().map(|d| d.line).collect();
    assert!(lines.contains(&Some(4)) && lines.contains(&Some(5)), "{error:#?}");
    assert!(error.details.iter().all(|d| d.column.is_some()));
    let error = world.deploy("name = \"shop\"\n[services.web\n").await.error(400);
    assert_eq!(error.details[0].line, Some(2), "{error:#?}");
    assert_eq!(world.get("/api/v1/stacks").await.text, "[]");
}

#[tokio::test]
async fn a_branch_or_repository_that_is_not_there_is_refused_with_its_name() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let error = world.deploy(&repository.manifest("branch = \"mian\"")).await.error(422);
    assert_eq!(error.code, ErrorCode::SourceUnavailable);
    assert!(error.message.contains("mian") && error.message.contains("main"), "{}", error.message);
    assert_eq!(error.details[0].field.as_deref(), Some("services.web.branch"));
    let gone = repository.manifest("").replace("/shop\"", "/gone\"");
    assert!(world.deploy(&gone).await.error(422).message.contains("gone"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let away = repository.manifest("").replace(&repository.url(), &format!("git://{address}/shop"));
    let error = world.deploy(&away).await.error(422);
    assert!(error.message.contains("cannot be reached"), "{}", error.message);
    let secret = repository.manifest("credential = \"key\"");
    assert!(world.deploy(&secret).await.error(422).message.contains("`key`"));
    assert_eq!(world.get("/api/v1/stacks").await.text, "[]");
}

#[tokio::test]
async fn folders_of_the_control_plane_are_deployed_only_where_that_is_allowed() {
    let world = World::with(|options| options.allow_local_sources = false).await;
    let repository = world.repository("shop");
    let error = world.plan(&repository.manifest("")).await.error(422);
    assert!(error.details[0].help.as_ref().unwrap().contains("--allow-local-sources"), "{error:#?}");
}

#[tokio::test]
async fn a_route_that_a_service_of_another_stack_has_is_refused_and_both_are_named() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    let other =
        repository.manifest("").replace("name = \"shop\"", "name = \"blog\"").replace("services.web", "services.site");
    let error = world.deploy(&other).await.error(409);
    for part in ["site", "web", "shop", "*/"] {
        assert!(error.message.contains(part), "{part}: {}", error.message);
    }
    world.plan(&other).await.error(409);
    assert_eq!(world.delete("/api/v1/stacks/shop").await.status, 204);
    world.deploy_and_wait(&other).await;
}

#[tokio::test]
async fn without_a_server_a_deploy_says_how_to_add_one() {
    let world = World::new().await;
    let repository = world.repository("shop");
    let error = world.deploy(&repository.manifest("")).await.error(409);
    assert!(error.help.unwrap().contains("mainstay agent"), "{}", error.message);
    assert_eq!(world.get("/api/v1/stacks").await.text, "[]");
}

#[tokio::test]
async fn a_service_that_leaves_the_manifest_is_stopped_and_removed() {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    let two = format!("{}\n[services.api]\ngit = \"{}\"\nrun = \"api\"\n", repository.manifest(""), repository.url());
    world.deploy_and_wait(&two).await;
    assert_eq!(agent.desired().stacks[0].services.len(), 2);
    let answer = world.deploy_ok(&repository.manifest("")).await;
    assert_eq!(answer.version, 2);
    let removed = answer.plan.services.iter().find(|s| s.service.as_str() == "api").unwrap();
    assert_eq!(removed.action, ServicePlanAction::Remove);
    agent.desired_until(|desired| desired.stacks[0].services.len() == 1).await;
    let began = std::time::Instant::now();
    while world.get("/api/v1/services").await.text.contains("\"api\"") {
        assert!(began.elapsed() < crate::harness::PATIENCE, "the removed service is still listed");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.get("/api/v1/stacks/shop/services/api").await.error(404);
    world.deploy_and_wait(&two).await;
}

#[tokio::test]
async fn only_the_services_asked_for_are_deployed_and_an_unknown_one_is_refused() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let two = format!("{}\n[services.api]\ngit = \"{}\"\nrun = \"api\"\n", repository.manifest(""), repository.url());
    world.deploy_and_wait(&two).await;
    repository.commit("second");
    let body = json!({"manifest": two, "services": ["api"]});
    let answer: api::plans::DeployAnswer = world.post("/api/v1/deploy", body).await.json();
    assert_eq!(answer.deployments.iter().map(|d| d.service.as_str()).collect::<Vec<_>>(), ["api"]);
    let body = json!({"manifest": two, "services": ["aip"]});
    let error = world.post("/api/v1/deploy", body).await.error(400);
    assert!(error.message.contains("aip"), "{}", error.message);
}
