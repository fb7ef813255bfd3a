//! The first start, every other start, and starts that cannot be.

use crate::harness::{World, options};
use server::Server;
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn the_first_start_makes_what_is_needed_once_and_closed_to_others() {
    let world = World::new().await;
    let first = world.server.initial_password().unwrap().expose().to_owned();
    assert!(first.len() >= 20);
    for file in ["signing.key", "initial-password", "cli-token"] {
        let path = world.directory.path().join("server").join(file);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let database = std::fs::metadata(world.directory.path().join("server/mainstay.db")).unwrap();
    assert_eq!(database.permissions().mode() & 0o077, 0, "the database");
    let token = world.token.clone();
    let world = world.restart().await;
    assert!(world.server.initial_password().is_none());
    assert_eq!(world.token, token);
    assert_eq!(world.get("/api/v1/info").await.status, 200);
}

#[tokio::test]
async fn a_second_control_plane_on_the_port_says_who_has_it() {
    let world = World::new().await;
    let other = tempfile::tempdir().unwrap();
    let mut taken = options(other.path());
    taken.listen = world.server.address();
    let error = format!("{:#}", Server::start(taken).await.err().unwrap());
    assert!(error.contains("in use") && error.contains(&format!("pid {}", std::process::id())), "{error}");
    assert!(!other.path().join("server").exists(), "nothing was made");
}

#[tokio::test]
async fn a_database_that_cannot_be_reached_is_said_without_its_password() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.database_url = Some("postgres://me:hunter2@127.0.0.1:1/mainstay".into());
    let error = format!("{:#}", Server::start(options).await.err().unwrap());
    assert!(error.contains("database") && error.contains("127.0.0.1:1") && !error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn a_shutdown_ends_open_streams_and_polls_at_once() {
    let world = World::new().await;
    let identity = crate::fake_agent::Identity::join(&world.base, &world.join_token().await.token).await;
    let state = identity.expected_state(0, 0).await.unwrap();
    let poll = tokio::spawn(async move { identity.expected_state(state.generation, 60).await });
    let mut stream = crate::events::Stream::open(&world, "/api/v1/events?follow=true").await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let began = std::time::Instant::now();
    world.server.shutdown().await;
    assert!(began.elapsed() < std::time::Duration::from_secs(30), "the poll would have ended by itself after 60 s");
    assert!(poll.await.unwrap().is_none());
    assert!(stream.next().await.is_none());
}
