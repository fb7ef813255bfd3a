//! Many writers at once: nobody fails, and nobody waits for long.

use crate::database::Database;
use crate::fixtures::*;
use api::events::Event;
use std::time::Instant;

on_every_database![
    four_hundred_read_then_write_transactions_from_eight_tasks_fail_none,
    two_processes_on_one_database_fail_none,
    readers_are_not_held_up_by_a_writer,
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

async fn readers_are_not_held_up_by_a_writer(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let events: Vec<Event> = (0..1_000).map(|_| event("x")).collect();
    let writing = tokio::spawn({
        let (store, scope) = (store.clone(), tenant.scope.clone());
        async move { store.event_append(&scope, &events).await.unwrap() }
    });
    let mut seen = Vec::new();
    while seen.last() != Some(&1_000) {
        seen.push(store.event_newest(&tenant.scope).await.unwrap());
    }
    writing.await.unwrap();
    // A transaction is seen whole or not at all, and reading went on while it was open.
    assert!(seen.iter().all(|newest| matches!(newest, 0 | 1_000)), "{seen:?}");
    assert!(seen.len() > 2, "{seen:?}");
}
