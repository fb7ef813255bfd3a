//! Names of services on this machine: `web.svc.internal` → loopback, or, for containers, the address that they know
//! the machine by.
//!
//! A small responder, UDP and TCP, on loopback, and another one for containers only. It knows one zone, which is in the config as
//! the list of internal names, and passes every other question on to the resolvers it is given, so it
//! can stand first in a `resolv.conf`. hickory-proto reads and writes the messages; which question
//! gets which answer is decided in `zone`, without IO.
//!
//! Absent on purpose: a cache (the resolvers behind it have one), recursion, DNSSEC signing.

mod forward;
mod plain;
mod zone;

use crate::limits::Limits;
use crate::listeners::BindError;
use api::gateway::{DnsResponder, GatewayConfig};
use arc_swap::ArcSwap;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sockets::Transport;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use zone::{Reply, Zone};

/// Larger questions are nobody's.
const UDP_LIMIT_BYTES: usize = 4096;
const TCP_CONNECTIONS: usize = 64;
const ATTEMPTS_ON_ANY_PORT: usize = 16;
const TCP_IDLE_TIME: Duration = Duration::from_secs(10);

/// Both sockets, bound but not answering yet.
#[derive(Debug)]
pub struct BoundDns {
    configured: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

/// A responder that answers until it is dropped.
#[derive(Debug)]
pub struct Dns {
    configured: SocketAddr,
    address: SocketAddr,
    responder: Arc<Responder>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Responder {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
    zone: ArcSwap<Zone>,
    forwarding: Arc<Semaphore>,
    forward_time: Duration,
}

impl BoundDns {
    /// As the config has it; the port may be 0 there.
    pub fn configured(&self) -> SocketAddr {
        self.configured
    }

    /// With port 0 the kernel chooses for UDP, and TCP may be taken there: then again.
    pub fn bind(responder: &DnsResponder) -> Result<Self, BindError> {
        let configured = responder.address;
        if responder.only_from.is_some() {
            return Self::bind_before_the_address_is_there(configured);
        }
        let attempts = if configured.port() == 0 { ATTEMPTS_ON_ANY_PORT } else { 1 };
        let mut result = Self::bind_once(configured);
        for _ in 1..attempts {
            if result.as_ref().is_err_and(BindError::is_in_use) {
                result = Self::bind_once(configured);
            }
        }
        result
    }

    /// The address that containers know the machine by comes with the first of them.
    fn bind_before_the_address_is_there(configured: SocketAddr) -> Result<Self, BindError> {
        let bind = |kind: SocketType| {
            let family = if configured.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            rustix::net::sockopt::set_ip_freebind(&socket, true)?;
            if kind == SocketType::STREAM {
                rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
            }
            rustix::net::bind(&socket, &configured)?;
            if kind == SocketType::STREAM {
                rustix::net::listen(&socket, 128)?;
            }
            Ok(socket)
        };
        let udp = bind(SocketType::DGRAM).map_err(|e: io::Error| BindError::new(configured, Transport::Udp, &e))?;
        let tcp = bind(SocketType::STREAM).map_err(|e: io::Error| BindError::new(configured, Transport::Tcp, &e))?;
        Self::inherit(configured, udp.into(), tcp.into())
            .map_err(|error| BindError::new(configured, Transport::Tcp, &error))
    }

    fn bind_once(configured: SocketAddr) -> Result<Self, BindError> {
        let udp = StdUdpSocket::bind(configured).map_err(|e| BindError::new(configured, Transport::Udp, &e))?;
        let both = udp.local_addr().and_then(|address| {
            let tcp = StdTcpListener::bind(address)?;
            Self::inherit(configured, udp, tcp)
        });
        both.map_err(|error| BindError::new(configured, Transport::Tcp, &error))
    }

    pub fn inherit(configured: SocketAddr, udp: StdUdpSocket, tcp: StdTcpListener) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { configured, udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? })
    }

    pub fn start(self, config: &GatewayConfig, limits: &Limits) -> Dns {
        let address = self.udp.local_addr().unwrap_or(self.configured);
        let responder = Arc::new(Responder {
            udp: self.udp,
            tcp: self.tcp,
            address,
            zone: ArcSwap::from_pointee(Zone::of(config, self.configured)),
            forwarding: Arc::new(Semaphore::new(limits.dns_forward_count)),
            forward_time: limits.dns_forward_time,
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve_udp(responder.clone())));
        tokio::spawn(stop.clone().run_until_cancelled_owned(serve_tcp(responder.clone())));
        Dns { configured: self.configured, address, responder, _stop: stop.drop_guard() }
    }
}

impl Dns {
    /// As the config has it; the port may be 0 there.
    pub fn configured(&self) -> SocketAddr {
        self.configured
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn set_zone(&self, config: &GatewayConfig) {
        self.responder.zone.store(Arc::new(Zone::of(config, self.configured)));
    }

    pub fn as_fds(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.responder.udp.as_fd(), self.responder.tcp.as_fd())
    }
}

async fn serve_udp(responder: Arc<Responder>) {
    let mut buffer = vec![0; UDP_LIMIT_BYTES];
    loop {
        let (length, peer) = match responder.udp.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Among others the report that an earlier answer found nobody; no reason to end.
                tracing::debug!(%error, "cannot receive a DNS question");
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        if !responder.zone.load().is_for(peer.ip()) {
            continue;
        }
        let question = &buffer[..length];
        match responder.reply(question) {
            Reply::Send(answer) => responder.send_udp(&answer, peer).await,
            Reply::Nothing => {}
            Reply::Forward => {
                let (responder, question) = (responder.clone(), question.to_vec());
                let permit = responder.forwarding.clone().try_acquire_owned();
                let Ok(permit) = permit else {
                    responder.send_udp(&zone::server_failure(&question), peer).await;
                    continue;
                };
                tokio::spawn(async move {
                    let answer = responder.forward(&question, false).await;
                    responder.send_udp(&answer, peer).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn serve_tcp(responder: Arc<Responder>) {
    let permits = Arc::new(Semaphore::new(TCP_CONNECTIONS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match responder.tcp.accept().await {
            Ok((_, peer)) if !responder.zone.load().is_for(peer.ip()) => {}
            Ok((stream, _)) => {
                let responder = responder.clone();
                tokio::spawn(async move {
                    if let Err(error) = responder.serve_stream(stream).await {
                        tracing::trace!(%error, "a DNS connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a DNS connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Responder {
    /// Reading a message from outside must never end the responder, whatever is in it.
    fn reply(&self, question: &[u8]) -> Reply {
        let zone = self.zone.load();
        catch_unwind(AssertUnwindSafe(|| zone.reply(question))).unwrap_or(Reply::Nothing)
    }

    async fn send_udp(&self, answer: &[u8], peer: SocketAddr) {
        if let Err(error) = self.udp.send_to(answer, peer).await {
            tracing::debug!(%error, "cannot send a DNS answer");
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let mut length = [0; 2];
            tokio::time::timeout(TCP_IDLE_TIME, stream.read_exact(&mut length)).await??;
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            tokio::time::timeout(TCP_IDLE_TIME, stream.read_exact(&mut question)).await??;
            let answer = match self.reply(&question) {
                Reply::Send(answer) => answer,
                Reply::Nothing => return Ok(()),
                Reply::Forward => match self.forwarding.try_acquire() {
                    Ok(_permit) => self.forward(&question, true).await,
                    Err(_) => zone::server_failure(&question),
                },
            };
            let Ok(length) = u16::try_from(answer.len()) else { return Ok(()) };
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            tokio::time::timeout(TCP_IDLE_TIME, stream.write_all(&framed)).await??;
        }
    }

    /// Asks the resolvers in turn; the first that answers is believed.
    async fn forward(&self, question: &[u8], over_tcp: bool) -> Vec<u8> {
        let zone = self.zone.load_full();
        for server in zone.forward_to.iter().filter(|server| **server != self.address) {
            match forward::ask(question, *server, over_tcp, self.forward_time).await {
                Ok(answer) => return answer,
                Err(error) => tracing::debug!(%server, %error, "a resolver gave no answer"),
            }
        }
        zone::server_failure(question)
    }
}
