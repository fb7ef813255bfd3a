//! The private network between the servers of an organization: WireGuard, every server with every other.
//!
//! A machine makes its key pair itself and tells the public half and where it may be reached ([`MeshFacts`]). The
//! control plane turns what all servers told into one list of peers ([`MeshPeer`]), in which every server finds itself,
//! too, and leaves itself out. The agent picks one endpoint per peer, because only it sees which one answers, and
//! reports what the live device says ([`MeshObserved`]).
//!
//! Absent on purpose: a private key, in any shape. It stays in one file on its machine.

use crate::UnixMillis;
use crate::addresses::Subnet;
use crate::ids::ServerId;
use crate::name::Name;
use crate::text::shown_form;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// UDP port of a server's tunnel, unless it is told another.
pub const DEFAULT_PORT: u16 = 51_820;
/// What is left of 1,500 bytes when the tunnel's own headers are taken off, over IPv6 as well.
pub const DEFAULT_MTU: u16 = 1_420;
/// How often a silent peer is written to, so that a NAT in between keeps its place open.
pub const KEEPALIVE_SECONDS: u16 = 25;
/// Endpoints per server that are kept: more are not worth trying.
pub const ENDPOINTS_LIMIT: usize = 8;
/// WireGuard uses the keys of a handshake for at most this long; an older one carries nothing.
pub const SESSION_LIMIT_MS: i64 = 180_000;

/// Why a text is not a WireGuard public key. The text is not repeated: it may be a private one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a WireGuard public key is 32 bytes in base64: 43 characters and `=`")]
pub struct PublicKeyError;

/// A WireGuard public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;
    fn from_str(value: &str) -> Result<Self, PublicKeyError> {
        let bytes = STANDARD.decode(value).map_err(|_| PublicKeyError)?;
        bytes.try_into().map(Self).map_err(|_| PublicKeyError)
    }
}

shown_form!(PublicKey);

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who does the work of the tunnel on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MeshDeviceKind {
    /// The WireGuard of the kernel.
    Kernel,
    /// The gateway process, over /dev/net/tun.
    Userspace,
}

impl MeshDeviceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        }
    }
}

/// What a machine tells about its place in the mesh; absent where it cannot take part (its limitations say why).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshFacts {
    pub public_key: PublicKey,
    /// UDP port of its tunnel: with the address that the control plane sees the machine at, one more endpoint.
    pub port: u16,
    /// Its own addresses with that port.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub endpoints: Vec<SocketAddr>,
    pub device: MeshDeviceKind,
}

/// One server as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshPeer {
    pub server_id: ServerId,
    pub name: Name,
    pub public_key: PublicKey,
    /// Where it may be reached, in any order; each machine tries what suits it best first. Empty: it has to begin.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub endpoints: Vec<SocketAddr>,
    /// What is sent to it through the tunnel, and taken from it: its two networks.
    pub allowed: Vec<Subnet>,
    pub keepalive_seconds: u16,
}

impl MeshPeer {
    /// The server itself in the mesh: the first address of the first of its networks.
    pub fn mesh_address(&self) -> Option<Ipv4Addr> {
        self.allowed.first().map(|subnet| Ipv4Addr::from_bits(subnet.network().to_bits() | 1))
    }
}

/// What a machine's mesh should be. Its private key is in a file beside it and not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshDesired {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: Ipv4Addr,
    /// Length of the prefix of `address`.
    pub prefix: u8,
    pub port: u16,
    pub mtu: u16,
    /// All others.
    pub peers: Vec<MeshPeer>,
}

/// What is known of the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MeshPeerState {
    /// Its endpoints are being tried and none has been tried for long enough to say more.
    Connecting,
    /// There is a handshake that still carries traffic.
    Direct,
    /// There is none; `reason` says what was tried.
    Unreachable,
}

impl MeshPeerState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Direct => "direct",
            Self::Unreachable => "unreachable",
        }
    }
}

/// One peer as the live device shows it, and what small probes through the tunnel found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshPeerObserved {
    pub server_id: ServerId,
    pub name: Name,
    pub public_key: PublicKey,
    pub state: MeshPeerState,
    /// Where the device sends to now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub endpoint: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake_at_ms: Option<UnixMillis>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    #[serde(default)]
    pub probes: MeshProbes,
    /// Why it is not direct, or what is odd though it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The newest probes through the tunnel to one peer. A probe without an answer may have been lost there or back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshProbes {
    /// How many of the newest are counted; those still waited for are not.
    pub sent: u32,
    pub lost: u32,
    /// There and back, median of those answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_micros: Option<u64>,
}

impl MeshObserved {
    /// Without what moves by itself: counters, ages and measurements.
    pub fn clear_gauges(&mut self) {
        for peer in &mut self.peers {
            peer.last_handshake_at_ms = None;
            peer.received_bytes = 0;
            peer.sent_bytes = 0;
            peer.probes = MeshProbes::default();
        }
    }
}

impl MeshProbes {
    /// `None` before the first probe has been counted.
    pub fn loss_percent(&self) -> Option<f64> {
        (self.sent > 0).then(|| f64::from(self.lost) * 100.0 / f64::from(self.sent))
    }

    /// `0 % of 60 lost, 0.4 ms`; `None` before the first has been counted.
    pub fn describe(&self) -> Option<String> {
        let percent = self.loss_percent()?;
        let loss = if percent > 0.0 && percent < 10.0 { format!("{percent:.1}") } else { format!("{percent:.0}") };
        let time = self.round_trip_micros.map_or_else(String::new, |micros| {
            let millis = micros as f64 / 1_000.0;
            if millis < 10.0 { format!(", {millis:.1} ms") } else { format!(", {millis:.0} ms") }
        });
        Some(format!("{loss} % of {} lost{time}", self.sent))
    }
}

/// The mesh of one machine, read from the live device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshObserved {
    /// `None`: the mesh is off here.
    pub device: Option<MeshDeviceKind>,
    pub interface: Option<String>,
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<Ipv4Addr>,
    pub port: Option<u16>,
    pub public_key: Option<PublicKey>,
    pub peers: Vec<MeshPeerObserved>,
    /// The last time that the device was not as it had been left and was put right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<MeshRepair>,
    /// Why it is off, or not as desired.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MeshRepair {
    pub at_ms: UnixMillis,
    /// What was otherwise: `peer jNQKmw+I… is missing`.
    pub what: Vec<String>,
}

/// Whether an address is of use to another machine: not loopback, not link-local, not multicast, not "any".
pub fn is_reachable_from_elsewhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "jNQKmw+IF/lOoxmrnPKNCoCHPmfHnLkDfRC9LrTSIlw=";

    #[test]
    fn a_public_key_is_read_as_it_is_written_and_nothing_else_is_one() {
        assert_eq!(KEY.parse::<PublicKey>().unwrap().to_string(), KEY);
        assert_eq!(serde_json::to_string(&KEY.parse::<PublicKey>().unwrap()).unwrap(), format!("\"{KEY}\""));
        for bad in ["", "jNQK", &KEY[..43], &format!("{KEY}A"), &KEY.replace('/', "_"), &format!(" {KEY}")] {
            assert_eq!(bad.parse::<PublicKey>(), Err(PublicKeyError), "{bad:?}");
        }
    }

    #[test]
    fn loss_is_told_only_where_something_was_sent() {
        let said = |sent, lost, round_trip_micros| MeshProbes { sent, lost, round_trip_micros }.describe();
        assert_eq!(said(0, 0, None), None);
        assert_eq!(said(60, 0, Some(412)).as_deref(), Some("0 % of 60 lost, 0.4 ms"));
        assert_eq!(said(40, 1, Some(31_700)).as_deref(), Some("2.5 % of 40 lost, 32 ms"));
        assert_eq!(said(5, 5, None).as_deref(), Some("100 % of 5 lost"));
    }

    #[test]
    fn addresses_that_mean_another_machine_everywhere_are_not_endpoints() {
        for (address, expected) in [
            ("192.168.1.7", true),
            ("203.0.113.9", true),
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("0.0.0.0", false),
            ("fe80::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_reachable_from_elsewhere(address.parse().unwrap()), expected, "{address}");
        }
    }
}
