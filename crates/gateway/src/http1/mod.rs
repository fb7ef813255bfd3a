//! HTTP/1.1 as a proxy speaks it: a head is read once and written once, a body is never held.
//!
//! ```text
//! client ─► buffer ─► request ─► route ─► outgoing ─► flow ─► instance
//!        ◄──────────── flow ◄──────────── answer ◄─ buffer ◄─┘
//! ```
//!
//! A library for HTTP makes of each message a map of headers, a method, an address and a stream, which
//! is what a service needs. A proxy needs to know of ten lines, and passes the others on. So here the
//! lines stay where they were read, are looked at once and copied once, into the one write that the
//! other side gets. Between two requests a connection keeps no memory for bytes; in a tunnel neither.
//!
//! What is unusual is refused (`request`), not guessed at, and the length of each message is written
//! anew (`flow`, `chunks`), so both sides always read the same. HTTP/2 is spoken by hyper (`serve`).
//!
//! Absent on purpose: buffering, caching, compression, pipelining (requests that come early wait in
//! the buffer), and passing on of `1xx` answers other than `100` and `101`: old clients stumble on them.

mod answer;
mod buffer;
mod chunks;
mod fields;
mod flow;
mod outgoing;
mod passage;
mod patience;
mod reach;
mod request;
mod tunnel;
pub mod wire;

use crate::serve::Peer;
use crate::shared::Phase;
pub use buffer::{Buffer, text_give_back, text_take};
pub use fields::write_number;
pub use flow::FlowError;
use passage::{After, Begun};
use patience::{Over, Patience};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Begins every HTTP/2 connection, and no request in HTTP/1.
const HTTP2_BEGINNING: &[u8] = b"PRI ";
/// How long a client may go on sending what nobody reads, so that the answer reaches it before the end.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// What a client's bytes come over.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin {
    /// Whether an end has to be said before the socket is closed, as in TLS.
    const SAYS_GOODBYE: bool;
}

impl ClientStream for TcpStream {
    const SAYS_GOODBYE: bool = false;
}

/// A connection of a client.
pub struct Client<S> {
    stream: S,
    inbound: Buffer,
    peer: Arc<Peer>,
    patience: Patience,
    /// That the process is leaving was noticed while nothing was open.
    told: bool,
    /// A head that is not complete is being waited for.
    head_begun: bool,
}

/// Serves a connection until it ends. Answers the stream and what was read if HTTP/2 is spoken on it.
pub async fn serve<S: ClientStream>(stream: S, peer: Arc<Peer>) -> Option<(S, Buffer)> {
    let patience = Patience::new(peer.shared.clone(), peer.shared.limits.header_time);
    let inbound = Buffer::default();
    let mut client = Client { stream, inbound, peer, patience, told: false, head_begun: false };
    let mut first = true;
    loop {
        let begun = match client.inbound.is_empty() {
            true => Begun::Partial,
            false if first && client.inbound.bytes().starts_with(HTTP2_BEGINNING) => {
                return Some((client.stream, client.inbound));
            }
            false => passage::begin(&client),
        };
        let after = match begun {
            Begun::Partial => {
                if client.read_more().await {
                    continue;
                }
                After::Close
            }
            Begun::Refused(refused) => refused.answer(&mut client).await,
            Begun::Request(request) => request.pass(&mut client).await,
        };
        first = false;
        match after {
            After::Next => client.rest(),
            After::Close => return client.close().await,
            After::Linger => return client.linger().await,
            After::Gone => return None,
        }
    }
}

impl<S: ClientStream> Client<S> {
    /// The next request may come, or not.
    fn rest(&mut self) {
        self.head_begun = false;
        let idle_timeout = self.peer.shared.table.load().idle_timeout;
        self.patience.set(Instant::now() + idle_timeout);
    }

    /// Waits for bytes of a head. False when none will come.
    async fn read_more(&mut self) -> bool {
        if !self.inbound.is_empty() && !self.head_begun {
            self.head_begun = true;
            self.patience.set(Instant::now() + self.peer.shared.limits.header_time);
        }
        poll_fn(|cx| self.poll_more(cx)).await
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let before = self.inbound.len();
            match self.inbound.poll_read(cx, &mut self.stream, self.peer.shared.limits.header_bytes) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(false),
                // A head that comes byte by byte is not read anew with each of them.
                Poll::Ready(Ok(_)) if before == 0 || may_end(self.inbound.bytes(), before) || self.is_full() => {
                    return Poll::Ready(true);
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Pending if before > 0 => return self.patience.poll(cx).map(|_| false),
                Poll::Pending => match std::task::ready!(self.patience.poll_at_rest(cx, &mut self.told)) {
                    Over::Leaving if self.patience.phase() == Phase::HandingOver => {
                        // The next answer says `Connection: close`; a client that just now sends its next
                        // request would lose it if the connection were closed under it.
                        self.patience.set(Instant::now() + self.peer.shared.limits.handover_idle_time);
                    }
                    _ => return Poll::Ready(false),
                },
            }
        }
    }

    fn is_full(&self) -> bool {
        self.inbound.len() >= self.peer.shared.limits.header_bytes
    }

    /// Whether the client has gone while it should be waiting. What it sends early is kept, up to a bound.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.inbound.len() < buffer::PIECE_BYTES {
            match self.inbound.poll_read(cx, &mut self.stream, buffer::PIECE_BYTES) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }

    async fn close<T>(mut self) -> Option<T> {
        if !self.inbound.is_empty() {
            return self.linger().await;
        }
        if S::SAYS_GOODBYE {
            // It is closed anyway, whether that was heard or not.
            let goodbye = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
            let _ = tokio::time::timeout(LINGER_TIME, goodbye).await;
        }
        None
    }

    /// Closes a connection on which the client may still be sending: closed at once, the kernel would
    /// throw away what was answered.
    async fn linger<T>(mut self) -> Option<T> {
        self.patience.set(Instant::now() + LINGER_TIME);
        let (mut said, mut left) = (false, LINGER_BYTES);
        poll_fn(|cx| {
            if !said {
                said = Pin::new(&mut self.stream).poll_shutdown(cx).is_ready();
            }
            loop {
                self.inbound.consume(self.inbound.len());
                match self.inbound.poll_read(cx, &mut self.stream, buffer::PIECE_BYTES) {
                    Poll::Ready(Ok(length @ 1..)) if length < left => left -= length,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return self.patience.poll(cx).map(|_| ()),
                }
            }
        })
        .await;
        None
    }
}

/// Whether the empty line that ends a head can be among the bytes behind `before`.
fn may_end(bytes: &[u8], before: usize) -> bool {
    let fresh = &bytes[before.saturating_sub(3)..];
    fresh.windows(2).any(|two| two == b"\n\n") || fresh.windows(3).any(|three| three == b"\n\r\n")
}
