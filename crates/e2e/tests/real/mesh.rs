//! The tunnels between servers, with real gateways in network namespaces of their own.
//!
//! The tests are the agents here: they tell the gateways what to do over their control sockets, and send what
//! containers and services would send.

use anyhow::Result;
use api::addresses::ServerAddresses;
use api::mesh::PublicKey;
use api::mesh_device::{DeviceConfig, DevicePeer, GatewayMesh, ProbeAnswerer};
use client::gateway::GatewayClient;
use e2e::{Machine, Network, Part, eventually};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PORT: u16 = 51_820;
const ECHO: u16 = 7;
const SHORT: Duration = Duration::from_secs(20);

/// Servers 1 to N with a gateway each, and the keys of their tunnels.
struct Servers {
    gateways: Vec<Part>,
    keys: Vec<PublicKey>,
    network: Network,
    machine: Machine,
}

/// `None`: this machine cannot, which was said.
async fn servers(test: &str, count: usize) -> Option<Servers> {
    if Command::new("wg").arg("--version").output().is_err() {
        e2e::skip(test, "wg is not installed (wireguard-tools)");
        return None;
    }
    let network = match Network::with_servers(count) {
        Ok(network) => network,
        Err(error) => {
            e2e::skip(test, &format!("{error:#}"));
            return None;
        }
    };
    let machine = Machine::new().unwrap();
    let mut servers = Servers { gateways: Vec::new(), keys: Vec::new(), network, machine };
    for number in 1..=count {
        std::fs::create_dir_all(servers.directory(number)).unwrap();
        servers.keys.push(make_key(&servers.key_file(number)));
        let gateway = servers.start_gateway(number, &[]);
        servers.gateways.push(gateway);
    }
    for number in 1..=count {
        eventually("the gateway answers", SHORT, || async { servers.client(number).mesh().await.ok() }).await;
    }
    Some(servers)
}

/// With the tools of WireGuard itself, so that ours are held against them.
fn make_key(path: &PathBuf) -> PublicKey {
    let private = Command::new("wg").arg("genkey").output().unwrap().stdout;
    std::fs::write(path, &private).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let file = std::fs::File::open(path).unwrap();
    let public = Command::new("wg").arg("pubkey").stdin(file).output().unwrap().stdout;
    String::from_utf8(public).unwrap().trim().parse().unwrap()
}

impl Servers {
    fn directory(&self, number: usize) -> PathBuf {
        self.machine.folder().join(format!("server{number}/gateway"))
    }

    fn key_file(&self, number: usize) -> PathBuf {
        self.machine.folder().join(format!("server{number}/mesh.key"))
    }

    fn client(&self, number: usize) -> GatewayClient {
        GatewayClient::new(self.directory(number))
    }

    fn start_gateway(&self, number: usize, extra: &[&str]) -> Part {
        let mut command = self.machine.command();
        command.arg("gateway").arg("--directory").arg(self.directory(number)).args(extra);
        let log = self.machine.folder().join(format!("gateway{number}.log"));
        self.network.start(number, &command, &log).unwrap()
    }

    fn mesh_address(&self, number: usize) -> Ipv4Addr {
        addresses(number).mesh
    }

    fn peer(&self, number: usize) -> DevicePeer {
        DevicePeer {
            public_key: self.keys[number - 1],
            endpoint: Some(SocketAddr::new(self.network.underlay(number).into(), PORT)),
            allowed: addresses(number).reached_through_mesh(),
            keepalive_seconds: 25,
        }
    }

    fn told(&self, number: usize, peers: Vec<DevicePeer>) -> GatewayMesh {
        let interface = format!("mesh{number}");
        let address = self.mesh_address(number);
        let device = DeviceConfig {
            interface: interface.clone(),
            key_file: self.key_file(number).display().to_string(),
            address,
            prefix: 24,
            port: PORT,
            mtu: 1_420,
            peers,
        };
        GatewayMesh { device: Some(device), answer: Some(ProbeAnswerer { interface, address }) }
    }

    /// Tells a server to have these peers.
    async fn tell(&self, number: usize, peers: &[usize]) {
        let peers = peers.iter().map(|peer| self.peer(*peer)).collect();
        self.client(number).put_mesh(&self.told(number, peers)).await.unwrap();
    }

    /// Every one of these with every other.
    async fn join(&self, numbers: &[usize]) {
        for number in numbers {
            let others: Vec<usize> = numbers.iter().copied().filter(|other| other != number).collect();
            self.tell(*number, &others).await;
        }
    }

    fn connect(&self, from: usize, to: Ipv4Addr) -> Result<TcpStream> {
        connect(&self.network, from, to)
    }

    /// Whether bytes come back over TCP.
    fn echoes(&self, from: usize, to: Ipv4Addr, bytes: &[u8]) -> Result<()> {
        let mut stream = self.connect(from, to)?;
        stream.write_all(bytes)?;
        let mut back = vec![0; bytes.len()];
        stream.read_exact(&mut back)?;
        anyhow::ensure!(back == bytes, "other bytes came back");
        Ok(())
    }

    /// Asks 200 times a second over UDP until `stop`; answers how many were asked and how many never answered.
    fn ask_all_the_time(
        &self,
        from: usize,
        to: Ipv4Addr,
        stop: &Arc<AtomicBool>,
    ) -> std::thread::JoinHandle<(u64, u64)> {
        let socket = self.network.on(from, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        socket.connect((to, ECHO)).unwrap();
        let stop = stop.clone();
        std::thread::spawn(move || {
            let listener = socket.try_clone().unwrap();
            listener.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            let counting = std::thread::spawn(move || {
                let mut bytes = [0; 100];
                let mut answered = std::collections::BTreeSet::new();
                while let Ok(length) = listener.recv(&mut bytes) {
                    answered.insert(bytes[..length].to_vec());
                }
                answered.len() as u64
            });
            let mut asked = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                asked += 1;
                socket.send(&asked.to_be_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            (asked, asked - counting.join().unwrap())
        })
    }
}

/// Sends back what it gets, over TCP and over UDP, on any address of the server.
pub fn echo(network: &Network, number: usize) {
    let (tcp, udp) = network.on(number, || {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO)).unwrap();
        (tcp, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO)).unwrap())
    });
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().flatten() {
            std::thread::spawn(move || {
                let mut back = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut back);
            });
        }
    });
    std::thread::spawn(move || {
        let mut bytes = [0; 2_000];
        while let Ok((length, from)) = udp.recv_from(&mut bytes) {
            let _ = udp.send_to(&bytes[..length], from);
        }
    });
}

/// A stream to a server that echoes.
pub fn connect(network: &Network, from: usize, to: Ipv4Addr) -> Result<TcpStream> {
    let target = SocketAddr::new(to.into(), ECHO);
    let stream = network.on(from, move || TcpStream::connect_timeout(&target, Duration::from_secs(10)))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

fn addresses(number: usize) -> ServerAddresses {
    ServerAddresses::of(u16::try_from(number).unwrap()).unwrap()
}

/// Much more than one packet, and unlike anything else on the wire.
fn marked() -> Vec<u8> {
    b"in plain sight! ".repeat(4_000)
}

#[tokio::test]
async fn servers_and_their_containers_reach_each_other_and_the_wire_shows_nothing_of_it() {
    let test = "servers_and_their_containers_reach_each_other_and_the_wire_shows_nothing_of_it";
    let Some(servers) = servers(test, 3).await else { return };
    servers.join(&[1, 2, 3]).await;
    // What a container's bridge would have.
    let container = Ipv4Addr::new(10, 200, 3, 77);
    servers.network.ip(3, &["address", "add", "10.200.3.77/32", "dev", "lo"]).unwrap();
    (1..=3).for_each(|number| echo(&servers.network, number));
    let wire = servers.network.listen_in().unwrap();
    for (from, to) in
        [(1, servers.mesh_address(2)), (2, servers.mesh_address(3)), (3, servers.mesh_address(1)), (1, container)]
    {
        servers.echoes(from, to, &marked()).unwrap_or_else(|error| panic!("{from} to {to}: {error:#}"));
    }
    assert_eq!(wire.holding(b"in plain sight!"), 0, "something crossed the wire unencrypted");
    // The ear hears: the same without a tunnel.
    servers.echoes(1, servers.network.underlay(2), &marked()).unwrap();
    eventually("plain bytes are heard", SHORT, || async { (wire.holding(b"in plain sight!") > 0).then_some(()) }).await;
    for number in 1..=3 {
        let live = servers.client(number).mesh().await.unwrap();
        assert_eq!(live.problem, None);
        let device = live.device.unwrap();
        let handshakes = device.peers.iter().filter(|peer| peer.last_handshake_at_ms.is_some()).count();
        assert_eq!(handshakes, 2, "{device:#?}");
    }
}

#[tokio::test]
async fn peers_come_and_go_while_a_stream_goes_on_and_not_one_packet_is_lost() {
    let test = "peers_come_and_go_while_a_stream_goes_on_and_not_one_packet_is_lost";
    let Some(servers) = servers(test, 3).await else { return };
    servers.join(&[1, 2]).await;
    echo(&servers.network, 2);
    let to = servers.mesh_address(2);
    let mut stream = servers.connect(1, to).unwrap();
    // Many others that nobody answers for, as in a large fleet.
    let crowd: Vec<DevicePeer> = (10..110_u8)
        .map(|number| DevicePeer {
            public_key: PublicKey::from_bytes([number; 32]),
            endpoint: None,
            allowed: addresses(number.into()).reached_through_mesh(),
            keepalive_seconds: 0,
        })
        .collect();
    let with = |number: usize, others: &[DevicePeer]| {
        let mut peers = vec![servers.peer(3 - number)];
        peers.extend(others.iter().cloned());
        servers.told(number, peers)
    };
    for number in [1, 2] {
        servers.client(number).put_mesh(&with(number, &crowd)).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let asking = servers.ask_all_the_time(1, to, &stop);
    for round in 0..20 {
        let mut others = crowd.clone();
        if round % 2 == 0 {
            others.push(servers.peer(3));
        } else {
            others.remove(round);
        }
        for number in [1, 2] {
            servers.client(number).put_mesh(&with(number, &others)).await.unwrap();
        }
        let piece = marked();
        stream.write_all(&piece).unwrap();
        let mut back = vec![0; piece.len()];
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(back == piece);
    }
    stop.store(true, Ordering::Relaxed);
    let (asked, lost) = asking.join().unwrap();
    assert!(asked > 50, "only {asked} packets were sent");
    assert_eq!(lost, 0, "of {asked} packets");
}

#[tokio::test]
async fn a_gateway_that_is_replaced_or_killed_keeps_what_goes_through_its_tunnel() {
    let test = "a_gateway_that_is_replaced_or_killed_keeps_what_goes_through_its_tunnel";
    let Some(mut servers) = servers(test, 2).await else { return };
    servers.join(&[1, 2]).await;
    echo(&servers.network, 2);
    let to = servers.mesh_address(2);
    let mut stream = servers.connect(1, to).unwrap();
    let echoed = |stream: &mut TcpStream, when: &str| {
        stream.write_all(b"still there?").unwrap();
        let mut back = [0; 12];
        stream.read_exact(&mut back).unwrap_or_else(|error| panic!("{when}: {error}"));
    };
    echoed(&mut stream, "before");
    let interface = servers.network.output(1, &["ip", "-o", "link", "show", "mesh1"]).unwrap();
    let newer = servers.start_gateway(1, &["--take-over"]);
    let pid = newer.pid();
    let taken_over = || async {
        let status = servers.client(1).status().await.ok()?;
        (status.pid == Some(pid) && servers.client(1).mesh().await.ok()?.device.is_some()).then_some(())
    };
    eventually("the newer gateway has the tunnel", SHORT, taken_over).await;
    servers.gateways[0] = newer;
    echoed(&mut stream, "after the gateway was replaced");
    // The same interface, not another of the same name: who is bound to it stays bound.
    let number = |text: &str| text.split(':').next().map(str::to_owned);
    let now = servers.network.output(1, &["ip", "-o", "link", "show", "mesh1"]).unwrap();
    assert_eq!(number(&now), number(&interface));

    // A crash takes the interface along. Started again, by nobody who tells it anything, it makes the same one.
    servers.gateways[0].crash();
    servers.gateways[0] = servers.start_gateway(1, &[]);
    echoed(&mut stream, "after the gateway had crashed");
}

#[tokio::test]
async fn every_gateway_answers_probes_through_the_tunnel_and_only_those() {
    let test = "every_gateway_answers_probes_through_the_tunnel_and_only_those";
    let Some(servers) = servers(test, 2).await else { return };
    servers.join(&[1, 2]).await;
    let ask = |from: usize, to: Ipv4Addr| {
        servers.network.on(from, move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut answer = [0; 100];
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) {
                let _ = socket.send_to(b"mnst-ask\0\0\0\0\0\0\0\x07", (to, 51_821));
                if let Ok((length, _)) = socket.recv_from(&mut answer) {
                    return answer[..length].to_vec();
                }
                if to.octets()[1] == 99 {
                    break;
                }
            }
            Vec::new()
        })
    };
    assert_eq!(ask(1, servers.mesh_address(2)), b"mnst-ans\0\0\0\0\0\0\0\x07");
    assert_eq!(ask(1, servers.network.underlay(2)), b"", "a probe was answered outside of the tunnel");
}
