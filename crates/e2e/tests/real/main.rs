//! The promises of the README and of docs/, each tried as a user would, with the real binary as
//! real processes.

use e2e::{Load, Machine, Part, Repository, eventually};
use std::time::Duration;

mod backup;
mod bad_input;
mod clock_jumps;
mod commands;
mod containers;
mod crashes;
mod disk_full;
mod fleet;
mod https;
mod joining;
mod kill_loop;
mod looking;
mod mesh;
mod mesh_of_agents;
mod parts;
mod private_repositories;
mod rollouts;
mod up;

const SHORT: Duration = Duration::from_secs(20);

/// Body of a `GET`, or `None` unless the status is 200.
async fn get(url: &str) -> Option<String> {
    let response = reqwest::Client::new().get(url).timeout(Duration::from_secs(5)).send().await.ok()?;
    (response.status() == 200).then_some(())?;
    response.text().await.ok()
}

/// A control plane and its machine's agent as two processes, so that each can crash alone.
fn start_server(machine: &Machine, extra: &[&str]) -> Part {
    let listen = format!("127.0.0.1:{}", machine.control_port);
    let gateway = machine.gateway_port.to_string();
    let mut arguments = vec!["server", "--listen", &listen, "--gateway-port", &gateway, "--allow-local-sources"];
    arguments.extend(extra);
    machine.start("server.log", &arguments)
}

fn start_agent(machine: &Machine) -> Part {
    machine.start("agent.log", &["agent"])
}

/// A machine on which version `v1` of the tests' app runs and answers.
async fn machine_with_app() -> (Machine, Repository) {
    machine_with(&[], "").await
}

async fn machine_with(up: &[&str], extra: &str) -> (Machine, Repository) {
    let machine = Machine::new().unwrap();
    let repository = machine.repository("shop").unwrap();
    repository.write_app("v1", extra).unwrap();
    repository.commit("first").unwrap();
    machine.up(&repository.path, up).ok();
    assert!(answering(&machine).await.starts_with("version v1 "));
    (machine, repository)
}

async fn answering(machine: &Machine) -> String {
    let url = machine.gateway_url();
    eventually("the gateway answers", SHORT, || get(&url)).await
}

/// Waits until the gateway answers with that version.
async fn version_is(machine: &Machine, version: &str) -> String {
    let url = machine.gateway_url();
    let head = format!("version {version} ");
    eventually(&format!("version {version} answers"), SHORT, || async {
        get(&url).await.filter(|body| body.starts_with(&head))
    })
    .await
}

/// The word after a word: `pid` of `version v1 pid 12 instance x`.
fn word_after(text: &str, word: &str) -> String {
    text.split(' ').skip_while(|w| *w != word).nth(1).unwrap_or_default().to_owned()
}
