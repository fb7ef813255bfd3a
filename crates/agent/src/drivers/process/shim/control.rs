//! The supervisor's socket: lines of JSON in, statuses out. Never blocks on a client.

use super::super::spec::{CONTROL_SOCKET, InstanceStatus, Request};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

/// A client that says more than this without a newline, or reads so slowly, is dropped.
const BUFFER_LIMIT_BYTES: usize = 64 * 1024;
const CLIENT_LIMIT: usize = 32;

pub struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
}

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    watches: bool,
    gone: bool,
}

impl Control {
    /// In the current directory, mode 0600. Whoever holds the instance's lock may replace the socket.
    pub fn bind() -> io::Result<Self> {
        let _ = std::fs::remove_file(CONTROL_SOCKET);
        let listener = UnixListener::bind(CONTROL_SOCKET)?;
        std::fs::set_permissions(CONTROL_SOCKET, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: Vec::new() })
    }

    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Each client's descriptor, and whether something waits to be written to it.
    pub fn clients(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.clients.iter().map(|client| (client.stream.as_fd(), !client.output.is_empty()))
    }

    pub fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENT_LIMIT && stream.set_nonblocking(true).is_ok() {
                self.clients.push(Client {
                    stream,
                    input: Vec::new(),
                    output: Vec::new(),
                    watches: false,
                    gone: false,
                });
            }
        }
    }

    /// Read and write whatever is possible now; answers the stops that were asked for.
    pub fn exchange(&mut self, status: &InstanceStatus) -> Vec<u64> {
        let mut stops = Vec::new();
        for client in &mut self.clients {
            for request in client.requests() {
                match request {
                    Request::Status => client.send(status),
                    Request::Watch => {
                        client.watches = true;
                        client.send(status);
                    }
                    Request::Stop { grace_ms } => {
                        stops.push(grace_ms);
                        client.send(status);
                    }
                }
            }
            client.flush();
        }
        self.clients.retain(|client| !client.gone);
        stops
    }

    /// The status changed: tell those who watch.
    pub fn publish(&mut self, status: &InstanceStatus) {
        for client in self.clients.iter_mut().filter(|client| client.watches) {
            client.send(status);
            client.flush();
        }
    }
}

impl Client {
    fn requests(&mut self) -> Vec<Request> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.gone = true,
                Ok(count) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    if self.input.len() > BUFFER_LIMIT_BYTES {
                        self.gone = true;
                    } else {
                        continue;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.gone = true,
            }
            break;
        }
        let mut requests = Vec::new();
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(request) => requests.push(request),
                // Only the agent may connect (mode 0600); what it cannot say, nobody waits for.
                Err(_) => self.gone = true,
            }
        }
        requests
    }

    fn send(&mut self, status: &InstanceStatus) {
        if self.output.len() > BUFFER_LIMIT_BYTES {
            self.gone = true;
            return;
        }
        if let Ok(mut line) = serde_json::to_vec(status) {
            line.push(b'\n');
            self.output.extend(line);
        }
    }

    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }
}
