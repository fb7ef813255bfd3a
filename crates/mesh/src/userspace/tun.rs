//! The tun device of the userspace tunnel: IP packets from and to the kernel.
//!
//! Plain tun passes one packet of the MTU's size per call, and both the kernel and this process work through every one
//! of them alone. Here both sides hand over what they have whole: the kernel a TCP stretch of up to 64 KiB, which is cut
//! up on the way out (TSO), and this process what it has decrypted, joined again where packets follow each other (GRO).
//! A header before each packet (virtio) says which.
//!
//! The device lives as long as a descriptor of it is open, so a new gateway that got one from the old one goes on with
//! the same interface, its address and its routes.

use super::offload;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tun_rs::VIRTIO_NET_HDR_LEN;

/// The largest packet that the kernel hands over whole, with its header.
const LARGEST: usize = VIRTIO_NET_HDR_LEN + 65_535;
/// Packets that wait to be written to the kernel, and how many are looked at together to be joined.
const WAITING: usize = 1_024;
const TOGETHER: usize = tun_rs::IDEAL_BATCH_SIZE;

/// An open tun device.
#[derive(Clone)]
pub struct Tun {
    descriptor: Arc<AsyncFd<OwnedFd>>,
    mtu: watch::Receiver<u16>,
}

impl Tun {
    /// Makes the interface; it goes with its last descriptor.
    pub fn create(name: &str, mtu: watch::Receiver<u16>) -> io::Result<Self> {
        let device = tun_rs::DeviceBuilder::new().name(name).offload(true).build_sync()?;
        Self::adopt(device.as_fd().try_clone_to_owned()?, mtu)
    }

    /// Goes on with one that another process made with [`Self::create`].
    pub fn adopt(descriptor: OwnedFd, mtu: watch::Receiver<u16>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        // SAFETY: the descriptor is owned by what it is registered as, and is closed with it and not before.
        #[allow(unsafe_code)]
        let registered =
            unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE | Interest::WRITABLE) };
        let descriptor = registered?;
        Ok(Self { descriptor: Arc::new(descriptor), mtu })
    }

    /// For another process.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.descriptor.get_ref().try_clone()
    }

    /// The two directions, for the tunnel.
    pub fn split(&self) -> (TunSend, TunReceive) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let writer = tokio::spawn(write_joined(self.descriptor.clone(), receiver));
        let send = TunSend { sender, writer: Arc::new(AbortOnDrop(writer)) };
        (send, TunReceive { tun: self.clone(), buffer: vec![0; LARGEST] })
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// From the tunnel to the kernel.
#[derive(Clone)]
pub struct TunSend {
    sender: mpsc::Sender<Packet<Ip>>,
    /// Ends with the last sender.
    #[expect(dead_code, reason = "held for its drop")]
    writer: Arc<AbortOnDrop>,
}

impl IpSend for TunSend {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.sender.send(packet).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// Takes all that is there, joins what follows each other, and writes it.
async fn write_joined(descriptor: Arc<AsyncFd<OwnedFd>>, mut receiver: mpsc::Receiver<Packet<Ip>>) {
    let mut packets = Vec::with_capacity(TOGETHER);
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    let mut to_write = Vec::with_capacity(TOGETHER);
    while receiver.recv_many(&mut packets, TOGETHER).await > 0 {
        let count = packets.len();
        while buffers.len() < count {
            buffers.push(Vec::new());
        }
        for (packet, buffer) in packets.drain(..).zip(&mut buffers) {
            buffer.clear();
            buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            buffer.extend_from_slice(&packet.into_bytes());
        }
        to_write.clear();
        if let Err(error) = offload::join(&mut buffers[..count], &mut to_write) {
            tracing::debug!(%error, "packets from the tunnel could not be joined and are dropped");
            continue;
        }
        for index in &to_write {
            let buffer = &buffers[*index];
            let written = descriptor.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, buffer)?)).await;
            if let Err(error) = written {
                // One that the kernel does not take (it is malformed) must not stop the others.
                tracing::debug!(%error, length = buffer.len(), "the kernel did not take a packet from the tunnel");
            }
        }
    }
}

/// From the kernel to the tunnel.
pub struct TunReceive {
    tun: Tun,
    buffer: Vec<u8>,
}

impl IpRecv for TunReceive {
    async fn recv<'a>(
        &'a mut self,
        pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        let buffer = &mut self.buffer;
        let read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut buffer[..])?);
        let length = self.tun.descriptor.async_io(Interest::READABLE, read).await?;
        let packets = match offload::cut_up(&mut self.buffer[..length], pool) {
            Ok(packets) => packets,
            Err(reason) => {
                tracing::debug!(%reason, length, "a packet from the kernel is dropped");
                Vec::new()
            }
        };
        Ok(packets.into_iter().filter_map(|packet| packet.try_into_ip().ok()))
    }

    fn mtu(&self) -> MtuWatcher {
        self.tun.mtu.clone().into()
    }
}
