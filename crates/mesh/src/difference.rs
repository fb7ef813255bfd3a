//! From what a device is to what it should be, in the fewest steps: pure.
//!
//! A peer that stays as it is is not touched, so its packets go on. Where the two agree there is nothing to do, and
//! then their shapes have the same digest.

use api::addresses::Subnet;
use api::mesh::PublicKey;
use api::mesh_device::{DeviceConfig, DeviceLive, DeviceNetwork, DevicePeer};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

/// One change of a device's peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    Remove(PublicKey),
    Add(DevicePeer),
    /// What is `None` stays.
    Update {
        public_key: PublicKey,
        endpoint: Option<SocketAddr>,
        allowed: Option<Vec<Subnet>>,
        keepalive_seconds: Option<u16>,
    },
}

/// Removals come first: a network that moves from one peer to another is free by then.
pub fn peer_changes(live: &DeviceLive, config: &DeviceConfig) -> Vec<PeerChange> {
    let wanted: BTreeMap<&PublicKey, &DevicePeer> = config.peers.iter().map(|p| (&p.public_key, p)).collect();
    let there: BTreeMap<&PublicKey, _> = live.peers.iter().map(|p| (&p.public_key, p)).collect();
    let mut changes: Vec<PeerChange> =
        there.keys().filter(|key| !wanted.contains_key(*key)).map(|key| PeerChange::Remove(**key)).collect();
    for (key, peer) in wanted {
        let Some(now) = there.get(key) else {
            changes.push(PeerChange::Add(peer.clone()));
            continue;
        };
        let endpoint = peer.endpoint.filter(|endpoint| now.endpoint != Some(*endpoint));
        let allowed = (sorted(&peer.allowed) != sorted(&now.allowed)).then(|| peer.allowed.clone());
        let keepalive_seconds = (peer.keepalive_seconds != now.keepalive_seconds).then_some(peer.keepalive_seconds);
        if endpoint.is_some() || allowed.is_some() || keepalive_seconds.is_some() {
            changes.push(PeerChange::Update { public_key: *key, endpoint, allowed, keepalive_seconds });
        }
    }
    changes
}

fn sorted(subnets: &[Subnet]) -> BTreeSet<Subnet> {
    subnets.iter().copied().collect()
}

/// What is routed into the device for its peers.
pub fn routes(config: &DeviceConfig) -> BTreeSet<Subnet> {
    config.peers.iter().flat_map(|peer| peer.allowed.iter().copied()).collect()
}

/// What of a device is compared, in an order that does not depend on who lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shape {
    interface: String,
    public_key: Option<PublicKey>,
    port: u16,
    up: bool,
    mtu: u32,
    addresses: BTreeSet<(Ipv4Addr, u8)>,
    routes: BTreeSet<Subnet>,
    peers: BTreeMap<PublicKey, (BTreeSet<Subnet>, u16)>,
}

impl Shape {
    /// `own_key` is the public half of what is in the key file.
    pub fn wanted(config: &DeviceConfig, own_key: PublicKey) -> Self {
        Self {
            interface: config.interface.clone(),
            public_key: Some(own_key),
            port: config.port,
            up: true,
            mtu: config.mtu.into(),
            addresses: BTreeSet::from([(config.address, config.prefix)]),
            routes: routes(config),
            peers: config.peers.iter().map(|p| (p.public_key, (sorted(&p.allowed), p.keepalive_seconds))).collect(),
        }
    }

    pub fn live(live: &DeviceLive) -> Self {
        let DeviceNetwork { up, mtu, addresses, routes } = live.network.clone();
        Self {
            interface: live.interface.clone(),
            public_key: live.public_key,
            port: live.port,
            up,
            mtu,
            addresses: addresses.into_iter().collect(),
            routes: routes.into_iter().collect(),
            peers: live.peers.iter().map(|p| (p.public_key, (sorted(&p.allowed), p.keepalive_seconds))).collect(),
        }
    }

    /// What is not as in `wanted`, for the log and for events: `peer jNQK… is missing`.
    pub fn drift(&self, wanted: &Self) -> Vec<String> {
        let mut drift = Vec::new();
        let short = |key: &PublicKey| key.to_string().chars().take(8).collect::<String>();
        for key in wanted.peers.keys().filter(|key| !self.peers.contains_key(*key)) {
            drift.push(format!("peer {}… is missing", short(key)));
        }
        for (key, peer) in &self.peers {
            match wanted.peers.get(key) {
                None => drift.push(format!("peer {}… should not be there", short(key))),
                Some(other) if other != peer => drift.push(format!("peer {}… is set up otherwise", short(key))),
                Some(_) => {}
            }
        }
        for route in wanted.routes.difference(&self.routes) {
            drift.push(format!("the route to {route} is missing"));
        }
        for route in self.routes.difference(&wanted.routes) {
            drift.push(format!("the route to {route} should not be there"));
        }
        let facts = [
            (self.up != wanted.up, "the interface is down".to_owned()),
            (self.mtu != wanted.mtu, format!("its MTU is {} and not {}", self.mtu, wanted.mtu)),
            (self.addresses != wanted.addresses, "its address is another".to_owned()),
            (self.port != wanted.port, format!("its port is {} and not {}", self.port, wanted.port)),
            (self.public_key != wanted.public_key, "its key is another".to_owned()),
        ];
        drift.extend(facts.into_iter().filter(|(differs, _)| *differs).map(|(_, text)| text));
        drift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::mesh_device::LivePeer;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn peer(number: u8, endpoint: Option<&str>) -> DevicePeer {
        DevicePeer {
            public_key: key(number),
            endpoint: endpoint.map(|e| e.parse().unwrap()),
            allowed: vec![
                format!("10.100.{number}.0/24").parse().unwrap(),
                format!("10.200.{number}.0/24").parse().unwrap(),
            ],
            keepalive_seconds: 25,
        }
    }

    fn config(peers: Vec<DevicePeer>) -> DeviceConfig {
        DeviceConfig {
            interface: "mainstay0".into(),
            key_file: "/k".into(),
            address: "10.100.1.1".parse().unwrap(),
            prefix: 24,
            port: 51_820,
            mtu: 1_420,
            peers,
        }
    }

    /// A device on which this config was applied.
    fn device(config: &DeviceConfig) -> DeviceLive {
        DeviceLive {
            interface: config.interface.clone(),
            public_key: Some(key(1)),
            port: config.port,
            network: DeviceNetwork {
                up: true,
                mtu: config.mtu.into(),
                addresses: vec![(config.address, config.prefix)],
                routes: routes(config).into_iter().rev().collect(),
            },
            peers: config
                .peers
                .iter()
                .rev()
                .map(|p| LivePeer {
                    public_key: p.public_key,
                    endpoint: p.endpoint,
                    allowed: p.allowed.iter().rev().copied().collect(),
                    keepalive_seconds: p.keepalive_seconds,
                    last_handshake_at_ms: None,
                    received_bytes: 0,
                    sent_bytes: 0,
                })
                .collect(),
        }
    }

    #[test]
    fn a_device_that_is_as_it_should_be_needs_no_change_whatever_order_it_lists_things_in() {
        let config = config(vec![peer(2, Some("192.0.2.2:51820")), peer(3, None)]);
        let live = device(&config);
        assert_eq!(peer_changes(&live, &config), []);
        assert_eq!(Shape::live(&live), Shape::wanted(&config, key(1)));
    }

    #[test]
    fn one_peer_among_many_is_changed_without_touching_the_others() {
        let before = config((2..=100).map(|n| peer(n, None)).collect());
        let live = device(&before);
        let mut after = before.clone();
        after.peers.remove(7);
        assert_eq!(peer_changes(&live, &after), [PeerChange::Remove(key(9))]);
        after.peers.push(peer(200, None));
        assert_eq!(peer_changes(&live, &after), [PeerChange::Remove(key(9)), PeerChange::Add(peer(200, None))]);
    }

    #[test]
    fn a_peer_that_moved_is_no_drift_and_is_sent_elsewhere_only_when_told() {
        let config = config(vec![peer(2, Some("192.0.2.2:51820"))]);
        let mut live = device(&config);
        live.peers[0].endpoint = Some("198.51.100.9:4444".parse().unwrap());
        assert_eq!(Shape::live(&live), Shape::wanted(&config, key(1)));
        let told = PeerChange::Update {
            public_key: key(2),
            endpoint: config.peers[0].endpoint,
            allowed: None,
            keepalive_seconds: None,
        };
        assert_eq!(peer_changes(&live, &config), [told]);
        let mut quiet = config.clone();
        quiet.peers[0].endpoint = None;
        assert_eq!(peer_changes(&live, &quiet), []);
    }

    #[test]
    fn what_somebody_changed_by_hand_is_named() {
        let config = config(vec![peer(2, None), peer(3, None)]);
        let mut live = device(&config);
        live.peers.retain(|p| p.public_key != key(3));
        live.peers[0].allowed.push("10.0.0.0/8".parse().unwrap());
        live.network.up = false;
        live.network.routes.pop();
        let drift = Shape::live(&live).drift(&Shape::wanted(&config, key(1))).join("; ");
        for expected in ["is missing", "is set up otherwise", "the route to 10.100.2.0/24 is missing", "is down"] {
            assert!(drift.contains(expected), "{drift}");
        }
        let healthy = Shape::wanted(&config, key(1));
        assert_eq!(healthy.drift(&healthy), Vec::<String>::new());
    }
}
