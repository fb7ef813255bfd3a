//! What is past its time goes; what is in use, or needed to go on, stays.

use crate::database::Database;
use crate::fixtures::*;
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::events::Event;
use api::logs::{LogBatch, LogLine, LogStream};
use store::{EventFilter, InstanceChange, LogFilter, Retention, RolloutWrite};

on_every_database![
    events_go_by_age_and_by_count,
    log_lines_go_by_age_and_by_count_and_the_log_goes_on,
    more_rows_than_a_chunk_go,
    ended_deployments_go_with_their_revisions,
    what_serves_stays_however_old,
    the_place_in_a_log_is_kept_while_it_may_go_on,
];

async fn events_go_by_age_and_by_count(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let events: Vec<Event> = (1..=10).map(|n| Event { at_ms: NOW + n, ..event(&n.to_string()) }).collect();
    store.event_append(&tenant.scope, &events).await.unwrap();
    let filter = EventFilter { after: Some(0), limit: 100, ..EventFilter::default() };
    let left = async || -> Vec<i64> {
        store.event_list(&tenant.scope, &filter).await.unwrap().iter().map(|record| record.sequence).collect()
    };
    let by_age = Retention { events_ms: 100, ..Retention::default() };
    assert_eq!(store.retention_apply(&by_age, NOW + 104).await.unwrap(), 3);
    assert_eq!(left().await, [4, 5, 6, 7, 8, 9, 10]);
    let by_count = Retention { events_count: 2, ..Retention::default() };
    store.retention_apply(&by_count, NOW).await.unwrap();
    assert_eq!(left().await, [9, 10]);
    let none = Retention { events_count: 0, ..Retention::default() };
    store.retention_apply(&none, NOW).await.unwrap();
    assert_eq!(store.event_newest(&tenant.scope).await.unwrap(), 10, "the count goes on from where it was");
    store.event_append(&tenant.scope, &[event("next")]).await.unwrap();
    assert_eq!(left().await, [11]);
}

async fn log_lines_go_by_age_and_by_count_and_the_log_goes_on(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let lines = (1..=10).map(|n| LogLine { at_ms: NOW + n, stream: LogStream::Stdout, text: n.to_string() }).collect();
    let sent = LogBatch { lines, ..batch(&build_of(&deployment), &deployment.service_id, 0, 10, &[]) };
    store.log_append(&tenant.scope, &server.id, std::slice::from_ref(&sent)).await.unwrap();
    let filter = LogFilter { limit: 100, ..LogFilter::default() };
    let left = async || -> Vec<String> {
        store.log_list(&tenant.scope, &filter).await.unwrap().into_iter().map(|record| record.line.text).collect()
    };
    let by_age = Retention { log_lines_ms: 100, ..Retention::default() };
    store.retention_apply(&by_age, NOW + 104).await.unwrap();
    assert_eq!(left().await, ["4", "5", "6", "7", "8", "9", "10"]);
    let by_count = Retention { log_lines_count: 0, ..Retention::default() };
    store.retention_apply(&by_count, NOW).await.unwrap();
    assert_eq!((left().await.len(), store.log_newest(&tenant.scope).await.unwrap()), (0, 10));
    store.log_append(&tenant.scope, &server.id, &[sent]).await.unwrap();
    assert_eq!(left().await.len(), 0, "what was acknowledged is not taken again");
}

async fn more_rows_than_a_chunk_go(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    store.event_append(&tenant.scope, &[event("x")]).await.unwrap();
    // The others are copies of the first: appending them would only take time.
    let mut connection = database.connect().await;
    for sql in [
        "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 6000)
         INSERT INTO events (organization_id, sequence, id, at_ms, level, document)
         SELECT organization_id, i, 'evt_' || i, at_ms, level, document FROM events, n",
        "UPDATE counters SET value = 6000 WHERE name = 'events'",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    let retention = Retention { events_count: 10, ..Retention::default() };
    assert_eq!(store.retention_apply(&retention, NOW).await.unwrap(), 5_990);
    assert_eq!(store.retention_apply(&retention, NOW).await.unwrap(), 0);
}

async fn ended_deployments_go_with_their_revisions(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    shop(&store, &tenant).await;
    let mut service = None;
    for version in 1..6 {
        let deploy = stack_deploy(&tenant, "shop", version, vec![deployed("web")]);
        service = Some(store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments.remove(0).service_id);
    }
    let service = service.unwrap();
    let retention = Retention { deployments_count: 2, ..Retention::default() };
    assert_eq!(store.retention_apply(&retention, NOW).await.unwrap(), 8);
    let revisions = store.revision_list(&tenant.scope, &service, 10).await.unwrap();
    assert_eq!(revisions.iter().map(|r| r.number).collect::<Vec<_>>(), [6, 5]);
    assert_eq!(store.deployment_list(&tenant.scope, &service, 10).await.unwrap().len(), 2);
    // Even "none" leaves the one in flight.
    store.retention_apply(&Retention { deployments_count: 0, ..Retention::default() }, NOW).await.unwrap();
    let left = store.deployment_list(&tenant.scope, &service, 10).await.unwrap();
    assert_eq!((left.len(), left[0].stage, left[0].revision_number), (1, Stage::Pending, 6));
}

async fn what_serves_stays_however_old(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, first) = shop(&store, &tenant).await;
    let serving = instance(&first, &server);
    let write = RolloutWrite {
        deployment: Some((Deployment { stage: Stage::Running, ..first.clone() }, Stage::Pending)),
        current: Some((Some(first.revision_id.clone()), None)),
        ..tick(&first, vec![InstanceChange::Create(serving.clone())])
    };
    store.rollout_apply(&tenant.scope, &write, NOW).await.unwrap();
    let mut newest = first.clone();
    for version in 1..5 {
        let deploy = stack_deploy(&tenant, "shop", version, vec![deployed("web")]);
        newest = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments.remove(0);
    }
    let second = store.revision_by_number(&tenant.scope, &first.service_id, 2).await.unwrap().unwrap();
    let current = Some((Some(first.revision_id.clone()), Some(second.id)));
    store.rollout_apply(&tenant.scope, &RolloutWrite { current, ..tick(&newest, vec![]) }, NOW).await.unwrap();
    // A rollback to the third is in flight; it has no instance yet.
    let third = store.revision_by_number(&tenant.scope, &first.service_id, 3).await.unwrap().unwrap();
    let back = store::DeploymentCreate { revision_id: third.id.clone(), ..again(&first, DeploymentKind::Rollback) };
    store.deployment_create(&tenant.scope, &back, NOW).await.unwrap();

    let retention = Retention { deployments_count: 1, ..Retention::default() };
    store.retention_apply(&retention, NOW).await.unwrap();

    let revisions = store.revision_list(&tenant.scope, &first.service_id, 10).await.unwrap();
    let numbers: Vec<u64> = revisions.iter().map(|revision| revision.number).collect();
    assert_eq!(numbers, [5, 3, 2, 1], "the newest, the one on its way, the one before and the one that serves");
    assert!(store.deployment_get(&tenant.scope, &first.id).await.is_ok(), "its instance still names it");
}

async fn the_place_in_a_log_is_kept_while_it_may_go_on(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let running = instance(&deployment, &server);
    let create = tick(&deployment, vec![InstanceChange::Create(running.clone())]);
    store.rollout_apply(&tenant.scope, &create, NOW).await.unwrap();
    let source = run_of(&running);
    let sent = batch(&source, &deployment.service_id, 0, 10, &["one"]);
    store.log_append(&tenant.scope, &server.id, &[sent]).await.unwrap();
    let known = async || store.log_stream_exists(&tenant.scope, &source, &server.id).await.unwrap();
    let nothing_kept = Retention { log_lines_count: 0, ..Retention::default() };

    store.retention_apply(&nothing_kept, NOW).await.unwrap();
    assert!(known().await, "its instance is there");
    let delete = tick(&deployment, vec![InstanceChange::Delete { id: running.id.clone() }]);
    store.rollout_apply(&tenant.scope, &delete, NOW).await.unwrap();
    store.retention_apply(&nothing_kept, NOW).await.unwrap();
    assert!(known().await, "its last lines may still be on their way");
    store.deployment_create(&tenant.scope, &again(&deployment, DeploymentKind::Restart), NOW).await.unwrap();
    let newest_kept = Retention { deployments_count: 1, ..nothing_kept };
    store.retention_apply(&newest_kept, NOW).await.unwrap();
    assert!(!known().await, "nobody can go on with the log of a deployment that is forgotten");
}
