//! How long a connection is waited for: one timer, and the two words of the process to its end.
//!
//! Each request has several ends of patience (its head, the answer, the next movement of a body, the
//! next request), and nearly none of them is ever reached. So the timer is not moved with each: it
//! stands where it was set first, and when it fires it looks at the moment that counts by then. The
//! task is woken by it about once a minute. In the same way this waits for the end of the process:
//! registered once, and read from a flag afterwards.

use crate::shared::{Phase, Shared};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::task::unconstrained;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Why waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The moment that was set has come.
    Time,
    /// The process is about to end, or another one has its sockets.
    Leaving,
    /// The process ends now.
    Aborted,
}

pub struct Patience {
    shared: Arc<Shared>,
    until: Instant,
    timer: Pin<Box<Timer>>,
    registered: bool,
}

struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Where the timer stands, if it stands anywhere.
    armed: Option<Instant>,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Patience {
    pub fn new(shared: Arc<Shared>, time: Duration) -> Self {
        let until = Instant::now() + time;
        let timer = Timer {
            sleep: Box::pin(tokio::time::sleep_until(until.into())),
            armed: None,
            leaving: Box::pin(shared.leaving.clone().cancelled_owned()),
            aborted: Box::pin(shared.abort.clone().cancelled_owned()),
        };
        Self { shared, until, timer: Box::pin(timer), registered: false }
    }

    pub fn set(&mut self, until: Instant) {
        self.until = until;
    }

    /// For what is under way: it ends when its time is over or the process ends.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        self.register(cx);
        // Nothing is aborted that was not asked to finish before.
        if self.shared.is_closing() && self.shared.abort.is_cancelled() {
            return Poll::Ready(Over::Aborted);
        }
        if self.is_over(cx) { Poll::Ready(Over::Time) } else { Poll::Pending }
    }

    /// For a connection at rest, which also ends when the process is leaving. `told` is set when it
    /// was said that it is.
    pub fn poll_at_rest(&mut self, cx: &mut Context<'_>, told: &mut bool) -> Poll<Over> {
        if !*told && self.shared.is_closing() {
            self.register(cx);
            *told = true;
            return Poll::Ready(Over::Leaving);
        }
        self.poll(cx)
    }

    /// How the process is leaving.
    pub fn phase(&self) -> Phase {
        *self.shared.phase.borrow()
    }

    fn register(&mut self, cx: &mut Context<'_>) {
        if self.registered {
            return;
        }
        // The task has one waker for all of its life, so once is enough.
        let timer = &mut *self.timer;
        let leaving = Pin::new(&mut unconstrained(timer.leaving.as_mut())).poll(cx).is_ready();
        let aborted = Pin::new(&mut unconstrained(timer.aborted.as_mut())).poll(cx).is_ready();
        if leaving || aborted {
            // It was so already: the flags say it.
            cx.waker().wake_by_ref();
        }
        self.registered = true;
    }

    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let timer = &mut *self.timer;
        let later = |armed: Instant| armed > self.until;
        if timer.armed.is_some_and(|armed| !later(armed)) {
            if !timer.sleep.is_elapsed() {
                return false;
            }
            if Instant::now() >= self.until {
                return true;
            }
        }
        timer.sleep.as_mut().reset(self.until.into());
        timer.armed = Some(self.until);
        Pin::new(&mut unconstrained(timer.sleep.as_mut())).poll(cx).is_ready()
    }
}
