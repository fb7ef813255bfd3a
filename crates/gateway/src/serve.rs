//! One connection of a client, from accept to close.
//!
//! HTTP/1.1 and HTTP/2 (with prior knowledge) share the port; the first bytes say which. Over TLS the
//! handshake may have said it (see `tls`), and from there on both are the same. HTTP/1.1 is our own (see `http1`); HTTP/2 runs in hyper, and what is added here is patience with an end: the stream
//! notes when bytes move, requests note when they begin and end, and the connection's task looks at the
//! notes every few seconds. So connections on which nothing happens are closed, and those of clients
//! that stop reading in the middle of an answer.

use crate::activity::{Activity, ObservedStream, Verdict};
use crate::http1::{self, ClientStream};
use crate::listeners::ListenerIdentity;
use crate::proxy;
use crate::proxy::response_body::ResponseBody;
use crate::shared::Shared;
use crate::tls;
use api::gateway::ListenerKind;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;

const HTTP2_STREAMS: u32 = 256;
/// Per stream, on its way to the client.
const HTTP2_BUFFER_BYTES: usize = 128 * 1024;

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// What the first bytes say.
    Http,
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

/// The two ends of one connection.
#[derive(Debug)]
pub struct Peer {
    pub shared: Arc<Shared>,
    pub listener: Arc<ListenerIdentity>,
    pub address: SocketAddr,
    pub local: SocketAddr,
    /// The address without port, as text.
    pub ip: IpText,
    /// Whether the client came by HTTPS.
    pub secure: bool,
    pub activity: Activity,
}

/// An address as text, in place: connections come and go by the thousand.
#[derive(Debug)]
pub struct IpText {
    bytes: [u8; 46],
    length: u8,
}

impl IpText {
    fn of(ip: IpAddr) -> Self {
        let mut bytes = [0; 46];
        let mut room = &mut bytes[..];
        // The longest address, of IPv4 in IPv6, has 45 characters.
        let _ = write!(room, "{ip}");
        let length = 46 - room.len();
        Self { bytes, length: length as u8 }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl Peer {
    fn new(shared: Arc<Shared>, listener: Arc<ListenerIdentity>, ends: Ends) -> Self {
        let (address, local) = (canonical(ends.address), canonical(ends.local));
        let (ip, activity) = (IpText::of(address.ip()), Activity::default());
        Self { shared, listener, address, local, ip, secure: ends.secure, activity }
    }

    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// RFC 7239: `for=192.0.2.1;proto=http;host="a.example"`. A host that came this far holds neither
    /// quotes nor backslashes.
    pub fn write_forwarded(&self, out: &mut Vec<u8>, host: Option<&[u8]>) {
        let [before, after]: [&[u8]; 2] = if self.address.is_ipv6() { [b"\"[", b"]\""] } else { [b"", b""] };
        for piece in [b"for=", before, self.ip.as_bytes(), after, b";proto=", self.scheme().as_bytes()] {
            out.extend_from_slice(piece);
        }
        if let Some(host) = host {
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(host);
            out.push(b'"');
        }
    }

    /// Whether what this peer says of earlier hops is believed: it is a process on this machine.
    pub fn is_trusted(&self) -> bool {
        self.address.ip().is_loopback()
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
    // Who listens on one address need not ask which one was meant.
    let local = match listener.local.ip().is_unspecified() {
        true => stream.local_addr(),
        false => Ok(listener.local),
    };
    let Ok(local) = local else { return };
    if matches!(**listener.kind.load(), ListenerKind::PublicTls) {
        let ends = Ends { address, local, secure: true };
        // In a box, so that a connection without TLS does not carry the room for it.
        return Box::pin(tls::serve(stream, ends, listener, shared)).await;
    }
    serve_stream(stream, Protocol::Http, Ends { address, local, secure: false }, listener, shared).await;
}

/// Serves what is spoken on a stream until it ends.
pub async fn serve_stream<S>(
    stream: S,
    protocol: Protocol,
    ends: Ends,
    listener: Arc<ListenerIdentity>,
    shared: Arc<Shared>,
) where
    S: ClientStream + Send + 'static,
{
    let peer = Arc::new(Peer::new(shared, listener, ends));
    let http2 = match protocol {
        Protocol::Http => http1::serve(stream, peer.clone()).await,
        Protocol::Http2 => Some((stream, http1::Buffer::default())),
    };
    if let Some((stream, read)) = http2 {
        // In a box, so that a connection that speaks HTTP/1.1 does not carry the room for it.
        Box::pin(serve_http2(stream, read, peer)).await;
    }
}

/// Serves HTTP/2 on a stream of which some bytes were read already.
async fn serve_http2<S>(stream: S, read: http1::Buffer, peer: Arc<Peer>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = peer.shared.limits.clone();
    let io = TokioIo::new(ObservedStream::new(stream, read, peer.clone()));
    let service = {
        let peer = peer.clone();
        service_fn(move |request| proxy::handle(peer.clone(), request))
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_send_buf_size(HTTP2_BUFFER_BYTES)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .serve_connection(io, service);
    if let Err(error) = attend(pin!(connection), &peer).await {
        tracing::trace!(peer = %peer.address, %error, "a connection ended");
    }
}

/// Runs the connection and ends it when the process ends or the client makes no progress.
async fn attend<T, S>(
    mut connection: Pin<&mut http2::Connection<TokioIo<ObservedStream<T>>, S, TokioExecutor>>,
    peer: &Peer,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let shared = &peer.shared;
    let mut left = pin!(shared.leaving.cancelled());
    let mut aborted = pin!(shared.abort.cancelled());
    let pause = (shared.limits.header_time / 2).max(Duration::from_millis(10));
    let mut look = pin!(tokio::time::sleep(pause));
    let mut leaving = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            () = &mut left, if !leaving => {
                leaving = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut aborted => return Ok(()),
            () = &mut look => {
                let idle_limit = shared.table.load().idle_timeout;
                match peer.activity.verdict(idle_limit) {
                    Verdict::Fine => {}
                    Verdict::Finish => connection.as_mut().graceful_shutdown(),
                    Verdict::Abort => return Ok(()),
                }
                let pause = pause.min(idle_limit / 4).max(Duration::from_millis(10));
                look.as_mut().reset(Instant::now() + pause);
            }
        }
    }
}
