//! Notes on an HTTP/2 connection: when bytes moved and when requests began and ended.
//!
//! The stream and the requests write them, the connection's task reads them (see `serve`).

use crate::http1::Buffer;
use crate::serve::Peer;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Times are milliseconds since the process began; 0 means never.
#[derive(Debug)]
pub struct Activity {
    open_requests: AtomicU32,
    /// End of the last request, or accept.
    resting_since: AtomicU64,
    /// The client does not take more bytes.
    blocked_since: AtomicU64,
}

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    /// Nothing is open and nothing happens: close politely.
    Finish,
    /// The client is not honest or not there.
    Abort,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            open_requests: AtomicU32::new(0),
            resting_since: AtomicU64::new(now()),
            blocked_since: AtomicU64::new(0),
        }
    }
}

impl Activity {
    pub fn request_began(&self) {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub fn request_ended(&self) {
        self.resting_since.store(now(), Ordering::Relaxed);
        self.open_requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// `limit` is for a connection on which nothing is open, and for a client that takes nothing.
    pub fn verdict(&self, limit: Duration) -> Verdict {
        let now = now();
        let past = |since: &AtomicU64| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && u128::from(now.saturating_sub(since)) >= limit.as_millis()
        };
        if past(&self.blocked_since) {
            return Verdict::Abort;
        }
        let resting = self.open_requests.load(Ordering::Relaxed) == 0;
        if resting && past(&self.resting_since) { Verdict::Finish } else { Verdict::Fine }
    }

    fn bytes_written<T>(&self, written: &Poll<T>) {
        let blocked = self.blocked_since.load(Ordering::Relaxed) != 0;
        if written.is_pending() != blocked {
            self.blocked_since.store(if blocked { 0 } else { now() }, Ordering::Relaxed);
        }
    }
}

fn now() -> u64 {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    let begun = BEGUN.get_or_init(Instant::now);
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// A client's stream that takes notes, and of which some bytes were read already.
#[derive(Debug)]
pub struct ObservedStream<S> {
    stream: S,
    read: Buffer,
    peer: Arc<Peer>,
}

impl<S> ObservedStream<S> {
    pub fn new(stream: S, read: Buffer, peer: Arc<Peer>) -> Self {
        Self { stream, read, peer }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.read.is_empty() {
            this.read.release();
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let length = this.read.len().min(buffer.remaining());
        buffer.put_slice(&this.read.bytes()[..length]);
        this.read.consume(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ObservedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.peer.activity.bytes_written(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.peer.activity.bytes_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_judged_by_what_moved_on_it() {
        let activity = Activity::default();
        let [short, long] = [Duration::ZERO, Duration::from_secs(60)];
        assert_eq!(activity.verdict(long), Verdict::Fine);
        assert_eq!(activity.verdict(short), Verdict::Finish);
        activity.request_began();
        assert_eq!(activity.verdict(short), Verdict::Fine, "it is being answered");
        activity.bytes_written(&Poll::<()>::Pending);
        assert_eq!(activity.verdict(short), Verdict::Abort, "nobody reads the answer");
        activity.bytes_written(&Poll::Ready(()));
        assert_eq!(activity.verdict(short), Verdict::Fine);
    }
}
