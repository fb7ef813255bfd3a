//! Commands that look at what runs, and what `mainstay up` says with its last word.

use crate::{SHORT, get, machine_with, machine_with_app};
use e2e::{Machine, eventually};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// More than anything here takes on a machine that has a lot to do.
const LONG: Duration = Duration::from_secs(60);

/// `mainstay up` in the foreground.
fn foreground(machine: &Machine, folder: &Path) -> Command {
    let listen = machine.control_url().replace("http://", "");
    let gateway = machine.gateway_url().rsplit(':').next().unwrap_or_default().to_owned();
    let mut command = machine.command();
    command.arg("up").arg(folder).args(["--listen", &listen, "--gateway-port", &gateway]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn up_in_the_foreground_ends_with_the_code_of_the_deployment_that_failed() {
    let machine = Machine::new().unwrap();
    let repository = machine.repository("shop").unwrap();
    repository
        .write("mainstay.toml", "name = \"shop\"\n\n[services.web]\nbuild = \"exit 7\"\nrun = \"true\"\n")
        .unwrap();
    repository.commit("first").unwrap();
    let mut child = foreground(&machine, &repository.path).spawn().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let reader =
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let until = |words: &str| {
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.contains(words)) {
            said.push(lines.recv_timeout(LONG).unwrap_or_else(|_| panic!("never `{words}` after {said:#?}")));
        }
        said.join("\n")
    };
    let said = until("next: mend it");
    assert!(said.contains("the deploy of web failed while building"), "{said}");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    until("stopping; services and gateway keep running");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(reader.join().unwrap().is_ok());
}

#[tokio::test]
async fn what_is_on_its_way_up_after_a_start_is_starting_and_never_down() {
    // Without a port it is healthy after two seconds at the earliest.
    let (machine, repository) =
        machine_with(&[], "\n[services.worker]\nrun = \"exec sleep 1000\"\nport = false\n").await;
    machine.run(&["down"]).ok();
    let mut child = foreground(&machine, &repository.path).stderr(Stdio::null()).spawn().unwrap();
    let mut seen: Vec<String> = Vec::new();
    eventually("both services run", SHORT, || {
        let status = machine.run(&["status", "shop"]).stdout;
        let lines: Vec<&str> = status.lines().filter(|line| line.starts_with("w")).collect();
        seen.extend(lines.iter().map(|line| (*line).to_owned()));
        assert!(!status.contains(" down ") && !status.contains("no instance is healthy"), "{status}");
        let all = lines.len() == 2 && lines.iter().all(|line| line.contains(" running "));
        let started = seen.iter().any(|line| line.contains(" starting "));
        async move { (all && started).then_some(()) }
    })
    .await;
    machine.run(&["down"]).ok();
    child.wait().unwrap();
}

#[tokio::test]
async fn top_knows_what_is_used_from_two_reports_and_doctor_finds_its_own_control_plane() {
    let (machine, _repository) = machine_with_app().await;
    let url = machine.gateway_url();
    let visitor = tokio::spawn(async move {
        loop {
            get(&url).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let usage = machine.run(&["top", "--once", "--json"]).ok().json();
    visitor.abort();
    let (server, service) = (&usage["servers"][0], &usage["services"][0]);
    let positive = |value: &Value| value.as_f64().is_some_and(|value| value > 0.0);
    assert!(positive(&server["memory_total_bytes"]) && positive(&server["cpu_count"]), "{usage:#}");
    assert!(positive(&service["requests_per_second"]) && positive(&service["latency_ms"]), "{usage:#}");
    assert!(service["cpu_percent"].is_number() && service["instances"][0]["restarts"].is_number(), "{usage:#}");

    let examination = machine.run(&["doctor", "--json"]).json();
    let finding = |check: &str| {
        let findings = examination["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["check"] == check).cloned().unwrap_or_default()
    };
    let port = format!("port {}", machine.control_url().rsplit(':').next().unwrap());
    for check in ["control plane", "agent", "clock", "git", port.as_str()] {
        let found = finding(check);
        assert!(found["verdict"] == "good" || (check == "git" && found["verdict"] == "warning"), "{check}: {found:#}");
    }
}

#[tokio::test]
async fn a_stack_that_was_removed_has_no_process_left() {
    let (machine, _repository) = machine_with_app().await;
    assert!(!machine.pids_of(&["e2e-app v1"]).is_empty());
    machine.run(&["stacks", "remove", "shop", "--yes"]).ok().says("shop is removed");
    assert!(machine.pids_of(&["e2e-app v1"]).is_empty(), "{:#?}", machine.processes());
    machine.run(&["status"]).ok().says("Nothing is deployed yet.");
}
