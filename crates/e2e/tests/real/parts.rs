//! What most stories of crashes and restores begin with: a control plane, an agent that joined it, a service.

use crate::{SHORT, get, start_server, version_is};
use e2e::{Machine, Part, Repository, eventually};
use serde_json::Value;

/// Control plane and agent as two processes, so that each can crash alone.
pub struct Parts {
    pub machine: Machine,
    pub repository: Repository,
    pub server: Part,
    pub agent: Part,
}

/// With the first release of the service `web`, under these settings, deployed and answering.
pub async fn parts(settings: &str) -> Parts {
    let machine = Machine::new().unwrap();
    let repository = machine.repository("shop").unwrap();
    repository.write_app("v1", settings).unwrap();
    repository.commit("first").unwrap();
    let server = start_server(&machine, &[]);
    answers(&machine).await;
    let agent = joined(&machine, "data", "agent.log", "one").await;
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v1").await;
    Parts { machine, repository, server, agent }
}

/// Until the control plane does.
pub async fn answers(machine: &Machine) {
    let health = format!("{}/healthz", machine.control_url());
    eventually("the control plane answers", SHORT, || get(&health)).await;
}

/// An agent that joins, once it is online.
pub async fn joined(machine: &Machine, folder: &str, log: &str, name: &str) -> Part {
    let token = join_token(machine, name);
    let (data, url) = (machine.folder().join(folder), machine.control_url());
    let before = servers(machine).as_array().map_or(0, Vec::len);
    let data = data.to_string_lossy();
    let agent = machine.start(log, &["--data-dir", &data, "agent", "--join", &url, "--token", &token]);
    eventually("the server is online", SHORT, || async {
        let servers = servers(machine);
        let servers = servers.as_array()?;
        (servers.len() > before && servers.iter().all(|s| s["condition"] == "online")).then_some(())
    })
    .await;
    agent
}

/// Good for one machine, once.
pub fn join_token(machine: &Machine, name: &str) -> String {
    let created = machine.run(&["--json", "tokens", "create", "--name", name]).ok().json();
    created["token"].as_str().unwrap().to_owned()
}

/// As the command line lists them.
pub fn servers(machine: &Machine) -> Value {
    let answer = machine.run(&["--json", "servers"]);
    if answer.code == 0 { answer.json() } else { Value::Null }
}
