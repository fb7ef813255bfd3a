//! Listening sockets: bound, shared by several accept loops, closed without losing who waits.
//!
//! One socket per address, not one per loop with `SO_REUSEPORT`: connections that wait in the queue
//! of a closed socket are lost, and with that option two gateways would share a port in silence
//! instead of one being told that it is taken. What every accepted connection should have (no delay,
//! keep-alive) is set on the listening socket and inherited, so accepting costs one system call.

use crate::serve;
use crate::shared::Shared;
use api::gateway::ListenerKind;
use arc_swap::ArcSwap;
use futures_util::FutureExt;
use sockets::Transport;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const BACKLOG: u32 = 4096;
const ACCEPT_LOOPS: usize = 4;
/// After an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection knows of the socket that it came in by.
#[derive(Debug)]
pub struct ListenerIdentity {
    /// As the config has it; the port may be 0 there.
    pub configured: SocketAddr,
    pub local: SocketAddr,
    pub kind: ArcSwap<ListenerKind>,
}

impl ListenerIdentity {
    pub fn new(configured: SocketAddr, local: SocketAddr, kind: ListenerKind) -> Self {
        Self { configured, local, kind: ArcSwap::from_pointee(kind) }
    }
}

/// A socket that is bound but that nobody accepts from yet.
#[derive(Debug)]
pub struct BoundListener {
    identity: Arc<ListenerIdentity>,
    listener: Arc<TcpListener>,
}

/// A socket that is being accepted from.
#[derive(Debug)]
pub struct Listener {
    pub identity: Arc<ListenerIdentity>,
    listener: Arc<TcpListener>,
    stop: CancellationToken,
    loops: Vec<JoinHandle<()>>,
}

/// Why an address cannot be listened on, as a sentence for people.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct BindError {
    address: SocketAddr,
    reason: String,
    in_use: bool,
}

impl BindError {
    pub fn new(address: SocketAddr, transport: Transport, error: &io::Error) -> Self {
        let in_use = error.kind() == io::ErrorKind::AddrInUse;
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => match sockets::owner(transport, address) {
                Some(owner) => format!("address in use by {owner}"),
                None => "address in use by a process of another user".into(),
            },
            io::ErrorKind::PermissionDenied => {
                "permission denied; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE".into()
            }
            io::ErrorKind::AddrNotAvailable => "no interface of this machine has this address".into(),
            _ => error.to_string(),
        };
        Self { address, reason, in_use }
    }

    pub fn is_in_use(&self) -> bool {
        self.in_use
    }
}

impl BoundListener {
    pub fn bind(configured: SocketAddr, kind: ListenerKind) -> Result<Self, BindError> {
        let bind = || {
            let socket = if configured.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            socket.set_nodelay(true)?;
            set_keepalive(&socket)?;
            if matches!(kind, ListenerKind::Containers { .. }) {
                rustix::net::sockopt::set_ip_freebind(&socket, true)?;
            }
            socket.bind(configured)?;
            socket.listen(BACKLOG)
        };
        let listener = bind().map_err(|error| BindError::new(configured, Transport::Tcp, &error))?;
        Self::of(configured, kind, listener).map_err(|error| BindError::new(configured, Transport::Tcp, &error))
    }

    /// A socket that another process has bound and passed on.
    pub fn inherit(configured: SocketAddr, kind: ListenerKind, listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::of(configured, kind, TcpListener::from_std(listener)?)
    }

    fn of(configured: SocketAddr, kind: ListenerKind, listener: TcpListener) -> io::Result<Self> {
        let identity = Arc::new(ListenerIdentity::new(configured, listener.local_addr()?, kind));
        Ok(Self { identity, listener: Arc::new(listener) })
    }

    pub fn start(self, shared: &Arc<Shared>) -> Listener {
        let stop = CancellationToken::new();
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(ACCEPT_LOOPS);
        let loops = (0..count)
            .map(|_| {
                let (listener, identity) = (self.listener.clone(), self.identity.clone());
                tokio::spawn(accept(listener, identity, shared.clone(), stop.clone()))
            })
            .collect();
        Listener { identity: self.identity, listener: self.listener, stop, loops }
    }
}

impl Listener {
    /// Takes what still waits in the queue and closes the socket.
    pub async fn close(self, shared: &Arc<Shared>) {
        let (listener, identity) = self.cease().await;
        while let Some(Ok((stream, address))) = listener.accept().now_or_never() {
            let Ok(permit) = shared.permits.clone().try_acquire_owned() else { break };
            spawn(stream, address, &identity, shared, permit);
        }
    }

    /// Stops accepting and leaves the queue to whoever else holds the socket.
    pub async fn cease(self) -> (Arc<TcpListener>, Arc<ListenerIdentity>) {
        self.stop.cancel();
        for task in self.loops {
            if let Err(error) = task.await {
                tracing::error!(%error, listener = %self.identity.local, "an accept loop failed");
            }
        }
        (self.listener, self.identity)
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

async fn accept(
    listener: Arc<TcpListener>,
    identity: Arc<ListenerIdentity>,
    shared: Arc<Shared>,
    stop: CancellationToken,
) {
    let mut stopped = std::pin::pin!(stop.cancelled());
    loop {
        // Both waits give back what they took when they are dropped: no connection is lost.
        let next = async {
            let permit = shared.permits.clone().acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = &mut stopped => return,
            next = next => next,
        };
        match (permit, accepted) {
            (Ok(permit), Ok((stream, address))) => spawn(stream, address, &identity, &shared, permit),
            (Err(_), _) => return,
            (Ok(_), Err(error)) if is_about_one_connection(&error) => {}
            (Ok(_), Err(error)) => {
                tracing::warn!(listener = %identity.local, %error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn spawn(
    stream: TcpStream,
    address: SocketAddr,
    identity: &Arc<ListenerIdentity>,
    shared: &Arc<Shared>,
    permit: OwnedSemaphorePermit,
) {
    let serve = serve::serve(stream, address, identity.clone(), shared.clone());
    shared.connections.spawn(async move {
        serve.await;
        drop(permit);
    });
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Lets the kernel find out that the other end is gone: after 60 s of silence, within 60 s more.
pub fn set_keepalive(socket: &impl AsFd) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(socket, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(socket, 4)?;
    Ok(())
}
