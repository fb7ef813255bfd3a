//! The mesh as users get it: agents join a control plane, each in a network namespace of its own, and nobody sets up
//! anything.

use crate::mesh::{connect, echo};
use anyhow::Result;
use e2e::{Machine, Network, Part, eventually};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Agents look around every ten seconds, and this machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);
/// Where the control plane is, and its address.
const CONTROL: usize = 4;
const URL: &str = "http://10.99.0.4:4600";

struct Fleet {
    agents: Vec<Part>,
    _control_plane: Part,
    network: Network,
    machine: Machine,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Gateways outlive their agents, and would keep their namespaces.
        self.agents.clear();
        for (pid, _) in self.machine.processes() {
            e2e::kill(pid);
        }
    }
}

impl Fleet {
    /// Three servers that have joined. `None`: this machine cannot, which was said.
    async fn of_three(test: &str) -> Option<Self> {
        let network = match Network::with_servers(CONTROL) {
            Ok(network) => network,
            Err(error) => {
                e2e::skip(test, &format!("{error:#}"));
                return None;
            }
        };
        let machine = Machine::new().unwrap();
        let mut server = machine.command();
        server.args(["server", "--listen", "10.99.0.4:4600"]);
        let control_plane = network.start(CONTROL, &server, &machine.folder().join("server.log")).unwrap();
        let mut fleet = Self { agents: Vec::new(), _control_plane: control_plane, network, machine };
        for number in 1..=3 {
            let token = eventually("there is a token", PATIENCE, || async {
                let name = format!("for {number}");
                Some(fleet.ask(&["tokens", "create", "--name", &name]).ok()?["token"].as_str()?.to_owned())
            });
            let token = token.await;
            let agent = fleet.start_agent(number, &["--join", URL, "--token", &token, "--name", &name(number)]);
            fleet.agents.push(agent);
        }
        Some(fleet)
    }

    fn start_agent(&self, number: usize, arguments: &[&str]) -> Part {
        let mut agent = self.machine.command();
        agent.env_remove("MAINSTAY_NO_MESH").arg("--data-dir").arg(self.machine.folder().join(name(number)));
        agent.arg("agent").args(arguments);
        let log = self.machine.folder().join(format!("agent{number}.log"));
        self.network.start(number, &agent, &log).unwrap()
    }

    /// What the command line says, beside the control plane.
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.machine.command();
        command.arg("--json").args(words);
        let output = self.network.enter(CONTROL, &command).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// What a server last said of its mesh.
    fn mesh(&self, number: usize) -> Option<Value> {
        let servers = self.ask(&["servers"]).ok()?;
        let server = servers.as_array()?.iter().find(|server| server["name"] == name(number).as_str())?.clone();
        Some(server["observed"]["mesh"].clone())
    }

    /// What a server last said of another.
    fn peer(&self, number: usize, other: usize) -> Option<Value> {
        let mesh = self.mesh(number)?;
        mesh["peers"].as_array()?.iter().find(|peer| peer["name"] == name(other).as_str()).cloned()
    }

    fn routes(&self, number: usize) -> String {
        self.network.output(number, &["ip", "route"]).unwrap()
    }
}

fn name(number: usize) -> String {
    format!("web-{number}")
}

/// By the order of joining.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 100, 0, 1).to_bits().checked_add((number as u32) << 8).map(Ipv4Addr::from_bits).unwrap()
}

fn echoes(stream: &mut TcpStream, when: &str) {
    stream.write_all(b"still there?").unwrap();
    let mut back = [0; 12];
    stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{when}: {error}"));
}

#[tokio::test]
async fn servers_that_join_reach_each_other_and_say_how_well_and_what_was_done_by_hand_is_put_back() {
    let test = "servers_that_join_reach_each_other_and_say_how_well_and_what_was_done_by_hand_is_put_back";
    let Some(mut fleet) = Fleet::of_three(test).await else { return };
    for (number, other) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        let what = format!("{} reaches {}, and probes are answered", name(number), name(other));
        eventually(&what, PATIENCE, || async {
            let peer = fleet.peer(number, other)?;
            let answered = peer["probes"]["sent"].as_u64()? > peer["probes"]["lost"].as_u64()?;
            (peer["state"] == "direct" && answered).then_some(())
        })
        .await;
    }
    echo(&fleet.network, 2);
    let mut stream = connect(&fleet.network, 1, address(2)).unwrap();
    echoes(&mut stream, "through the mesh");

    // Keys stay where they were made.
    let key = std::fs::read_to_string(fleet.machine.folder().join("web-1/agent/mesh.key")).unwrap();
    let told = Command::new("grep").args(["-rlF", key.trim()]).arg(fleet.machine.folder()).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert_eq!(told.lines().count(), 1, "the private key is also in {told}");

    // By hand, beside the agent.
    fleet.network.ip(1, &["route", "delete", "10.200.2.0/24"]).unwrap();
    eventually("the route is put back", PATIENCE, || async { fleet.routes(1).contains("10.200.2.0/24").then_some(()) })
        .await;
    eventually("it is told what was otherwise", PATIENCE, || async {
        fleet.mesh(1)?["repaired"].to_string().contains("the route to 10.200.2.0/24 is missing").then_some(())
    })
    .await;
    echoes(&mut stream, "after the repair");

    // An agent that dies is nothing to the tunnel.
    fleet.agents[0].crash();
    echoes(&mut stream, "without the agent");
    fleet.agents[0] = fleet.start_agent(1, &[]);

    // A cable that is pulled is noticed long before WireGuard gives the handshake up, and when it is back, too.
    fleet.network.plug(3, false).unwrap();
    eventually("the silence is told", PATIENCE, || async { fleet.peer(2, 3)?["reason"].as_str().map(drop) }).await;
    fleet.network.plug(3, true).unwrap();
    eventually("all is well again", PATIENCE, || async {
        let peer = fleet.peer(2, 3)?;
        (peer["state"] == "direct" && peer["reason"].is_null()).then_some(())
    })
    .await;

    // Whoever is removed is no peer any more, and the others stay as they are.
    fleet.ask(&["servers", "remove", "web-3", "--force"]).unwrap();
    eventually("the removed one is no peer", PATIENCE, || async {
        (fleet.peer(1, 3).is_none() && fleet.peer(2, 3).is_none() && !fleet.routes(1).contains("10.200.3.0/24"))
            .then_some(())
    })
    .await;
    echoes(&mut stream, "after a peer has gone");
}
