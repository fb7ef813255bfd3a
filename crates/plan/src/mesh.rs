//! Who is in the mesh of an organization, and where: from what each server told.
//!
//! What a machine tells is judged here, because the others act on it. A public key counts once, for the server with the
//! lowest number: a machine that told another's key would otherwise draw its traffic, or cut it off. Addresses of the
//! mesh itself are no endpoints (the tunnel would run through itself), nor is anything that means another machine on
//! every machine, as loopback does.

use api::addresses::{ServerAddresses, Subnet};
use api::ids::ServerId;
use api::mesh::{ENDPOINTS_LIMIT, KEEPALIVE_SECONDS, MeshFacts, MeshPeer, PublicKey, is_reachable_from_elsewhere};
use api::name::Name;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A server as far as the mesh is concerned.
#[derive(Debug, Clone)]
pub struct MeshServer {
    pub server_id: ServerId,
    pub name: Name,
    pub index: u16,
    /// `None`: it cannot take part.
    pub facts: Option<MeshFacts>,
    /// Where the control plane sees its requests come from.
    pub seen_from: Option<IpAddr>,
}

/// The peers in the order of their numbers, and who was left out though it told a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshPeers {
    pub peers: Vec<MeshPeer>,
    /// With the reason, one sentence.
    pub left_out: Vec<(ServerId, String)>,
}

/// Every server of an organization that is in the mesh, the reader included: it leaves itself out.
pub fn peers(servers: &[MeshServer]) -> MeshPeers {
    let mut servers: Vec<&MeshServer> = servers.iter().collect();
    servers.sort_by(|a, b| (a.index, &a.server_id).cmp(&(b.index, &b.server_id)));
    let mut owners: BTreeMap<PublicKey, &Name> = BTreeMap::new();
    let mut result = MeshPeers::default();
    for server in servers {
        let Some(facts) = &server.facts else { continue };
        let Some(addresses) = ServerAddresses::of(server.index) else { continue };
        if let Some(owner) = owners.get(&facts.public_key) {
            let reason = format!(
                "{} told the same mesh key as {owner}, as a copied machine does; remove mesh.key from its data \
                 directory and restart its agent",
                server.name
            );
            result.left_out.push((server.server_id.clone(), reason));
            continue;
        }
        owners.insert(facts.public_key, &server.name);
        result.peers.push(MeshPeer {
            server_id: server.server_id.clone(),
            name: server.name.clone(),
            public_key: facts.public_key,
            endpoints: endpoints(facts, server.seen_from),
            allowed: addresses.reached_through_mesh(),
            keepalive_seconds: KEEPALIVE_SECONDS,
        });
    }
    result
}

/// What it told, and the address that it is seen at; each once.
fn endpoints(facts: &MeshFacts, seen_from: Option<IpAddr>) -> Vec<SocketAddr> {
    let seen = seen_from.map(|address| SocketAddr::new(address.to_canonical(), facts.port));
    let mut endpoints: Vec<SocketAddr> = Vec::new();
    // The one that was seen comes first, so that the limit never cuts it off.
    for endpoint in seen.into_iter().chain(facts.endpoints.iter().copied()) {
        let usable = endpoint.port() != 0 && is_reachable_from_elsewhere(endpoint.ip()) && !is_in_mesh(endpoint.ip());
        if usable && !endpoints.contains(&endpoint) && endpoints.len() < ENDPOINTS_LIMIT {
            endpoints.push(endpoint);
        }
    }
    endpoints
}

/// Whether an address belongs to some server's mesh or container network.
pub fn is_in_mesh(address: IpAddr) -> bool {
    let IpAddr::V4(address) = address.to_canonical() else { return false };
    let [ten, second, third, _] = address.octets();
    let index = |base: u8| second.checked_sub(base).map(|high| u16::from_be_bytes([high, third]));
    let covers = |index: Option<u16>| {
        let addresses = index.and_then(ServerAddresses::of);
        addresses.is_some_and(|a| a.reached_through_mesh().into_iter().any(|subnet: Subnet| subnet.contains(address)))
    };
    ten == 10 && (covers(index(100)) || covers(index(200)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::mesh::MeshDeviceKind;

    fn server(index: u16, key: u8, endpoints: &[&str], seen_from: Option<&str>) -> MeshServer {
        MeshServer {
            server_id: format!("srv_{index:032x}").parse().unwrap(),
            name: format!("web-{index}").parse().unwrap(),
            index,
            facts: Some(MeshFacts {
                public_key: PublicKey::from_bytes([key; 32]),
                port: 51_820,
                endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
                device: MeshDeviceKind::Userspace,
            }),
            seen_from: seen_from.map(|address| address.parse().unwrap()),
        }
    }

    fn endpoints_of(server: MeshServer) -> Vec<String> {
        peers(&[server]).peers[0].endpoints.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_server_that_can_is_a_peer_with_both_of_its_networks_whatever_their_order() {
        let absent = MeshServer { facts: None, ..server(2, 2, &[], None) };
        let servers = [server(300, 3, &[], None), absent, server(1, 1, &[], None)];
        let found = peers(&servers);
        let shown: Vec<_> = found.peers.iter().map(|p| (p.name.as_str(), format!("{:?}", p.allowed))).collect();
        assert_eq!(
            shown,
            [
                ("web-1", "[10.100.1.0/24, 10.200.1.0/24]".to_owned()),
                ("web-300", "[10.101.44.0/24, 10.201.44.0/24]".to_owned()),
            ]
        );
        let [a, b, c] = servers;
        assert_eq!(peers(&[b, c, a]), found);
    }

    #[test]
    fn a_key_that_two_servers_tell_belongs_to_the_first_and_the_other_learns_why_it_is_left_out() {
        let found = peers(&[server(7, 1, &[], None), server(3, 1, &[], None)]);
        assert_eq!(found.peers.len(), 1);
        assert_eq!(found.peers[0].name.as_str(), "web-3");
        assert!(found.left_out[0].1.contains("web-7 told the same mesh key as web-3"), "{found:?}");
    }

    #[test]
    fn endpoints_are_where_a_machine_was_seen_and_what_it_told_as_far_as_others_can_use_it() {
        let told = ["10.0.0.5:51820", "127.0.0.1:51820", "10.100.1.1:51820", "10.200.9.1:51820", "10.0.0.5:51820"];
        assert_eq!(
            endpoints_of(server(1, 1, &told, Some("::ffff:203.0.113.9"))),
            ["203.0.113.9:51820", "10.0.0.5:51820"]
        );
        assert_eq!(endpoints_of(server(1, 1, &["10.0.0.5:0"], Some("127.0.0.1"))), Vec::<String>::new());
        let many: Vec<String> = (1..=40).map(|n| format!("10.0.0.{n}:51820")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let kept = endpoints_of(server(1, 1, &many, Some("203.0.113.9")));
        assert_eq!((kept.len(), kept[0].as_str()), (ENDPOINTS_LIMIT, "203.0.113.9:51820"));
    }

    #[test]
    fn only_networks_that_a_server_can_have_are_in_the_mesh() {
        for (address, expected) in [
            ("10.100.1.1", true),
            ("10.155.255.9", true),
            ("10.200.1.77", true),
            ("10.255.255.255", true),
            ("::ffff:10.100.1.1", true),
            // Server 0 does not exist.
            ("10.100.0.1", false),
            ("10.99.0.1", false),
            ("10.156.0.1", false),
            ("11.100.1.1", false),
        ] {
            assert_eq!(is_in_mesh(address.parse().unwrap()), expected, "{address}");
        }
    }
}
