//! Log lines: each kept once and in order, found by what a person asks for.

use crate::database::Database;
use crate::fixtures::*;
use api::deployments::{Deployment, DeploymentKind};
use api::ids::ServiceId;
use api::logs::{LogBatch, LogLine, LogSource, LogStream};
use store::{Instance, InstanceChange, LogFilter, LogKind, Server, Store};

on_every_database![
    a_log_goes_on_where_it_ended,
    a_batch_that_was_taken_before_adds_nothing,
    lines_that_were_rotated_away_are_said_to_be_missing,
    two_servers_that_build_for_one_deployment_keep_their_own_place,
    any_text_is_kept,
    a_batch_of_many_lines_keeps_their_order,
    every_filter_narrows,
    the_log_of_a_deployment_outlives_its_instances,
    the_first_lines_of_a_log_may_come_after_its_instance_is_forgotten,
    a_follower_of_three_services_misses_no_line,
    very_many_services_are_read_as_one,
];

fn all() -> LogFilter {
    LogFilter { after: Some(0), limit: 10_000, ..LogFilter::default() }
}

async fn texts(store: &Store, tenant: &Tenant, filter: LogFilter) -> Vec<String> {
    store.log_list(&tenant.scope, &filter).await.unwrap().into_iter().map(|record| record.line.text).collect()
}

/// A service with an instance on a server.
struct World {
    store: Store,
    tenant: Tenant,
    server: Server,
    deployment: Deployment,
    instance: Instance,
}

impl World {
    async fn new(database: &Database) -> World {
        let store = database.open().await;
        let tenant = tenant(&store, "acme").await;
        let server = joined(&store, &tenant.scope, "one").await;
        let (_, deployment) = shop(&store, &tenant).await;
        let instance = instance(&deployment, &server);
        let create = tick(&deployment, vec![InstanceChange::Create(instance.clone())]);
        store.rollout_apply(&tenant.scope, &create, NOW).await.unwrap();
        World { store, tenant, server, deployment, instance }
    }

    fn service(&self) -> &ServiceId {
        &self.deployment.service_id
    }

    /// Sends a batch from the server and answers up to where its log is kept.
    async fn send(&self, batch: LogBatch) -> u64 {
        let answer = self.store.log_append(&self.tenant.scope, &self.server.id, &[batch]).await.unwrap();
        answer[0].next_offset
    }

    async fn texts(&self, filter: LogFilter) -> Vec<String> {
        texts(&self.store, &self.tenant, filter).await
    }
}

async fn a_log_goes_on_where_it_ended(database: Database) {
    let world = World::new(&database).await;
    let source = run_of(&world.instance);
    assert_eq!(world.store.log_newest(&world.tenant.scope).await.unwrap(), 0);
    assert!(!world.store.log_stream_exists(&world.tenant.scope, &source, &world.server.id).await.unwrap());
    assert_eq!(world.send(batch(&source, world.service(), 0, 10, &["one", "two"])).await, 10);
    assert_eq!(world.send(batch(&source, world.service(), 10, 15, &["three"])).await, 15);
    assert!(world.store.log_stream_exists(&world.tenant.scope, &source, &world.server.id).await.unwrap());
    let records = world.store.log_list(&world.tenant.scope, &all()).await.unwrap();
    assert_eq!(records.iter().map(|r| r.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    let third = &records[2];
    assert_eq!((&third.service_id, third.service.as_str(), &third.source), (world.service(), "web", &source));
    assert_eq!(third.line, LogLine { at_ms: NOW, stream: LogStream::Stdout, text: "three".into() });
    assert_eq!(world.store.log_newest(&world.tenant.scope).await.unwrap(), 3);
}

async fn a_batch_that_was_taken_before_adds_nothing(database: Database) {
    let world = World::new(&database).await;
    let source = run_of(&world.instance);
    let first = batch(&source, world.service(), 0, 10, &["one"]);
    world.send(first.clone()).await;
    world.send(batch(&source, world.service(), 10, 20, &["two"])).await;
    assert_eq!(world.send(first).await, 20, "it says where to go on");
    assert_eq!(world.send(batch(&source, world.service(), 15, 30, &["two and", "three"])).await, 20);
    assert_eq!(world.send(batch(&source, world.service(), 20, 20, &["nothing"])).await, 20);
    assert_eq!(world.send(batch(&source, world.service(), 20, u64::MAX, &["beyond"])).await, 20);
    assert_eq!(world.texts(all()).await, ["one", "two"]);
}

async fn lines_that_were_rotated_away_are_said_to_be_missing(database: Database) {
    let world = World::new(&database).await;
    let source = run_of(&world.instance);
    world.send(batch(&source, world.service(), 0, 10, &["one"])).await;
    assert_eq!(world.send(batch(&source, world.service(), 110, 120, &["nine"])).await, 120);
    let lost = "(100 bytes of this log were rotated away before they could be sent)";
    assert_eq!(world.texts(all()).await, ["one", lost, "nine"]);
    let records = world.store.log_list(&world.tenant.scope, &all()).await.unwrap();
    assert_eq!(records[1].line.stream, LogStream::Mainstay);
}

async fn two_servers_that_build_for_one_deployment_keep_their_own_place(database: Database) {
    let world = World::new(&database).await;
    let second = joined(&world.store, &world.tenant.scope, "two").await;
    let source = build_of(&world.deployment);
    for (offset, next, text) in [(0, 10, "fetch"), (10, 20, "build")] {
        for (server, called) in [(&world.server, "one"), (&second, "two")] {
            let line = format!("{called}: {text}");
            let sent = batch(&source, world.service(), offset, next, &[&line]);
            // Twice: the answer to the first may have been lost.
            for _ in 0..2 {
                let sent = std::slice::from_ref(&sent);
                let answer = world.store.log_append(&world.tenant.scope, &server.id, sent).await.unwrap();
                assert_eq!(answer[0].next_offset, next);
            }
        }
    }
    assert_eq!(world.texts(all()).await, ["one: fetch", "two: fetch", "one: build", "two: build"]);
}

async fn any_text_is_kept(database: Database) {
    let world = World::new(&database).await;
    let long = "ü".repeat(8 * 1024);
    let strange =
        ["", "a\0b", "'; DROP TABLE log_lines; --", "\u{1b}[31m🚀 日本語\u{202e}\r\t", "\\u0000 $1 ? %s", &long];
    world.send(batch(&run_of(&world.instance), world.service(), 0, 10, &strange)).await;
    let mut expected = strange.map(str::to_owned);
    expected[1] = "a\u{fffd}b".into();
    assert_eq!(world.texts(all()).await, expected);
}

async fn a_batch_of_many_lines_keeps_their_order(database: Database) {
    let world = World::new(&database).await;
    let numbers: Vec<String> = (0..703).map(|n| n.to_string()).collect();
    let lines: Vec<&str> = numbers.iter().map(String::as_str).collect();
    world.send(batch(&run_of(&world.instance), world.service(), 0, 9999, &lines)).await;
    assert_eq!(world.texts(all()).await, numbers);
    let tail = LogFilter { limit: 3, ..LogFilter::default() };
    assert_eq!(world.texts(tail).await, ["700", "701", "702"]);
    let page = LogFilter { after: Some(10), limit: 3, ..LogFilter::default() };
    assert_eq!(world.texts(page).await, ["10", "11", "12"]);
}

async fn every_filter_narrows(database: Database) {
    let world = World::new(&database).await;
    let second = stack_deploy(&world.tenant, "blog", 0, vec![deployed("api")]);
    let second = world.store.stack_deploy(&world.tenant.scope, &second, NOW).await.unwrap().deployments.remove(0);
    let run = run_of(&world.instance);
    world.send(batch(&build_of(&world.deployment), world.service(), 0, 5, &["web build"])).await;
    world.send(batch(&run, world.service(), 0, 5, &["web run"])).await;
    world.send(batch(&build_of(&second), &second.service_id, 0, 5, &["api build"])).await;
    let late = LogLine { at_ms: NOW + 100, stream: LogStream::Stderr, text: "web late".into() };
    world.send(LogBatch { lines: vec![late], ..batch(&run, world.service(), 5, 9, &[]) }).await;

    let web = world.service().clone();
    let found = async |filter| world.texts(filter).await;
    let of =
        |ids: &[&ServiceId]| LogFilter { service_ids: Some(ids.iter().map(|id| (*id).clone()).collect()), ..all() };
    let deployment = LogFilter { deployment_id: Some(world.deployment.id.clone()), ..all() };
    let instance = LogFilter { instance_id: Some(world.instance.id.clone()), ..all() };
    assert_eq!(found(of(&[&web])).await, ["web build", "web run", "web late"]);
    assert_eq!(found(of(&[&second.service_id, &web])).await, ["web build", "web run", "api build", "web late"]);
    assert_eq!(found(LogFilter { limit: 2, ..of(&[&second.service_id, &web]) }).await, ["web build", "web run"]);
    let tail = LogFilter { after: None, limit: 2, ..of(&[&second.service_id, &web]) };
    assert_eq!(found(tail).await, ["api build", "web late"]);
    assert_eq!(found(of(&[])).await, Vec::<String>::new());
    assert_eq!(found(deployment.clone()).await, ["web build", "web run", "web late"]);
    assert_eq!(found(LogFilter { kind: Some(LogKind::Build), ..deployment.clone() }).await, ["web build"]);
    assert_eq!(found(LogFilter { kind: Some(LogKind::Run), ..deployment.clone() }).await, ["web run", "web late"]);
    let elsewhere = LogFilter { service_ids: Some(vec![second.service_id.clone()]), ..deployment.clone() };
    assert_eq!(found(elsewhere).await, Vec::<String>::new());
    assert_eq!(found(instance.clone()).await, ["web run", "web late"]);
    assert_eq!(found(LogFilter { kind: Some(LogKind::Build), ..instance.clone() }).await, Vec::<String>::new());
    let both = LogFilter { instance_id: Some(world.instance.id.clone()), ..deployment };
    assert_eq!(found(both).await, ["web run", "web late"]);
    assert_eq!(found(LogFilter { kind: Some(LogKind::Build), ..all() }).await, ["web build", "api build"]);
    assert_eq!(found(LogFilter { kind: Some(LogKind::Run), ..of(&[&web]) }).await, ["web run", "web late"]);
    assert_eq!(found(LogFilter { since_ms: Some(NOW + 1), ..all() }).await, ["web late"]);
    assert_eq!(found(LogFilter { since_ms: Some(NOW + 100), ..instance.clone() }).await, ["web late"]);
    assert_eq!(found(LogFilter { until_ms: Some(NOW + 99), ..instance }).await, ["web run"]);
}

async fn the_log_of_a_deployment_outlives_its_instances(database: Database) {
    let world = World::new(&database).await;
    world.send(batch(&run_of(&world.instance), world.service(), 0, 5, &["it crashed because"])).await;
    let delete = tick(&world.deployment, vec![InstanceChange::Delete { id: world.instance.id.clone() }]);
    world.store.rollout_apply(&world.tenant.scope, &delete, NOW).await.unwrap();
    world.send(batch(&run_of(&world.instance), world.service(), 5, 9, &["of this"])).await;
    let filter = LogFilter { deployment_id: Some(world.deployment.id.clone()), ..all() };
    assert_eq!(world.texts(filter).await, ["it crashed because", "of this"]);
}

async fn the_first_lines_of_a_log_may_come_after_its_instance_is_forgotten(database: Database) {
    let world = World::new(&database).await;
    let delete = tick(&world.deployment, vec![InstanceChange::Delete { id: world.instance.id.clone() }]);
    world.store.rollout_apply(&world.tenant.scope, &delete, NOW).await.unwrap();
    let build = LogSource::Build { deployment_id: world.deployment.id.clone() };
    for source in [run_of(&world.instance), build] {
        // What is not known is taken for somebody else's log and dropped.
        let known = world.store.log_stream_exists(&world.tenant.scope, &source, &world.server.id).await.unwrap();
        assert!(known, "{}", source.key());
        assert_eq!(world.send(batch(&source, world.service(), 0, 10, &["late"])).await, 10);
    }
    let of_deployment = LogFilter { deployment_id: Some(world.deployment.id.clone()), ..all() };
    assert_eq!(world.texts(of_deployment).await, ["late", "late"]);
}

async fn a_follower_of_three_services_misses_no_line(database: Database) {
    const EACH: u64 = 25;
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let services = vec![deployed("a"), deployed("b"), deployed("c"), deployed("other")];
    let deploy = stack_deploy(&tenant, "shop", 0, services);
    let deployments = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments;
    let writers: Vec<_> = deployments
        .iter()
        .map(|deployment| {
            let (store, scope, server) = (store.clone(), tenant.scope.clone(), server.id.clone());
            let (source, service) = (build_of(deployment), deployment.service_id.clone());
            tokio::spawn(async move {
                for n in 0..EACH {
                    let sent = batch(&source, &service, n, n + 1, &[&n.to_string()]);
                    store.log_append(&scope, &server, &[sent]).await.unwrap();
                }
            })
        })
        .collect();
    let followed: Vec<ServiceId> = deployments[..3].iter().map(|d| d.service_id.clone()).collect();
    let mut seen: Vec<(ServiceId, String)> = Vec::new();
    let mut after = 0;
    while seen.len() < 3 * EACH as usize {
        let filter = LogFilter { after: Some(after), limit: 4, service_ids: Some(followed.clone()), ..all() };
        for record in store.log_list(&tenant.scope, &filter).await.unwrap() {
            assert!(record.sequence > after);
            after = record.sequence;
            seen.push((record.service_id, record.line.text));
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for service in &followed {
        let of_service: Vec<&str> =
            seen.iter().filter(|(id, _)| id == service).map(|(_, text)| text.as_str()).collect();
        assert_eq!(of_service, (0..EACH).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

async fn very_many_services_are_read_as_one(database: Database) {
    let world = World::new(&database).await;
    world.send(batch(&run_of(&world.instance), world.service(), 0, 5, &["one", "two", "three"])).await;
    let mut ids: Vec<ServiceId> = (0..300).map(|_| service_id()).collect();
    ids.push(world.service().clone());
    let filter = LogFilter { service_ids: Some(ids), limit: 2, ..LogFilter::default() };
    assert_eq!(world.texts(filter.clone()).await, ["two", "three"]);
    assert_eq!(world.texts(LogFilter { after: Some(0), ..filter }).await, ["one", "two"]);
    // As many instances of one deployment.
    let restart = again(&world.deployment, DeploymentKind::Restart);
    let restart = world.store.deployment_create(&world.tenant.scope, &restart, NOW).await.unwrap();
    let instances: Vec<Instance> = (0..70).map(|_| instance(&restart, &world.server)).collect();
    let create = tick(&restart, instances.iter().cloned().map(InstanceChange::Create).collect());
    world.store.rollout_apply(&world.tenant.scope, &create, NOW).await.unwrap();
    let source = |i: &Instance| LogSource::Run { instance_id: i.id.clone() };
    let batches: Vec<LogBatch> = instances.iter().map(|i| batch(&source(i), world.service(), 0, 5, &["x"])).collect();
    world.store.log_append(&world.tenant.scope, &world.server.id, &batches).await.unwrap();
    let filter = LogFilter { deployment_id: Some(restart.id), ..all() };
    assert_eq!(world.texts(filter).await.len(), 70);
}
