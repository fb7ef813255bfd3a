//! A connection to one instance, driven by the request that uses it.
//!
//! The usual arrangement gives each connection a task of its own and passes requests and answers
//! through channels: two wake-ups across threads per request. Here the request polls the connection
//! itself, so bytes from the instance wake exactly the task that writes them to the client. A
//! resting connection is polled by nobody; it is looked at when it is taken and by a sweeper now and
//! then, which is when one that the instance closed is found out.

use super::request_body::RequestBody;
use crate::limits::Limits;
use crate::upstreams::Upstream;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

type Driver = Connection<TokioIo<TcpStream>, RequestBody>;

pub struct UpstreamConnection {
    sender: SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Driver>,
    rests_since: Instant,
}

impl std::fmt::Debug for UpstreamConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamConnection").field("open", &self.driver.is_some()).finish_non_exhaustive()
    }
}

/// Why no connection to an instance could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the time for connecting is over")]
    TimedOut,
    #[error("{0}")]
    Failed(io::Error),
}

impl UpstreamConnection {
    pub async fn open(upstream: &Upstream, timeout: Duration, limits: &Limits) -> Result<Box<Self>, ConnectError> {
        let stream = connect(upstream, timeout).await?;
        let handshake = builder(limits).handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|error| ConnectError::Failed(io::Error::other(error)))?;
        Ok(Box::new(Self { sender, driver: Some(driver), rests_since: Instant::now() }))
    }

    /// Sends one request and waits for the head of its answer, driving the connection meanwhile.
    /// A request that was not begun to be sent comes back inside the error.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        poll_fn(|cx| {
            drive(driver, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Moves bytes in both directions as far as possible now. False once the connection has ended.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        drive(&mut self.driver, cx);
        self.driver.is_some()
    }

    /// Whether the next request can be sent at once.
    pub fn is_ready(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready()
    }

    /// Whether a resting connection still stands.
    pub fn is_usable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop())) && self.sender.is_ready()
    }

    pub fn rest(&mut self) {
        self.rests_since = Instant::now();
    }

    pub fn rested(&self) -> Duration {
        self.rests_since.elapsed()
    }
}

/// An ended connection is dropped at once: that is what wakes whoever waits for an answer on it.
fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(running) = driver
        && let Poll::Ready(ended) = Pin::new(running).poll(cx)
    {
        if let Err(error) = ended {
            tracing::trace!(%error, "a connection to an instance ended");
        }
        *driver = None;
    }
}

pub async fn connect(upstream: &Upstream, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(upstream.address)).await;
    let stream = stream.map_err(|_| ConnectError::TimedOut)?.map_err(ConnectError::Failed)?;
    stream.set_nodelay(true).map_err(ConnectError::Failed)?;
    // A peer that vanished without a word is noticed by the kernel, also below a silent tunnel.
    // Failing to ask for it only means noticing later.
    let _ = crate::listeners::set_keepalive(&stream);
    Ok(stream)
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder.max_buf_size(limits.header_bytes.max(8192) * 2);
    builder
}
