//! WireGuard in this process, over a tun device.
//!
//! The protocol is `gotatun`'s; the two sides of it are ours ([`tun`], [`udp`]), because that is where the speed is and
//! because both can be passed on to another process. With them the interface, its address and routes, and the UDP port
//! stay while the gateway is replaced. Sessions cannot be passed on: the new process shakes hands with every peer at
//! once, and until that is answered, about one round trip, packets of that peer are lost and sent again.

mod memory;
mod offload;
mod tun;
mod udp;

use crate::difference::{PeerChange, peer_changes};
use crate::key::PrivateKey;
use crate::network::Network;
use crate::{Device, DeviceError, network_of};
use api::mesh::{MeshDeviceKind, PublicKey};
use api::mesh_device::{DeviceConfig, DeviceLive, DevicePeer, LivePeer};
use gotatun::device::{DeviceBuilder, Peer};
use gotatun::x25519;
use ipnetwork::{IpNetwork, Ipv4Network};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Mutex, watch};
use tun::{Tun, TunReceive, TunSend};
use udp::UdpFactory;

type Tunnel = gotatun::device::Device<(UdpFactory, TunSend, TunReceive)>;

/// How long a handshake that is hurried along is waited for.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// A device that lives as long as this process, or longer if it is passed on.
#[derive(Default)]
pub struct UserspaceDevice {
    running: Mutex<Option<Running>>,
}

struct Running {
    interface: String,
    tunnel: Arc<Tunnel>,
    tun: Tun,
    udp: UdpFactory,
    mtu: watch::Sender<u16>,
}

/// What goes on when another process takes the device over.
#[derive(Debug)]
pub struct PassedOn {
    pub tun: OwnedFd,
    pub udp: OwnedFd,
}

impl UserspaceDevice {
    /// Descriptors of the live device for another process, if there is one.
    pub async fn pass_on(&self) -> std::io::Result<Option<PassedOn>> {
        let running = self.running.lock().await;
        let Some(running) = running.as_ref() else { return Ok(None) };
        let Some(udp) = running.udp.descriptor()? else { return Ok(None) };
        Ok(Some(PassedOn { tun: running.tun.descriptor()?, udp }))
    }

    /// Stops reading and sending; the interface stays as long as another process holds it.
    pub async fn cease(&self) {
        if let Some(running) = self.running.lock().await.take() {
            stop(running).await;
        }
    }

    /// Goes on with the device of another process and hurries to shake hands with every peer.
    pub async fn adopt(&self, config: &DeviceConfig, passed_on: PassedOn) -> Result<(), DeviceError> {
        let mut running = self.running.lock().await;
        let (mtu, mtu_seen) = watch::channel(config.mtu);
        let tun = Tun::adopt(passed_on.tun, mtu_seen);
        let tun = tun.map_err(|source| DeviceError::Tun { interface: config.interface.clone(), source })?;
        let begun = begin(config, tun, mtu, UdpFactory::passed_on(passed_on.udp)).await?;
        let (tunnel, peers) = (begun.tunnel.clone(), config.peers.clone());
        *running = Some(begun);
        drop(running);
        self.apply(config).await?;
        for peer in peers.into_iter().filter(|peer| peer.endpoint.is_some()) {
            let tunnel = tunnel.clone();
            tokio::spawn(async move {
                let key = x25519::PublicKey::from(*peer.public_key.as_bytes());
                // Whatever comes of it is seen in the age of the handshake.
                let _ = tokio::time::timeout(HANDSHAKE_TIME, tunnel.force_handshake(&key)).await;
            });
        }
        Ok(())
    }

    async fn create(config: &DeviceConfig) -> Result<Running, DeviceError> {
        if Network::open()?.link(&config.interface).await?.is_some() {
            return Err(DeviceError::NotOurs { interface: config.interface.clone() });
        }
        let (mtu, mtu_seen) = watch::channel(config.mtu);
        let tun = Tun::create(&config.interface, mtu_seen);
        let tun = tun.map_err(|source| DeviceError::Tun { interface: config.interface.clone(), source })?;
        begin(config, tun, mtu, UdpFactory::default()).await
    }
}

/// The tunnel with all peers of the config, reading and sending.
async fn begin(
    config: &DeviceConfig,
    tun: Tun,
    mtu: watch::Sender<u16>,
    udp: UdpFactory,
) -> Result<Running, DeviceError> {
    memory::keep_some();
    let key = PrivateKey::read(Path::new(&config.key_file))?;
    let (send, receive) = tun.split();
    let built = DeviceBuilder::new()
        .with_udp(udp.clone())
        .with_ip_pair(send, receive)
        .with_private_key(key.secret())
        .with_listen_port(config.port)
        .build()
        .await;
    let tunnel = built.map_err(|error| tunnel_error(&error))?;
    // A tunnel opens its socket when its peers are cleared, and never if it begins without any and is added some.
    let opened = tunnel
        .write(async |device| {
            device.clear_peers();
            device.add_peers(config.peers.iter().map(peer_of))
        })
        .await;
    match opened {
        Ok(_) => {}
        Err(gotatun::device::Error::Bind(source, _)) => return Err(DeviceError::Port { port: config.port, source }),
        Err(error) => return Err(tunnel_error(&error)),
    }
    Ok(Running { interface: config.interface.clone(), tunnel: Arc::new(tunnel), tun, udp, mtu })
}

async fn stop(running: Running) {
    // Not `stop`, which wants the only handle: handshakes that are hurried along hold one, too, for some seconds.
    running.tunnel.suspend().await;
}

/// The interface would go with its last descriptor, which some task may hold for a moment longer.
async fn stop_for_good(running: Running) -> Result<(), DeviceError> {
    let interface = running.interface.clone();
    stop(running).await;
    Ok(Network::open()?.remove_link(&interface).await?)
}

impl Device for UserspaceDevice {
    fn kind(&self) -> MeshDeviceKind {
        MeshDeviceKind::Userspace
    }

    async fn live(&self) -> Result<Option<DeviceLive>, DeviceError> {
        let running = self.running.lock().await;
        let Some(running) = running.as_ref() else { return Ok(None) };
        let network = Network::open()?.look(&running.interface).await?;
        // The interface was removed by hand: what is left here is of no use.
        let Some(network) = network else { return Ok(None) };
        let (public_key, port, peers) = running
            .tunnel
            .read(async |device| {
                let public_key = device.private_key().map(|key| x25519::PublicKey::from(key).to_bytes());
                (public_key.map(PublicKey::from_bytes), device.listen_port(), device.peers().await)
            })
            .await;
        let now = SystemTime::now();
        let mut peers: Vec<LivePeer> = peers.iter().map(|peer| live_peer(peer, now)).collect();
        peers.sort_by_key(|peer| peer.public_key);
        Ok(Some(DeviceLive { interface: running.interface.clone(), public_key, port, network, peers }))
    }

    async fn apply(&self, config: &DeviceConfig) -> Result<(), DeviceError> {
        let key = PrivateKey::read(Path::new(&config.key_file))?;
        let live = self.live().await?;
        let mut running = self.running.lock().await;
        let usable = live.as_ref().is_some_and(|live| live.interface == config.interface);
        if !usable {
            if let Some(old) = running.take() {
                stop_for_good(old).await?;
            }
            *running = Some(Self::create(config).await?);
        }
        let Some(running) = running.as_ref() else { return Ok(()) };
        if let Some(live) = live.filter(|_| usable) {
            let changes = peer_changes(&live, config);
            let rekey = live.public_key != Some(key.public());
            let port = (live.port != config.port).then_some(config.port);
            change(&running.tunnel, changes, rekey.then_some(key), port).await?;
        }
        running.mtu.send_replace(config.mtu);
        Network::open()?.converge(&config.interface, &network_of(config)).await?;
        Ok(())
    }

    async fn remove(&self) -> Result<(), DeviceError> {
        match self.running.lock().await.take() {
            Some(running) => stop_for_good(running).await,
            None => Ok(()),
        }
    }
}

/// All changes at once; with none of key or port the socket and the sessions of the other peers are not touched.
async fn change(
    tunnel: &Tunnel,
    changes: Vec<PeerChange>,
    key: Option<PrivateKey>,
    port: Option<u16>,
) -> Result<(), DeviceError> {
    if changes.is_empty() && key.is_none() && port.is_none() {
        return Ok(());
    }
    let written = tunnel
        .write(async |device| {
            if let Some(key) = &key {
                device.set_private_key(key.secret()).await;
            }
            if let Some(port) = port {
                device.set_listen_port(port);
            }
            for change in &changes {
                match change {
                    PeerChange::Remove(key) => {
                        device.remove_peer(&x25519::PublicKey::from(*key.as_bytes())).await;
                    }
                    PeerChange::Add(peer) => {
                        device.add_peer(peer_of(peer));
                    }
                    PeerChange::Update { public_key, endpoint, allowed, keepalive_seconds } => {
                        let key = x25519::PublicKey::from(*public_key.as_bytes());
                        let update = |peer: &mut gotatun::device::configure::PeerMut| {
                            if endpoint.is_some() {
                                peer.set_endpoint(*endpoint);
                            }
                            if let Some(seconds) = keepalive_seconds {
                                peer.set_keepalive(Some(*seconds).filter(|seconds| *seconds > 0));
                            }
                            if let Some(allowed) = allowed {
                                peer.clear_allowed_ips();
                                peer.add_allowed_ips(allowed.iter().copied().map(ip_network));
                            }
                        };
                        device.modify_peer(&key, update).await;
                    }
                }
            }
        })
        .await;
    match written {
        Ok(()) => Ok(()),
        Err(gotatun::device::Error::Bind(source, params)) => Err(DeviceError::Port { port: params.port, source }),
        Err(error) => Err(tunnel_error(&error)),
    }
}

fn tunnel_error(error: &gotatun::device::Error) -> DeviceError {
    DeviceError::Tunnel { reason: error.to_string() }
}

fn ip_network(subnet: api::addresses::Subnet) -> IpNetwork {
    let network = Ipv4Network::new(subnet.network(), subnet.prefix()).expect("a subnet's prefix is at most 32");
    IpNetwork::V4(network)
}

fn peer_of(peer: &DevicePeer) -> Peer {
    let mut made = Peer::new(x25519::PublicKey::from(*peer.public_key.as_bytes()))
        .with_allowed_ips(peer.allowed.iter().copied().map(ip_network));
    made.endpoint = peer.endpoint;
    made.keepalive = Some(peer.keepalive_seconds).filter(|seconds| *seconds > 0);
    made
}

fn live_peer(peer: &gotatun::device::configure::PeerStats, now: SystemTime) -> LivePeer {
    let handshake = peer.stats.last_handshake.and_then(|ago| now.checked_sub(ago));
    let at_ms = handshake.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let mut allowed: Vec<_> = peer
        .peer
        .allowed_ips
        .iter()
        .filter_map(|network| match network {
            IpNetwork::V4(network) => api::addresses::Subnet::new(network.network(), network.prefix()),
            IpNetwork::V6(_) => None,
        })
        .collect();
    allowed.sort();
    LivePeer {
        public_key: PublicKey::from_bytes(peer.peer.public_key.to_bytes()),
        endpoint: peer.peer.endpoint,
        allowed,
        keepalive_seconds: peer.peer.keepalive.unwrap_or(0),
        last_handshake_at_ms: at_ms.and_then(|at| i64::try_from(at.as_millis()).ok()),
        received_bytes: peer.stats.rx_bytes as u64,
        sent_bytes: peer.stats.tx_bytes as u64,
    }
}
