//! Clocks that are set by an hour while everything runs: of a whole machine, and of one agent alone.

use crate::parts::{answers, join_token};
use crate::{Load, SHORT, answering, start_server, version_is};
use e2e::{Clock, Machine, Repository, all_records, eventually};
use serde_json::Value;

const HOUR_S: i64 = 3_600;
/// Old releases go soon, and a starting one can be met.
const ROLLOUT: &str = "env = { START_DELAY_MS = \"3000\" }\n[services.web.rollout]\nwarm = \"3s\"\nbake = \"1s\"\n\
                       \n[services.worker]\nrun = \"exec sleep 3600\"\nport = false\n";

/// A machine with a clock that the test sets.
fn machine_with_clock(test: &str) -> Option<(Machine, Clock)> {
    let mut machine = Machine::new().unwrap();
    match Clock::of(&mut machine) {
        Some(clock) => Some((machine, clock)),
        None => {
            e2e::skip(test, "libfaketime is not installed (Debian: apt-get install faketime)");
            None
        }
    }
}

fn commit(repository: &Repository, version: &str) {
    repository.write_app(version, ROLLOUT).unwrap();
    repository.commit(version).unwrap();
}

fn first_server(machine: &Machine) -> Value {
    let servers = machine.run(&["--json", "servers"]);
    if servers.code == 0 { servers.json()[0].clone() } else { Value::Null }
}

async fn events(machine: &Machine) -> Vec<Value> {
    let token = std::fs::read_to_string(machine.data().join("server/cli-token")).unwrap();
    all_records(&machine.control_url(), token.trim(), "events").await.unwrap()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["kind"] == kind).collect()
}

/// Waits until the server was heard after a jump: its word bears the new time of day.
async fn heard_after_jump(machine: &Machine, ahead_s: i64) {
    eventually("the server is heard with the new time", SHORT * 2, || async {
        let server = first_server(machine);
        let now_ms = std::time::UNIX_EPOCH.elapsed().ok()?.as_millis() as i64 + ahead_s * 1000;
        let distance_ms = (server["last_seen_at_ms"].as_i64()? - now_ms).abs();
        assert_eq!(server["condition"], "online", "{server:#}");
        (distance_ms < 60_000).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_of_a_machine_jumps_by_an_hour_to_and_fro_amid_deployments_and_nobody_notices() {
    let Some((machine, clock)) = machine_with_clock("a machine whose clock jumps") else { return };
    let repository = machine.repository("shop").unwrap();
    commit(&repository, "v1");
    machine.up(&repository.path, &[]).ok();
    assert!(answering(&machine).await.starts_with("version v1 "));
    let password = std::fs::read_to_string(machine.data().join("server/initial-password")).unwrap();
    let session = sign_in(&machine, password.trim()).await;
    machine.run(&["tokens", "create", "--name", "short", "--expires", "30m"]).ok();
    let load = Load::start(&machine.gateway_url(), 4);

    for (version, ahead_s) in [("v2", HOUR_S), ("v3", 0), ("v4", -HOUR_S)] {
        commit(&repository, version);
        machine.run_in(&repository.path, &["deploy", "--no-wait"]).ok();
        eventually("the new release starts", SHORT, || async {
            (!machine.pids_of(&[&format!("e2e-app {version}")]).is_empty()).then_some(())
        })
        .await;
        clock.set_ahead(ahead_s);
        version_is(&machine, version).await;
        eventually("the deployment ends well", SHORT, || async {
            let deployment = machine.status("web")["deployment"].clone();
            assert_ne!(deployment["stage"], "failed", "{deployment:#}");
            (deployment["stage"] == "running").then_some(())
        })
        .await;
        heard_after_jump(&machine, ahead_s).await;
        assert_eq!(signed_in(&machine, &session).await, 200, "a session of two weeks outlives an hour");
        let usable = if ahead_s == HOUR_S { "expired" } else { "usable" };
        let tokens = machine.run(&["--json", "tokens", "list"]).ok().json();
        let short = tokens.as_array().unwrap().iter().find(|token| token["name"] == "short").unwrap();
        assert_eq!(short["state"], usable, "a token of half an hour does not");
        eventually("the old release goes when its few seconds are over", SHORT, || async {
            (machine.pids_of(&["e2e-app v"]).len() == 1).then_some(())
        })
        .await;
    }

    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
    let events = events(&machine).await;
    let sequences: Vec<i64> = events.iter().filter_map(|event| event["sequence"].as_i64()).collect();
    assert_eq!(sequences, (1..=events.len() as i64).collect::<Vec<_>>(), "events keep their order");
    for kind in ["server_offline", "gateway_stopped", "config_refused"] {
        assert!(of_kind(&events, kind).is_empty(), "{:#?}", of_kind(&events, kind));
    }
    let unwell: Vec<_> = of_kind(&events, "health_changed").into_iter().filter(|e| e["level"] != "info").collect();
    assert!(unwell.is_empty(), "{unwell:#?}");
    assert_eq!(machine.status("worker")["condition"], "running");
}

async fn sign_in(machine: &Machine, password: &str) -> String {
    let body = format!("{{\"user\":\"admin\",\"password\":\"{password}\"}}");
    let request = reqwest::Client::new().post(format!("{}/api/v1/session", machine.control_url()));
    let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
    let cookie = answer.headers().get("set-cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
    let cookie = cookie.unwrap_or_else(|| panic!("not signed in: {}", answer.status()));
    cookie.split(';').next().unwrap_or_default().to_owned()
}

async fn signed_in(machine: &Machine, session: &str) -> u16 {
    let request = reqwest::Client::new().get(format!("{}/api/v1/servers", machine.control_url()));
    request.header("cookie", session).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_clock_is_an_hour_off_is_told_from_a_dead_one_serves_on_and_comes_back_by_itself() {
    let Some((member, clock)) = machine_with_clock("an agent whose clock is off") else { return };
    let control = Machine::new().unwrap();
    let repository = control.repository("shop").unwrap();
    commit(&repository, "v1");
    let _server = start_server(&control, &["--poll-interval", "1s"]);
    answers(&control).await;
    let token = join_token(&control, "one");
    let _agent = member.start("agent.log", &["agent", "--join", &control.control_url(), "--token", &token]);
    let condition_is = async |condition: &str| {
        eventually(&format!("the server is {condition}"), SHORT, || async {
            (first_server(&control)["condition"] == condition).then_some(())
        })
        .await;
    };
    condition_is("online").await;
    control.run_in(&repository.path, &["deploy"]).ok();
    assert!(answering(&control).await.starts_with("version v1 "));
    let load = Load::start(&control.gateway_url(), 4);

    for (round, ahead_s, said) in [(1, HOUR_S, "its clock is 60 min ahead"), (2, -HOUR_S, "its clock is 60 min behind")]
    {
        clock.set_ahead(ahead_s);
        condition_is("offline").await;
        control.run(&["servers"]).ok().says(&format!("offline: {said}")).says("Set the clock that is wrong");
        let records = events(&control).await;
        let offline = of_kind(&records, "server_offline");
        assert_eq!(offline.len(), round, "{offline:#?}");
        let message = offline[round - 1]["message"].as_str().unwrap();
        assert!(message.contains(said) && message.contains("NTP"), "{message}");
        let word = said.rsplit(' ').next().unwrap();
        eventually("the agent's own log says it", SHORT, || async {
            let log = member.log("agent.log");
            (log.contains(&format!(" {word} ")) && log.contains("Set the clock (NTP)")).then_some(())
        })
        .await;
        clock.set_ahead(0);
        condition_is("online").await;
        let server = first_server(&control);
        assert_eq!(server["clock_difference_ms"], Value::Null, "{server:#}");
        assert_eq!(of_kind(&events(&control).await, "server_online").len(), round);
    }
    commit(&repository, "v2");
    control.run_in(&repository.path, &["deploy"]).ok();
    version_is(&control, "v2").await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
}
