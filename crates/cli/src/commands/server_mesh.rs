//! A machine's tunnels to the others, for `mainstay servers`.

use crate::printer::{Printer, Text, Tone};
use crate::table::Column;
use crate::times::{ago, now_ms};
use api::addresses::ServerAddresses;
use api::mesh::{MeshDeviceKind, MeshObserved, MeshPeerObserved, MeshPeerState};
use api::servers::ServerView;

const COLUMNS: [Column; 5] = [
    Column::new("peer"),
    Column::new("way"),
    Column::new("handshake").goes(3),
    Column::new("probes").goes(2),
    Column::new("at").goes(1),
];

/// The machine in the mesh, if it has a part in it.
pub fn address(server: &ServerView) -> String {
    let addresses = server.facts.mesh.as_ref().and_then(|_| ServerAddresses::of(server.index));
    addresses.map_or_else(|| "–".into(), |addresses| addresses.mesh.to_string())
}

pub fn show(server: &ServerView, mesh: &MeshObserved, printer: &Printer) {
    let device = match mesh.device {
        Some(MeshDeviceKind::Kernel) => ", in the kernel",
        Some(MeshDeviceKind::Userspace) => ", in the gateway process",
        None => "",
    };
    let line = match (&server.facts.mesh, &mesh.problem) {
        (_, Some(problem)) => problem.clone(),
        (Some(_), None) if mesh.peers.is_empty() => format!("{}, no other server", address(server)),
        (Some(_), None) => format!("{}{device}", address(server)),
        (None, None) => return,
    };
    printer.data(&format!("  {:<9} {line}", "mesh"));
    let paint = printer.paint();
    if let Some(repair) = &mesh.repaired {
        let (when, what) = (ago(repair.at_ms, now_ms()), repair.what.join("; "));
        printer.data(&format!("  {} {when}: {what}", paint.yellow("mesh put right:")));
    }
    if !mesh.peers.is_empty() {
        printer.data("");
        printer.table(&COLUMNS, mesh.peers.iter().map(row));
        printer.data("");
    }
    for peer in &mesh.peers {
        if let Some(reason) = &peer.reason {
            printer.data(&format!("  {} {}: {reason}", paint.yellow("!"), peer.name));
        }
    }
}

fn row(peer: &MeshPeerObserved) -> Vec<Text> {
    let tone = match (peer.state, &peer.reason) {
        (MeshPeerState::Direct, None) => Tone::Good,
        (MeshPeerState::Direct, Some(_)) => Tone::Warning,
        (MeshPeerState::Connecting, _) => Tone::Busy,
        (MeshPeerState::Unreachable, _) => Tone::Bad,
    };
    vec![
        peer.name.as_str().into(),
        Text(peer.state.as_str().into(), tone),
        peer.last_handshake_at_ms.map_or("none".to_owned(), |at| ago(at, now_ms())).into(),
        peer.probes.describe().unwrap_or_else(|| "–".into()).into(),
        peer.endpoint.map_or("–".to_owned(), |endpoint| endpoint.to_string()).into(),
    ]
}
