//! Notes on a connection: when bytes moved and when requests began and ended.
//!
//! The stream and the requests write them, the connection's task reads them (see `serve`). The
//! stream also looks at the header section of HTTP/1 requests for a `Content-Length`: hyper resolves
//! a message with both that and `Transfer-Encoding` in the way RFC 9112 allows (the chunks win, the
//! connection closes) and takes the length away, but a message that two parsers could read in two
//! ways is better refused, and for that it has to be seen.

use crate::serve::Peer;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Times are milliseconds since the process began; 0 means never.
#[derive(Debug)]
pub struct Activity {
    open_requests: AtomicU32,
    /// First byte of a header section that is not complete.
    header_since: AtomicU64,
    /// End of the last request, or accept.
    resting_since: AtomicU64,
    /// The client does not take more bytes.
    blocked_since: AtomicU64,
    length_seen: AtomicBool,
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
            header_since: AtomicU64::new(0),
            resting_since: AtomicU64::new(now()),
            blocked_since: AtomicU64::new(0),
            length_seen: AtomicBool::new(false),
        }
    }
}

impl Activity {
    pub fn request_began(&self) {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        self.header_since.store(0, Ordering::Relaxed);
    }

    pub fn request_ended(&self) {
        self.resting_since.store(now(), Ordering::Relaxed);
        self.open_requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the header section just read had a `Content-Length`; forgets it.
    pub fn take_length_seen(&self) -> bool {
        // A load is cheaper than the swap that nearly no request needs.
        self.length_seen.load(Ordering::Relaxed) && self.length_seen.swap(false, Ordering::Relaxed)
    }

    pub fn verdict(&self, header_limit: Duration, rest_limit: Duration, stall_limit: Duration, http2: bool) -> Verdict {
        let now = now();
        let past = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && u128::from(now.saturating_sub(since)) >= limit.as_millis()
        };
        if past(&self.blocked_since, stall_limit) {
            return Verdict::Abort;
        }
        if self.open_requests.load(Ordering::Relaxed) > 0 {
            return Verdict::Fine;
        }
        if !http2 && past(&self.header_since, header_limit) {
            return Verdict::Abort;
        }
        let header_coming = !http2 && self.header_since.load(Ordering::Relaxed) != 0;
        if !header_coming && past(&self.resting_since, rest_limit) { Verdict::Finish } else { Verdict::Fine }
    }

    fn bytes_read(&self) {
        if self.open_requests.load(Ordering::Relaxed) == 0 && self.header_since.load(Ordering::Relaxed) == 0 {
            self.header_since.store(now(), Ordering::Relaxed);
        }
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

/// A client's stream that takes notes.
#[derive(Debug)]
pub struct ObservedStream<S> {
    stream: S,
    peer: Arc<Peer>,
    scanner: Option<HeaderScanner>,
}

impl<S> ObservedStream<S> {
    pub fn new(stream: S, peer: Arc<Peer>, http1: bool) -> Self {
        Self { stream, peer, scanner: http1.then(HeaderScanner::default) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ObservedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let fresh = &buffer.filled()[before..];
        if !fresh.is_empty() {
            let activity = &this.peer.activity;
            activity.bytes_read();
            if let Some(scanner) = &mut this.scanner {
                if activity.open_requests.load(Ordering::Relaxed) == 0 {
                    if scanner.sees_length(fresh) {
                        activity.length_seen.store(true, Ordering::Relaxed);
                    }
                } else {
                    scanner.restart();
                }
            }
        }
        read
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

/// Finds the line `Content-Length:` in header sections that may arrive in pieces.
#[derive(Debug, Default)]
struct HeaderScanner {
    /// The beginning of the line that is being read, cut to what is compared.
    line: [u8; NAME.len()],
    /// Bytes of the line so far, counted no further than one past the name.
    length: usize,
    /// The empty line was seen: what follows is not header.
    ended: bool,
}

const NAME: &[u8] = b"content-length:";

impl HeaderScanner {
    /// A request is under way: the next header section begins anew.
    fn restart(&mut self) {
        self.length = 0;
        self.ended = false;
    }

    fn sees_length(&mut self, bytes: &[u8]) -> bool {
        // The request that was read before has ended if bytes are looked at again.
        if self.ended {
            self.restart();
        }
        let mut seen = false;
        let mut rest = bytes;
        while !rest.is_empty() && !self.ended {
            let end = rest.iter().position(|b| *b == b'\n');
            let piece = &rest[..end.unwrap_or(rest.len())];
            let room = NAME.len().saturating_sub(self.length).min(piece.len());
            if room > 0 {
                self.line[self.length..self.length + room].copy_from_slice(&piece[..room]);
            }
            self.length = (self.length + piece.len()).min(NAME.len() + 1);
            let Some(end) = end else { return seen };
            seen |= self.length >= NAME.len() && self.line.eq_ignore_ascii_case(NAME);
            let empty = self.length == 0 || (self.length == 1 && self.line[0] == b'\r');
            self.length = 0;
            self.ended = empty;
            rest = &rest[end + 1..];
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_length_line_is_seen_in_any_case_and_in_any_pieces_but_not_in_a_body() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: 3\r\nx: 1\r\n\r\nabc";
        for cut in 0..head.len() {
            let mut scanner = HeaderScanner::default();
            let seen = scanner.sees_length(&head[..cut]) | (cut < 40 && scanner.sees_length(&head[cut..]));
            assert!(seen || cut >= 40, "cut at {cut}");
        }
        for without in [
            &b"POST / HTTP/1.1\r\nHost: a\r\n\r\nContent-Length: 3\r\n"[..],
            b"GET /Content-Length: HTTP/1.1\r\nx-content-length: 3\r\nContent-Lengthy: 1\r\n\r\n",
        ] {
            assert!(!HeaderScanner::default().sees_length(without));
        }
    }

    #[test]
    fn a_connection_is_judged_by_what_moved_on_it() {
        let activity = Activity::default();
        let [short, long] = [Duration::ZERO, Duration::from_secs(60)];
        assert_eq!(activity.verdict(long, long, long, false), Verdict::Fine);
        assert_eq!(activity.verdict(long, short, long, false), Verdict::Finish);
        activity.bytes_read();
        assert_eq!(activity.verdict(long, short, long, false), Verdict::Fine, "a request is coming in");
        assert_eq!(activity.verdict(short, long, long, false), Verdict::Abort, "its header takes too long");
        activity.request_began();
        assert_eq!(activity.verdict(short, short, long, false), Verdict::Fine, "it is being answered");
        activity.bytes_written(&Poll::<()>::Pending);
        assert_eq!(activity.verdict(long, long, short, false), Verdict::Abort, "nobody reads the answer");
        activity.bytes_written(&Poll::Ready(()));
        assert_eq!(activity.verdict(short, short, short, false), Verdict::Fine);
    }
}
