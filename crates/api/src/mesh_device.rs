//! A WireGuard device as it is told and as it is: between the agent and what does the work, which is the kernel or the
//! gateway process.
//!
//! A config names the private key by the path of its file; the key itself is in no config, no answer and no log. The
//! endpoint of a peer is a hint, not a wish: WireGuard follows a peer that moves, so what a device says there is never
//! drift.

use crate::UnixMillis;
use crate::addresses::Subnet;
use crate::mesh::PublicKey;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

/// What a device should be, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Name of the interface, at most 15 characters.
    pub interface: String,
    /// The file with the private key, base64, readable by its owner alone.
    pub key_file: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub port: u16,
    pub mtu: u16,
    pub peers: Vec<DevicePeer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePeer {
    pub public_key: PublicKey,
    /// Where to send from now on; absent: where the device sends already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Each is routed into the device, too.
    pub allowed: Vec<Subnet>,
    pub keepalive_seconds: u16,
}

/// What a device is, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLive {
    pub interface: String,
    pub public_key: Option<PublicKey>,
    pub port: u16,
    pub network: DeviceNetwork,
    pub peers: Vec<LivePeer>,
}

/// The interface of a device, as the kernel says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNetwork {
    pub up: bool,
    pub mtu: u32,
    /// With the lengths of their prefixes.
    pub addresses: Vec<(Ipv4Addr, u8)>,
    /// What is routed into it, but for its own network.
    pub routes: Vec<Subnet>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePeer {
    pub public_key: PublicKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    pub allowed: Vec<Subnet>,
    pub keepalive_seconds: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake_at_ms: Option<UnixMillis>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// What the gateway process does for the mesh, replaced whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayMesh {
    /// The device that it is; absent where the kernel does that work.
    pub device: Option<DeviceConfig>,
    /// Where it answers the probes of other servers.
    pub answer: Option<ProbeAnswerer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeAnswerer {
    pub interface: String,
    pub address: Ipv4Addr,
}

/// What the gateway process is to the mesh right now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayMeshLive {
    pub device: Option<DeviceLive>,
    /// Set while probes are answered.
    pub answering: Option<ProbeAnswerer>,
    /// Why it is not as it was told.
    pub problem: Option<String>,
}
