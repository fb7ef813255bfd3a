//! Tokens and joining: each is good once, and a refusal changes nothing.

use crate::parts::join_token;
use crate::{SHORT, get};
use e2e::{Machine, eventually};

async fn control_plane() -> (Machine, e2e::Part) {
    let machine = Machine::new().unwrap();
    let listen = format!("127.0.0.1:{}", machine.control_port);
    let server = machine.start("server.log", &["server", "--listen", &listen]);
    let health = format!("{}/healthz", machine.control_url());
    eventually("the control plane answers", SHORT, || get(&health)).await;
    (machine, server)
}

fn join(machine: &Machine, token: &str, folder: &str) -> e2e::Answer {
    let data = machine.folder().join(folder);
    let url = machine.control_url();
    machine.run(&["--data-dir", &data.to_string_lossy(), "agent", "--join", &url, "--token", token])
}

fn servers(machine: &Machine) -> usize {
    machine.run(&["--json", "servers"]).ok().json().as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn an_unknown_a_used_and_an_expired_token_are_each_refused_in_clear_words_and_change_nothing() {
    let (machine, _server) = control_plane().await;
    let unknown = join(&machine, "nobody-made-this-token", "a");
    assert_ne!(unknown.code, 0);
    unknown.says("does not know this join token");

    let token = join_token(&machine, "one");
    let data = machine.folder().join("b");
    let url = machine.control_url();
    let _agent = machine
        .start("agent.log", &["--data-dir", &data.to_string_lossy(), "agent", "--join", &url, "--token", &token]);
    eventually("the server is there", SHORT, || async { (servers(&machine) == 1).then_some(()) }).await;
    let used = join(&machine, &token, "c");
    assert_ne!(used.code, 0);
    used.says("used already");
    assert!(!machine.folder().join("c/agent/identity.json").exists());

    let short = machine.run(&["--json", "tokens", "create", "--name", "two", "--expires", "1s"]).ok().json();
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let expired = join(&machine, short["token"].as_str().unwrap(), "d");
    assert_ne!(expired.code, 0);
    expired.says("expired");
    assert_eq!(servers(&machine), 1, "nothing was changed");
}
