//! Cutting up what the kernel hands over whole, and joining what it may take whole. The arithmetic of TCP is `tun-rs`'s;
//! here is what stands before each packet on a tun device with offloads: `struct virtio_net_hdr`.

use gotatun::packet::{Packet, PacketBufPool};
use std::io;
use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr};

const GSO_NONE: u8 = 0;
const GSO_UDP: u8 = 5;
/// Set beside the type where the stretch carries congestion marks.
const GSO_ECN: u8 = 0x80;
const NEEDS_CHECKSUM: u8 = 1;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// Where in a TCP header its own length is.
const TCP_LENGTH_AT: usize = 12;

/// Which of the buffers are to be written, after those that follow each other were joined into the first of them. Each
/// buffer holds room for the header, then a packet.
pub fn join(buffers: &mut [Vec<u8>], to_write: &mut Vec<usize>) -> io::Result<()> {
    // What is joined is looked for anew each time: packets are never held back for others that may come.
    let (mut tcp, mut udp) = Default::default();
    tun_rs::handle_gro(buffers, VIRTIO_NET_HDR_LEN, &mut tcp, &mut udp, false, to_write)
}

/// The packets in one read: header, then a packet or a stretch of them.
pub fn cut_up(read: &mut [u8], pool: &PacketBufPool) -> io::Result<Vec<Packet>> {
    let invalid = |reason: &'static str| io::Error::new(io::ErrorKind::InvalidData, reason);
    if read.len() <= VIRTIO_NET_HDR_LEN {
        return Err(invalid("it is shorter than its header"));
    }
    let (header, packet) = read.split_at_mut(VIRTIO_NET_HDR_LEN);
    let mut header = VirtioNetHdr::decode(header)?;
    if header.gso_type & !GSO_ECN == GSO_NONE {
        if header.flags & NEEDS_CHECKSUM != 0 {
            fill_checksum(packet, header.csum_start.into(), header.csum_offset.into())?;
        }
        return Ok(vec![copied(packet, pool)]);
    }
    // What the kernel says here is wrong for packets that it forwards (containers'), so it is read from the packet.
    let start = usize::from(header.csum_start);
    let transport = match header.gso_type & !GSO_ECN {
        GSO_UDP => UDP_HEADER,
        _ => {
            let length = packet.get(start + TCP_LENGTH_AT).ok_or_else(|| invalid("its TCP header is cut off"))?;
            usize::from(length >> 4) * 4
        }
    };
    let headers = start + transport;
    let size = usize::from(header.gso_size);
    if size == 0 || headers > packet.len() || (transport != UDP_HEADER && transport < TCP_HEADER) {
        return Err(invalid("its headers do not fit"));
    }
    header.hdr_len = u16::try_from(headers).map_err(|_| invalid("its headers do not fit"))?;
    header.gso_type &= !GSO_ECN;
    let version_6 = packet[0] >> 4 == 6;
    let count = (packet.len() - headers).div_ceil(size);
    let mut pieces: Vec<Piece> = (0..count).map(|_| Piece(pool.get())).collect();
    let mut sizes = vec![0; count];
    let count = tun_rs::gso_split(packet, header, &mut pieces, &mut sizes, 0, version_6)?;
    pieces.truncate(count);
    Ok(pieces
        .into_iter()
        .zip(sizes)
        .map(|(Piece(mut piece), size)| {
            piece.truncate(size);
            piece
        })
        .collect())
}

struct Piece(Packet);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Piece {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

fn copied(bytes: &[u8], pool: &PacketBufPool) -> Packet {
    let mut packet = pool.get();
    packet.buf_mut().clear();
    packet.buf_mut().extend_from_slice(bytes);
    packet
}

/// The kernel left the checksum to the device: at its place stands the sum of the pseudo header.
fn fill_checksum(packet: &mut [u8], start: usize, offset: usize) -> io::Result<()> {
    let at = start + offset;
    if at + 2 > packet.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its checksum is beyond its end"));
    }
    let begun = u16::from_be_bytes([packet[at], packet[at + 1]]);
    packet[at..at + 2].fill(0);
    let sum = !tun_rs::checksum(&packet[start..], begun.into());
    // In UDP a sum of 0 would mean that there is none.
    let sum = if sum == 0 && offset == 6 { u16::MAX } else { sum };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}
