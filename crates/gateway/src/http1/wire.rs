//! A connection to an instance, and those that rest between two requests.
//!
//! A resting connection is read by nobody. When it is taken it is asked whether anything came
//! meanwhile, which the runtime knows without asking the kernel: an end, or bytes that nobody asked
//! for, and it is not used again.

use super::buffer::Buffer;
use crate::limits::Limits;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

#[derive(Debug)]
pub struct Wire {
    pub stream: TcpStream,
    pub buffer: Buffer,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Buffer::default() }
    }
}

/// The connections of one instance that wait for a request, the last used at the end.
#[derive(Debug, Default)]
pub struct Resting(Vec<(TcpStream, Instant)>);

impl Resting {
    /// One that rested no longer than `rest` and still stands.
    pub fn take(&mut self, rest: Duration) -> Option<TcpStream> {
        loop {
            if self.0.last()?.1.elapsed() > rest {
                return None;
            }
            let (stream, _) = self.0.pop()?;
            if is_quiet(&stream) {
                return Some(stream);
            }
        }
    }

    pub fn put(&mut self, stream: TcpStream, limits: &Limits) {
        if self.0.len() < limits.upstream_rest_count {
            self.0.push((stream, Instant::now()));
        }
    }

    /// Takes out those that rested too long or that the instance has closed.
    pub fn sweep(&mut self, rest: Duration) -> Vec<TcpStream> {
        let all = std::mem::take(&mut self.0);
        let (keep, closing): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(stream, since)| since.elapsed() <= rest && is_quiet(stream));
        self.0 = keep;
        closing.into_iter().map(|(stream, _)| stream).collect()
    }
}

fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
