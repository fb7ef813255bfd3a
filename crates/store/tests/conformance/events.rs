//! Events: kept once, in an order that a follower can trust.

use crate::database::Database;
use crate::fixtures::*;
use api::cause::{Actor, Cause};
use api::events::{Event, EventKind, EventLevel};
use sqlx::Connection;
use std::collections::HashSet;
use store::{EventFilter, Scope, Store};

on_every_database![
    an_event_that_is_reported_again_is_kept_once,
    a_follower_sees_every_event_of_eight_writers_in_order,
    every_filter_narrows,
    a_request_is_followed_through_the_deployments_that_it_began,
    old_events_are_found_by_what_is_in_them,
    pages_go_forward_and_back,
    more_events_than_one_statement_holds_are_kept,
];

fn all() -> EventFilter {
    EventFilter { after: Some(0), limit: 10_000, ..EventFilter::default() }
}

fn user(name: &str) -> Actor {
    Actor::User { name: name.into() }
}

async fn messages(store: &Store, scope: &Scope, filter: &EventFilter) -> Vec<String> {
    store.event_list(scope, filter).await.unwrap().into_iter().map(|record| record.event.message).collect()
}

async fn an_event_that_is_reported_again_is_kept_once(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (one, two, three) = (event("one"), event("two"), event("three \0 ü 🚀"));
    assert_eq!(store.event_newest(&tenant.scope).await.unwrap(), 0);
    let kept = store.event_append(&tenant.scope, &[one.clone(), two.clone(), one.clone()]).await.unwrap();
    assert_eq!(kept, [one.id.clone(), two.id.clone(), one.id.clone()]);
    store.event_append(&tenant.scope, &[two.clone(), three.clone()]).await.unwrap();
    let records = store.event_list(&tenant.scope, &all()).await.unwrap();
    assert_eq!(records.iter().map(|r| r.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(records.into_iter().map(|r| r.event).collect::<Vec<Event>>(), [one, two, three]);
    assert_eq!(store.event_newest(&tenant.scope).await.unwrap(), 3);
}

async fn a_follower_sees_every_event_of_eight_writers_in_order(database: Database) {
    const EACH: usize = 25;
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (store, scope) = (store.clone(), tenant.scope.clone());
            tokio::spawn(async move {
                for number in 0..EACH {
                    let pair = [event(&format!("{writer}/{number}")), event("second")];
                    store.event_append(&scope, &pair).await.unwrap();
                }
            })
        })
        .collect();
    let mut seen: Vec<i64> = Vec::new();
    while seen.len() < 8 * EACH * 2 {
        let filter = EventFilter { after: Some(seen.last().copied().unwrap_or(0)), limit: 7, ..all() };
        seen.extend(store.event_list(&tenant.scope, &filter).await.unwrap().iter().map(|record| record.sequence));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // Nothing appeared behind the follower's back: what it saw is the whole, without a gap.
    assert_eq!(seen, (1..=(8 * EACH * 2) as i64).collect::<Vec<_>>());
    let ids: HashSet<_> =
        store.event_list(&tenant.scope, &all()).await.unwrap().into_iter().map(|r| r.event.id).collect();
    assert_eq!(ids.len(), seen.len());
}

async fn every_filter_narrows(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (stack, service, deployment, server) = (stack_id(), service_id(), deployment_id(), server_id());
    let level = |level, text: &str| Event { level, ..event(text) };
    let by = |actor, text: &str| Event { cause: Cause { actor, ..cause() }, ..event(text) };
    let events = [
        event("plain"),
        Event { stack_id: Some(stack.clone()), ..event("stack") },
        Event { stack_id: Some(stack.clone()), service_id: Some(service.clone()), ..event("service") },
        Event { service_id: Some(service.clone()), deployment_id: Some(deployment.clone()), ..event("deployment") },
        Event { server_id: Some(server.clone()), ..event("server") },
        level(EventLevel::Warning, "warning"),
        level(EventLevel::Error, "error"),
        Event { kind: EventKind::BuildFailed, level: EventLevel::Error, ..event("build") },
        Event { kind: EventKind::TokenUsed, server_id: Some(server.clone()), ..event("token") },
        by(user("admin"), "user"),
        by(Actor::Token { name: "admin".into() }, "token of the same name"),
        by(Actor::Agent { server: "admin".into() }, "no person"),
    ];
    store.event_append(&tenant.scope, &events).await.unwrap();
    let found = async |filter: EventFilter| messages(&store, &tenant.scope, &filter).await;
    assert_eq!(found(EventFilter { stack_id: Some(stack.clone()), ..all() }).await, ["stack", "service"]);
    assert_eq!(found(EventFilter { service_id: Some(service.clone()), ..all() }).await, ["service", "deployment"]);
    assert_eq!(found(EventFilter { deployment_id: Some(deployment), ..all() }).await, ["deployment"]);
    assert_eq!(found(EventFilter { server_id: Some(server.clone()), ..all() }).await, ["server", "token"]);
    let worse_than = async |level| found(EventFilter { lowest_level: Some(level), ..all() }).await;
    assert_eq!(worse_than(EventLevel::Info).await.len(), events.len());
    assert_eq!(worse_than(EventLevel::Warning).await, ["warning", "error", "build"]);
    assert_eq!(worse_than(EventLevel::Error).await, ["error", "build"]);
    let of_kinds = |kinds: &[EventKind]| EventFilter { kinds: Some(kinds.to_vec()), ..all() };
    let kinds = [EventKind::TokenUsed, EventKind::BuildFailed];
    assert_eq!(found(of_kinds(&kinds)).await, ["build", "token"]);
    assert_eq!(found(EventFilter { after: None, limit: 1, ..of_kinds(&kinds) }).await, ["token"]);
    assert_eq!(found(EventFilter { server_id: Some(server), ..of_kinds(&kinds) }).await, ["token"]);
    assert_eq!(found(EventFilter { lowest_level: Some(EventLevel::Error), ..of_kinds(&kinds) }).await, ["build"]);
    assert_eq!(found(of_kinds(&[])).await, Vec::<String>::new());
    let of_people = |people: &[Actor]| EventFilter { people: Some(people.to_vec()), ..all() };
    let token = Actor::Token { name: "admin".into() };
    assert_eq!(found(of_people(&[user("admin")])).await, ["user"]);
    assert_eq!(found(of_people(&[user("admin"), token])).await, ["user", "token of the same name"]);
    assert_eq!(found(of_people(&[user("else")])).await, Vec::<String>::new());
    assert_eq!(found(of_people(&[Actor::system("test")])).await, Vec::<String>::new(), "no person");
    let both = EventFilter { stack_id: Some(stack), service_id: Some(service), ..all() };
    assert_eq!(found(both).await, ["service"]);
    assert_eq!(found(EventFilter { stack_id: Some(stack_id()), ..all() }).await, Vec::<String>::new());
}

/// Who clicks on a request wants to see what came of it, also what machines tell of it later.
async fn a_request_is_followed_through_the_deployments_that_it_began(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (request, deployment) = (request_id(), deployment_id());
    let asked = Cause { request_id: Some(request.clone()), ..cause() };
    let events = [
        event("before"),
        Event { cause: asked.clone(), deployment_id: Some(deployment.clone()), ..event("deployment") },
        Event { cause: asked, ..event("also this") },
        Event { deployment_id: Some(deployment_id()), ..event("of another") },
        Event { deployment_id: Some(deployment), ..event("instance started") },
        Event { cause: Cause { request_id: Some(request_id()), ..cause() }, ..event("another request") },
    ];
    store.event_append(&tenant.scope, &events).await.unwrap();
    let filter = EventFilter { request_id: Some(request.clone()), ..all() };
    let caused = ["deployment", "also this", "instance started"];
    assert_eq!(messages(&store, &tenant.scope, &filter).await, caused);
    let by_nobody = EventFilter { people: Some(vec![user("admin")]), ..filter.clone() };
    assert_eq!(messages(&store, &tenant.scope, &by_nobody).await, Vec::<String>::new());
    let page = EventFilter { after: Some(2), limit: 1, ..filter };
    assert_eq!(messages(&store, &tenant.scope, &page).await, ["also this"]);
    let newest = EventFilter { after: None, limit: 2, request_id: Some(request), ..EventFilter::default() };
    assert_eq!(messages(&store, &tenant.scope, &newest).await, ["instance started", "also this"]);
}

/// Events that were kept before their kind had a column.
async fn old_events_are_found_by_what_is_in_them(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let request = request_id();
    let cause = Cause { actor: user("ad\"min ü"), request_id: Some(request.clone()), ..cause() };
    let message = "a NUL \0, what looks like one \\u0000, and \"kind\":\"token_used\"";
    let by_person = Event { kind: EventKind::BuildFailed, cause, ..event(message) };
    let plain = event("plain");
    store.event_append(&tenant.scope, &[by_person, plain]).await.unwrap();
    store.close().await;
    let mut connection = database.connect().await;
    for sql in [
        "DROP INDEX events_by_kind",
        "DROP INDEX events_by_person",
        "DROP INDEX events_by_request",
        "ALTER TABLE events DROP COLUMN kind",
        "ALTER TABLE events DROP COLUMN person",
        "ALTER TABLE events DROP COLUMN request_id",
        "DELETE FROM _sqlx_migrations WHERE version = 6",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    connection.close().await.unwrap();

    let store = database.open().await;
    let found = async |filter: EventFilter| messages(&store, &tenant.scope, &filter).await;
    let kinds = Some(vec![EventKind::BuildFailed]);
    assert_eq!(found(EventFilter { kinds, ..all() }).await, [message]);
    assert_eq!(found(EventFilter { people: Some(vec![user("ad\"min ü")]), ..all() }).await, [message]);
    assert_eq!(found(EventFilter { request_id: Some(request), ..all() }).await, [message]);
    assert_eq!(found(EventFilter { kinds: Some(vec![event("").kind]), ..all() }).await, ["plain"]);
}

async fn pages_go_forward_and_back(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let events: Vec<Event> = (1..=9).map(|n| event(&n.to_string())).collect();
    store.event_append(&tenant.scope, &events).await.unwrap();
    let page = |after, before| EventFilter { after, before, limit: 3, ..EventFilter::default() };
    assert_eq!(messages(&store, &tenant.scope, &page(Some(4), None)).await, ["5", "6", "7"]);
    assert_eq!(messages(&store, &tenant.scope, &page(None, None)).await, ["9", "8", "7"]);
    assert_eq!(messages(&store, &tenant.scope, &page(None, Some(7))).await, ["6", "5", "4"]);
    assert_eq!(messages(&store, &tenant.scope, &page(Some(9), None)).await, Vec::<String>::new());
}

async fn more_events_than_one_statement_holds_are_kept(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let events: Vec<Event> = (0..703).map(|n| event(&n.to_string())).collect();
    store.event_append(&tenant.scope, &events).await.unwrap();
    store.event_append(&tenant.scope, &events).await.unwrap();
    let kept = messages(&store, &tenant.scope, &all()).await;
    assert_eq!(kept, (0..703).map(|n| n.to_string()).collect::<Vec<_>>());
}
