//! The UDP socket of the userspace tunnel.
//!
//! Packets to one peer leave in one call where they are alike (UDP GSO), and arrive in one where the kernel has
//! gathered them (UDP GRO). The buffers are large, because a burst that finds no room is lost and TCP slows down for it.
//! The socket can be passed on to a newer gateway, so what arrives meanwhile waits in it.

use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// As root; without its leave the system's limit holds.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// What one call may receive: so many gatherings of up to 64 KiB.
const GATHERINGS: usize = 8;
const GATHERING_BYTES: usize = 65_536;
/// The largest UDP payload, over which no call may go.
const CALL_BYTES: usize = 65_000;
const CALL_PACKETS: usize = 128;

/// Makes the socket, or takes the one that was passed on, once.
#[derive(Clone, Default)]
pub struct UdpFactory {
    passed_on: Arc<Mutex<Option<OwnedFd>>>,
    bound: Arc<Mutex<Option<OwnedFd>>>,
}

impl UdpFactory {
    pub fn passed_on(descriptor: OwnedFd) -> Self {
        Self { passed_on: Arc::new(Mutex::new(Some(descriptor))), ..Self::default() }
    }

    /// The socket in use, for another process.
    pub fn descriptor(&self) -> io::Result<Option<OwnedFd>> {
        let bound = self.bound.lock().unwrap_or_else(|e| e.into_inner());
        bound.as_ref().map(OwnedFd::try_clone).transpose()
    }
}

impl UdpTransportFactory for UdpFactory {
    type Send = Socket;
    type Recv = Socket;

    async fn bind(&mut self, params: &UdpTransportFactoryParams) -> io::Result<(Socket, Socket)> {
        let taken = self.passed_on.lock().unwrap_or_else(|e| e.into_inner()).take();
        let socket = match taken {
            Some(descriptor) => std::net::UdpSocket::from(descriptor),
            None => bind(params.port)?,
        };
        let socket = Socket::new(socket)?;
        let descriptor = socket.socket.as_fd().try_clone_to_owned()?;
        *self.bound.lock().unwrap_or_else(|e| e.into_inner()) = Some(descriptor);
        Ok((socket.clone(), socket))
    }
}

/// For IPv6 and IPv4 alike, or for IPv4 alone where there is no IPv6.
fn bind(port: u16) -> io::Result<std::net::UdpSocket> {
    match std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::AddrNotAvailable) => {
            std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
        }
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
        }
        bound => bound,
    }
}

#[derive(Clone)]
pub struct Socket {
    socket: Arc<UdpSocket>,
    state: Arc<UdpSocketState>,
    /// An IPv6 socket that carries IPv4 as well.
    both: bool,
}

impl Socket {
    fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let both = socket.local_addr()?.is_ipv6();
        for result in [
            sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES)
                .or_else(|_| sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES)),
            sockopt::set_socket_send_buffer_size(&socket, BUFFER_BYTES),
        ] {
            if let Err(error) = result {
                tracing::warn!(%error, "the buffers of the mesh socket stay small; bursts may be lost");
            }
        }
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // QUIC, for which this was made, never wants a packet split on its way; a tunnel's must arrive all the same.
        let _ = sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::WANT);
        if both {
            let _ = sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::WANT);
        }
        Ok(Self { socket: Arc::new(UdpSocket::from_std(socket)?), state: Arc::new(state), both })
    }

    fn destination(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) if self.both => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            other => other,
        }
    }

    async fn transmit(&self, contents: &[u8], destination: SocketAddr, segment: Option<usize>) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.destination(destination),
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: None,
        };
        let send = || self.state.try_send(UdpSockRef::from(self.socket.as_ref()), &transmit);
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    /// Packets of one size to one destination; the last may be shorter. Where the network card or the path does not
    /// take them together they go one by one.
    async fn transmit_together(&self, contents: &[u8], destination: SocketAddr, segment: usize) -> io::Result<()> {
        if self.transmit(contents, destination, Some(segment)).await.is_ok() {
            return Ok(());
        }
        let mut result = Ok(());
        for packet in contents.chunks(segment) {
            result = self.transmit(packet, destination, None).await;
        }
        result
    }
}

impl UdpSend for Socket {
    type SendManyBuf = Vec<u8>;

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.transmit(&packet, destination, None).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        CALL_PACKETS
    }

    async fn send_many_to(&self, buffer: &mut Vec<u8>, packets: &mut Vec<(Packet, SocketAddr)>) -> io::Result<()> {
        let limit = self.state.max_gso_segments().max(1);
        let mut result = Ok(());
        let mut rest = &packets[..];
        while let Some((first, destination)) = rest.first() {
            let segment = first.len();
            let alike = alike(rest, limit);
            let sent = if alike == 1 {
                self.transmit(first, *destination, None).await
            } else {
                buffer.clear();
                rest[..alike].iter().for_each(|(packet, _)| buffer.extend_from_slice(packet));
                self.transmit_together(buffer, *destination, segment).await
            };
            // A peer that cannot be reached must not stop the packets of the others.
            result = result.and(sent);
            rest = &rest[alike..];
        }
        packets.clear();
        result
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.local_addr().map(Some)
    }
}

/// How many of the first packets may leave together: to one destination, of one size, but that the last may be shorter.
fn alike(packets: &[(Packet, SocketAddr)], limit: usize) -> usize {
    let Some((first, destination)) = packets.first() else { return 0 };
    let size = first.len();
    let mut count = 1;
    for (packet, other) in &packets[1..] {
        if count == limit || other != destination || packet.len() > size || (count + 1) * size > CALL_BYTES {
            break;
        }
        count += 1;
        if packet.len() < size {
            break;
        }
    }
    count
}

/// What one call receives into.
pub struct Gatherings(Vec<Vec<u8>>);

impl Default for Gatherings {
    fn default() -> Self {
        Self(vec![vec![0; GATHERING_BYTES]; GATHERINGS])
    }
}

impl UdpRecv for Socket {
    type RecvManyBuf = Gatherings;

    /// The tunnel reads many at once; one alone would leave the others of its gathering behind.
    async fn recv_from(&mut self, _pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    async fn recv_many_from(
        &mut self,
        gatherings: &mut Gatherings,
        pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let mut about = [RecvMeta::default(); GATHERINGS];
        let receive = || {
            let mut slices = gatherings.0.iter_mut().map(|buffer| IoSliceMut::new(buffer));
            let mut slices: [IoSliceMut<'_>; GATHERINGS] =
                std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            self.state.recv(UdpSockRef::from(self.socket.as_ref()), &mut slices, &mut about)
        };
        let count = match self.socket.async_io(Interest::READABLE, receive).await {
            Ok(count) => count,
            // An answer of the network to something that was sent; the socket is as good as before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(()),
            Err(error) => return Err(error),
        };
        for (about, gathering) in about.iter().zip(&gatherings.0).take(count) {
            if about.stride == 0 {
                continue;
            }
            let source = SocketAddr::new(about.addr.ip().to_canonical(), about.addr.port());
            for bytes in gathering[..about.len].chunks(about.stride) {
                let mut packet = pool.get();
                packet.buf_mut().clear();
                packet.buf_mut().extend_from_slice(bytes);
                packets.push((packet, source));
            }
        }
        Ok(())
    }
}
