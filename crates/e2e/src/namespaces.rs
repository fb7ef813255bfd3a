//! Servers as network namespaces, joined by a bridge: each has its own interfaces, routes and ports, and no packet of
//! theirs can leave. For root only; [`Network::with_servers`] says what is missing elsewhere.
//!
//! Processes are started in one with `nsenter`; sockets are made in one by a thread that goes there, and are used from
//! anywhere after that.

use crate::Part;
use anyhow::{Context, Result, ensure};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Servers 1 to N, until it is dropped.
pub struct Network {
    prefix: String,
    servers: usize,
}

impl Network {
    /// `Err`: this machine cannot, with the reason.
    pub fn with_servers(servers: usize) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        ensure!(Path::new("/dev/net/tun").exists(), "there is no /dev/net/tun");
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("ms{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let network = Self { prefix, servers };
        ip(&["netns", "add", &network.fabric()])?;
        network.in_fabric(&["link", "add", "br0", "type", "bridge"])?;
        network.in_fabric(&["link", "set", "br0", "up"])?;
        for number in 1..=servers {
            network.add_server(number)?;
        }
        Ok(network)
    }

    fn add_server(&self, number: usize) -> Result<()> {
        let (name, port) = (self.name(number), format!("p{number}"));
        ip(&["netns", "add", &name])?;
        self.ip(number, &["link", "set", "lo", "up"])?;
        self.ip(number, &["link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &self.fabric()])?;
        self.ip(number, &["address", "add", &format!("{}/24", self.underlay(number)), "dev", "eth0"])?;
        self.ip(number, &["link", "set", "eth0", "up"])?;
        self.in_fabric(&["link", "set", &port, "master", "br0", "up"])
    }

    fn fabric(&self) -> String {
        format!("{}fabric", self.prefix)
    }

    fn name(&self, number: usize) -> String {
        format!("{}s{number}", self.prefix)
    }

    /// Where the server is without any tunnel.
    pub fn underlay(&self, number: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, 0, u8::try_from(number).expect("there are few servers"))
    }

    /// `ip` on a server.
    pub fn ip(&self, number: usize, arguments: &[&str]) -> Result<()> {
        let name = self.name(number);
        ip(&[&["-n", &name], arguments].concat())
    }

    fn in_fabric(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.fabric()], arguments].concat())
    }

    /// Pulls the plug of a server, or puts it in again.
    pub fn plug(&self, number: usize, connected: bool) -> Result<()> {
        self.in_fabric(&["link", "set", &format!("p{number}"), if connected { "up" } else { "down" }])
    }

    /// What a command prints on a server.
    pub fn output(&self, number: usize, words: &[&str]) -> Result<String> {
        let output = Command::new("nsenter").arg(self.entry(&self.name(number))).args(words).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn entry(&self, name: &str) -> String {
        format!("--net=/run/netns/{name}")
    }

    /// The same command, on a server.
    pub fn enter(&self, number: usize, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.arg(self.entry(&self.name(number))).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            entered.current_dir(folder);
        }
        entered.stdin(Stdio::null());
        entered
    }

    /// Starts a command on a server; its output goes to the file `log`.
    pub fn start(&self, number: usize, command: &Command, log: &Path) -> Result<Part> {
        let file = File::options().create(true).append(true).open(log)?;
        let mut entered = self.enter(number, command);
        entered.stdout(file.try_clone()?).stderr(file);
        Ok(Part::new(entered.spawn().context("start nsenter")?))
    }

    /// Does something on a server; what it made there, sockets for example, stays there.
    pub fn on<T: Send + 'static>(&self, number: usize, act: impl FnOnce() -> T + Send + 'static) -> T {
        within(&self.name(number), act)
    }

    /// Whatever passes between servers from now on.
    pub fn listen_in(&self) -> Result<Wire> {
        let open =
            || rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(eth::ALL));
        let socket = within(&self.fabric(), open).context("listen in")?;
        Wire::read(socket)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let servers = (1..=self.servers).map(|number| self.name(number));
        for name in servers.chain([self.fabric()]) {
            if let Err(error) = ip(&["netns", "delete", &name]) {
                eprintln!("the namespace {name} stays: {error:#}");
            }
        }
    }
}

fn within<T: Send + 'static>(name: &str, act: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/run/netns/{name}");
    let there = std::thread::spawn(move || {
        let namespace = File::open(&path).expect("a namespace that was made is there");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may go there");
        act()
    });
    there.join().expect("what was done on a server did not break")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}` failed: {}", arguments.join(" "), said.trim());
    Ok(())
}

/// Packets as they pass on the wire.
pub struct Wire {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Wire {
    fn read(socket: OwnedFd) -> Result<Self> {
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_millis(50)),
        )?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ending, packets) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !ending.load(Ordering::Relaxed) {
                if let Ok((length, _)) = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty()) {
                    packets.lock().expect("nobody breaks").push(buffer[..length].to_vec());
                }
            }
        });
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// How many packets so far hold these bytes.
    pub fn holding(&self, bytes: &[u8]) -> usize {
        let seen = self.seen.lock().expect("nobody breaks");
        seen.iter().filter(|packet| packet.windows(bytes.len()).any(|part| part == bytes)).count()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
