//! The client's body on its way to an instance.
//!
//! Bytes pass through one frame at a time; nothing is collected. Two things are watched. *Progress*,
//! so that the time an instance may take to answer does not begin before the client has sent its
//! part, and so that a connection is reused only when all of it was sent. And the *gate*: a client
//! that asked `Expect: 100-continue` is told to go on only when the instance says so (or says nothing
//! for a second), so a refusal costs no upload.

use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

#[derive(Debug)]
pub enum RequestBody {
    Empty,
    Streaming(Streaming),
}

#[derive(Debug)]
pub struct Streaming {
    incoming: Incoming,
    progress: Arc<Progress>,
    gate: Option<(Arc<Gate>, Pin<Box<Sleep>>)>,
}

/// How far the client's body has come, seen from the request that waits for the answer.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    /// Milliseconds after `begun` at which something last moved.
    moved_ms: AtomicU64,
    done: AtomicBool,
    failed: AtomicBool,
}

/// Closed until the instance says `100 Continue`.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Gate {
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Progress {
    fn new() -> Self {
        let (moved_ms, done, failed) = Default::default();
        Self { begun: Instant::now(), moved_ms, done, failed }
    }

    /// How long ago something moved last, or the body was complete.
    pub fn still_for(&self) -> Duration {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(moved)
    }

    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Whether it was the client that broke off.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn moved(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now, Ordering::Relaxed);
    }
}

impl RequestBody {
    /// The body for the instance, and its progress if there is one at all.
    pub fn new(incoming: Incoming) -> (Self, Option<Arc<Progress>>) {
        if incoming.is_end_stream() {
            return (Self::Empty, None);
        }
        let progress = Arc::new(Progress::new());
        (Self::Streaming(Streaming { incoming, progress: progress.clone(), gate: None }), Some(progress))
    }

    /// Holds the body back until the gate opens, at most for `longest`.
    pub fn hold_back(&mut self, longest: Duration) -> Option<Arc<Gate>> {
        let Self::Streaming(streaming) = self else { return None };
        let gate = Arc::<Gate>::default();
        streaming.gate = Some((gate.clone(), Box::pin(tokio::time::sleep(longest))));
        Some(gate)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(streaming) => streaming.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(streaming) => streaming.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(streaming) => streaming.incoming.size_hint(),
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some((gate, longest)) = &mut self.gate {
            gate.waker.register(cx.waker());
            if !gate.open.load(Ordering::Acquire) && longest.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.gate = None;
        }
        let frame = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        self.progress.moved();
        match &frame {
            None => self.progress.done.store(true, Ordering::Release),
            Some(Ok(_)) if self.incoming.is_end_stream() => self.progress.done.store(true, Ordering::Release),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.progress.failed.store(true, Ordering::Release),
        }
        Poll::Ready(frame)
    }
}
