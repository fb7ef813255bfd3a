//! Binding the control plane's port, with an error that says who is in the way.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use tokio::net::TcpListener;

/// Why the port could not be taken, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: the port is in use{}. Stop that program, or choose another port with --listen",
        holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default()
    )]
    InUse { address: SocketAddr, holder: Option<String> },
    #[error(
        "cannot listen on {address}: ports below 1024 need root. Choose another port with --listen, or run as root"
    )]
    Denied { address: SocketAddr },
    #[error("cannot listen on {address}: this machine has no such address. Choose one that it has with --listen")]
    NoSuchAddress { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Other {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Takes the port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { address, holder: holder_of(address) },
        io::ErrorKind::PermissionDenied => ListenError::Denied { address },
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress { address },
        _ => ListenError::Other { address, source },
    })
}

/// The program that listens on a port, as `name (pid 12)`, if `/proc` lets us see it.
fn holder_of(address: SocketAddr) -> Option<String> {
    let table = if address.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let text = std::fs::read_to_string(table).ok()?;
    let wanted: Vec<String> = text
        .lines()
        .skip(1)
        .filter_map(|line| listening_inode(line, address))
        .map(|i| format!("socket:[{i}]"))
        .collect();
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let numeric = processes.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()));
    for process in numeric {
        if holds_any(&process.path(), &wanted) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {})", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}

/// The inode of a line of `/proc/net/tcp`, if it is a listener that overlaps `address`.
fn listening_inode(line: &str, address: SocketAddr) -> Option<String> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (host, port) = local.split_once(':')?;
    let same_port = u16::from_str_radix(port, 16).ok()? == address.port();
    let any = host.bytes().all(|b| b == b'0') || address.ip().is_unspecified();
    let same_host = match address.ip() {
        IpAddr::V4(ip) => u32::from_str_radix(host, 16).is_ok_and(|bits| bits == u32::from_ne_bytes(ip.octets())),
        IpAddr::V6(_) => true,
    };
    (*state == LISTEN && same_port && (any || same_host)).then(|| (*inode).to_owned())
}

fn holds_any(process: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        std::fs::read_link(descriptor.path())
            .is_ok_and(|target| sockets.iter().any(|s| target.as_os_str() == s.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_in_use_is_said_with_the_program_that_holds_it() {
        let first = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = bind(first.local_addr().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains("--listen"), "{error}");
    }
}
