//! Binding the control plane's port, with an error that says who is in the way.

use sockets::{Owner, Transport, owner};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Why the port could not be taken, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(
        "cannot listen on {address}: the port is in use{}. Stop that program, or choose another port with --listen",
        holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default()
    )]
    InUse { address: SocketAddr, holder: Option<Owner> },
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
        io::ErrorKind::AddrInUse => ListenError::InUse { address, holder: owner(Transport::Tcp, address) },
        io::ErrorKind::PermissionDenied => ListenError::Denied { address },
        io::ErrorKind::AddrNotAvailable => ListenError::NoSuchAddress { address },
        _ => ListenError::Other { address, source },
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
