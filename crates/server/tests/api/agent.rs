//! `/api/v1/agent/…`: joining, signatures, the long-poll and reports.

use crate::fake_agent::{Identity, nothing, now_ms, register};
use crate::harness::World;
use api::error::ErrorCode;
use api::secret::Secret;
use api::servers::{ServerCondition, ServerView};
use api::tokens::{TokenState, TokenView};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::time::{Duration, Instant};

async fn refused(world: &World, token: &str) -> api::error::ApiError {
    let answer = register(&world.http, &world.base, &Secret::new(token)).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    answer.json().await.unwrap()
}

async fn servers(world: &World) -> Vec<ServerView> {
    world.get("/api/v1/servers").await.json()
}

#[tokio::test]
async fn a_used_an_expired_a_revoked_and_an_unknown_token_each_get_one_error_and_change_nothing() {
    let world = World::new().await;
    let used = world.join_token().await;
    Identity::join(&world.base, &used.token).await;
    let body = json!({"name": "short", "purpose": {"kind": "join"}, "lifetime_ms": 1});
    let expired: api::tokens::TokenCreated = world.post("/api/v1/tokens", body).await.json();
    let revoked = world.join_token().await;
    assert_eq!(world.delete(&format!("/api/v1/tokens/{}", revoked.view.id)).await.status, 204);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let tokens_before: Vec<TokenView> = world.get("/api/v1/tokens").await.json();

    let error = refused(&world, used.token.expose()).await;
    assert_eq!(error.code, ErrorCode::TokenUsed);
    assert!(error.help.is_some());
    assert_eq!(error.message, refused(&world, used.token.expose()).await.message, "the wording is constant");
    assert_eq!(refused(&world, expired.token.expose()).await.code, ErrorCode::TokenExpired);
    assert_eq!(refused(&world, revoked.token.expose()).await.code, ErrorCode::TokenUnknown);
    assert_eq!(refused(&world, "mst_join_nobody-made-this").await.code, ErrorCode::TokenUnknown);
    assert_eq!(refused(&world, &world.token).await.code, ErrorCode::TokenUnknown, "an API token lets no machine join");

    assert_eq!(servers(&world).await.len(), 1);
    let tokens_after: Vec<TokenView> = world.get("/api/v1/tokens").await.json();
    assert_eq!(tokens_before, tokens_after);
    assert_eq!(tokens_after.iter().find(|t| t.id == used.view.id).unwrap().state, TokenState::Used);
}

#[tokio::test]
async fn one_token_lets_one_of_many_machines_join_that_try_at_once() {
    let world = World::new().await;
    let token = world.join_token().await.token;
    let tries = (0..8).map(|_| register(&world.http, &world.base, &token));
    let statuses: Vec<_> = futures_util::future::join_all(tries).await.iter().map(|a| a.status().as_u16()).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|s| **s == 403).count(), 7, "{statuses:?}");
    assert_eq!(servers(&world).await.len(), 1);
}

#[tokio::test]
async fn machines_of_one_wished_name_get_different_names_and_indexes() {
    let world = World::new().await;
    let mut names = Vec::new();
    for _ in 0..3 {
        let identity = Identity::join(&world.base, &world.join_token().await.token).await;
        names.push((identity.answer.name.to_string(), identity.answer.index));
    }
    assert_eq!(names, [("fake".into(), 1), ("fake-2".into(), 2), ("fake-3".into(), 3)]);
}

#[tokio::test]
async fn a_request_is_refused_when_it_is_repeated_altered_moved_or_from_another_time() {
    let world = World::new().await;
    let identity = Identity::join(&world.base, &world.join_token().await.token).await;
    let state = identity.expected_state(0, 0).await.unwrap();
    let body = serde_json::to_vec(&json!({"observed": nothing(&state)})).unwrap();
    let path = "/api/v1/agent/status";
    let code = async |request: reqwest::RequestBuilder| -> (u16, String) {
        let answer = world.send(request).await;
        (answer.status.as_u16(), if answer.status.is_success() { String::new() } else { answer.error(401).message })
    };

    let once = identity.signed(Method::POST, path, body.clone(), now_ms());
    let again = once.try_clone().unwrap();
    assert_eq!(code(once).await.0, 200);
    let (status, message) = code(again).await;
    assert!(status == 401 && message.contains("nonce"), "{message}");

    let altered = identity.signed(Method::POST, path, body.clone(), now_ms()).body("{}");
    assert!(code(altered).await.1.contains("body"));
    let moved = identity.signed_as(Method::POST, "/api/v1/agent/logs", path, body.clone(), now_ms());
    assert!(code(moved).await.1.contains("signature"));
    let query = "/api/v1/agent/expected-state?after=0&wait=0";
    let requeried =
        identity.signed_as(Method::GET, query, "/api/v1/agent/expected-state?after=9&wait=0", vec![], now_ms());
    assert!(code(requeried).await.1.contains("signature"));
    for off in [-61_000, 61_000] {
        let late = identity.signed(Method::POST, path, body.clone(), now_ms() + off);
        assert!(code(late).await.1.contains("clock"));
        assert_eq!(servers(&world).await[0].clock_difference_ms.map(|ms| ms / 2_000), Some(off / 2_000));
        assert_eq!(code(identity.signed(Method::POST, path, body.clone(), now_ms())).await.0, 200);
        assert_eq!(servers(&world).await[0].clock_difference_ms, None, "it came through");
    }
    let forged = identity.signed(Method::POST, path, body.clone(), now_ms() + 3_600_000).body("{}");
    assert!(code(forged).await.1.contains("body"));
    assert_eq!(servers(&world).await[0].clock_difference_ms, None, "only its own signature tells of its clock");
    let twice = identity.signed(Method::POST, path, body.clone(), now_ms());
    let twice = twice.header("x-mainstay-server", "srv_00000000000000000000000000000009");
    assert!(code(twice).await.1.contains("x-mainstay-server"));
    let mut answer = identity.answer.clone();
    answer.server_id = "srv_00000000000000000000000000000009".parse().unwrap();
    let nobody = Identity { base: identity.base.clone(), answer, http: identity.http.clone() };
    let unknown = nobody.signed(Method::POST, path, body.clone(), now_ms());
    assert!(code(unknown).await.1.contains("not known"));
    let good = identity.signed(Method::POST, path, body, now_ms());
    assert_eq!(code(good).await.0, 200, "the refusals did no harm");
}

/// The longest that may be asked for, on a machine that is busy with everything else.
const WAIT_SECONDS: u64 = 30;

#[tokio::test]
async fn the_long_poll_answers_304_when_its_time_is_over_and_at_once_when_there_is_news() {
    // It reports once; how long this takes must not make it a machine that is away.
    let world = World::with(|options| options.poll_interval_ms = 60_000).await;
    let identity = Identity::join(&world.base, &world.join_token().await.token).await;
    let first = identity.expected_state(0, 0).await.unwrap();
    let began = Instant::now();
    assert!(identity.expected_state(first.generation, 1).await.is_none());
    assert!(began.elapsed() >= Duration::from_millis(900), "it waits for news: {:?}", began.elapsed());

    // A report, so that the machine counts as there to take instances.
    identity.report(nothing(&first), vec![]).await;
    let repository = world.repository("shop");
    let plan = world.plan_ok(&repository.manifest("")).await;
    assert!(!plan.is_empty());
    let identity = std::sync::Arc::new(identity);
    let waiting = tokio::spawn({
        let identity = identity.clone();
        async move { identity.expected_state(first.generation, WAIT_SECONDS).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    world.deploy_ok(&repository.manifest("")).await;
    let deployed = Instant::now();
    let state = waiting.await.unwrap();
    // How soon is for the benchmark; what waits for the end of its time would have waited almost all of it.
    assert!(deployed.elapsed() < Duration::from_secs(WAIT_SECONDS / 2), "{:?}", deployed.elapsed());
    assert_eq!(state.stacks[0].services[0].instances.len(), 1);
}

#[tokio::test]
async fn an_unchanged_report_is_cheap_and_a_server_that_is_silent_goes_offline_and_comes_back() {
    let world = World::with(|options| options.poll_interval_ms = 300).await;
    let identity = Identity::join(&world.base, &world.join_token().await.token).await;
    let state = identity.expected_state(0, 0).await.unwrap();
    identity.report(nothing(&state), vec![]).await;
    assert_eq!(servers(&world).await[0].condition, ServerCondition::Online);
    let cheap = Instant::now();
    for _ in 0..50 {
        identity.report(nothing(&state), vec![]).await;
    }
    println!("an unchanged report, there and back: {:?}", cheap.elapsed() / 50);
    let began = Instant::now();
    while servers(&world).await[0].condition == ServerCondition::Online {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(began.elapsed() > Duration::from_millis(600));
    identity.report(nothing(&state), vec![]).await;
    assert_eq!(servers(&world).await[0].condition, ServerCondition::Online);
    let events = world.get("/api/v1/events?limit=50").await.text;
    assert!(events.contains("server_offline") && events.contains("server_online"), "{events}");
}

#[tokio::test]
async fn a_removed_server_is_told_so_and_its_identity_is_good_for_nothing() {
    let world = World::new().await;
    let identity = Identity::join(&world.base, &world.join_token().await.token).await;
    assert_eq!(world.delete("/api/v1/servers/fake").await.status, 204);
    let answer = identity.signed(Method::GET, "/api/v1/agent/expected-state?after=0&wait=0", vec![], now_ms());
    let error = world.send(answer).await.error(401);
    assert!(error.message.contains("removed"), "{}", error.message);
    assert!(servers(&world).await.is_empty());
}
