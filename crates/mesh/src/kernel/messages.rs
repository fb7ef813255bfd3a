//! What is said to the kernel's WireGuard and what it answers, as plain values: pure, so it is tested where there is no
//! such kernel.

use crate::difference::PeerChange;
use crate::key::PrivateKey;
use api::addresses::Subnet;
use api::mesh::PublicKey;
use api::mesh_device::{DevicePeer, LivePeer};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use std::net::{IpAddr, SocketAddr};

/// Peers in one message: the kernel takes at most 64 KiB, and a peer needs about 200 bytes.
const PEERS_TOGETHER: usize = 128;

/// What the kernel says of a device, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelLive {
    pub public_key: Option<PublicKey>,
    pub port: u16,
    pub peers: Vec<LivePeer>,
}

pub fn get_device(interface: &str) -> WireguardMessage {
    let attributes = vec![WireguardAttribute::IfName(interface.to_owned())];
    WireguardMessage { cmd: WireguardCmd::GetDevice, attributes }
}

/// The messages that make a device so, in order. Without `key` or `port` that stays; peers that no change names are
/// not touched.
pub fn set_device(
    interface: &str,
    key: Option<&PrivateKey>,
    port: Option<u16>,
    changes: &[PeerChange],
) -> Vec<WireguardMessage> {
    let name = || WireguardAttribute::IfName(interface.to_owned());
    let mut first = vec![name()];
    first.extend(key.map(|key| WireguardAttribute::PrivateKey(key.bytes())));
    first.extend(port.map(WireguardAttribute::ListenPort));
    let mut messages = Vec::new();
    if first.len() > 1 {
        messages.push(first);
    }
    for group in changes.chunks(PEERS_TOGETHER) {
        messages.push(vec![name(), WireguardAttribute::Peers(group.iter().map(peer).collect())]);
    }
    messages.into_iter().map(|attributes| WireguardMessage { cmd: WireguardCmd::SetDevice, attributes }).collect()
}

fn peer(change: &PeerChange) -> WireguardPeer {
    use WireguardPeerAttribute as Attribute;
    let attributes = match change {
        PeerChange::Remove(key) => {
            vec![Attribute::PublicKey(*key.as_bytes()), Attribute::Flags(WireguardPeerFlags::RemoveMe)]
        }
        PeerChange::Add(DevicePeer { public_key, endpoint, allowed, keepalive_seconds }) => {
            let mut attributes = vec![
                Attribute::PublicKey(*public_key.as_bytes()),
                Attribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
                Attribute::PersistentKeepalive(*keepalive_seconds),
                Attribute::AllowedIps(allowed.iter().map(allowed_ip).collect()),
            ];
            attributes.extend(endpoint.map(Attribute::Endpoint));
            attributes
        }
        PeerChange::Update { public_key, endpoint, allowed, keepalive_seconds } => {
            let mut flags = WireguardPeerFlags::UpdateOnly;
            if allowed.is_some() {
                flags |= WireguardPeerFlags::ReplaceAllowedIps;
            }
            let mut attributes = vec![Attribute::PublicKey(*public_key.as_bytes()), Attribute::Flags(flags)];
            attributes.extend(endpoint.map(Attribute::Endpoint));
            attributes.extend(keepalive_seconds.map(Attribute::PersistentKeepalive));
            attributes.extend(allowed.as_ref().map(|a| Attribute::AllowedIps(a.iter().map(allowed_ip).collect())));
            attributes
        }
    };
    WireguardPeer(attributes)
}

fn allowed_ip(subnet: &Subnet) -> WireguardAllowedIp {
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(WireguardAddressFamily::Ipv4),
        WireguardAllowedIpAttr::IpAddr(IpAddr::V4(subnet.network())),
        WireguardAllowedIpAttr::Cidr(subnet.prefix()),
    ])
}

/// The answer comes in pieces, and the networks of one peer may go on in the next piece.
pub fn read_device(messages: &[WireguardMessage]) -> KernelLive {
    let mut live = KernelLive::default();
    for attribute in messages.iter().flat_map(|message| &message.attributes) {
        match attribute {
            WireguardAttribute::PublicKey(key) if *key != [0; 32] => {
                live.public_key = Some(PublicKey::from_bytes(*key))
            }
            WireguardAttribute::ListenPort(port) => live.port = *port,
            WireguardAttribute::Peers(peers) => {
                for peer in peers.iter().filter_map(read_peer) {
                    match live.peers.last_mut() {
                        Some(last) if last.public_key == peer.public_key => last.allowed.extend(peer.allowed),
                        _ => live.peers.push(peer),
                    }
                }
            }
            _ => {}
        }
    }
    live.peers.sort_by_key(|peer| peer.public_key);
    live
}

fn read_peer(peer: &WireguardPeer) -> Option<LivePeer> {
    let key = peer.0.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(PublicKey::from_bytes(*key)),
        _ => None,
    })?;
    let mut live = LivePeer {
        public_key: key,
        endpoint: None,
        allowed: Vec::new(),
        keepalive_seconds: 0,
        last_handshake_at_ms: None,
        received_bytes: 0,
        sent_bytes: 0,
    };
    for attribute in &peer.0 {
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => {
                live.endpoint = Some(SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port()));
            }
            WireguardPeerAttribute::PersistentKeepalive(seconds) => live.keepalive_seconds = *seconds,
            WireguardPeerAttribute::LastHandshake(at) if at.seconds > 0 => {
                live.last_handshake_at_ms = Some(at.seconds * 1_000 + at.nano_seconds / 1_000_000);
            }
            WireguardPeerAttribute::RxBytes(bytes) => live.received_bytes = *bytes,
            WireguardPeerAttribute::TxBytes(bytes) => live.sent_bytes = *bytes,
            WireguardPeerAttribute::AllowedIps(allowed) => live.allowed.extend(allowed.iter().filter_map(read_allowed)),
            _ => {}
        }
    }
    live.allowed.sort();
    Some(live)
}

fn read_allowed(allowed: &WireguardAllowedIp) -> Option<Subnet> {
    let (mut network, mut prefix) = (None, None);
    for attribute in &allowed.0 {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(IpAddr::V4(address)) => network = Some(*address),
            WireguardAllowedIpAttr::Cidr(length) => prefix = Some(*length),
            _ => {}
        }
    }
    Subnet::new(network?, prefix?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, ParseableParametrized};
    use netlink_packet_generic::GenlHeader;
    use netlink_packet_wireguard::WireguardTimeSpec;

    fn key(number: u8) -> PublicKey {
        PublicKey::from_bytes([number; 32])
    }

    fn added(number: u8) -> DevicePeer {
        DevicePeer {
            public_key: key(number),
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            allowed: vec!["10.100.2.0/24".parse().unwrap(), "10.200.2.0/24".parse().unwrap()],
            keepalive_seconds: 25,
        }
    }

    /// As the bytes that the kernel gets, and back.
    fn through_the_wire(message: &WireguardMessage) -> WireguardMessage {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let header = GenlHeader { cmd: message.cmd.into(), version: 1 };
        WireguardMessage::parse_with_param(&bytes[..], header).unwrap()
    }

    #[test]
    fn what_is_said_to_the_kernel_survives_the_wire_and_names_only_what_changes() {
        let changes = [
            PeerChange::Remove(key(1)),
            PeerChange::Add(added(2)),
            PeerChange::Update { public_key: key(3), endpoint: None, allowed: None, keepalive_seconds: Some(0) },
        ];
        let private = PrivateKey::generate();
        let messages = set_device("mainstay0", Some(&private), Some(51_820), &changes);
        assert_eq!(messages.iter().map(through_the_wire).collect::<Vec<_>>(), messages);
        assert_eq!(messages.len(), 2);
        let WireguardAttribute::Peers(peers) = &messages[1].attributes[1] else { panic!("{messages:?}") };
        assert!(peers[0].contains(&WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe)));
        assert!(peers[1].contains(&WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps)));
        assert_eq!(peers[2].len(), 3, "{:?}", peers[2]);
        let replaces_all =
            |m: &WireguardMessage| m.attributes.iter().any(|a| matches!(a, WireguardAttribute::Flags(_)));
        assert!(!messages.iter().any(replaces_all), "a message would have replaced all peers");
    }

    #[test]
    fn nothing_is_said_where_nothing_changes_and_many_peers_are_split_up() {
        assert_eq!(set_device("mainstay0", None, None, &[]), []);
        let many: Vec<PeerChange> = (0..300).map(|_| PeerChange::Add(added(2))).collect();
        let messages = set_device("mainstay0", None, None, &many);
        assert_eq!(messages.len(), 3);
        assert!(messages.iter().all(|message| message.buffer_len() < 60_000));
    }

    #[test]
    fn a_peer_whose_networks_come_in_two_pieces_is_one_peer() {
        let peer = |attributes: Vec<WireguardPeerAttribute>| WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::Peers(vec![WireguardPeer(attributes)])],
        };
        let own = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::PublicKey([9; 32]), WireguardAttribute::ListenPort(51_820)],
        };
        let at = WireguardTimeSpec { seconds: 1_700_000_000, nano_seconds: 5_000_000 };
        let first = peer(vec![
            WireguardPeerAttribute::PublicKey([2; 32]),
            WireguardPeerAttribute::Endpoint("[::ffff:192.0.2.1]:7".parse().unwrap()),
            WireguardPeerAttribute::PersistentKeepalive(25),
            WireguardPeerAttribute::LastHandshake(at),
            WireguardPeerAttribute::RxBytes(5),
            WireguardPeerAttribute::AllowedIps(vec![allowed_ip(&"10.100.2.0/24".parse().unwrap())]),
        ]);
        let second = peer(vec![
            WireguardPeerAttribute::PublicKey([2; 32]),
            WireguardPeerAttribute::AllowedIps(vec![allowed_ip(&"10.200.2.0/24".parse().unwrap())]),
        ]);
        let live = read_device(&[own, first, second]);
        assert_eq!((live.public_key, live.port, live.peers.len()), (Some(key(9)), 51_820, 1));
        let read = &live.peers[0];
        assert_eq!(read.endpoint, Some("192.0.2.1:7".parse().unwrap()));
        assert_eq!(read.last_handshake_at_ms, Some(1_700_000_000_005));
        assert_eq!(read.allowed, added(2).allowed);
    }

    #[test]
    fn a_peer_that_never_shook_hands_has_no_time_of_it() {
        let never = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey([2; 32]),
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec::default()),
        ]);
        assert_eq!(read_peer(&never).unwrap().last_handshake_at_ms, None);
    }
}
