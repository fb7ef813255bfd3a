//! Disks that fill up, of the control plane and of a server: down to the reserve, and to the last byte.

use crate::parts::join_token;
use crate::{Load, answering, get, start_server, version_is, word_after};
use e2e::{Machine, Part, Repository, SmallDisk, all_records, eventually, kill};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// A disk in a file waits for the disk under it, which others use, too.
const LIMIT: Duration = Duration::from_secs(60);
const DISK_MEGABYTES: u64 = 64;
/// Less than the reserve of such a disk, and enough for whoever writes little.
const ALMOST_NOTHING_BYTES: u64 = 4 * 1024 * 1024;
const EXTRA: &str = "env = { LOG_EVERY_MS = \"20\" }\n[services.web.rollout]\nwarm = \"0s\"\nbake = \"0s\"\n";

/// Version `v1` runs; the data of one of the two lies on a small disk.
struct Parts {
    machine: Machine,
    disk: Arc<SmallDisk>,
    repository: Repository,
    _server: Part,
    agent: Part,
}

const CONTROL_PLANE: &str = "data";
const MEMBER: &str = "member";

async fn parts(on_the_disk: &str, reserve: &str) -> Option<Parts> {
    let mut machine = Machine::new().unwrap();
    let disk = match machine.small_disk(on_the_disk, DISK_MEGABYTES) {
        Ok(disk) => disk,
        Err(error) => {
            e2e::skip("a full disk", &format!("this machine lets us mount nothing: {error:#}"));
            return None;
        }
    };
    println!("the disk is {}", disk.kind);
    machine.environment.extend((!reserve.is_empty()).then(|| ("MAINSTAY_DISK_RESERVE", reserve.to_owned())));
    let repository = machine.repository("shop").unwrap();
    commit(&repository, "v1");
    let server = start_server(&machine, &["--poll-interval", "2s"]);
    let health = format!("{}/healthz", machine.control_url());
    eventually("the control plane answers", LIMIT, || get(&health)).await;
    let token = join_token(&machine, "one");
    let agent = start_member(&machine, &["--join", &machine.control_url(), "--token", &token, "--name", "member"]);
    eventually("the server is online", LIMIT, || async {
        let servers = machine.run(&["--json", "servers"]);
        (servers.code == 0 && servers.json()[0]["condition"] == "online").then_some(())
    })
    .await;
    machine.run_in(&repository.path, &["deploy"]).ok();
    assert!(answering(&machine).await.starts_with("version v1 "));
    Some(Parts { machine, disk, repository, _server: server, agent })
}

/// The agent; its data lies beside that of the control plane.
fn start_member(machine: &Machine, arguments: &[&str]) -> Part {
    let data = machine.folder().join(MEMBER);
    let data = data.to_string_lossy();
    machine.start("agent.log", &[&["--data-dir", &data, "agent"], arguments].concat())
}

fn commit(repository: &Repository, version: &str) {
    repository.write_app(version, EXTRA).unwrap();
    repository.commit(version).unwrap();
}

async fn events(machine: &Machine) -> Vec<Value> {
    let token = std::fs::read_to_string(machine.data().join("server/cli-token")).unwrap();
    all_records(&machine.control_url(), token.trim(), "events").await.unwrap()
}

async fn said(machine: &Machine, kind: &str) -> Value {
    eventually(&format!("an event says {kind}"), LIMIT, || async {
        events(machine).await.into_iter().find(|event| event["kind"] == kind)
    })
    .await
}

async fn log_says(machine: &Machine, file: &str, words: &str) {
    eventually(&format!("{file} says `{words}`"), LIMIT, || async { machine.log(file).contains(words).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_refuses_what_grows_before_its_disk_is_full_and_takes_it_when_there_is_room() {
    let Some(parts) = parts(CONTROL_PLANE, "").await else { return };
    let Parts { machine, disk, repository, .. } = &parts;
    let load = Load::start(&machine.gateway_url(), 4);
    disk.fill(ALMOST_NOTHING_BYTES);
    let low = said(machine, "disk_low").await;
    assert_eq!(low["server_id"], Value::Null, "{low:#}");
    get(&format!("{}/log/said-while-full", machine.gateway_url())).await.unwrap();
    log_says(machine, "agent.log", "logs stay on this machine").await;

    commit(repository, "v2");
    let refused = machine.run_in(&repository.path, &["deploy"]);
    assert_ne!(refused.code, 0, "{}", refused.all());
    refused.says("nothing was deployed: the control plane's disk is nearly full").says("free some space");
    let refused = machine.run_in(&repository.path, &["--json", "deploy"]);
    refused.says("\"disk_full\"");
    for command in ["status", "servers"] {
        machine.run(&[command]).ok().says("the control plane's disk is nearly full");
    }
    // What may mend things, and is small, goes on.
    machine.run(&["restart", "web"]).ok();
    assert!(answering(machine).await.starts_with("version v1 "));
    let logs = machine.run(&["logs", "web", "--tail", "1000"]).ok();
    assert!(!logs.stdout.contains("said-while-full"), "log lines were refused");

    disk.free();
    said(machine, "disk_freed").await;
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(machine, "v2").await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
    let quiet = machine.run(&["status"]).ok();
    assert!(!quiet.all().contains("nearly full"), "{}", quiet.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_on_a_disk_without_one_free_byte_says_so_loses_nothing_and_goes_on() {
    let Some(parts) = parts(CONTROL_PLANE, "0").await else { return };
    let Parts { machine, disk, repository, .. } = &parts;
    let load = Load::start(&machine.gateway_url(), 4);
    get(&format!("{}/log/said-before", machine.gateway_url())).await.unwrap();
    eventually("the line is kept", LIMIT, || async {
        machine.run(&["logs", "web", "--tail", "1000"]).stdout.contains("said-before").then_some(())
    })
    .await;
    let before = events(machine).await;
    disk.fill(0);
    log_says(machine, "server.log", "the database's disk is full").await;
    log_says(machine, "agent.log", "507").await;
    for _ in 0..3 {
        let refused = machine.run(&["--json", "restart", "web"]);
        assert_ne!(refused.code, 0, "{}", refused.all());
        refused.says("\"disk_full\"").says("nothing was changed: the disk of the control plane's database is full");
    }
    commit(repository, "v2");
    let refused = machine.run_in(&repository.path, &["deploy"]);
    assert_ne!(refused.code, 0, "{}", refused.all());
    refused.says("No space left on device").says("see whether its disk is full");
    machine.run(&["status"]).ok().says("web");
    // Longer than a server may be silent.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(events(machine).await[..before.len()], before, "what was kept is kept");

    disk.free();
    eventually("a deployment is taken", LIMIT, || async {
        (machine.run_in(&repository.path, &["deploy"]).code == 0).then_some(())
    })
    .await;
    version_is(machine, "v2").await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
    let events = events(machine).await;
    let sequences: Vec<i64> = events.iter().filter_map(|event| event["sequence"].as_i64()).collect();
    assert_eq!(sequences, (1..=events.len() as i64).collect::<Vec<_>>());
    let offline: Vec<_> = events[before.len()..].iter().filter(|event| event["kind"] == "server_offline").collect();
    assert!(offline.is_empty(), "nobody could report, and nobody is blamed: {offline:#?}");
    let file = machine.folder().join("after.backup");
    machine.run(&["backup", "--output", &file.to_string_lossy()]).ok();
    machine.run(&["restore", "--check", &file.to_string_lossy()]).ok().says("is whole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_builds_nothing_new_before_its_disk_is_full_says_why_and_goes_on_by_itself() {
    let Some(parts) = parts(MEMBER, "").await else { return };
    let Parts { machine, disk, repository, .. } = &parts;
    let load = Load::start(&machine.gateway_url(), 4);
    let builds = || std::fs::read_dir(machine.folder().join("member/agent/builds")).unwrap().count();
    let before = builds();
    disk.fill(ALMOST_NOTHING_BYTES);
    let low = said(machine, "disk_low").await;
    assert!(low["server_id"].is_string(), "{low:#}");
    commit(repository, "v2");
    machine.run_in(&repository.path, &["deploy", "--no-wait"]).ok();
    eventually("the release is held back with the reason", LIMIT, || async {
        let shown = machine.run(&["servers", "show", "member"]).ok().stdout;
        (shown.contains("service web: its release waits for room on the disk")).then_some(())
    })
    .await;
    for command in ["status", "servers"] {
        machine.run(&[command]).ok().says("the disk of member is nearly full").says("nothing new is fetched or built");
    }
    assert_eq!(builds(), before);
    assert!(answering(machine).await.starts_with("version v1 "));

    disk.free();
    version_is(machine, "v2").await;
    said(machine, "disk_freed").await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_server_without_one_free_byte_services_and_gateway_and_agent_go_on() {
    let Some(mut parts) = parts(MEMBER, "0").await else { return };
    parts.disk.fill(0);
    let load = Load::start(&parts.machine.gateway_url(), 4);
    commit(&parts.repository, "v2");
    parts.machine.run_in(&parts.repository.path, &["deploy", "--no-wait"]).ok();
    eventually("the release cannot be fetched, for a reason", LIMIT, || async {
        let shown = parts.machine.run(&["servers", "show", "member"]).ok().stdout;
        (shown.contains("held back: service web") && shown.contains("No space left")).then_some(())
    })
    .await;
    parts.agent.crash();
    parts.agent = start_member(&parts.machine, &[]);
    let Parts { machine, disk, .. } = &parts;
    log_says(machine, "agent.log", "cannot be kept").await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");

    // A process that dies is started again without a byte on the disk.
    let before = word_after(&answering(machine).await, "pid");
    kill(before.parse().unwrap());
    eventually("another process answers", LIMIT, || async {
        let body = get(&machine.gateway_url()).await?;
        (word_after(&body, "pid") != before).then_some(())
    })
    .await;
    assert_eq!(machine.pids_of(&["e2e-app v1"]).len(), 1, "{:#?}", machine.processes());

    disk.free();
    version_is(machine, "v2").await;
    eventually("the log says what it lost", LIMIT, || async {
        let instances = std::fs::read_dir(machine.folder().join("member/agent/instances")).ok()?;
        let logs = instances.flatten().map(|entry| entry.path().join("log"));
        let texts = logs.filter_map(|log| std::fs::read_dir(log).ok()).flatten().flatten();
        let said = texts.filter_map(|segment| std::fs::read_to_string(segment.path()).ok());
        let kept = machine.run(&["logs", "web", "--tail", "1000"]).stdout;
        let words = "before this one could not be written";
        (kept.contains(words) || said.into_iter().any(|text| text.contains(words))).then_some(())
    })
    .await;
}
