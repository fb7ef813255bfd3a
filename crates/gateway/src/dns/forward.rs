//! One question to one resolver, passed on as it is.
//!
//! Each question has a socket of its own (so a random port) and a fresh id, and an answer counts only
//! if id and question are those that were sent: whoever cannot see the question cannot answer it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const HEADER_BYTES: usize = 12;
const TRUNCATED: u8 = 0x02;
const RESPONSE: u8 = 0x80;

/// The answer as the client may have it: with its own id. A client on TCP gets the whole of an answer
/// that did not fit; a client on UDP is told that it was cut, and comes back by TCP.
pub async fn ask(question: &[u8], server: SocketAddr, over_tcp: bool, limit: Duration) -> io::Result<Vec<u8>> {
    let mut sent = question.to_vec();
    let id = fastrand::u16(..).to_be_bytes();
    sent[..2].copy_from_slice(&id);
    let mut answer = tokio::time::timeout(limit, ask_udp(&sent, server)).await??;
    if over_tcp && answer[2] & TRUNCATED != 0 {
        answer = tokio::time::timeout(limit, ask_tcp(&sent, server)).await??;
    }
    answer[..2].copy_from_slice(&question[..2]);
    Ok(answer)
}

async fn ask_udp(sent: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(sent).await?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(sent, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(sent: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(sent.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], sent].concat()).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).await?;
    if answers(sent, &answer) {
        Ok(answer)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
    }
}

fn answers(sent: &[u8], answer: &[u8]) -> bool {
    let Some(end) = question_end(sent) else { return false };
    answer.len() >= end
        && answer[..2] == sent[..2]
        && answer[2] & RESPONSE != 0
        && answer[HEADER_BYTES..end].eq_ignore_ascii_case(&sent[HEADER_BYTES..end])
}

/// Where the one question of a message ends: after its labels, type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= message.len()).then_some(end)
}
