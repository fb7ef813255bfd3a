//! Which port the gateway of `mainstay up` takes.
//!
//! Port 80 or 8080 is often in use on a machine that does other things, too. The first start then
//! takes the next free port and says so; the choice is kept in `gateway-port`, so that addresses stay
//! what they were. A port that was asked for is never replaced by another.

use crate::context::Context;
use crate::exit::Failure;
use crate::private_file;
use client::gateway::GatewayClient;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

/// Below the data directory.
const FILE: &str = "gateway-port";
/// How many ports after the usual one are tried.
const TRIES: u16 = 20;

/// `None`: whatever the control plane takes by default.
pub async fn choose(
    context: &Context,
    data_dir: &Path,
    wished: Option<u16>,
    public: bool,
) -> Result<Option<u16>, Failure> {
    let file = data_dir.join(FILE);
    if let Some(port) = wished {
        keep(context, &file, port);
        return Ok(Some(port));
    }
    let kept = kept(&file);
    // A gateway that still runs here holds its port itself.
    let ours = GatewayClient::new(data_dir.join("agent/gateway")).status().await.is_ok();
    if kept.is_some() || ours {
        return Ok(kept);
    }
    let usual = usual();
    let problem = match probe(usual, public) {
        Ok(()) => return Ok(None),
        Err(problem) => problem,
    };
    for port in 8080..8080 + TRIES {
        if port != usual && probe(port, public).is_ok() {
            context.printer.note(&format!(
                "Port {usual} {problem}; services are reached on port {port} instead (choose with --gateway-port)."
            ));
            keep(context, &file, port);
            return Ok(Some(port));
        }
    }
    Err(Failure::general(format!("port {usual} {problem}, and so are the {TRIES} from 8080 on"))
        .help("choose a free one: --gateway-port PORT"))
}

/// The port that `mainstay up` would try first on a data directory.
pub fn kept_or_usual(data_dir: &Path) -> u16 {
    kept(&data_dir.join(FILE)).unwrap_or_else(usual)
}

fn kept(file: &Path) -> Option<u16> {
    std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok())
}

fn usual() -> u16 {
    if rustix::process::geteuid().is_root() { 80 } else { 8080 }
}

fn keep(context: &Context, file: &Path, port: u16) {
    if let Err(error) = private_file::write(file, format!("{port}\n").as_bytes()) {
        context
            .printer
            .warning(&format!("cannot write {}: {error}; the next start may take another port", file.display()));
    }
}

fn probe(port: u16, public: bool) -> Result<(), &'static str> {
    let ip = if public { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
    match TcpListener::bind(SocketAddr::from((ip, port))) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err("needs more rights"),
        Err(_) => Err("is in use"),
    }
}
