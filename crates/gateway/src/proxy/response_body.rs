//! The answer on its way to the client.
//!
//! Either a small text of our own or the instance's body, passed on frame by frame the moment it
//! arrives. The record of the exchange rides along and is closed when the body is dropped, whether
//! it was sent to its end or not: only then is the request no longer open.

use super::connection::UpstreamConnection;
use super::exchange::Exchange;
use super::request_body::Progress;
use crate::limits::Limits;
use crate::upstreams::Upstream;
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Why an answer broke off in the middle; the client sees a body that ends too early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the service broke off its answer")]
    Broken(#[source] hyper::Error),
    #[error("the service broke off its answer")]
    Flow(#[source] crate::http1::FlowError),
    #[error("the service sent nothing more for {} s", .0.as_secs())]
    Idle(Duration),
}

#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    exchange: Option<Box<Exchange>>,
}

#[derive(Debug)]
enum Source {
    Text(Option<Bytes>),
    Upstream(UpstreamBody),
}

/// The instance's body and the connection it comes over.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    /// `None` when it is driven elsewhere, or was given back.
    connection: Option<Box<UpstreamConnection>>,
    upstream: Arc<Upstream>,
    limits: Arc<Limits>,
    request: Option<Arc<Progress>>,
    idle_limit: Duration,
    /// Made when the instance first lets us wait.
    idle: Option<Pin<Box<Sleep>>>,
    idle_armed: bool,
}

impl ResponseBody {
    pub fn text(text: Bytes, exchange: Option<Box<Exchange>>) -> Self {
        Self { source: Source::Text((!text.is_empty()).then_some(text)), exchange }
    }

    pub fn upstream(body: UpstreamBody, exchange: Box<Exchange>) -> Self {
        Self { source: Source::Upstream(body), exchange: Some(exchange) }
    }
}

impl UpstreamBody {
    pub fn new(
        incoming: Incoming,
        connection: Option<Box<UpstreamConnection>>,
        upstream: Arc<Upstream>,
        limits: Arc<Limits>,
        request: Option<Arc<Progress>>,
        idle_limit: Duration,
    ) -> Self {
        let (idle, idle_armed) = (None, false);
        let mut body = Self { incoming, connection, upstream, limits, request, idle_limit, idle, idle_armed };
        if body.incoming.is_end_stream() {
            body.give_back(&mut Context::from_waker(std::task::Waker::noop()));
        }
        body
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if polled.is_pending()
            && let Some(connection) = &mut self.connection
        {
            if !connection.drive(cx) {
                self.connection = None;
            }
            polled = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        match polled {
            Poll::Ready(frame) => {
                self.idle_armed = false;
                if frame.is_none() || self.incoming.is_end_stream() {
                    self.give_back(cx);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Broken)))
            }
            Poll::Pending => self.poll_idle(cx),
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let limit = self.idle_limit;
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.idle_armed {
            idle.as_mut().reset(Instant::now() + limit);
            self.idle_armed = true;
        }
        match idle.as_mut().poll(cx) {
            // A client that is still sending is not idle: the instance may be waiting for it.
            Poll::Ready(()) if self.request.as_ref().is_some_and(|r| !r.is_done() && r.still_for() < limit) => {
                idle.as_mut().reset(Instant::now() + limit);
                idle.as_mut().poll(cx).map(|()| None)
            }
            Poll::Ready(()) => Poll::Ready(Some(Err(BodyError::Idle(limit)))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The body is complete: keep the connection for the next request if it is in a clean state.
    fn give_back(&mut self, cx: &mut Context<'_>) {
        let Some(mut connection) = self.connection.take() else { return };
        let sent = self.request.as_ref().is_none_or(|request| request.is_done());
        if sent && connection.drive(cx) && connection.is_ready() {
            self.upstream.connection_rest(connection, &self.limits);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
            Source::Upstream(body) => std::task::ready!(body.poll_frame(cx)),
        };
        if let Some(exchange) = &mut this.exchange {
            match &frame {
                Some(Ok(frame)) => exchange.sent(frame.data_ref().map_or(0, Bytes::len) as u64),
                Some(Err(error)) => exchange.broke_off(error),
                None => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Source::Upstream(body) => body.incoming.size_hint(),
        }
    }
}
