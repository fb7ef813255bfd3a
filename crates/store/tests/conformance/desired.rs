//! Desired states only move forward; observed states are replaced whole.

use crate::database::Database;
use crate::fixtures::*;
use api::servers::ServerFacts;
use store::{Error, InstanceChange};

on_every_database![
    a_generation_never_falls,
    eight_writers_of_one_generation_leave_one_winner,
    an_observed_state_replaces_the_one_before,
    a_report_keeps_the_facts_when_it_brings_none,
    where_a_server_is_seen_is_kept_until_it_is_seen_elsewhere,
    a_server_turns_online_and_offline_once,
    what_is_read_together_is_what_is_read_one_by_one,
];

async fn a_generation_never_falls(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await.id;
    assert_eq!(store.desired_state_head(&tenant.scope, &server).await.unwrap(), None);
    store.desired_state_put(&tenant.scope, &server, &desired(5)).await.unwrap();
    for stale in [4, 5] {
        let error = store.desired_state_put(&tenant.scope, &server, &desired(stale)).await.unwrap_err();
        assert!(matches!(&error, Error::Stale { found, .. } if found == "5"), "{error:?}");
    }
    assert_eq!(store.desired_state_get(&tenant.scope, &server).await.unwrap(), Some(desired(5)));
    store.desired_state_put(&tenant.scope, &server, &desired(6)).await.unwrap();
    let head = store.desired_state_head(&tenant.scope, &server).await.unwrap();
    assert_eq!(head, Some((6, "digest 6".to_owned())));
    let nobody = store.desired_state_put(&tenant.scope, &server_id(), &desired(1)).await.unwrap_err();
    assert!(matches!(nobody, Error::NotFound { noun: "server", .. }), "{nobody:?}");
}

async fn eight_writers_of_one_generation_leave_one_winner(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await.id;
    for generation in 1..=5 {
        let puts: Vec<_> = (0..8)
            .map(|_| {
                let (store, scope, server) = (store.clone(), tenant.scope.clone(), server.clone());
                tokio::spawn(async move { store.desired_state_put(&scope, &server, &desired(generation)).await })
            })
            .collect();
        let mut won = 0;
        for put in puts {
            match put.await.unwrap() {
                Ok(()) => won += 1,
                Err(error) => assert!(matches!(error, Error::Stale { .. }), "{error:?}"),
            }
        }
        assert_eq!(won, 1, "generation {generation}");
    }
}

async fn an_observed_state_replaces_the_one_before(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await.id;
    assert!(store.observed_get(&tenant.scope, &server).await.unwrap().is_none());
    for generation in [7, 3] {
        store.report_take(&tenant.scope, &server, &saw(&observed(&server, generation)), NOW + 1).await.unwrap();
    }
    let row = store.observed_get(&tenant.scope, &server).await.unwrap().unwrap();
    assert_eq!((row.observed.generation, row.received_at_ms), (3, NOW + 1));
    assert_eq!(store.observed_list(&tenant.scope).await.unwrap(), [row]);
}

async fn a_report_keeps_the_facts_when_it_brings_none(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await;
    store.report_take(&tenant.scope, &server.id, &seen("0.2.0"), NOW + 1).await.unwrap();
    let seen = store.server_get(&tenant.scope, &server.id).await.unwrap();
    assert_eq!((seen.facts, seen.last_seen_at_ms), (server.facts, Some(NOW + 1)));
    let facts = ServerFacts { hostname: "new".into(), ..ServerFacts::default() };
    store
        .report_take(
            &tenant.scope,
            &server.id,
            &store::ReportWrite { seen: Some(("0.2.0", Some(&facts))), ..store::ReportWrite::default() },
            NOW + 2,
        )
        .await
        .unwrap();
    assert_eq!(store.server_get(&tenant.scope, &server.id).await.unwrap().facts, facts);
}

async fn where_a_server_is_seen_is_kept_until_it_is_seen_elsewhere(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await;
    assert_eq!(server.seen_from, None);
    for (told, expected) in
        [(Some("203.0.113.9"), "203.0.113.9"), (None, "203.0.113.9"), (Some("2001:db8::1"), "2001:db8::1")]
    {
        let seen_from = told.map(|address| address.parse().unwrap());
        let report = store::ReportWrite { seen_from, ..seen("0.2.0") };
        store.report_take(&tenant.scope, &server.id, &report, NOW + 1).await.unwrap();
        let kept = store.server_get(&tenant.scope, &server.id).await.unwrap().seen_from;
        assert_eq!(kept, Some(expected.parse().unwrap()));
    }
}

async fn a_server_turns_online_and_offline_once(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await.id;
    let mut changed = Vec::new();
    for online in [true, false, false, true] {
        changed.push(store.server_online_set(&tenant.scope, &server, online, &[event("there or not")]).await.unwrap());
    }
    assert_eq!(changed, [false, true, false, true]);
    assert_eq!(store.event_newest(&tenant.scope).await.unwrap(), 2, "it is told when it changed");
}

async fn what_is_read_together_is_what_is_read_one_by_one(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let scope = &tenant.scope;
    let (one, two) = (joined(&store, scope, "one").await, joined(&store, scope, "two").await);
    let (_, deployment) = shop(&store, &tenant).await;
    let on_one = instance(&deployment, &one);
    let create = tick(&deployment, vec![InstanceChange::Create(on_one.clone())]);
    store.rollout_apply(scope, &create, NOW).await.unwrap();
    store.desired_state_put(scope, &one.id, &desired(3)).await.unwrap();
    store.server_online_set(scope, &two.id, false, &[]).await.unwrap();

    // Some that are there, and one that never was.
    let (both, nobody) = ([&one.id, &two.id], server_id());
    let mut servers = store.server_list_of(scope, both.into_iter().chain([&nobody])).await.unwrap();
    servers.sort_by_key(|server| server.index);
    let (first, second) = (store.server_get(scope, &one.id).await, store.server_get(scope, &two.id).await);
    assert_eq!(servers, [first.unwrap(), second.unwrap()]);
    let mut heads = store.server_heads(scope, both.into_iter().chain([&nobody])).await.unwrap();
    heads.sort_by_key(|(id, ..)| *id != one.id);
    assert_eq!(heads, [(one.id.clone(), true, 3), (two.id.clone(), false, 0)]);
    let generations = store.desired_state_heads_of(scope, both).await.unwrap();
    let head = store.desired_state_head(scope, &one.id).await.unwrap().unwrap();
    assert_eq!(generations, [(one.id.clone(), head)].into());
    assert_eq!(store.instance_list_on_servers(scope, both).await.unwrap(), std::slice::from_ref(&on_one));
    assert_eq!(store.instance_list_on_servers(scope, [&two.id]).await.unwrap(), []);
    let service = store.service_get(scope, &deployment.service_id).await.unwrap();
    assert_eq!(store.service_list_of(scope, [&service.id]).await.unwrap(), [service]);
    let revision = store.revision_get(scope, &deployment.revision_id).await.unwrap();
    assert_eq!(store.revision_list_of(scope, [&revision.id]).await.unwrap(), [revision]);

    // Of nothing there is nothing, also where SQL has no empty list.
    assert!(store.server_list_of(scope, []).await.unwrap().is_empty());
    assert!(store.server_heads(scope, []).await.unwrap().is_empty());
    assert!(store.desired_state_heads_of(scope, []).await.unwrap().is_empty());
    assert!(store.instance_list_on_servers(scope, []).await.unwrap().is_empty());
    assert!(store.service_list_of(scope, []).await.unwrap().is_empty());
    assert!(store.revision_list_of(scope, []).await.unwrap().is_empty());
}
