//! `/api/v1/events`, as a list and as a stream.

use crate::fake_agent::{Identity, nothing, now_ms};
use crate::harness::{PATIENCE, World};
use api::cause::Cause;
use api::events::{Event, EventKind, EventLevel, EventRecord, EventTopic};
use api::ids::EventId;
use serde_json::json;

/// Reads server-sent events from an open answer.
pub struct Stream {
    answer: reqwest::Response,
    buffer: String,
}

impl Stream {
    pub async fn open(world: &World, path: &str) -> Self {
        let answer = world.http.get(format!("{}{path}", world.base)).bearer_auth(&world.token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, buffer: String::new() }
    }

    /// Name, id and data of the next event; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<(String, i64, String)> {
        loop {
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.buffer = rest;
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
                if let Some(data) = field("data:") {
                    return Some((field("event:").unwrap(), field("id:").unwrap().parse().unwrap(), data));
                }
            }
            let chunk =
                tokio::time::timeout(PATIENCE, self.answer.chunk()).await.expect("the stream is alive").ok()??;
            self.buffer.push_str(&String::from_utf8_lossy(&chunk));
        }
    }
}

fn happened(number: u128, message: &str) -> Event {
    Event {
        id: EventId::from_uuid(uuid::Uuid::from_u128(number)),
        at_ms: now_ms(),
        kind: EventKind::AgentStarted,
        level: EventLevel::Info,
        message: message.into(),
        cause: Cause::system("test", "start"),
        stack_id: None,
        service_id: None,
        deployment_id: None,
        instance_id: None,
        server_id: None,
    }
}

#[tokio::test]
async fn an_event_that_a_machine_reports_twice_is_kept_once_and_acknowledged_twice() {
    let world = World::new().await;
    let identity = Identity::join(&world.base, &world.join_token().await.token).await;
    let state = identity.expected_state(0, 0).await.unwrap();
    let events = vec![happened(1, "one"), happened(2, "two")];
    let first = identity.report(nothing(&state), events.clone()).await;
    let second = identity.report(nothing(&state), events).await;
    assert_eq!(first.acknowledged_events.len(), 2);
    assert_eq!(first.acknowledged_events, second.acknowledged_events);
    assert_eq!(first.generation, state.generation);
    let kept: Vec<EventRecord> =
        world.get(&format!("/api/v1/events?server={}&limit=100", identity.answer.name)).await.json();
    let reported: Vec<&EventRecord> = kept.iter().filter(|e| e.event.kind == EventKind::AgentStarted).collect();
    assert_eq!(reported.len(), 2);
    assert_eq!(
        reported[0].event.server_id.as_ref(),
        Some(&identity.answer.server_id),
        "the signature says whose it is"
    );
}

#[tokio::test]
async fn a_follower_gets_what_was_before_and_what_comes_each_once_and_in_order() {
    let world = World::new().await;
    let identity = Identity::join(&world.base, &world.join_token().await.token).await;
    let state = identity.expected_state(0, 0).await.unwrap();
    let mut stream = Stream::open(&world, "/api/v1/events?follow=true&after=0").await;
    for number in 0..40u128 {
        identity.report(nothing(&state), vec![happened(100 + number, &format!("e{number}"))]).await;
    }
    let (mut last, mut seen) = (0, Vec::new());
    while seen.len() < 40 {
        let (name, id, data) = stream.next().await.unwrap();
        let record: EventRecord = serde_json::from_str(&data).unwrap();
        assert_eq!((name.as_str(), id), ("event", record.sequence));
        assert!(record.sequence > last);
        last = record.sequence;
        if record.event.kind == EventKind::AgentStarted {
            seen.push(record.event.message);
        }
    }
    let expected: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    assert_eq!(seen, expected);

    // Going on from the last one misses nothing and repeats nothing.
    let mut resumed = Stream::open(&world, &format!("/api/v1/events?follow=true&after={last}")).await;
    identity.report(nothing(&state), vec![happened(999, "after the break")]).await;
    let (_, _, data) = resumed.next().await.unwrap();
    assert!(data.contains("after the break"));
}

#[tokio::test]
async fn filters_leave_only_what_was_asked_for_and_an_unknown_name_is_said() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let repository = world.repository("shop");
    let two = format!("{}\n[services.api]\ngit = \"{}\"\nrun = \"api\"\n", repository.manifest(""), repository.url());
    world.deploy_and_wait(&two).await;
    let web = world.service("shop", "web").await;
    let events: Vec<EventRecord> = world.get("/api/v1/events?stack=shop&service=web&limit=100").await.json();
    assert!(!events.is_empty() && events.iter().all(|e| e.event.service_id.as_ref() == Some(&web.id)));
    let newest: Vec<EventRecord> = world.get("/api/v1/events?limit=2").await.json();
    assert_eq!(newest.len(), 2);
    assert!(newest[0].sequence < newest[1].sequence, "oldest first");
    world.get("/api/v1/events?service=nope").await.error(404);
    world.get("/api/v1/events?after=x").await.error(400);
}

#[tokio::test]
async fn a_stream_ends_when_its_session_does() {
    let world = World::new().await;
    let password = world.server.initial_password().unwrap().expose().to_owned();
    let body = json!({"user": "admin", "password": password});
    let signed_in = world.http.post(format!("{}/api/v1/session", world.base)).json(&body).send().await.unwrap();
    let cookie = signed_in.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let open = world.http.get(format!("{}/api/v1/events?follow=true", world.base)).header("cookie", &cookie);
    let answer = open.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut stream = Stream { answer, buffer: String::new() };
    let out = world.http.delete(format!("{}/api/v1/session", world.base));
    let out = out.header("cookie", &cookie).header("x-mainstay-request", "1").send().await.unwrap();
    assert_eq!(out.status(), 204);
    // What happens from now on is not for this listener any more.
    world.join_token().await;
    let next = stream.next().await;
    assert!(next.is_none(), "{next:?}");
}

/// Far more happened than one page looks through; what is looked for was before all of it.
#[tokio::test]
async fn what_is_rare_is_found_however_long_ago_it_was_and_leads_to_all_that_it_caused() {
    let world = World::new().await;
    let _agent = world.agent().await;
    let deployment = world.deploy_and_wait(&world.repository("shop").manifest("")).await.remove(0);
    let before: Vec<EventRecord> = world.get("/api/v1/events?limit=1000").await.json();
    let store = store::Store::open_sqlite(&world.directory.path().join("server/mainstay.db")).await.unwrap();
    let (organization, _) = store.organization_list().await.unwrap().remove(0);
    let scope = store::Scope::system(organization, "test");
    let noise: Vec<Event> = (0..3_000).map(|number| happened(10_000 + number, "noise")).collect();
    store.event_append(&scope, &noise).await.unwrap();

    let found = async |query: &str| -> Vec<EventRecord> { world.get(&format!("/api/v1/events?{query}")).await.json() };
    let tokens = found("kind=token_created").await;
    assert!(!tokens.is_empty() && tokens.iter().all(|record| record.event.kind == EventKind::TokenCreated));
    let access = found("about=access").await;
    assert!(!access.is_empty() && access.iter().all(|record| EventTopic::of(record.event.kind) == EventTopic::Access));
    assert!(found("about=builds&kind=token_created").await.is_empty(), "both narrow");
    let is_problem = |record: &EventRecord| record.event.level >= EventLevel::Warning;
    let problems = found("level=warning").await;
    assert!(problems.iter().all(is_problem), "{problems:#?}");
    // More may have happened since then, on a slow machine.
    assert!(before.iter().filter(|record| is_problem(record)).all(|record| problems.contains(record)));

    let by = found("by=cli&kind=deployment_created").await;
    assert_eq!(by.len(), 1, "{by:#?}");
    assert!(found("by=user%20cli").await.is_empty(), "a token is no user");
    let request = by[0].event.cause.request_id.clone().unwrap();
    let caused = found(&format!("request={request}")).await;
    let of_agent = caused.iter().find(|record| record.event.kind == EventKind::DeploymentStageChanged);
    assert_eq!(of_agent.unwrap().event.deployment_id, Some(deployment.id));
    assert!(caused.len() > by.len() && caused.iter().all(|record| record.event.message != "noise"), "{caused:#?}");

    // Back to the beginning, page by page, without a gap.
    let (mut pages, mut before) = (Vec::new(), i64::MAX);
    loop {
        let page = found(&format!("limit=900&before={before}")).await;
        let Some(first) = page.first() else { break };
        before = first.sequence;
        pages.splice(0..0, page.iter().map(|record| record.sequence));
    }
    assert_eq!(pages, (1..=*pages.last().unwrap()).collect::<Vec<_>>());
    world.get("/api/v1/events?kind=nothing").await.error(400);
    world.get("/api/v1/events?request=nothing").await.error(404);
}
