//! One connection of a visitor to a gateway: HTTP/1.1 by hand, without a pool and without a second try.
//!
//! An ordinary client learns from its event loop that a kept connection is over, on a loaded machine some
//! tens of milliseconds after the kernel knew it, and sends the next request into it; or it asks again in
//! silence. Neither will do where each request is to be accounted for: a request must be known to have gone
//! to this gateway or to that one. So the kernel itself is asked right before a connection is used again,
//! and each connection knows since when it may exist: one that was begun before a gateway was gone ends in
//! that gateway and in no later one.

use anyhow::{Context, Result, bail, ensure};
use rustix::net::RecvFlags;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANSWER_LIMIT_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// `host:port`, also the name of the host in requests.
    address: String,
    begun: Instant,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
    /// The gateway wants no other request on this connection.
    pub closes: bool,
}

impl Connection {
    pub async fn open(address: &str) -> std::io::Result<Self> {
        let begun = Instant::now();
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, address: address.to_owned(), begun })
    }

    /// Before this moment the connection did not exist.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether the other end has closed it, as the kernel knows it now. Nothing may be there to read between
    /// two requests, so anything but "wait" is an end.
    pub fn is_over(&self) -> bool {
        let seen = rustix::net::recv(&self.stream, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(seen, Err(rustix::io::Errno::AGAIN))
    }

    /// Sends one request and reads its answer whole. After a failure the connection is of no use.
    pub async fn get(&mut self, path: &str, closes: bool, patience: Duration) -> Result<Reply> {
        match tokio::time::timeout(patience, self.exchange(path, closes)).await {
            Ok(reply) => reply,
            Err(_) => bail!("no whole answer within {patience:?}"),
        }
    }

    async fn exchange(&mut self, path: &str, closes: bool) -> Result<Reply> {
        let close = if closes { "connection: close\r\n" } else { "" };
        let request = format!("GET /{path} HTTP/1.1\r\nhost: {}\r\n{close}\r\n", self.address);
        self.stream.write_all(request.as_bytes()).await.context("cannot send")?;
        let mut bytes = Vec::new();
        loop {
            if let Some(reply) = parse(&bytes)? {
                return Ok(reply);
            }
            ensure!(bytes.len() < ANSWER_LIMIT_BYTES, "an answer without an end");
            let read = self.stream.read_buf(&mut bytes).await;
            let read = read.with_context(|| format!("broken off after {} bytes of the answer", bytes.len()))?;
            ensure!(read > 0, "closed after {} bytes of the answer", bytes.len());
        }
    }
}

/// The answer once it is whole. Its length must be given, as it is for all that the tests' app says.
fn parse(bytes: &[u8]) -> Result<Option<Reply>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = (std::str::from_utf8(&bytes[..end]).context("a head that is no text")?, &bytes[end + 4..]);
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("not an answer: {head:?}"))?;
    let field = |wanted: &str| {
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim()).next()
    };
    let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
    let length = length.with_context(|| format!("an answer without a length: {head:?}"))?;
    if body.len() < length {
        return Ok(None);
    }
    ensure!(body.len() == length, "{} bytes more than the answer has", body.len() - length);
    let closes = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some(Reply { status, body: String::from_utf8_lossy(body).into_owned(), closes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_when_it_is_whole_and_has_nothing_behind_it() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nconnection: close\r\n\r\nwell";
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).unwrap().is_none(), "after {length} bytes");
        }
        let reply = parse(whole).unwrap().unwrap();
        assert_eq!((reply.status, reply.body.as_str(), reply.closes), (200, "well", true));
        for wrong in
            [&b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nwell"[..], b"HTTP/1.1 200 OK\r\n\r\n", b"?\r\n\r\n"]
        {
            assert!(parse(wrong).is_err());
        }
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_known_before_the_next_request_without_any_event_loop() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        for _ in 0..100 {
            let connection = Connection::open(&address).await.unwrap();
            let (other_end, _) = listener.accept().unwrap();
            assert!(!connection.is_over());
            drop(other_end);
            // Nothing is awaited here: the runtime cannot have heard of it.
            assert!(connection.is_over());
        }
    }
}
