//! The rows: what is measured, each a function that answers figures.

mod desired;
mod dns;
mod gateway;
mod idle;
mod logs;
mod losses;
mod mesh;
mod planning;
mod program;
mod releases;
mod routes;
mod sockets;

pub use sockets::hold_sockets;

use crate::context::Context;
use crate::figure::Figure;
use anyhow::Result;

pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub measure: fn(&Context) -> Result<Vec<Figure>>,
}

const fn row(name: &'static str, about: &'static str, measure: fn(&Context) -> Result<Vec<Figure>>) -> Row {
    Row { name, about, measure }
}

pub static ROWS: &[Row] = &[
    row("binary", "size of the program, and the time until it has said its version", program::measure),
    row("plan-stack", "a manifest compared with what is deployed, nothing has changed", planning::stack),
    row("plan-machine", "a machine compared with its desired state, nothing has changed", planning::machine),
    row("desired-state", "the desired state of one server of many, in the control plane's own code", desired::state),
    row("gateway-usual", "1 KB over 64 kept connections: what a change is judged by", gateway::usual),
    row("gateway-connections", "1 KB over 1, 64 and 512 kept connections", gateway::connections),
    row("gateway-new", "1 KB, each request on a connection of its own", gateway::new_connections),
    row("gateway-large", "1 MB over 64 kept connections", gateway::large),
    row("gateway-tls", "1 KB and 1 MB over TLS, on kept connections and with a handshake each", gateway::tls),
    row("gateway-routes", "1, 100 and 10,000 hosts, 64 kept connections", gateway::routes),
    row("gateway-latency", "what is added to one request at a time", gateway::latency),
    row("gateway-log", "the same with an access log", gateway::access_log),
    row("gateway-memory", "memory when idle, and with many idle WebSockets", sockets::memory),
    row("gateway-swap", "10,000 routes replaced under load", routes::swap),
    row("up", "`mainstay up` of the example of the readme until it answers", releases::up),
    row("deploy", "a deployment of which nothing is built until the new release answers", releases::deploy),
    row("rollback", "back to the release before, which is warm, until it answers", releases::rollback),
    row("releases-lost", "requests lost while releases follow each other under load", losses::lost),
    row("agent-idle", "an agent whose fifty services have nothing to do", idle::agent),
    row("control-plane-memory", "a control plane with one agent", idle::control_plane),
    row("logs", "lines from a service to whoever follows them", logs::measure),
    row("mesh", "a tunnel between two servers whose kernels have no WireGuard, beside wireguard-go", mesh::tunnel),
    row("dns", "internal names beside dnsmasq", dns::answers),
];
