//! What happened is told in the transaction in which it happened: there is no one without the other.

use crate::database::Database;
use crate::fixtures::*;
use api::deployments::{DeploymentKind, Stage};
use api::events::Event;
use api::secret::Secret;
use sqlx::Executor;
use std::collections::BTreeMap;
use std::future::Future;
use store::*;

on_every_database![
    what_cannot_be_told_does_not_happen,
    a_deployment_tells_of_its_beginning_and_of_the_end_of_the_one_before,
    a_report_is_kept_whole_or_not_at_all,
];

fn told(begun: &Begun) -> Vec<Event> {
    let ended = begun.superseded.iter().map(|before| event(&format!("ended {} {}", before.id, before.stage)));
    ended.chain([event(&format!("begun {} {}", begun.deployment.id, begun.deployment.revision_number))]).collect()
}

/// A database that can be made unable to keep events.
struct World {
    store: Store,
    database: Database,
    tenant: Tenant,
}

impl World {
    async fn new(database: Database) -> Self {
        let store = database.open().await;
        let tenant = tenant(&store, "acme").await;
        Self { store, database, tenant }
    }

    async fn beside(&self, sql: &'static str) {
        self.database.connect().await.execute(sql).await.unwrap();
    }

    async fn everything(&self) -> String {
        let mut all = Vec::new();
        self.store.dump(&mut all, true, &mut |_| {}).await.unwrap();
        String::from_utf8(all).unwrap()
    }

    async fn messages(&self) -> Vec<String> {
        let filter = EventFilter { after: Some(0), limit: 100, ..EventFilter::default() };
        let events = self.store.event_list(&self.tenant.scope, &filter).await.unwrap();
        events.into_iter().map(|record| record.event.message).collect()
    }

    /// Does it while events cannot be kept, and then while they can.
    async fn check<T, F: Future<Output = Result<T>>>(&self, what: &str, call: impl Fn() -> F) -> T {
        self.beside("ALTER TABLE events RENAME TO elsewhere").await;
        let before = self.everything().await;
        assert!(call().await.is_err(), "{what} happened without being told");
        assert_eq!(self.everything().await, before, "{what} left something behind");
        self.beside("ALTER TABLE elsewhere RENAME TO events").await;
        let told = self.messages().await.len();
        let done = call().await.unwrap();
        assert_eq!(self.messages().await.len(), told + 1, "{what} is not told");
        done
    }
}

async fn what_cannot_be_told_does_not_happen(database: Database) {
    let world = World::new(database).await;
    let (store, scope) = (&world.store, &world.tenant.scope);
    let (server, other) = (joined(store, scope, "one").await, joined(store, scope, "two").await);
    let one = [event("it happened")];

    let deploy = StackDeploy { events: one.to_vec(), ..stack_deploy(&world.tenant, "shop", 0, vec![deployed("web")]) };
    let made = world.check("a change of a stack", || store.stack_deploy(scope, &deploy, NOW)).await;
    let first = &made.deployments[0];
    let again = DeploymentCreate { tell: |_| vec![event("begun")], ..again(first, DeploymentKind::Restart) };
    let mut second = world.check("a deployment", || store.deployment_create(scope, &again, NOW)).await;
    second.stage = Stage::Cancelled;
    let cancelled = [event("cancelled")];
    world.check("its end", || store.deployment_update(scope, &second, Stage::Pending, &cancelled)).await;

    let variables = BTreeMap::from([("A".to_owned(), Some(Secret::new("1")))]);
    let set = [event("set")];
    world.check("a variable", || store.service_env_patch(scope, &first.service_id, &variables, &set)).await;
    let (off, on) = ([event("offline")], [event("online")]);
    world.check("silence", || store.server_online_set(scope, &server.id, false, &off)).await;
    world.check("return", || store.server_online_set(scope, &server.id, true, &on)).await;
    let (new, revoked) = ([event("token made")], [event("token revoked")]);
    let (join, wasted) = (token("join", None), token("wasted", None));
    world.check("a token", || store.token_create(scope, &wasted, &new, NOW)).await;
    world.check("a revoked token", || store.token_revoke(scope, &wasted.id, &revoked, NOW)).await;
    store.token_create(scope, &join, &[], NOW).await.unwrap();
    let machine = machine("three");
    let tell = |server: &Server| vec![event(server.name.as_str())];
    world.check("a server that joins", || store.server_join("join", &machine, tell, NOW)).await;
    let gone = [event("server removed")];
    world.check("a removed server", || store.server_delete(scope, &other.id, &gone)).await;

    let removal = ServiceRemoval { service_id: first.service_id.clone(), deployment_id: deployment_id() };
    let remove =
        StackRemove { events: vec![event("stack removed")], ..stack_remove(&made.stack.id, vec![removal.clone()]) };
    world.check("a removal", || store.stack_remove(scope, &remove, NOW)).await;
    let gone = [event("stack gone")];
    assert!(world.check("the end of a stack", || store.service_delete(scope, &removal.service_id, &gone)).await);
}

async fn a_deployment_tells_of_its_beginning_and_of_the_end_of_the_one_before(database: Database) {
    let world = World::new(database).await;
    let (store, scope) = (&world.store, &world.tenant.scope);
    let deploy = StackDeploy { tell: told, ..stack_deploy(&world.tenant, "shop", 0, vec![deployed("web")]) };
    let mut made = store.stack_deploy(scope, &deploy, NOW).await.unwrap();
    let first = made.deployments.remove(0);
    let restart =
        DeploymentCreate { tell: told, events: vec![event("besides")], ..again(&first, DeploymentKind::Restart) };
    let second = store.deployment_create(scope, &restart, NOW).await.unwrap();
    let removal = ServiceRemoval { service_id: first.service_id.clone(), deployment_id: deployment_id() };
    let remove = StackRemove { tell: told, ..stack_remove(&made.stack.id, vec![removal]) };
    let third = store.stack_remove(scope, &remove, NOW).await.unwrap().remove(0);
    let expected = [
        format!("begun {} 1", first.id),
        format!("ended {} superseded", first.id),
        format!("begun {} 1", second.id),
        "besides".to_owned(),
        format!("ended {} superseded", second.id),
        format!("begun {} 1", third.id),
    ];
    assert_eq!(world.messages().await, expected);
}

async fn a_report_is_kept_whole_or_not_at_all(database: Database) {
    let world = World::new(database).await;
    let (store, scope) = (&world.store, &world.tenant.scope);
    let server = joined(store, scope, "one").await;
    store.server_online_set(scope, &server.id, false, &[]).await.unwrap();
    let (saw, events) = (observed(&server.id, 7), [event("it crashed")]);
    let report =
        ReportWrite { seen: Some(("0.2.0", None)), seen_from: None, observed: Some(&saw), events: &events, back: None };
    world.check("a report", || store.report_take(scope, &server.id, &report, NOW)).await;

    let back = ReportWrite { back: Some(event("it is back")), ..report };
    assert!(store.report_take(scope, &server.id, &back, NOW).await.unwrap());
    assert!(!store.report_take(scope, &server.id, &back, NOW).await.unwrap(), "it is there already");
    assert_eq!(world.messages().await, ["it crashed", "it is back"]);
    let kept = store.server_get(scope, &server.id).await.unwrap();
    assert_eq!((kept.online, kept.agent_version.as_str()), (true, "0.2.0"));
    assert_eq!(store.observed_get(scope, &server.id).await.unwrap().unwrap().observed, saw);
}
