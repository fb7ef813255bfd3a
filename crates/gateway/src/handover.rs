//! Upgrade without a lost request: the sockets go from the old process to the new one.
//!
//! ```text
//! new                                    old
//!  ├── connect handover.sock ────────────►│ takes no more configs
//!  │◄── offer: config, list of sockets ───┤ (the descriptors ride along, SCM_RIGHTS)
//!  │ accepts on the same sockets          │ still accepts, too
//!  ├── ready ────────────────────────────►│ stops accepting
//!  │◄── done ─────────────────────────────┤ finishes what is open, exits
//!  │ answers control and hand-over        │
//! ```
//!
//! At every moment at least one process accepts, and the queues of the sockets are never closed.
//! Of the mesh's tunnel only one of the two may read, so the new one begins with it after `done`, which the old one says
//! when it has stopped; packets wait in the queues for that moment.
//! If the new process fails before `ready`, the old one goes on as if nothing had been. The lock on
//! the directory is a descriptor like the others, so it, too, is never free in between.
//!
//! Messages are a length in four bytes and JSON; descriptors come with the first byte of the offer in
//! groups that the kernel can carry. All of it is blocking code with timeouts, in a thread of its own.

use api::gateway::{GatewayConfig, ListenerKind};
use api::mesh_device::GatewayMesh;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub const SOCKET: &str = "handover.sock";
/// For each step; the new process starts its listeners within one of them.
const STEP_TIME: Duration = Duration::from_secs(10);
const MESSAGE_LIMIT_BYTES: usize = 64 * 1024 * 1024;
/// The kernel carries at most 253 at a time.
const GROUP: usize = 64;
const GROUP_SPACE: usize = rustix::cmsg_space!(ScmRights(GROUP));

/// What one passed descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Role {
    Lock,
    Control,
    Handover,
    Listener { address: SocketAddr, listener: ListenerKind },
    DnsUdp { address: SocketAddr },
    DnsTcp { address: SocketAddr },
    MeshTun,
    MeshUdp,
}

/// All that the new process needs; `roles` names the descriptors in their order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Offer {
    pub pid: u32,
    pub config: GatewayConfig,
    #[serde(default)]
    pub mesh: GatewayMesh,
    pub roles: Vec<Role>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    Ready,
    Done,
}

/// The new side, after the offer.
#[derive(Debug)]
pub struct Accepted {
    pub offer: Offer,
    pub descriptors: Vec<OwnedFd>,
    stream: UnixStream,
}

/// Asks the running gateway for its sockets. `None`: none runs.
pub fn request(directory: &Path) -> io::Result<Option<Accepted>> {
    let stream = match UnixStream::connect(directory.join(SOCKET)) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    set_timeouts(&stream)?;
    let offer: Offer = receive(&stream)?;
    let descriptors = receive_descriptors(&stream, offer.roles.len())?;
    Ok(Some(Accepted { offer, descriptors, stream }))
}

impl Accepted {
    /// Says that this process accepts, and waits until the old one does not.
    pub fn ready(self) -> io::Result<()> {
        send(&self.stream, &Word::Ready)?;
        match receive(&self.stream)? {
            Word::Done => Ok(()),
            Word::Ready => Err(io::Error::new(io::ErrorKind::InvalidData, "the old gateway said `Ready`")),
        }
    }
}

/// The old side: sends everything and waits for the new process to accept.
pub fn offer(stream: &UnixStream, offer: &Offer, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    set_timeouts(stream)?;
    let own = rustix::process::geteuid();
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid != own {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user asked for the sockets"));
    }
    send(stream, offer)?;
    for group in descriptors.chunks(GROUP) {
        send_descriptors(stream, group)?;
    }
    match receive(stream)? {
        Word::Ready => Ok(()),
        Word::Done => Err(io::Error::new(io::ErrorKind::InvalidData, "the new gateway said `Done`")),
    }
}

/// The last word of the old side.
pub fn done(stream: &UnixStream) -> io::Result<()> {
    send(stream, &Word::Done)
}

fn set_timeouts(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STEP_TIME))?;
    stream.set_write_timeout(Some(STEP_TIME))
}

fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&text)
}

fn receive<T: for<'a> Deserialize<'a>>(mut stream: &UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MESSAGE_LIMIT_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a hand-over message is too long"));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn send_descriptors(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); GROUP_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("the descriptors do not fit into one message"));
    }
    // One byte of data per group: descriptors cannot travel alone.
    rustix::net::sendmsg(stream, &[IoSlice::new(b"+")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive_descriptors(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::with_capacity(count);
    while descriptors.len() < count {
        let mut space = [MaybeUninit::uninit(); GROUP_SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let received = rustix::net::recvmsg(
            stream.as_fd(),
            &mut [IoSliceMut::new(&mut byte)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        if received.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the old gateway broke off the hand-over"));
        }
    }
    Ok(descriptors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn more_sockets_than_one_message_carries_arrive_in_order() {
        let (old, new) = UnixStream::pair().unwrap();
        let sockets: Vec<TcpListener> = (0..150).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        let sending = std::thread::spawn(move || {
            let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
            descriptors.chunks(GROUP).for_each(|group| send_descriptors(&old, group).unwrap());
        });
        let received = receive_descriptors(&new, addresses.len()).unwrap();
        sending.join().unwrap();
        let received: Vec<SocketAddr> =
            received.into_iter().map(|fd| TcpListener::from(fd).local_addr().unwrap()).collect();
        assert_eq!(received, addresses);
    }
}
