//! Many writers at once: nobody fails, and nobody waits for long.

use crate::database::Database;
use crate::fixtures::*;
use api::events::Event;
use sqlx::Executor;
use std::time::Instant;
use store::EventFilter;

on_every_database![
    four_hundred_read_then_write_transactions_from_eight_tasks_fail_none,
    writers_of_every_kind_at_once_are_all_answered_and_all_kept,
    two_processes_on_one_database_fail_none,
    readers_are_not_held_up_by_a_writer,
    a_large_transaction_is_seen_whole_or_not_at_all,
];

/// `event_append` reads which events are known and the counter, and then writes both.
async fn four_hundred_read_then_write_transactions_from_eight_tasks_fail_none(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let started = Instant::now();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (store, scope) = (store.clone(), tenant.scope.clone());
            tokio::spawn(async move {
                let mut longest = std::time::Duration::ZERO;
                for _ in 0..50 {
                    let started = Instant::now();
                    store.event_append(&scope, &[event("x")]).await.unwrap();
                    longest = longest.max(started.elapsed());
                }
                longest
            })
        })
        .collect();
    let mut longest = std::time::Duration::ZERO;
    for task in tasks {
        longest = longest.max(task.await.unwrap());
    }
    println!("{}: 400 transactions in {:?}, the longest {longest:?}", store.dialect_name(), started.elapsed());
    assert_eq!(store.event_newest(&tenant.scope).await.unwrap(), 400);
}

/// Transactions and single statements, such that are refused among them, from many tasks.
async fn writers_of_every_kind_at_once_are_all_answered_and_all_kept(database: Database) {
    const TASKS: usize = 16;
    const ROUNDS: usize = 10;
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await.id;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, scope, server) = (store.clone(), tenant.scope.clone(), server.clone());
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let name = format!("{task}-{round}");
                    assert!(store.nonce_claim(&server, &name, NOW).await.unwrap());
                    store.setting_put(&scope, &name, &round).await.unwrap();
                    store.event_append(&scope, &[event(&name)]).await.unwrap();
                    assert!(!store.nonce_claim(&server, &name, NOW).await.unwrap(), "it is used");
                    store.service_delete(&scope, &service_id(), &[]).await.unwrap_err();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let all = TASKS * ROUNDS;
    assert_eq!(store.event_newest(&tenant.scope).await.unwrap(), all as i64);
    assert_eq!(store.setting_list::<usize>(&tenant.scope, "").await.unwrap().len(), all);
}

/// Each opened store has its own connections, as a second process would: they meet at the file's lock.
async fn two_processes_on_one_database_fail_none(database: Database) {
    let stores = [database.open().await, database.open().await];
    let tenant = tenant(&stores[0], "acme").await;
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let (store, scope) = (stores[task % 2].clone(), tenant.scope.clone());
            tokio::spawn(async move {
                for _ in 0..25 {
                    store.event_append(&scope, &[event("x")]).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(stores[1].event_newest(&tenant.scope).await.unwrap(), 100);
}

/// The writer is a connection beside the store that holds its transaction open until the reads are done.
async fn readers_are_not_held_up_by_a_writer(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    store.event_append(&tenant.scope, &[event("x")]).await.unwrap();

    let mut writer = database.connect().await;
    writer.execute(if database.file.is_some() { "BEGIN IMMEDIATE" } else { "BEGIN" }).await.unwrap();
    writer.execute("DELETE FROM events").await.unwrap();
    let filter = EventFilter { limit: 10, ..EventFilter::default() };
    assert_eq!(store.event_list(&tenant.scope, &filter).await.unwrap().len(), 1, "nothing is committed yet");
    writer.execute("COMMIT").await.unwrap();
    assert_eq!(store.event_list(&tenant.scope, &filter).await.unwrap().len(), 0);
}

async fn a_large_transaction_is_seen_whole_or_not_at_all(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let events: Vec<Event> = (0..1_000).map(|_| event("x")).collect();
    let writing = tokio::spawn({
        let (store, scope) = (store.clone(), tenant.scope.clone());
        async move { store.event_append(&scope, &events).await.unwrap() }
    });
    let mut seen = 0;
    while seen != 1_000 {
        seen = store.event_newest(&tenant.scope).await.unwrap();
        assert!(matches!(seen, 0 | 1_000), "{seen}");
    }
    writing.await.unwrap();
}
