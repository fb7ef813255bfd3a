//! One machine's tunnels to the others, as it reports them.

use super::frame::Frame;
use super::names::server_path;
use super::{times, words};
use api::addresses::ServerAddresses;
use api::mesh::{MeshDeviceKind, MeshPeerObserved, MeshPeerState};
use api::servers::ServerView;
use maud::{Markup, html};

/// Most peers that the page shows; those that are not reached come first.
const PEERS_SHOWN: usize = 24;

pub fn section(server: &ServerView, frame: &Frame) -> Markup {
    let mesh = server.observed.as_ref().map(|observed| &observed.mesh);
    let peers = mesh.map(|mesh| mesh.peers.as_slice()).unwrap_or_default();
    let mut shown: Vec<&MeshPeerObserved> = peers.iter().collect();
    shown.sort_by_key(|peer| peer.state == MeshPeerState::Direct);
    shown.truncate(PEERS_SHOWN);
    html! {
        section.card #mesh aria-labelledby="mesh-title" {
            h2 #mesh-title { "Mesh" }
            @if let Some(mesh) = mesh {
                dl.facts {
                    @if let Some(addresses) = ServerAddresses::of(server.index) {
                        dt { "Address" } dd { code { (addresses.mesh) } " " span.soft { "containers in " (addresses.container_subnet) } }
                    }
                    @if let Some(device) = mesh.device {
                        dt { "Runs in" } dd { (match device { MeshDeviceKind::Kernel => "the kernel", MeshDeviceKind::Userspace => "the gateway process" }) }
                    }
                    @if let Some(repair) = &mesh.repaired {
                        dt { "Put right" } dd { (times::relative(repair.at_ms, frame.now_ms)) ": " span.reason { (repair.what.join("; ")) } }
                    }
                    @if let Some(problem) = &mesh.problem { dt { "Problem" } dd { span.reason { (problem) } } }
                }
            }
            @if shown.is_empty() { p.empty { "It has no tunnel to another server." } } @else {
                table {
                    thead { tr { th scope="col" { "Server" } th scope="col" { "Way" } th scope="col" { "Handshake" } th scope="col" { "Probes" } th scope="col" { "Traffic" } } }
                    tbody { @for peer in &shown { (row(peer, frame)) } }
                }
                @if shown.len() < peers.len() { p.soft { "And " (peers.len() - shown.len()) " more; those that are not reached come first." } }
            }
        }
    }
}

fn row(peer: &MeshPeerObserved, frame: &Frame) -> Markup {
    let (tone, word) = match (peer.state, &peer.reason) {
        (MeshPeerState::Direct, None) => (words::Tone::Good, "Direct"),
        (MeshPeerState::Direct, Some(_)) => (words::Tone::Warn, "Direct"),
        (MeshPeerState::Connecting, _) => (words::Tone::Busy, "Connecting"),
        (MeshPeerState::Unreachable, _) => (words::Tone::Bad, "Unreachable"),
    };
    html! {
        tr {
            th scope="row" data-label="Server" { a.name href=(server_path(&peer.name)) { (peer.name) } }
            td data-label="Way" {
                (words::fact(tone, word))
                @if let Some(endpoint) = peer.endpoint { p.soft { code { (endpoint) } } }
                @if let Some(reason) = &peer.reason { p.reason { (reason) } }
            }
            td data-label="Handshake" { @match peer.last_handshake_at_ms { Some(at) => (times::relative(at, frame.now_ms)), None => "none" } }
            td data-label="Probes" { @match peer.probes.describe() { Some(text) => (text), None => "–" } }
            td data-label="Traffic" { (times::bytes_text(peer.received_bytes)) " in, " (times::bytes_text(peer.sent_bytes)) " out" }
        }
    }
}
