//! One visitor who asks one thing after the other on a kept connection and reads the whole answer.
//!
//! For the rows about releases, where it counts who answered and whether, not how many a second: plain
//! blocking calls. It never asks twice. A connection that is over is known before the next request, as the
//! kernel tells it, so a request is never sent into one that the other end had given up.

use anyhow::{Context, Result, ensure};
use rustix::net::RecvFlags;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Nobody is kept waiting longer for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
const LINE_LIMIT_BYTES: u64 = 16 * 1024;
const BODY_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// Between two questions of somebody who waits for an answer to change.
const PAUSE: Duration = Duration::from_millis(1);

pub struct Visitor {
    address: SocketAddr,
    kept: Option<BufReader<TcpStream>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// Whether the word stands there alone: `v1` is not in `release v10`.
    pub fn has(&self, word: &str) -> bool {
        self.body.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|found| found == word)
    }
}

impl Visitor {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, kept: None }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address), |_| Ok(()))
    }

    /// Sends a body in pieces, with a pause before each.
    pub fn post_slowly(&mut self, path: &str, piece: &[u8], pieces: usize, pause: Duration) -> Result<Answer> {
        let length = piece.len() * pieces;
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n\r\n", self.address);
        self.exchange(&head, |stream| {
            for _ in 0..pieces {
                std::thread::sleep(pause);
                stream.write_all(piece).context("send a piece of a body")?;
            }
            Ok(())
        })
    }

    /// Asks until the answer is 200 and holds the word; answers the milliseconds since `begun`.
    pub fn wait_for(&mut self, word: &str, begun: Instant, limit: Duration) -> Result<f64> {
        loop {
            let last = self.get("/");
            if last.as_ref().is_ok_and(|answer| answer.status == 200 && answer.has(word)) {
                return Ok(begun.elapsed().as_secs_f64() * 1000.0);
            }
            if begun.elapsed() > limit {
                anyhow::bail!("{} did not answer `{word}` within {limit:?} but {last:?}", self.address);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn exchange(&mut self, head: &str, body: impl FnOnce(&mut TcpStream) -> Result<()>) -> Result<Answer> {
        let mut connection = match self.kept.take().filter(stands) {
            Some(connection) => connection,
            None => BufReader::new(connect(self.address)?),
        };
        connection.get_mut().write_all(head.as_bytes()).context("send a request")?;
        body(connection.get_mut())?;
        let (answer, closes) = read_answer(&mut connection)?;
        self.kept = (!closes).then_some(connection);
        Ok(answer)
    }
}

pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true).context("set up a connection")?;
    stream.set_read_timeout(Some(PATIENCE)).context("set up a connection")?;
    stream.set_write_timeout(Some(PATIENCE)).context("set up a connection")?;
    Ok(stream)
}

/// Nothing may be there to read between two requests, so anything but "wait" is an end.
fn stands(connection: &BufReader<TcpStream>) -> bool {
    let seen = rustix::net::recv(connection.get_ref(), &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    connection.buffer().is_empty() && matches!(seen, Err(rustix::io::Errno::AGAIN))
}

/// The answer, and whether the connection ends with it.
fn read_answer(connection: &mut impl BufRead) -> Result<(Answer, bool)> {
    let first = line(connection)?;
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("not an answer: {first:?}"))?;
    let (mut length, mut closes) = (None, false);
    loop {
        let field = line(connection)?.to_ascii_lowercase();
        match field.split_once(':').map(|(name, value)| (name, value.trim())) {
            None if field.is_empty() => break,
            Some(("content-length", value)) => length = value.parse::<usize>().ok(),
            Some(("connection", value)) => closes = value == "close",
            _ => {}
        }
    }
    let length = length.context("an answer without Content-Length")?;
    ensure!(length <= BODY_LIMIT_BYTES, "a body of {length} bytes is too much");
    let mut body = vec![0; length];
    connection.read_exact(&mut body).context("broken off in the body of an answer")?;
    Ok((Answer { status, body: String::from_utf8_lossy(&body).into_owned() }, closes))
}

fn line(connection: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    connection.take(LINE_LIMIT_BYTES).read_line(&mut line).context("read an answer")?;
    ensure!(line.ends_with('\n'), "closed in the head of an answer");
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_only_when_it_is_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell";
        for length in 0..whole.len() {
            assert!(read_answer(&mut &whole[..length]).is_err(), "after {length} bytes");
        }
        let (answer, closes) = read_answer(&mut &whole[..]).unwrap();
        assert_eq!((answer.status, answer.body.as_str(), closes), (200, "well", true));
        let (answer, closes) = read_answer(&mut &b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"[..]).unwrap();
        assert_eq!((answer.status, answer.body.as_str(), closes), (503, "", false));
    }

    #[test]
    fn a_release_is_told_from_one_whose_name_begins_with_its_own() {
        let answer = |body: &str| Answer { status: 200, body: body.into() };
        assert!(answer("release v1 took 5 bytes").has("v1") && answer("<code>v1</code>").has("v1"));
        assert!(!answer("release v10").has("v1") && !answer("").has("v1"));
    }
}
