//! Rings of points: what comes round replaces, what belongs to nobody is not kept.

use crate::database::Database;
use crate::fixtures::*;
use store::{ChunkTime, MetricChunk, Scope, ServiceRemoval, Store};

on_every_database![
    points_are_kept_by_subject_and_place_and_what_comes_round_replaces_them,
    thousands_of_subjects_are_written_and_read_at_once,
    points_go_with_their_service_and_with_their_server,
    points_of_a_subject_that_is_gone_or_anothers_are_not_kept,
    another_tenants_points_are_neither_seen_nor_replaced,
];

const STEP_MS: i64 = 1_000;

fn time(place: i64, begins_at_ms: i64) -> ChunkTime {
    ChunkTime { step_ms: STEP_MS, place, begins_at_ms }
}

fn chunk(subject: &str, time: ChunkTime, points: &str) -> MetricChunk {
    MetricChunk { subject: subject.to_owned(), time, points: points.to_owned() }
}

async fn history(store: &Store, scope: &Scope, subject: &str) -> Vec<(i64, String)> {
    store.metric_history(scope, subject, STEP_MS, 0).await.unwrap()
}

fn texts(found: &[(i64, String)]) -> Vec<(i64, &str)> {
    found.iter().map(|(at_ms, text)| (*at_ms, text.as_str())).collect()
}

async fn points_are_kept_by_subject_and_place_and_what_comes_round_replaces_them(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let scope = &tenant.scope;
    let (one, two) = (joined(&store, scope, "one").await, joined(&store, scope, "two").await);
    let (one, two) = (one.id.as_str(), two.id.as_str());
    let other_step = ChunkTime { step_ms: 5, ..time(0, 10) };
    let first = [
        chunk(one, time(1, 20), "b"),
        chunk(one, time(0, 10), "a"),
        chunk(two, time(0, 10), "x"),
        chunk(one, other_step, "finer"),
    ];
    assert_eq!(store.metric_chunk_put(scope, &first).await.unwrap(), 4);
    assert_eq!(texts(&history(&store, scope, one).await), [(10, "a"), (20, "b")]);
    let since = store.metric_history(scope, one, STEP_MS, 11).await.unwrap();
    assert_eq!(texts(&since), [(20, "b")], "only what was asked for");

    let mut found = store.metric_chunk_list(scope, time(0, 10), &[one, two]).await.unwrap();
    found.sort();
    let mut expected = vec![(one.to_owned(), "a".to_owned()), (two.to_owned(), "x".to_owned())];
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(store.metric_chunk_list(scope, time(0, 30), &[one]).await.unwrap(), [], "it holds another time");

    store.metric_chunk_put(scope, &[chunk(one, time(0, 30), "c")]).await.unwrap();
    assert_eq!(texts(&history(&store, scope, one).await), [(20, "b"), (30, "c")]);
    assert_eq!(texts(&history(&store, scope, two).await), [(10, "x")]);
}

async fn thousands_of_subjects_are_written_and_read_at_once(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    // More rows than one statement takes, all of one subject.
    let chunks: Vec<MetricChunk> =
        (0..2_500).map(|place| chunk(server.id.as_str(), time(place, place * 10), "p")).collect();
    assert_eq!(store.metric_chunk_put(&tenant.scope, &chunks).await.unwrap(), 2_500);
    assert_eq!(history(&store, &tenant.scope, server.id.as_str()).await.len(), 2_500);
    let strangers: Vec<String> = (0..2_500).map(|n| format!("srv_{n}")).collect();
    let asked: Vec<&str> = strangers.iter().map(String::as_str).chain([server.id.as_str()]).collect();
    assert_eq!(store.metric_chunk_list(&tenant.scope, time(7, 70), &asked).await.unwrap().len(), 1);
}

async fn points_go_with_their_service_and_with_their_server(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let scope = &tenant.scope;
    let server = joined(&store, scope, "one").await;
    let (stack, deployment) = shop(&store, &tenant).await;
    let service = deployment.service_id.as_str();
    let both = [chunk(service, time(0, 10), "s"), chunk(server.id.as_str(), time(0, 10), "m")];
    assert_eq!(store.metric_chunk_put(scope, &both).await.unwrap(), 2);
    store.server_delete(scope, &server.id, &[]).await.unwrap();
    assert!(history(&store, scope, server.id.as_str()).await.is_empty());
    assert_eq!(history(&store, scope, service).await.len(), 1, "the service is another subject");

    let removal = ServiceRemoval { service_id: deployment.service_id.clone(), deployment_id: deployment_id() };
    store.stack_remove(scope, &stack_remove(&stack.id, vec![removal]), NOW).await.unwrap();
    store.service_delete(scope, &deployment.service_id, &[]).await.unwrap();
    assert!(history(&store, scope, service).await.is_empty());
}

async fn points_of_a_subject_that_is_gone_or_anothers_are_not_kept(database: Database) {
    let store = database.open().await;
    let (owner, stranger) = (tenant(&store, "owner").await, tenant(&store, "stranger").await);
    let (gone, theirs) = (joined(&store, &owner.scope, "gone").await, joined(&store, &stranger.scope, "theirs").await);
    store.server_delete(&owner.scope, &gone.id, &[]).await.unwrap();
    let here = joined(&store, &owner.scope, "here").await;
    let chunks = [&gone, &theirs, &here].map(|server| chunk(server.id.as_str(), time(0, 10), "p"));
    assert_eq!(store.metric_chunk_put(&owner.scope, &chunks).await.unwrap(), 1);
    for scope in [&owner.scope, &stranger.scope] {
        assert!(history(&store, scope, gone.id.as_str()).await.is_empty());
        assert!(history(&store, scope, theirs.id.as_str()).await.is_empty());
    }
}

async fn another_tenants_points_are_neither_seen_nor_replaced(database: Database) {
    let store = database.open().await;
    let (owner, stranger) = (tenant(&store, "owner").await, tenant(&store, "stranger").await);
    let server = joined(&store, &owner.scope, "one").await;
    let id = server.id.as_str();
    store.metric_chunk_put(&owner.scope, &[chunk(id, time(0, 10), "mine")]).await.unwrap();
    assert!(history(&store, &stranger.scope, id).await.is_empty());
    assert!(store.metric_chunk_list(&stranger.scope, time(0, 10), &[id]).await.unwrap().is_empty());
    assert_eq!(store.metric_chunk_put(&stranger.scope, &[chunk(id, time(0, 20), "theirs")]).await.unwrap(), 0);
    assert_eq!(texts(&history(&store, &owner.scope, id).await), [(10, "mine")]);
}
