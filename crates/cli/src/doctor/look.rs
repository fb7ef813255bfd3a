//! Finding facts. Everything that could hang has a time limit, and what fails is a fact as well.

use super::{AgentFact, ControlPlane, Facts, Names, PortFact, PortState, certificate};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Failure;
use crate::{gateway_port, running};
use agent::drivers::process::cgroup::Cgroups;
use agent::identity::Identity;
use api::servers::{ServerCondition, ServerView};
use client::gateway::GatewayClient;
use client::{Client, ClientError};
use plan::disk::Space;
use sockets::Transport;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const PROGRAM_LIMIT: Duration = Duration::from_secs(10);
const NETWORK_LIMIT: Duration = Duration::from_secs(10);
const CONTROL_PLANE_PORT: u16 = 4600;
/// Programs that keep a clock right, by the names of their processes (which the kernel cuts to 15 letters).
const TIME_SERVICES: [(&str, &str); 5] = [
    ("systemd-timesyn", "systemd-timesyncd"),
    ("chronyd", "chronyd"),
    ("ntpd", "ntpd"),
    ("openntpd", "openntpd"),
    ("ptp4l", "ptp4l"),
];

pub async fn look(context: &Context) -> Result<Facts, Failure> {
    let data_dir = context.data_dir()?;
    let root = Path::new("/");
    let cgroups = Cgroups::detect();
    let identity = Identity::load(&data_dir.join("agent/identity.json")).ok().flatten();
    let seen = ask_control_plane(context, identity.as_ref()).await;
    let systemd = root.join("run/systemd/system").is_dir();
    let with_up = running::find(&data_dir).is_some_and(|running| running.command == "up");
    let agent = match &identity {
        None => AgentFact::NotJoined,
        Some(identity) => AgentFact::Joined {
            name: identity.name.to_string(),
            online: seen.server.as_ref().map(|server| server.condition == ServerCondition::Online),
            unit: if systemd { unit_state().await } else { None },
            with_up,
        },
    };
    Ok(Facts {
        root: rustix::process::geteuid().is_root(),
        kernel: Some(rustix::system::uname().release().to_string_lossy().into_owned()),
        cgroups: cgroups.version().into(),
        cgroup_limitations: cgroups.limitations(),
        wireguard: has_wireguard(root),
        tun: root.join("dev/net/tun").exists(),
        nftables: in_path("nft") || root.join("usr/sbin/nft").exists(),
        ports: ports(&data_dir).await,
        git: version_of("git", &["version"]).await,
        git_lfs: version_of("git", &["lfs", "version"]).await.is_some(),
        engine: agent::drivers::container::engine_of(&data_dir.join("agent")).await,
        systemd,
        time_service: time_service(root),
        clock_difference_ms: seen.clock_difference_ms,
        disk: space(&data_dir),
        inodes: inodes(&data_dir),
        open_files: open_files(),
        control_plane: seen.control_plane,
        certificate_left_ms: seen.certificate_left_ms,
        names: names(seen.server.as_ref()).await,
        agent,
        data_dir,
    })
}

/// What the control plane says, of itself and of this machine.
struct Seen {
    control_plane: ControlPlane,
    certificate_left_ms: Option<i64>,
    clock_difference_ms: Option<i64>,
    server: Option<ServerView>,
}

async fn ask_control_plane(context: &Context, identity: Option<&Identity>) -> Seen {
    let nothing =
        |control_plane| Seen { control_plane, certificate_left_ms: None, clock_difference_ms: None, server: None };
    let client = match context.client() {
        Ok(client) => client,
        Err(failure) => {
            let address = context.global.server.clone().unwrap_or_else(|| "the address".into());
            return nothing(ControlPlane::Unreachable { address, reason: failure.message });
        }
    };
    let address = client.address().to_owned();
    let asked_at_ms = crate::times::now_ms();
    let greeting = match tokio::time::timeout(NETWORK_LIMIT, client.greet()).await {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(error)) => return nothing(why_not(context, address, &error)),
        Err(_) => {
            let reason = format!("no answer within {} s", NETWORK_LIMIT.as_secs());
            return nothing(ControlPlane::Unreachable { address, reason });
        }
    };
    let clock_difference_ms = greeting.date.and_then(|date| clock_difference(&date, asked_at_ms));
    let control_plane = match client.info().await {
        Ok(info) => ControlPlane::Answers { address, version: info.version },
        Err(error @ ClientError::Api { .. }) => ControlPlane::Refuses { address, reason: Failure::from(error).message },
        Err(error) => why_not(context, address, &error),
    };
    let certificate_left_ms = greeting
        .certificate
        .and_then(|certificate| certificate::good_until_ms(&certificate))
        .map(|until_ms| until_ms - asked_at_ms);
    Seen { control_plane, certificate_left_ms, clock_difference_ms, server: server_of(&client, identity).await }
}

/// Nobody answers: is that one we were told to speak to, or only the usual address?
fn why_not(context: &Context, address: String, error: &ClientError) -> ControlPlane {
    let named = context.global.server.is_some() || Config::load().is_ok_and(|config| config.default.is_some());
    match error {
        ClientError::Unreachable { .. } if !named => ControlPlane::Nowhere { address },
        ClientError::Unreachable { reason, .. } => ControlPlane::Unreachable { address, reason: reason.clone() },
        other => ControlPlane::Unreachable { address, reason: other.to_string() },
    }
}

async fn server_of(client: &Client, identity: Option<&Identity>) -> Option<ServerView> {
    let id = identity?.server_id.clone();
    client.servers().await.ok()?.into_iter().find(|server| server.id == id)
}

/// Half of the second that a date is exact to is taken as passed.
fn clock_difference(date: &str, now_ms: i64) -> Option<i64> {
    let there = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_millisecond();
    Some(now_ms - there - 500)
}

fn has_wireguard(root: &Path) -> bool {
    if root.join("sys/module/wireguard").exists() {
        return true;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let modules = root.join("lib/modules").join(release);
    let listed = |file: &str| {
        std::fs::read_to_string(modules.join(file))
            .is_ok_and(|text| text.lines().any(|line| line.contains("/wireguard.ko")))
    };
    listed("modules.builtin") || listed("modules.dep")
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The first line of what a program says of its version, without its own name.
async fn version_of(program: &str, arguments: &[&str]) -> Option<String> {
    let text = output_of(program, arguments).await?;
    Some(text.lines().next()?.trim_start_matches("git version ").trim().to_owned())
}

async fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let output = tokio::time::timeout(PROGRAM_LIMIT, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `active`, `inactive`, `failed`; `None` if there is no such unit.
async fn unit_state() -> Option<String> {
    let text = output_of("systemctl", &["show", "--property=LoadState,ActiveState", agent::install::UNIT]).await?;
    if !text.lines().any(|line| line == "LoadState=loaded") {
        return None;
    }
    text.lines().find_map(|line| line.strip_prefix("ActiveState=")).map(str::to_owned)
}

async fn ports(data_dir: &Path) -> Vec<PortFact> {
    let gateway = GatewayClient::new(data_dir.join("agent/gateway")).status().await.ok();
    let listening: Vec<u16> = gateway.iter().flat_map(|status| status.listening.iter()).map(SocketAddr::port).collect();
    let gateway_port = listening.first().copied().unwrap_or_else(|| gateway_port::kept_or_usual(data_dir));
    let here = running::find(data_dir).and_then(|running| running.address.rsplit_once(':')?.1.parse::<u16>().ok());
    vec![
        PortFact { purpose: "the gateway", port: gateway_port, state: port_state(gateway_port, !listening.is_empty()) },
        PortFact {
            purpose: "the control plane",
            port: here.unwrap_or(CONTROL_PLANE_PORT),
            state: port_state(here.unwrap_or(CONTROL_PLANE_PORT), here.is_some()),
        },
    ]
}

fn port_state(port: u16, ours: bool) -> PortState {
    if ours {
        return PortState::Ours;
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match TcpListener::bind(address) {
        Ok(_) => PortState::Free,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => PortState::Forbidden,
        Err(_) => PortState::Taken(sockets::owner(Transport::Tcp, address).map(|owner| owner.to_string())),
    }
}

fn time_service(root: &Path) -> Option<String> {
    let processes = std::fs::read_dir(root.join("proc")).ok()?;
    processes.flatten().find_map(|process| {
        process.file_name().to_str()?.parse::<u32>().ok()?;
        let command = std::fs::read_to_string(process.path().join("comm")).ok()?;
        TIME_SERVICES.iter().find(|(known, _)| *known == command.trim()).map(|(_, name)| (*name).to_owned())
    })
}

/// The nearest folder above that exists: the data directory itself may have to be made first.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn space(data_dir: &Path) -> Space {
    agent::resources::space(&existing(data_dir))
}

fn inodes(data_dir: &Path) -> Option<(u64, u64)> {
    rustix::fs::statvfs(existing(data_dir)).ok().map(|stat| (stat.f_favail, stat.f_files))
}

fn open_files() -> (Option<u64>, Option<u64>) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (limit.current, limit.maximum)
}

async fn names(server: Option<&ServerView>) -> Names {
    let Some(dns) = server.and_then(|server| server.observed.as_ref()).map(|observed| &observed.dns) else {
        return Names::Unknown;
    };
    if let Some(consequence) = dns.switched_off.clone() {
        return Names::SwitchedOff { consequence };
    }
    if dns.method == "none"
        && let Some(reason) = dns.problem.clone()
    {
        return Names::Impossible { reason };
    }
    let Some(name) = dns.names.first().cloned() else { return Names::None };
    let asked = tokio::time::timeout(NETWORK_LIMIT, tokio::net::lookup_host((name.clone(), 80))).await;
    let resolves = match asked {
        Ok(Ok(mut addresses)) => addresses.next().is_some(),
        _ => false,
    };
    if resolves { Names::Resolves { name } } else { Names::Fails { name } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_looked_at_below_a_root() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!((has_wireguard(root.path()), time_service(root.path())), (false, None));
        std::fs::create_dir_all(root.path().join("sys/module/wireguard")).unwrap();
        std::fs::create_dir_all(root.path().join("proc/12")).unwrap();
        std::fs::write(root.path().join("proc/12/comm"), "systemd-timesyn\n").unwrap();
        assert!(has_wireguard(root.path()));
        assert_eq!(time_service(root.path()).as_deref(), Some("systemd-timesyncd"));
    }

    #[test]
    fn a_port_is_free_ours_or_taken_by_somebody_who_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let own = format!("pid {}", std::process::id());
        assert!(matches!(port_state(port, false), PortState::Taken(Some(by)) if by.starts_with(&own)));
        assert_eq!(port_state(port, true), PortState::Ours);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_that_will_hold_it() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("a/b");
        assert_eq!(existing(&missing), folder.path());
        assert!(space(&missing).total_bytes > 0);
    }

    #[test]
    fn the_difference_of_clocks_is_that_of_the_date_that_an_answer_carries() {
        assert_eq!(clock_difference("Thu, 01 Jan 1970 00:00:10 GMT", 70_500), Some(60_000));
        assert_eq!(clock_difference("soon", 0), None);
    }
}
