//! One connection of a client, from accept to close.
//!
//! HTTP/1.1 and HTTP/2 (with prior knowledge) share the port; the first bytes say which. Over TLS the
//! handshake has said it (see `tls`), and from there on both are the same. Both run in hyper; what is added here is patience with an end. hyper's own timer for slow headers costs an
//! allocation per request, so the stream notes instead when bytes move, requests note when they begin
//! and end, and the connection's task looks at the notes every few seconds. So these are closed:
//! headers that do not become complete, kept-alive connections on which nothing happens, and clients
//! that stop reading in the middle of an answer.

use crate::activity::{Activity, ObservedStream, Verdict};
use crate::listeners::ListenerIdentity;
use crate::proxy;
use crate::proxy::response_body::ResponseBody;
use crate::shared::{Phase, Shared};
use crate::tls;
use api::gateway::ListenerKind;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Begins every HTTP/2 connection, and no request in HTTP/1.
const HTTP2_BEGINNING: &[u8] = b"PRI ";
const HTTP2_STREAMS: u32 = 256;
/// Per stream, on its way to the client.
const HTTP2_BUFFER_BYTES: usize = 128 * 1024;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Between which two sockets, and how.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub address: SocketAddr,
    pub local: SocketAddr,
    /// Over TLS.
    pub secure: bool,
}

/// The two ends of one connection, and the texts that are made of them once.
#[derive(Debug)]
pub struct Peer {
    pub shared: Arc<Shared>,
    pub listener: Arc<ListenerIdentity>,
    pub address: SocketAddr,
    pub both_ends_loopback: bool,
    /// Whether the client came by HTTPS.
    pub secure: bool,
    pub texts: PeerTexts,
    pub activity: Activity,
}

#[derive(Debug)]
pub struct PeerTexts {
    pub ip: HeaderValue,
    pub local: HeaderValue,
    pub local_port: HeaderValue,
    /// `http` or `https`
    pub scheme: HeaderValue,
    /// `for=…;proto=http`
    pub forwarded: HeaderValue,
}

impl Peer {
    fn new(shared: Arc<Shared>, listener: Arc<ListenerIdentity>, ends: Ends) -> Self {
        let (address, local) = (canonical(ends.address), canonical(ends.local));
        let ip = address.ip();
        let scheme = if ends.secure { "https" } else { "http" };
        let forwarded = match ip {
            IpAddr::V4(ip) => format!("for={ip};proto={scheme}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={scheme}"),
        };
        let text = |text: String| HeaderValue::from_str(&text).expect("an address is a header value");
        let texts = PeerTexts {
            ip: text(ip.to_string()),
            local: text(local.to_string()),
            local_port: HeaderValue::from(local.port()),
            scheme: HeaderValue::from_static(scheme),
            forwarded: text(forwarded),
        };
        let both_ends_loopback = ip.is_loopback() && local.ip().is_loopback();
        let secure = ends.secure;
        Self { shared, listener, address, both_ends_loopback, secure, texts, activity: Activity::default() }
    }

    /// Whether what this peer says of earlier hops is believed: it is a process on this machine.
    pub fn is_trusted(&self) -> bool {
        self.address.ip().is_loopback()
    }

    /// Whether the client should not bring another request on this connection.
    pub fn says_close(&self) -> bool {
        self.shared.is_closing()
    }

    #[cfg(test)]
    pub fn for_test(address: &str, local: &str) -> Self {
        let local: SocketAddr = local.parse().unwrap();
        let listener = ListenerIdentity::new(local, local, ListenerKind::Public);
        let ends = Ends { address: address.parse().unwrap(), local, secure: false };
        Self::new(Arc::new(Shared::for_test()), Arc::new(listener), ends)
    }
}

/// An IPv4 peer on an IPv6 socket is an IPv4 peer.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, address: SocketAddr, listener: Arc<ListenerIdentity>, shared: Arc<Shared>) {
    let Ok(local) = stream.local_addr() else { return };
    if matches!(**listener.kind.load(), ListenerKind::PublicTls) {
        let ends = Ends { address, local, secure: true };
        // In a box, so that a connection without TLS does not carry the room for it.
        return Box::pin(tls::serve(stream, ends, listener, shared)).await;
    }
    let first = tokio::time::timeout(shared.limits.header_time, speaks_http2(&stream)).await;
    let Ok(Some(http2)) = first else { return };
    let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
    serve_stream(stream, protocol, Ends { address, local, secure: false }, listener, shared).await;
}

/// Serves what is spoken on a stream until it ends.
pub async fn serve_stream<S>(
    stream: S,
    protocol: Protocol,
    ends: Ends,
    listener: Arc<ListenerIdentity>,
    shared: Arc<Shared>,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let http2 = protocol == Protocol::Http2;
    let limits = shared.limits.clone();
    let peer = Arc::new(Peer::new(shared, listener, ends));
    let io = TokioIo::new(ObservedStream::new(stream, peer.clone(), !http2));
    let service = {
        let peer = peer.clone();
        service_fn(move |request| proxy::handle(peer.clone(), request))
    };
    let ended = if http2 {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_send_buf_size(HTTP2_BUFFER_BYTES)
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(io, service);
        attend(pin!(connection), &peer, true).await
    } else {
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(limits.header_bytes)
            .max_buf_size((limits.header_bytes * 2).max(16 * 1024))
            .serve_connection(io, service)
            .with_upgrades();
        attend(pin!(connection), &peer, false).await
    };
    if let Err(error) = ended {
        tracing::trace!(peer = %peer.address, %error, "a connection ended");
    }
}

/// Looks at the first bytes without taking them. `None` when there are none to come.
async fn speaks_http2(stream: &TcpStream) -> Option<bool> {
    let mut bytes = [0; HTTP2_BEGINNING.len()];
    loop {
        let length = stream.peek(&mut bytes).await.ok().filter(|length| *length > 0)?;
        if length == bytes.len() || !HTTP2_BEGINNING.starts_with(&bytes[..length]) {
            return Some(bytes == HTTP2_BEGINNING);
        }
        // One to three bytes that could be either; peeking cannot wait for more than there is.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A connection that can be asked to finish what is open and end.
trait Graceful: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

impl<T, S> Graceful for http1::UpgradeableConnection<TokioIo<ObservedStream<T>>, S>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<T, S> Graceful for http2::Connection<TokioIo<ObservedStream<T>>, S, TokioExecutor>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs the connection and ends it when the process ends or the client makes no progress.
async fn attend<C: Graceful>(mut connection: Pin<&mut C>, peer: &Peer, http2: bool) -> hyper::Result<()> {
    let shared = &peer.shared;
    let mut phase = shared.phase.subscribe();
    let mut phase_changed = pin!(async move {
        let later = phase.wait_for(|phase| *phase != Phase::Serving).await;
        // The sender lives as long as the process; were it gone, that would be the end, too.
        later.map_or(Phase::Stopping, |phase| *phase)
    });
    let mut aborted = pin!(shared.abort.cancelled());
    let pause = (shared.limits.header_time / 2).max(Duration::from_millis(10));
    let mut look = pin!(tokio::time::sleep(pause));
    let mut leaving = false;
    let mut idle_override = None;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            phase = &mut phase_changed, if !leaving => {
                leaving = true;
                if phase == Phase::HandingOver && !http2 {
                    // The next answer says `Connection: close`; a client that just now sends its next
                    // request would lose it if the connection were closed under it.
                    idle_override = Some(shared.limits.handover_idle_time);
                    look.as_mut().reset(Instant::now() + shared.limits.handover_idle_time / 4);
                } else {
                    connection.as_mut().finish();
                }
            }
            () = &mut aborted => return Ok(()),
            () = &mut look => {
                let idle_limit = shared.table.load().idle_timeout;
                let rest_limit = idle_override.unwrap_or(idle_limit);
                match peer.activity.verdict(shared.limits.header_time, rest_limit, idle_limit, http2) {
                    Verdict::Fine => {}
                    Verdict::Finish => connection.as_mut().finish(),
                    Verdict::Abort => return Ok(()),
                }
                let pause = pause.min(rest_limit / 4).max(Duration::from_millis(10));
                look.as_mut().reset(Instant::now() + pause);
            }
        }
    }
}
