//! The mesh as a config that is replaced whole: the tunnel to all other servers, as the control plane lists them.
//!
//! ```text
//!   peers of the fleet ─▶ want ─▶ render ─▶ digest ┐
//!                                                  ├ differ ─▶ apply ─▶ the fewest changes
//!   the device itself ──────────▶ see ───▶ digest ┘
//! ```
//!
//! What is live is read from the device, so what somebody changed by hand is found at the next look, put back by the
//! same way as anything else, and reported with what it was. The endpoint of a peer is not part of what is compared:
//! which one is used is found out here ([`paths`]) and by WireGuard itself, and changes without the control plane.
//!
//! Beside the loop runs [`watch`]: it tries endpoints, sends probes, and wakes the loop when the device is not as it was
//! left. The private key is made here and read by whoever is the device, from the one file that holds it.

mod device;
mod paths;
mod verdict;
mod watch;

pub use device::{Ability, Tunnel};
pub use watch::run;

use super::{Config, DriverError};
use crate::backoff::jitter;
use crate::clock::now_ms;
use api::UnixMillis;
use api::addresses::{SERVER_PREFIX, ServerAddresses};
use api::ids::ServerId;
use api::mesh::{
    DEFAULT_MTU, DEFAULT_PORT, ENDPOINTS_LIMIT, MeshDesired, MeshFacts, MeshObserved, MeshPeer, MeshRepair, PublicKey,
    is_reachable_from_elsewhere,
};
use api::mesh_device::{DeviceConfig, DevicePeer};
use client::gateway::GatewayClient;
use device::Seen;
use mesh::difference::Shape;
use mesh::kernel::KernelDevice;
use mesh::key::PrivateKey;
use mesh::probe::ProbeLog;
use mesh::{DeviceError, network};
use paths::Paths;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch as channel;
use tokio::time::Instant;

/// What was seen is believed for so long, unless something was changed: looks of the loop may follow each other quickly.
const BELIEVED: Duration = Duration::from_secs(1);
const OWN_ADDRESSES_BELIEVED: Duration = Duration::from_secs(30);
/// Interfaces of container engines and virtual machines: their addresses lead nowhere from elsewhere.
const INNER_INTERFACES: [&str; 7] = ["docker", "br-", "podman", "cni", "virbr", "veth", "lxcbr"];
const KEY_FILE: &str = "mesh.key";

/// What a person may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    pub enabled: bool,
    pub interface: String,
    pub port: u16,
    pub mtu: u16,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self { enabled: true, interface: "mainstay0".into(), port: DEFAULT_PORT, mtu: DEFAULT_MTU }
    }
}

pub struct MeshDriver {
    server_id: ServerId,
    settings: MeshSettings,
    /// What there is to work with; otherwise why the mesh is off.
    ready: Result<Ready, String>,
    limitation: Option<String>,
    changes: channel::Sender<u64>,
    /// One at a time works on the device.
    work: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct Ready {
    tunnel: Tunnel,
    addresses: ServerAddresses,
    key_file: PathBuf,
    public_key: PublicKey,
}

#[derive(Default)]
struct State {
    desired: Option<MeshDesired>,
    /// What was last made as desired: from then on a difference is somebody else's doing.
    made: Option<String>,
    seen: Option<(Instant, Seen)>,
    /// Not as it was left, and since then not put back.
    drift: Vec<String>,
    repaired: Option<MeshRepair>,
    /// Why the last change failed.
    problem: Option<String>,
    /// Why the device could not be looked at.
    unseen: Option<String>,
    paths: Paths,
    /// Told to the device with the next change.
    endpoints: BTreeMap<PublicKey, SocketAddr>,
    probes: BTreeMap<PublicKey, ProbeLog>,
    own: Option<(Instant, Vec<OwnAddress>)>,
}

impl MeshDriver {
    /// On this machine: makes the key if there is none, and finds out by trying what can do the work.
    pub async fn open(
        server_id: ServerId,
        index: u16,
        settings: MeshSettings,
        data: &Path,
        gateway: &Path,
        is_root: bool,
    ) -> Self {
        if !settings.enabled {
            return Self::off(server_id, settings, "it was switched off for this agent", None);
        }
        let ability = Ability::of(Path::new("/"), is_root).await;
        let limitation = ability.limitation();
        let gateway = GatewayClient::new(gateway);
        let tunnel = match ability {
            Ability::Kernel => {
                let device = KernelDevice::new(settings.interface.clone(), &data.display().to_string());
                Tunnel::Kernel { device, gateway }
            }
            Ability::Userspace { without } => {
                tracing::info!(%without, "the mesh runs in the gateway process");
                Tunnel::Userspace { gateway }
            }
            Ability::None { reason } => return Self::off(server_id, settings, &reason, limitation),
        };
        Self::with_tunnel(server_id, index, settings, data, tunnel, limitation)
    }

    /// On any tunnel; the key is in the directory `data`.
    pub fn with_tunnel(
        server_id: ServerId,
        index: u16,
        settings: MeshSettings,
        data: &Path,
        tunnel: Tunnel,
        limitation: Option<String>,
    ) -> Self {
        let Some(addresses) = ServerAddresses::of(index) else {
            let reason = format!("the server's number {index} gives it no address");
            return Self::off(server_id, settings, &reason, limitation);
        };
        let key_file = data.join(KEY_FILE);
        match PrivateKey::read_or_make(&key_file) {
            Ok(key) => {
                let ready = Ready { tunnel, addresses, key_file, public_key: key.public() };
                Self { limitation, ..Self::new(server_id, settings, Ok(ready)) }
            }
            Err(error) => {
                let reason = DeviceError::from(error).describe();
                let limitation = format!("This machine takes no part in the mesh: {reason}.");
                Self::off(server_id, settings, &reason, Some(limitation))
            }
        }
    }

    /// Takes no part.
    pub fn off(server_id: ServerId, settings: MeshSettings, reason: &str, limitation: Option<String>) -> Self {
        Self { limitation, ..Self::new(server_id, settings, Err(reason.to_owned())) }
    }

    fn new(server_id: ServerId, settings: MeshSettings, ready: Result<Ready, String>) -> Self {
        Self {
            server_id,
            settings,
            ready,
            limitation: None,
            changes: channel::Sender::new(0),
            work: tokio::sync::Mutex::default(),
            state: Mutex::default(),
        }
    }

    pub fn takes_part(&self) -> bool {
        self.ready.is_ok()
    }

    /// What this machine cannot do, one sentence.
    pub fn limitation(&self) -> Option<String> {
        self.limitation.clone()
    }

    /// Rises when the device is not as it was left, or what is known of a peer has changed.
    pub fn changes(&self) -> channel::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What other servers have to know of this one.
    pub async fn facts(&self) -> Option<MeshFacts> {
        let ready = self.ready.as_ref().ok()?;
        let own = self.own_addresses().await;
        Some(MeshFacts {
            public_key: ready.public_key,
            port: self.settings.port,
            endpoints: endpoints(&own, self.settings.port),
            device: ready.tunnel.kind(),
        })
    }

    /// All servers of the fleet, this one included; `None`: nobody has said, so nothing is touched.
    pub fn want(&self, peers: Option<&[MeshPeer]>) {
        let Ok(ready) = &self.ready else { return };
        let desired = peers.map(|peers| MeshDesired {
            address: ready.addresses.mesh,
            prefix: SERVER_PREFIX,
            port: self.settings.port,
            mtu: self.settings.mtu,
            // Whoever has this machine's key is this machine, or wants to be it.
            peers: peers
                .iter()
                .filter(|peer| peer.server_id != self.server_id && peer.public_key != ready.public_key)
                .cloned()
                .collect(),
        });
        let mut state = self.lock();
        if state.desired != desired {
            state.desired = desired;
            drop(state);
            self.bump();
        }
    }

    /// What should be, for [`Config::apply`]; `None` where there is nothing to compare.
    pub fn desired(&self) -> Option<MeshDesired> {
        self.ready.as_ref().ok()?;
        self.lock().desired.clone()
    }

    /// Digest that [`Config::live_digest`] answers once `desired` is live.
    pub fn desired_digest(&self, desired: &MeshDesired) -> String {
        let Ok(ready) = &self.ready else { return String::new() };
        digest(self.wanted(ready, desired).as_ref())
    }

    fn wanted(&self, ready: &Ready, desired: &MeshDesired) -> Option<Shape> {
        let config = render(&self.settings.interface, &ready.key_file, desired, &BTreeMap::new())?;
        Some(Shape::wanted(&config, ready.public_key))
    }

    /// The newest that was seen, or a new look.
    async fn see(&self, ready: &Ready) -> Result<Seen, DeviceError> {
        let believed = self.lock().seen.clone().filter(|(at, _)| at.elapsed() < BELIEVED);
        if let Some((_, seen)) = believed {
            return Ok(seen);
        }
        let seen = ready.tunnel.see().await?;
        self.lock().seen = Some((Instant::now(), seen.clone()));
        Ok(seen)
    }

    /// Compares with how it was left. Answers the digest of what is live.
    async fn look(&self, ready: &Ready) -> Result<String, DeviceError> {
        let seen = match self.see(ready).await {
            Ok(seen) => seen,
            Err(error) => {
                self.lock().unseen = Some(error.describe());
                return Err(error);
            }
        };
        self.lock().unseen = None;
        let live = live_shape(&seen);
        let live_digest = digest(live.as_ref());
        let mut state = self.lock();
        let Some(desired) = state.desired.clone() else { return Ok(live_digest) };
        let wanted = self.wanted(ready, &desired);
        if live == wanted {
            // A gateway that was started again made it so by itself.
            state.drift.clear();
        }
        if state.made.as_deref() == Some(&digest(wanted.as_ref())) && live != wanted && state.drift.is_empty() {
            state.drift = match (&live, &wanted) {
                (Some(live), Some(wanted)) => live.drift(wanted),
                (None, Some(_)) if seen.device.is_some() => vec!["probes were not answered".into()],
                (None, Some(_)) => vec!["the interface was gone".into()],
                (Some(_), None) => vec!["there was an interface that should not be".into()],
                (None, None) => Vec::new(),
            };
        }
        Ok(live_digest)
    }

    pub async fn observe(&self) -> MeshObserved {
        let ready = match &self.ready {
            Ok(ready) => ready,
            Err(reason) => return MeshObserved { problem: Some(reason.clone()), ..MeshObserved::default() },
        };
        let device = self.see(ready).await.ok().and_then(|seen| seen.device);
        let state = self.lock();
        let off = MeshObserved {
            public_key: Some(ready.public_key),
            repaired: state.repaired.clone(),
            problem: state.problem.clone().or_else(|| state.unseen.clone()),
            ..MeshObserved::default()
        };
        let Some(desired) = state.desired.as_ref().filter(|desired| !desired.peers.is_empty()) else { return off };
        let now_ms = now_ms();
        let peers = desired.peers.iter().map(|peer| {
            let live = device.as_ref().and_then(|d| d.peers.iter().find(|live| live.public_key == peer.public_key));
            let none = ProbeLog::default();
            let probes = state.probes.get(&peer.public_key).unwrap_or(&none);
            verdict::observed(now_ms, peer, live, state.paths.tried(&peer.public_key), probes)
        });
        MeshObserved {
            device: Some(ready.tunnel.kind()),
            interface: Some(self.settings.interface.clone()),
            address: Some(desired.address),
            port: Some(desired.port),
            peers: peers.collect(),
            ..off
        }
    }

    /// Tries endpoints: what this changes is no part of what is compared, so it is done beside the loop.
    async fn try_endpoints(&self) -> Result<(), DeviceError> {
        let Ok(ready) = &self.ready else { return Ok(()) };
        let Some(desired) = self.desired().filter(|desired| !desired.peers.is_empty()) else { return Ok(()) };
        let _one_at_a_time = self.work.lock().await;
        let seen = self.see(ready).await?;
        let chosen = self.choose_endpoints(&desired, &seen, now_ms(), jitter()).await;
        // While it is not as desired, the loop is about to make it so, and takes the endpoints along.
        let as_wanted = live_shape(&seen) == self.wanted(ready, &desired);
        if !chosen || !as_wanted {
            return Ok(());
        }
        self.make(ready, &desired).await
    }

    /// Whether there is something to tell the device.
    async fn choose_endpoints(&self, desired: &MeshDesired, seen: &Seen, now_ms: UnixMillis, jitter: f64) -> bool {
        let live = seen.device.as_ref().map_or(&[][..], |device| &device.peers);
        let own = self.own_addresses().await;
        let own: Vec<(IpAddr, u8)> = own.iter().map(|own| (own.address, own.prefix)).collect();
        let mut state = self.lock();
        let chosen = state.paths.choose(now_ms, jitter, &own, &desired.peers, live);
        state.endpoints.extend(chosen);
        !state.endpoints.is_empty()
    }

    /// They change rarely, and a peer that is not reached is tried for longer than they are believed.
    async fn own_addresses(&self) -> Vec<OwnAddress> {
        let known = self.lock().own.clone().filter(|(at, _)| at.elapsed() < OWN_ADDRESSES_BELIEVED);
        if let Some((_, own)) = known {
            return own;
        }
        let own = own_addresses(&self.settings.interface).await;
        self.lock().own = Some((Instant::now(), own.clone()));
        own
    }

    async fn make(&self, ready: &Ready, desired: &MeshDesired) -> Result<(), DeviceError> {
        let endpoints = self.lock().endpoints.clone();
        let config = render(&self.settings.interface, &ready.key_file, desired, &endpoints);
        let made = ready.tunnel.make(config.as_ref()).await;
        let mut state = self.lock();
        state.seen = None;
        if made.is_ok() {
            state.endpoints.retain(|key, endpoint| endpoints.get(key) != Some(endpoint));
        }
        made
    }

    fn bump(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding it cannot leave it half-written: every field stands alone.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Config for MeshDriver {
    type Desired = MeshDesired;

    fn name(&self) -> &'static str {
        "mesh"
    }

    async fn live_digest(&self) -> Option<String> {
        let ready = self.ready.as_ref().ok()?;
        self.look(ready).await.ok()
    }

    async fn apply(&self, desired: &MeshDesired) -> Result<String, DriverError> {
        let ready = self.ready.as_ref().map_err(|reason| DriverError::refused(reason.clone()))?;
        let _one_at_a_time = self.work.lock().await;
        // New peers begin with what would be tried at first.
        let seen = self.see(ready).await.unwrap_or_default();
        self.choose_endpoints(desired, &seen, now_ms(), jitter()).await;
        let made = self.make(ready, desired).await;
        if let Err(error) = made {
            let message = error.describe();
            self.lock().problem = Some(message.clone());
            return Err(DriverError::temporary(message));
        }
        let digest = self.desired_digest(desired);
        let mut state = self.lock();
        state.problem = None;
        state.made = Some(digest.clone());
        let what = std::mem::take(&mut state.drift);
        if !what.is_empty() {
            state.repaired = Some(MeshRepair { at_ms: now_ms(), what });
        }
        Ok(digest)
    }

    async fn remove(&self) -> Result<(), DriverError> {
        let Ok(ready) = &self.ready else { return Ok(()) };
        let _one_at_a_time = self.work.lock().await;
        let removed = ready.tunnel.make(None).await;
        self.lock().seen = None;
        removed.map_err(|error| DriverError::temporary(error.describe()))
    }
}

/// `None` for a mesh of one: there is nobody to reach, so there is no interface.
fn render(
    interface: &str,
    key_file: &Path,
    desired: &MeshDesired,
    endpoints: &BTreeMap<PublicKey, SocketAddr>,
) -> Option<DeviceConfig> {
    let peer = |peer: &MeshPeer| DevicePeer {
        public_key: peer.public_key,
        endpoint: endpoints.get(&peer.public_key).copied(),
        allowed: peer.allowed.clone(),
        keepalive_seconds: peer.keepalive_seconds,
    };
    (!desired.peers.is_empty()).then(|| DeviceConfig {
        interface: interface.to_owned(),
        key_file: key_file.display().to_string(),
        address: desired.address,
        prefix: desired.prefix,
        port: desired.port,
        mtu: desired.mtu,
        peers: desired.peers.iter().map(peer).collect(),
    })
}

/// What is compared. A device beside which probes are not answered is none, so that both are made anew.
fn live_shape(seen: &Seen) -> Option<Shape> {
    let device = seen.device.as_ref()?;
    let answers = seen.answering.as_ref().is_some_and(|answering| {
        device.interface == answering.interface
            && device.network.addresses.iter().any(|(address, _)| *address == answering.address)
    });
    answers.then(|| Shape::live(device))
}

fn digest(shape: Option<&Shape>) -> String {
    wire::digest_of(&shape)
}

/// An address of this machine that others may reach it at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct OwnAddress {
    interface: String,
    address: IpAddr,
    prefix: u8,
}

async fn own_addresses(mesh_interface: &str) -> Vec<OwnAddress> {
    match network::own_addresses().await {
        Ok(addresses) => addresses
            .into_iter()
            .filter(|(interface, _, _)| interface != mesh_interface)
            .map(|(interface, address, prefix)| OwnAddress { interface, address, prefix })
            .collect(),
        Err(error) => {
            tracing::warn!(error = %DeviceError::from(error).describe(), "the addresses of this machine cannot be listed");
            Vec::new()
        }
    }
}

fn endpoints(own: &[OwnAddress], port: u16) -> Vec<SocketAddr> {
    let useful = |own: &&OwnAddress| {
        let inner = INNER_INTERFACES.iter().any(|prefix| own.interface.starts_with(prefix));
        !inner && is_reachable_from_elsewhere(own.address) && !plan::mesh::is_in_mesh(own.address)
    };
    own.iter().filter(useful).map(|own| SocketAddr::new(own.address, port)).take(ENDPOINTS_LIMIT).collect()
}

#[cfg(test)]
mod tests;
