//! Which endpoint of a peer is tried: pure, with time and chance as arguments.
//!
//! A server has several addresses and tells all of them; which of them leads there depends on where one stands. So the
//! ones in a network that this machine is in, too, come first, then public ones, then the rest. Each is tried for some
//! seconds, the next one after it, and when all have failed the turns become slower. What works is kept: WireGuard itself
//! follows a peer that calls from elsewhere, and as long as handshakes are young nothing is changed here.

use api::UnixMillis;
use api::mesh::{MeshPeer, PublicKey};
use api::mesh_device::LivePeer;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// WireGuard sends its next try 5 s after the first: an endpoint that is tried for less may never be written to.
const TURN_MS: i64 = 5_000;
const TURN_LIMIT_MS: i64 = 60_000;
/// A live tunnel shakes hands every two minutes. One that is this much late does not get through.
const YOUNG_MS: i64 = 150_000;
/// Before that many milliseconds nothing is said about a new peer.
pub const CONNECTING_MS: i64 = 15_000;

/// Where every peer is tried.
#[derive(Debug, Default)]
pub struct Paths {
    peers: BTreeMap<PublicKey, Path>,
}

#[derive(Debug)]
struct Path {
    /// In the order of trying.
    candidates: Vec<SocketAddr>,
    /// Which of them; it may be none of them, where the peer called by itself.
    turn: usize,
    turn_ends_at_ms: UnixMillis,
    /// How often all have been tried in vain.
    rounds: u32,
    known_since_ms: UnixMillis,
}

impl Paths {
    /// What to tell the device now: endpoints of new peers, and of those whose turn is over without a handshake.
    ///
    /// `own` are the addresses of this machine with their prefixes; `jitter` lies in 0.0..1.0 and makes turns longer, so
    /// that two peers do not try in step.
    pub fn choose(
        &mut self,
        now_ms: UnixMillis,
        jitter: f64,
        own: &[(IpAddr, u8)],
        peers: &[MeshPeer],
        live: &[LivePeer],
    ) -> BTreeMap<PublicKey, SocketAddr> {
        self.peers.retain(|key, _| peers.iter().any(|peer| peer.public_key == *key));
        let live: BTreeMap<PublicKey, &LivePeer> = live.iter().map(|peer| (peer.public_key, peer)).collect();
        let mut chosen = BTreeMap::new();
        for peer in peers {
            let candidates = in_order(&peer.endpoints, own);
            let seen = live.get(&peer.public_key).copied();
            let next = self.choose_one(now_ms, jitter, peer.public_key, candidates, seen);
            // What the device does already need not be said.
            let next = next.filter(|next| seen.and_then(|seen| seen.endpoint) != Some(*next));
            chosen.extend(next.map(|next| (peer.public_key, next)));
        }
        chosen
    }

    fn choose_one(
        &mut self,
        now_ms: UnixMillis,
        jitter: f64,
        key: PublicKey,
        candidates: Vec<SocketAddr>,
        seen: Option<&LivePeer>,
    ) -> Option<SocketAddr> {
        let turn = |rounds: u32| {
            let length = TURN_MS.saturating_mul(1 << rounds.min(8)).min(TURN_LIMIT_MS);
            now_ms + length + (TURN_MS as f64 / 5.0 * jitter.clamp(0.0, 1.0)) as i64
        };
        let works = seen.is_some_and(|seen| is_young(now_ms, seen));
        let Some(path) = self.peers.get_mut(&key) else {
            // A tunnel that outlived the agent goes on where it is.
            let begins = candidates.first().copied().filter(|_| !works && seen.is_none_or(|s| s.endpoint.is_none()));
            let path = Path { candidates, turn: 0, turn_ends_at_ms: turn(0), rounds: 0, known_since_ms: now_ms };
            self.peers.insert(key, path);
            return begins;
        };
        if works {
            path.candidates = candidates;
            // Should it break, what worked last has one more turn.
            path.turn = path.candidates.len().saturating_sub(1);
            path.rounds = 0;
            path.turn_ends_at_ms = turn(0);
            return None;
        }
        if path.candidates != candidates {
            path.candidates = candidates;
            path.turn = 0;
            path.rounds = 0;
            path.turn_ends_at_ms = turn(0);
            return path.candidates.first().copied();
        }
        if now_ms < path.turn_ends_at_ms || path.candidates.is_empty() {
            return None;
        }
        path.turn += 1;
        if path.turn >= path.candidates.len() {
            path.turn = 0;
            path.rounds += 1;
        }
        path.turn_ends_at_ms = turn(path.rounds);
        path.candidates.get(path.turn).copied()
    }

    /// What is tried for a peer, in order, and since when it is known.
    pub fn tried(&self, key: &PublicKey) -> (&[SocketAddr], Option<UnixMillis>) {
        match self.peers.get(key) {
            Some(path) => (&path.candidates, Some(path.known_since_ms)),
            None => (&[], None),
        }
    }
}

fn is_young(now_ms: UnixMillis, seen: &LivePeer) -> bool {
    seen.last_handshake_at_ms.is_some_and(|at_ms| now_ms - at_ms < YOUNG_MS)
}

/// Without what is this machine itself.
fn in_order(endpoints: &[SocketAddr], own: &[(IpAddr, u8)]) -> Vec<SocketAddr> {
    let is_own = |address: IpAddr| own.iter().any(|(own, _)| *own == address);
    let rank = |endpoint: &SocketAddr| {
        if own.iter().any(|(own, prefix)| same_network(*own, endpoint.ip(), *prefix)) {
            0
        } else if is_public(endpoint.ip()) {
            1
        } else {
            2
        }
    };
    let mut ordered: Vec<SocketAddr> = endpoints.iter().copied().filter(|e| !is_own(e.ip())).collect();
    ordered.sort_by_key(rank);
    ordered
}

fn same_network(a: IpAddr, b: IpAddr, prefix: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let shift = 32 - u32::from(prefix.min(32));
            (a.to_bits() ^ b.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shift = 128 - u32::from(prefix.min(128));
            (a.to_bits() ^ b.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// Not of a range that many networks use for themselves.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            // 100.64.0.0/10 is what providers use between themselves and their customers.
            !(v4.is_private() || v4.is_link_local() || v4.is_loopback() || (a == 100 && (64..128).contains(&b)))
        }
        IpAddr::V6(v6) => !(v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 1] = ["10.0.0.1"];

    fn own() -> Vec<(IpAddr, u8)> {
        OWN.iter().map(|address| (address.parse().unwrap(), 24)).collect()
    }

    fn peer(endpoints: &[&str]) -> MeshPeer {
        MeshPeer {
            server_id: format!("srv_{:032x}", 2).parse().unwrap(),
            name: "web-2".parse().unwrap(),
            public_key: PublicKey::from_bytes([2; 32]),
            endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
            allowed: vec![],
            keepalive_seconds: 25,
        }
    }

    fn live(endpoint: Option<&str>, last_handshake_at_ms: Option<i64>) -> LivePeer {
        LivePeer {
            public_key: PublicKey::from_bytes([2; 32]),
            endpoint: endpoint.map(|e| e.parse().unwrap()),
            allowed: vec![],
            keepalive_seconds: 25,
            last_handshake_at_ms,
            received_bytes: 0,
            sent_bytes: 0,
        }
    }

    fn next(paths: &mut Paths, now_ms: i64, peer: &MeshPeer, live: Option<LivePeer>) -> Option<String> {
        let live: Vec<LivePeer> = live.into_iter().collect();
        let chosen = paths.choose(now_ms, 0.5, &own(), std::slice::from_ref(peer), &live);
        chosen.values().next().map(ToString::to_string)
    }

    #[test]
    fn a_neighbour_is_tried_before_the_public_address_and_that_before_foreign_private_ones() {
        let peer = peer(&["192.168.7.2:1", "203.0.113.2:1", "10.0.0.1:1", "10.0.0.2:1"]);
        let mut paths = Paths::default();
        assert_eq!(next(&mut paths, 0, &peer, None), Some("10.0.0.2:1".into()));
        let tried: Vec<String> = paths.tried(&peer.public_key).0.iter().map(ToString::to_string).collect();
        assert_eq!(tried, ["10.0.0.2:1", "203.0.113.2:1", "192.168.7.2:1"], "or this machine was tried itself");
    }

    #[test]
    fn without_a_handshake_the_next_has_its_turn_and_turns_become_slower() {
        let peer = peer(&["10.0.0.2:1", "203.0.113.2:1"]);
        let mut paths = Paths::default();
        let mut at = None;
        let mut turns = Vec::new();
        for now_ms in (0..120_000).step_by(500) {
            if let Some(endpoint) = next(&mut paths, now_ms, &peer, Some(live(at.as_deref(), None))) {
                turns.push((now_ms, endpoint.clone()));
                at = Some(endpoint);
            }
        }
        let endpoints: Vec<&str> = turns.iter().map(|(_, endpoint)| endpoint.as_str()).collect();
        assert_eq!(&endpoints[..4], ["10.0.0.2:1", "203.0.113.2:1", "10.0.0.2:1", "203.0.113.2:1"]);
        let lengths: Vec<i64> = turns.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(lengths[0] >= TURN_MS && lengths.windows(2).all(|pair| pair[1] >= pair[0]), "{lengths:?}");
        assert!(*lengths.last().unwrap() <= TURN_LIMIT_MS + TURN_MS, "{lengths:?}");
    }

    #[test]
    fn what_works_is_kept_even_where_nobody_told_of_it_and_has_one_more_turn_when_it_breaks() {
        let peer = peer(&["10.0.0.2:1", "203.0.113.2:1"]);
        let mut paths = Paths::default();
        next(&mut paths, 0, &peer, None);
        // It called from behind a NAT.
        let called = |now_ms| Some(live(Some("198.51.100.1:4444"), Some(now_ms)));
        for now_ms in (1_000..300_000).step_by(1_000) {
            assert_eq!(next(&mut paths, now_ms, &peer, called(now_ms - 500)), None);
        }
        let broken = || called(300_000);
        assert_eq!(next(&mut paths, 300_000 + YOUNG_MS - 1, &peer, broken()), None);
        assert_eq!(next(&mut paths, 300_000 + YOUNG_MS + 1_000, &peer, broken()), None);
        assert_eq!(next(&mut paths, 300_000 + YOUNG_MS + 7_000, &peer, broken()), Some("10.0.0.2:1".into()));
    }

    #[test]
    fn a_tunnel_that_outlived_the_agent_is_left_where_it_is() {
        let peer = peer(&["10.0.0.2:1", "203.0.113.2:1"]);
        let mut paths = Paths::default();
        assert_eq!(next(&mut paths, 10_000, &peer, Some(live(Some("203.0.113.2:1"), Some(9_000)))), None);
    }

    #[test]
    fn new_addresses_of_a_peer_that_is_not_reached_are_tried_at_once_and_of_one_that_is_not_at_all() {
        let before = peer(&["10.0.0.2:1"]);
        let after = peer(&["10.0.0.9:1"]);
        let mut paths = Paths::default();
        next(&mut paths, 0, &before, None);
        assert_eq!(next(&mut paths, 1_000, &after, Some(live(Some("10.0.0.2:1"), None))), Some("10.0.0.9:1".into()));
        let mut paths = Paths::default();
        next(&mut paths, 0, &before, None);
        assert_eq!(next(&mut paths, 1_000, &after, Some(live(Some("10.0.0.2:1"), Some(900)))), None);
    }

    #[test]
    fn a_peer_that_tells_no_address_is_waited_for() {
        let peer = peer(&[]);
        let mut paths = Paths::default();
        for now_ms in (0..100_000).step_by(1_000) {
            assert_eq!(next(&mut paths, now_ms, &peer, Some(live(None, None))), None);
        }
    }
}
