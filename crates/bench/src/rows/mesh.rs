//! A tunnel between two servers in network namespaces, as the gateway process makes it where the kernel has no
//! WireGuard, beside wireguard-go. Both ends of both, the sender and the receiver share the cores of this machine, so
//! what is measured is what the processor time of all of them together lets through.

use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use anyhow::{Context as _, Result, ensure};
use api::addresses::ServerAddresses;
use api::mesh::PublicKey;
use api::mesh_device::{DeviceConfig, DevicePeer, GatewayMesh};
use client::gateway::GatewayClient;
use e2e::{Network, Part};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const GO: &str = "wireguard-go";
const PORT: u16 = 51_820;
const MTU: u16 = 1_420;
const READY_LIMIT: Duration = Duration::from_secs(20);
const PINGS: u32 = 200;

pub fn tunnel(context: &Context) -> Result<Vec<Figure>> {
    let network = Network::with_servers(2)?;
    let folder = tempfile::Builder::new().prefix("mainstay-bench-").tempdir().context("make a folder")?;
    let lab =
        Lab { context, network: &network, folder: folder.path(), keys: [1, 2].map(|n| make_key(folder.path(), n)) };
    let mut rate = Figure::new("mesh", "TCP through the tunnel", "Mbit/s", Better::More).goal_of_peers(&[(GO, 1.3)]);
    let mut added = Figure::new("mesh", "added to a round trip", "µs", Better::Less).goal_of_peers(&[(GO, 1.0)]);
    let mut cost = Figure::new("mesh", "processor time per GB, both ends", "s", Better::Less);
    let mut memory = Figure::new("mesh", "memory of one end after that", "MB", Better::Less);
    let mut subjects = vec![MAINSTAY];
    if [GO, "wg"].iter().all(|name| context.tools.path(name).is_some()) {
        subjects.push(GO);
    }
    for _ in 0..context.runs() {
        let without = lab.round_trip(network.underlay(2))?;
        for subject in &subjects {
            let ends = lab.begin(subject)?;
            let to = addresses(2).mesh;
            lab.wait(to)?;
            let with = lab.round_trip(to)?;
            let before = cpu(&ends);
            let (megabits, bytes) = lab.stream(to)?;
            let used = cpu(&ends).saturating_sub(before).as_secs_f64();
            rate.add(subject, megabits);
            added.add(subject, (with - without).max(0.0));
            cost.add(subject, used * 1e9 / bytes);
            memory.add(subject, ends.iter().map(|end| resident_bytes(end.pid())).max().unwrap_or(0) as f64 / 1e6);
        }
    }
    rate.note(format!("both ends, sender and receiver share {} cores", context.machine.cores));
    Ok(vec![rate, added, cost, memory])
}

struct Lab<'a> {
    context: &'a Context,
    network: &'a Network,
    folder: &'a Path,
    keys: [PublicKey; 2],
}

fn addresses(number: usize) -> ServerAddresses {
    ServerAddresses::of(number as u16).expect("1 and 2 are numbers of servers")
}

fn key_file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number}.key"))
}

fn make_key(folder: &Path, number: usize) -> PublicKey {
    let ask = |word: &str, input: &[u8]| -> Result<Vec<u8>> {
        let mut child = Command::new("wg").arg(word).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("wg reads")?.write_all(input)?;
        Ok(child.wait_with_output()?.stdout)
    };
    let made = || -> Result<PublicKey> {
        let private = ask("genkey", b"")?;
        let mut open = std::fs::File::options();
        open.create(true).write(true).truncate(true).mode(0o600);
        open.open(key_file(folder, number))?.write_all(&private)?;
        Ok(String::from_utf8(ask("pubkey", &private)?)?.trim().parse()?)
    };
    made().expect("wg makes keys")
}

impl Lab<'_> {
    fn tool(&self, name: &'static str) -> Result<&Path> {
        self.context.tools.path(name).with_context(|| format!("{name} is not installed"))
    }

    /// Both ends of a tunnel, until they are dropped.
    fn begin(&self, subject: &str) -> Result<[Part; 2]> {
        let end = |number: usize| if subject == GO { self.wireguard_go(number) } else { self.gateway(number) };
        Ok([end(1)?, end(2)?])
    }

    fn gateway(&self, number: usize) -> Result<Part> {
        let directory = self.folder.join(format!("gateway{number}"));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory)?;
        let mut command = Command::new(self.tool("mainstay")?);
        command.arg("gateway").arg("--directory").arg(&directory);
        let part = self.network.start(number, &command, &self.folder.join("gateway.log"))?;
        let other = 3 - number;
        let device = DeviceConfig {
            interface: "mesh0".into(),
            key_file: key_file(self.folder, number).display().to_string(),
            address: addresses(number).mesh,
            prefix: 24,
            port: PORT,
            mtu: MTU,
            peers: vec![DevicePeer {
                public_key: self.keys[other - 1],
                endpoint: Some(SocketAddr::new(self.network.underlay(other).into(), PORT)),
                allowed: addresses(other).reached_through_mesh(),
                keepalive_seconds: 25,
            }],
        };
        let client = GatewayClient::new(&directory);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let begun = Instant::now();
        let told = GatewayMesh { device: Some(device), answer: None };
        while let Err(error) = runtime.block_on(client.put_mesh(&told)) {
            ensure!(begun.elapsed() < READY_LIMIT, "the gateway takes no tunnel: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(part)
    }

    fn wireguard_go(&self, number: usize) -> Result<Part> {
        // Its control sockets lie in one folder, whatever the namespace.
        let interface = format!("msb{}n{number}", std::process::id() % 10_000);
        let mut command = Command::new(self.tool(GO)?);
        command.args(["-f", &interface]).env("LOG_LEVEL", "error");
        let part = self.network.start(number, &command, &self.folder.join("wireguard-go.log"))?;
        let socket = PathBuf::from(format!("/var/run/wireguard/{interface}.sock"));
        let begun = Instant::now();
        while !socket.exists() {
            ensure!(begun.elapsed() < READY_LIMIT, "wireguard-go does not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
        let other = 3 - number;
        let (key, port) = (key_file(self.folder, number).display().to_string(), PORT.to_string());
        let endpoint = format!("{}:{PORT}", self.network.underlay(other));
        let peer = self.keys[other - 1].to_string();
        let allowed: Vec<String> = addresses(other).reached_through_mesh().iter().map(ToString::to_string).collect();
        let allowed = allowed.join(",");
        let words = [
            "wg",
            "set",
            &interface,
            "private-key",
            &key,
            "listen-port",
            &port,
            "peer",
            &peer,
            "endpoint",
            &endpoint,
            "allowed-ips",
            &allowed,
            "persistent-keepalive",
            "25",
        ];
        self.network.output(number, &words)?;
        let address = format!("{}/24", addresses(number).mesh);
        self.network.ip(number, &["address", "add", &address, "dev", &interface])?;
        self.network.ip(number, &["link", "set", "mtu", &MTU.to_string(), "up", "dev", &interface])?;
        for subnet in addresses(other).reached_through_mesh() {
            self.network.ip(number, &["route", "add", &subnet.to_string(), "dev", &interface])?;
        }
        Ok(part)
    }

    fn wait(&self, to: Ipv4Addr) -> Result<()> {
        let begun = Instant::now();
        let to = to.to_string();
        while !self.network.output(1, &["ping", "-c", "1", "-W", "1", &to])?.contains("1 received") {
            ensure!(begun.elapsed() < READY_LIMIT, "nothing comes through the tunnel");
        }
        Ok(())
    }

    /// In microseconds, the mean of many.
    fn round_trip(&self, to: Ipv4Addr) -> Result<f64> {
        let count = if self.context.quick { 20 } else { PINGS };
        let said = self.network.output(1, &["ping", "-q", "-i", "0.005", "-c", &count.to_string(), &to.to_string()])?;
        ensure!(said.contains(" 0% packet loss"), "pings were lost: {said}");
        let mean = said.lines().find_map(|line| line.strip_prefix("rtt ")?.split('/').nth(4)?.parse::<f64>().ok());
        Ok(mean.with_context(|| format!("ping said: {said}"))? * 1_000.0)
    }

    /// Megabits per second, and how many bytes.
    fn stream(&self, to: Ipv4Addr) -> Result<(f64, f64)> {
        let mut server = Command::new(self.tool("iperf3")?);
        server.args(["--server", "--one-off"]);
        let _server = self.network.start(2, &server, &self.folder.join("iperf3.log"))?;
        let seconds = if self.context.quick { "1" } else { "3" };
        let begun = Instant::now();
        loop {
            let said = self.network.output(1, &["iperf3", "--json", "--time", seconds, "--client", &to.to_string()])?;
            let answer: serde_json::Value =
                serde_json::from_str(&said).with_context(|| format!("iperf3 said: {said}"))?;
            let sum = &answer["end"]["sum_received"];
            if let (Some(rate), Some(bytes)) = (sum["bits_per_second"].as_f64(), sum["bytes"].as_f64()) {
                return Ok((rate / 1e6, bytes));
            }
            // It may not listen yet.
            ensure!(begun.elapsed() < READY_LIMIT, "iperf3 said: {said}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn cpu(ends: &[Part]) -> Duration {
    ends.iter().filter_map(|end| crate::process::cpu_of(end.pid())).sum()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
