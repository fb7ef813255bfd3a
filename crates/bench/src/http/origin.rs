//! The service behind every proxy: `GET /N` is answered with N bytes, a wish for a WebSocket with 101.

use super::body;
use super::poller::{Interest, Poller};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

const LISTENER: usize = usize::MAX;
const HEAD_LIMIT_BYTES: usize = 16 * 1024;
/// A body larger than this is nobody's test.
const BODY_LIMIT_BYTES: usize = 64 * 1024 * 1024;
/// RFC 6455, 1.3: the answer to the key of its example, which the load sends.
pub const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

struct Connection {
    stream: TcpStream,
    head: Vec<u8>,
    /// Path of the answer that is being sent, and how much of it has gone.
    sending: Option<(usize, usize)>,
    is_websocket: bool,
    /// This answer is the last one, by the wish of who asked.
    closing: bool,
}

/// Answers until the process is ended. Says its port on the first line of its output.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
    // The library asks for a queue of 128; many connections come at once here.
    rustix::net::listen(&listener, 4096).context("listen on loopback")?;
    listener.set_nonblocking(true).context("listen on loopback")?;
    println!("{}", listener.local_addr().context("read the own port")?.port());
    Origin { listener, poller: Poller::new()?, answers: HashMap::new(), connections: Vec::new(), free: Vec::new() }
        .run()
}

struct Origin {
    listener: TcpListener,
    poller: Poller,
    /// Whole answers by the number of their body's bytes.
    answers: HashMap<usize, Vec<u8>>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

impl Origin {
    fn run(mut self) -> Result<()> {
        self.poller.add(&self.listener, LISTENER, Interest::Reading)?;
        let (mut ready, mut scratch) = (Vec::new(), vec![0; HEAD_LIMIT_BYTES]);
        loop {
            self.poller.wait(Duration::from_secs(1), &mut ready)?;
            for number in ready.iter().copied() {
                if number == LISTENER {
                    self.accept()?;
                    continue;
                }
                let Some(mut connection) = self.connections[number].take() else { continue };
                if self.attend(number, &mut connection, &mut scratch).is_ok() {
                    self.connections[number] = Some(connection);
                } else {
                    self.free.push(number);
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // About one connection, or no more files: the next wait tries again.
                Err(_) => return Ok(()),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.poller.add(&stream, number, Interest::Reading)?;
            self.connections[number] =
                Some(Connection { stream, head: Vec::new(), sending: None, is_websocket: false, closing: false });
        }
    }

    /// An error ends the connection.
    fn attend(&mut self, number: usize, connection: &mut Connection, scratch: &mut [u8]) -> Result<()> {
        if connection.sending.is_some() {
            return self.send(number, connection, true);
        }
        let length = match connection.stream.read(scratch) {
            Ok(0) => anyhow::bail!("closed"),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if connection.is_websocket {
            return Ok(());
        }
        let whole = connection.head.is_empty() && scratch[..length].ends_with(b"\r\n\r\n");
        if !whole {
            connection.head.extend_from_slice(&scratch[..length]);
            anyhow::ensure!(connection.head.len() < HEAD_LIMIT_BYTES, "the head is too long");
            if !connection.head.ends_with(b"\r\n\r\n") {
                return Ok(());
            }
        }
        let head = if whole { &scratch[..length] } else { &connection.head[..] };
        let asked = asked(head)?;
        connection.closing = wants_close(head);
        connection.head.clear();
        match asked {
            Asked::WebSocket => {
                connection.is_websocket = true;
                connection.stream.write_all(UPGRADED)?;
                Ok(())
            }
            Asked::Bytes(bytes) => {
                connection.sending = Some((bytes, 0));
                self.send(number, connection, false)
            }
        }
    }

    fn send(&mut self, number: usize, connection: &mut Connection, was_waiting: bool) -> Result<()> {
        let Some((bytes, sent)) = &mut connection.sending else { return Ok(()) };
        let answer = self.answers.entry(*bytes).or_insert_with(|| answer(*bytes));
        while *sent < answer.len() {
            match connection.stream.write(&answer[*sent..]) {
                Ok(length) => *sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !was_waiting {
                        self.poller.change(&connection.stream, number, Interest::Writing)?;
                    }
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        connection.sending = None;
        anyhow::ensure!(!connection.closing, "closed as it was asked to");
        if was_waiting {
            self.poller.change(&connection.stream, number, Interest::Reading)?;
        }
        Ok(())
    }
}

enum Asked {
    Bytes(usize),
    WebSocket,
}

fn asked(head: &[u8]) -> Result<Asked> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let path = line.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let path = std::str::from_utf8(path).context("the path is not text")?;
    if path == "/websocket" {
        return Ok(Asked::WebSocket);
    }
    let bytes = path.trim_start_matches('/').parse().with_context(|| format!("{path} names no number of bytes"))?;
    anyhow::ensure!(bytes <= BODY_LIMIT_BYTES, "{bytes} bytes are too many");
    Ok(Asked::Bytes(bytes))
}

fn wants_close(head: &[u8]) -> bool {
    head.split(|byte| *byte == b'\n').any(|line| line.eq_ignore_ascii_case(b"connection: close\r"))
}

fn answer(bytes: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {bytes}\r\n\r\n");
    [head.into_bytes(), body(bytes)].concat()
}
