//! `/api/v1/logs` and its upload.

use crate::events::Stream;
use crate::fake_agent::{FakeAgent, now_ms};
use crate::harness::World;
use api::deployments::Deployment;
use api::logs::{LogBatch, LogLine, LogRecord, LogSource, LogStream, LogUpload, LogUploadAnswer};
use api::services::ServiceView;
use reqwest::Method;
use std::io::Write;

fn batch(view: &ServiceView, source: LogSource, offset: u64, texts: &[&str]) -> LogBatch {
    let line = |text: &&str| LogLine { at_ms: now_ms(), stream: LogStream::Stdout, text: (*text).into() };
    let size: usize = texts.iter().map(|t| t.len() + 1).sum();
    LogBatch {
        source,
        service_id: view.id.clone(),
        offset,
        next_offset: offset + size as u64,
        lines: texts.iter().map(line).collect(),
    }
}

async fn upload(world: &World, agent: &FakeAgent, batches: Vec<LogBatch>) -> LogUploadAnswer {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&serde_json::to_vec(&LogUpload { batches }).unwrap()).unwrap();
    let request = agent.identity.signed(Method::POST, "/api/v1/agent/logs", encoder.finish().unwrap(), now_ms());
    world.send(request).await.json()
}

async fn world_with_service() -> (World, FakeAgent, ServiceView, Deployment) {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    let done = world.deploy_and_wait(&repository.manifest("")).await.remove(0);
    let view = world.service("shop", "web").await;
    (world, agent, view, done)
}

fn texts(records: &[LogRecord]) -> Vec<&str> {
    records.iter().map(|r| r.line.text.as_str()).collect()
}

#[tokio::test]
async fn a_batch_that_is_sent_again_adds_nothing_and_a_gap_is_said() {
    let (world, agent, view, _) = world_with_service().await;
    let source = LogSource::Run { instance_id: view.instances[0].id.clone() };
    let first = batch(&view, source.clone(), 0, &["a", "b"]);
    for _ in 0..2 {
        let answer = upload(&world, &agent, vec![first.clone()]).await;
        assert_eq!(answer.acknowledged[0].next_offset, 4);
    }
    let overlapping = batch(&view, source.clone(), 2, &["b", "c"]);
    assert_eq!(upload(&world, &agent, vec![overlapping]).await.acknowledged[0].next_offset, 4, "send again from there");
    let next = batch(&view, source.clone(), 4, &["c"]);
    assert_eq!(upload(&world, &agent, vec![next]).await.acknowledged[0].next_offset, 6);
    let records: Vec<LogRecord> = world.get("/api/v1/logs?stack=shop&service=web&kind=run").await.json();
    assert_eq!(texts(&records), ["a", "b", "c"]);
    assert_eq!(records[0].service, "web");
    let tail: Vec<LogRecord> = world.get("/api/v1/logs?stack=shop&service=web&tail=1").await.json();
    assert_eq!(texts(&tail), ["c"]);
    upload(&world, &agent, vec![batch(&view, source, 40, &["late"])]).await;
    let tail: Vec<LogRecord> = world.get("/api/v1/logs?stack=shop&service=web&tail=2").await.json();
    assert!(texts(&tail)[0].contains("34 bytes") && texts(&tail)[1] == "late", "{tail:?}");
}

#[tokio::test]
async fn build_and_run_lines_are_told_apart_and_a_follower_gets_tail_and_news() {
    let (world, agent, view, deployment) = world_with_service().await;
    let build = LogSource::Build { deployment_id: deployment.id.clone() };
    let run = LogSource::Run { instance_id: view.instances[0].id.clone() };
    upload(&world, &agent, vec![batch(&view, build, 0, &["compiling"]), batch(&view, run.clone(), 0, &["one", "two"])])
        .await;
    let of_build: Vec<LogRecord> =
        world.get(&format!("/api/v1/logs?deployment={}&kind=build", deployment.id)).await.json();
    assert_eq!(texts(&of_build), ["compiling"]);
    let of_instance: Vec<LogRecord> =
        world.get(&format!("/api/v1/logs?instance={}", view.instances[0].id)).await.json();
    assert_eq!(texts(&of_instance), ["one", "two"]);

    let mut stream = Stream::open(&world, "/api/v1/logs?stack=shop&service=web&kind=run&tail=1&follow=true").await;
    upload(&world, &agent, vec![batch(&view, run, 8, &["three"])]).await;
    for expected in ["two", "three"] {
        let (name, _, data) = stream.next().await.unwrap();
        let record: LogRecord = serde_json::from_str(&data).unwrap();
        assert_eq!((name.as_str(), record.line.text.as_str()), ("log", expected));
    }
}

#[tokio::test]
async fn a_machine_cannot_write_into_the_log_of_a_service_that_is_not_on_it() {
    let (world, _agent, view, _) = world_with_service().await;
    let stranger = world.agent().await;
    let source = LogSource::Run { instance_id: view.instances[0].id.clone() };
    let answer = upload(&world, &stranger, vec![batch(&view, source, 0, &["forged"])]).await;
    // It is told that all is kept, so that it stops sending; nothing is.
    assert_eq!(answer.acknowledged.len(), 1);
    assert_eq!(world.get("/api/v1/logs?stack=shop&service=web").await.text, "[]");
}

/// Many pieces, and still being written while it is read.
#[tokio::test]
async fn a_whole_log_is_one_answer_in_either_order_narrowed_as_asked_and_it_ends() {
    const LINES: usize = 6_000;
    let (world, agent, view, _) = world_with_service().await;
    let source = LogSource::Run { instance_id: view.instances[0].id.clone() };
    let store = store::Store::open_sqlite(&world.directory.path().join("server/mainstay.db")).await.unwrap();
    let (organization, _) = store.organization_list().await.unwrap().remove(0);
    let scope = store::Scope::system(organization, "test");
    let now = now_ms();
    let line = |number: usize| LogLine {
        at_ms: now - ((LINES - number) as i64) * 1_000,
        stream: LogStream::Stdout,
        text: if number.is_multiple_of(2_000) {
            format!("\x1b[31mNee\x1b[0mdle {number}")
        } else {
            format!("hay {number}")
        },
    };
    let lines: Vec<LogLine> = (0..LINES).map(line).collect();
    let whole = LogBatch { lines, next_offset: 1_000_000, ..batch(&view, source.clone(), 0, &[]) };
    store.log_append(&scope, &agent.identity.answer.server_id, &[whole]).await.unwrap();

    let file = async |query: &str| world.get(&format!("/api/v1/logs/file?stack=shop&service=web&{query}")).await;
    let records = |answer: &crate::harness::Answer| -> Vec<LogRecord> {
        answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let answer = file("").await;
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    let (oldest_first, newest_first) = (records(&answer), records(&file("newest_first=true").await));
    assert_eq!(oldest_first.len(), LINES);
    assert!(oldest_first.iter().eq(newest_first.iter().rev()));
    assert!(oldest_first.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));

    let found = records(&file("search=needle").await);
    let numbers: Vec<String> = found.iter().map(|record| api::logs::plain_text(&record.line.text)).collect();
    assert_eq!(numbers, ["Needle 0", "Needle 2000", "Needle 4000"], "seen through the colours");
    let (since, until) = (now - 3_500, now - 1_500);
    let lately = records(&file(&format!("since_ms={since}&until_ms={until}")).await);
    assert_eq!(texts(&lately), ["hay 5997", "hay 5998"]);
    let text = file("form=text&search=dle%2020").await;
    assert!(text.text.ends_with(" UTC Needle 2000\n") && text.text.lines().count() == 1, "{}", text.text);
    assert_eq!(file("instance=ins_00000000000000000000000000000000").await.text, "");
    file("form=pdf").await.error(400);
    world.get("/api/v1/logs/file?service=nope").await.error(404);

    // A service that never stops writing: what comes after the question is not part of the answer.
    let request = world.request(Method::GET, "/api/v1/logs/file?stack=shop");
    let mut slow = request.send().await.unwrap();
    let mut read = slow.chunk().await.unwrap().unwrap().to_vec();
    let late = LogBatch { next_offset: 1_000_005, ..batch(&view, source, 1_000_000, &["late"]) };
    upload(&world, &agent, vec![late]).await;
    while let Some(chunk) = slow.chunk().await.unwrap() {
        read.extend_from_slice(&chunk);
    }
    let read = String::from_utf8(read).unwrap();
    assert_eq!(read.lines().count(), LINES);
    assert!(!read.contains("\"late\""));
}
