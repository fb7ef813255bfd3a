//! The same control plane on PostgreSQL, where `MAINSTAY_TEST_POSTGRES_URL` names one: from joining
//! to a rollback, with what is followed along the way. The store's own suite covers each query; this
//! shows that nothing above it leans on SQLite.

use crate::events::Stream;
use crate::harness::World;
use api::deployments::{Deployment, Stage};
use serde_json::json;
use sqlx::{AnyConnection, Connection, Executor};

async fn run_there(server: &str, sql: String) {
    let mut connection = AnyConnection::connect(server).await.unwrap();
    connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

async fn story(url: String) {
    let world = World::with(|options| options.database_url = Some(url)).await;
    let info: api::tokens::Info = world.get("/api/v1/info").await.json();
    assert_eq!(info.database, "postgres");
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let manifest = repository.manifest("");
    let mut stream = Stream::open(&world, "/api/v1/events?follow=true").await;
    let (a, b) = tokio::join!(world.deploy_ok(&manifest), world.deploy_ok(&manifest));
    assert_eq!(a.deployments.len() + b.deployments.len(), 1);
    let first = a.deployments.into_iter().chain(b.deployments).next().unwrap();
    world.wait_for(&first, Stage::Running).await;
    repository.commit("second");
    world.deploy_and_wait(&manifest).await;
    let rollback: Deployment = world.post("/api/v1/stacks/shop/services/web/rollback", json!({})).await.json();
    world.wait_for(&rollback, Stage::Running).await;
    assert_eq!(world.service("shop", "web").await.current.unwrap().number, 1);
    let mut last = 0;
    loop {
        let (_, sequence, data) = stream.next().await.unwrap();
        assert!(sequence > last, "{sequence} after {last}");
        last = sequence;
        if data.contains(rollback.id.as_str()) && data.contains("): running") {
            break;
        }
    }
    assert_eq!(world.delete("/api/v1/stacks/shop").await.status, 204);
    let began = std::time::Instant::now();
    while world.get("/api/v1/stacks").await.text != "[]" {
        assert!(began.elapsed() < crate::harness::PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_story_holds_on_postgresql_too() {
    let Some(server) = std::env::var("MAINSTAY_TEST_POSTGRES_URL").ok().filter(|url| !url.is_empty()) else {
        assert!(std::env::var("MAINSTAY_REQUIRE_POSTGRES").is_err(), "MAINSTAY_TEST_POSTGRES_URL names no server");
        eprintln!("PostgreSQL was skipped: set MAINSTAY_TEST_POSTGRES_URL to test it too");
        return;
    };
    sqlx::any::install_default_drivers();
    let schema = format!("mainstay_{}", uuid::Uuid::now_v7().simple());
    run_there(&server, format!("CREATE SCHEMA {schema}")).await;
    let joiner = if server.contains('?') { '&' } else { '?' };
    // In a task of its own, so that the schema goes also when the test fails.
    let outcome = tokio::spawn(story(format!("{server}{joiner}options=-c%20search_path%3D{schema}"))).await;
    run_there(&server, format!("DROP SCHEMA {schema} CASCADE")).await;
    outcome.unwrap();
}
