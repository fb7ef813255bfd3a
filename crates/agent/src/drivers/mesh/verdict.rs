//! What is said of the way to a peer, from what the device shows and what probes found: pure.
//!
//! Reasons hold no numbers that move by themselves, because a new reason is news and is reported at once.

use super::paths::CONNECTING_MS;
use api::UnixMillis;
use api::mesh::{MeshPeer, MeshPeerObserved, MeshPeerState, SESSION_LIMIT_MS};
use api::mesh_device::LivePeer;
use mesh::probe::ProbeLog;
use std::net::SocketAddr;

/// Probes lost in a row until a tunnel that is up is said to carry nothing.
const SILENT_AFTER: usize = 5;

/// One peer, as it is reported. `live`: as the device shows it, if it has it.
pub fn observed(
    now_ms: UnixMillis,
    peer: &MeshPeer,
    live: Option<&LivePeer>,
    tried: (&[SocketAddr], Option<UnixMillis>),
    probes: &ProbeLog,
) -> MeshPeerObserved {
    let handshake = live.and_then(|live| live.last_handshake_at_ms);
    let (candidates, known_since_ms) = tried;
    let (state, reason) = if handshake.is_some_and(|at_ms| now_ms - at_ms < SESSION_LIMIT_MS) {
        let silent = probes.lost_in_a_row() >= SILENT_AFTER;
        (MeshPeerState::Direct, silent.then(|| silent_reason(peer)))
    } else if known_since_ms.is_none_or(|since_ms| now_ms - since_ms < CONNECTING_MS) {
        (MeshPeerState::Connecting, None)
    } else {
        (MeshPeerState::Unreachable, Some(unreachable_reason(peer, candidates, handshake.is_some())))
    };
    MeshPeerObserved {
        server_id: peer.server_id.clone(),
        name: peer.name.clone(),
        public_key: peer.public_key,
        state,
        endpoint: live.and_then(|live| live.endpoint),
        last_handshake_at_ms: handshake,
        received_bytes: live.map_or(0, |live| live.received_bytes),
        sent_bytes: live.map_or(0, |live| live.sent_bytes),
        probes: probes.summary(),
        reason,
    }
}

fn silent_reason(peer: &MeshPeer) -> String {
    format!(
        "the tunnel to {} is up, but probes through it are not answered: its gateway does not run, or a firewall there \
         drops what comes out of the tunnel",
        peer.name
    )
}

fn unreachable_reason(peer: &MeshPeer, candidates: &[SocketAddr], once: bool) -> String {
    if candidates.is_empty() {
        return format!(
            "{} has told no address that could be tried and has not called by itself; open the mesh's UDP port on one \
             of the two servers",
            peer.name
        );
    }
    let tried: Vec<String> = candidates.iter().map(ToString::to_string).collect();
    let what = if once { "no handshake any more" } else { "no handshake" };
    format!("{what}; tried {}. Does {} run, and is that UDP port open there?", tried.join(", "), peer.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::mesh::PublicKey;
    use std::time::Duration;

    fn peer() -> MeshPeer {
        MeshPeer {
            server_id: format!("srv_{:032x}", 2).parse().unwrap(),
            name: "web-2".parse().unwrap(),
            public_key: PublicKey::from_bytes([2; 32]),
            endpoints: vec![],
            allowed: vec![],
            keepalive_seconds: 25,
        }
    }

    fn judged(handshake_at_ms: Option<i64>, candidates: &[&str], log: &ProbeLog) -> (MeshPeerState, String) {
        let live = LivePeer {
            public_key: PublicKey::from_bytes([2; 32]),
            endpoint: None,
            allowed: vec![],
            keepalive_seconds: 25,
            last_handshake_at_ms: handshake_at_ms,
            received_bytes: 1,
            sent_bytes: 2,
        };
        let candidates: Vec<SocketAddr> = candidates.iter().map(|c| c.parse().unwrap()).collect();
        let seen = observed(1_000_000, &peer(), Some(&live), (&candidates, Some(0)), log);
        (seen.state, seen.reason.unwrap_or_default())
    }

    #[test]
    fn a_young_handshake_is_a_way_and_an_old_one_is_none() {
        let log = ProbeLog::default();
        assert_eq!(judged(Some(900_000), &[], &log), (MeshPeerState::Direct, String::new()));
        let (state, reason) = judged(Some(1_000_000 - SESSION_LIMIT_MS), &["10.0.0.2:1", "203.0.113.2:1"], &log);
        assert_eq!(state, MeshPeerState::Unreachable);
        assert_eq!(
            reason,
            "no handshake any more; tried 10.0.0.2:1, 203.0.113.2:1. Does web-2 run, and is that UDP port open there?"
        );
        let (_, reason) = judged(None, &[], &log);
        assert!(reason.contains("told no address that could be tried"), "{reason}");
    }

    #[test]
    fn a_new_peer_is_given_some_seconds_before_anything_is_said() {
        let log = ProbeLog::default();
        let at = |now_ms| observed(now_ms, &peer(), None, (&[], Some(0)), &log).state;
        assert_eq!(at(CONNECTING_MS - 1), MeshPeerState::Connecting);
        assert_eq!(at(CONNECTING_MS), MeshPeerState::Unreachable);
    }

    #[test]
    fn a_tunnel_that_is_up_and_carries_nothing_says_so() {
        let mut log = ProbeLog::default();
        log.answered(Duration::from_micros(300));
        (0..SILENT_AFTER).for_each(|_| log.lost());
        let (state, reason) = judged(Some(990_000), &[], &log);
        assert_eq!(state, MeshPeerState::Direct);
        assert!(reason.contains("probes through it are not answered"), "{reason}");
    }
}
