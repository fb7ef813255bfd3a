//! What a program takes from its surroundings without asking: the time of day, fresh ids, chance.
//!
//! The pure crates get these as arguments. The shells (server, agent) read them, in many places, and
//! read them here, so that a simulation can put others in their place: then one seed decides
//! everything that a fleet does, and each simulated machine may have a clock that is wrong in its own
//! way. See docs/rfd/0006.
//!
//! A [`Source`] holds for one thread at a time: [`within`] sets it for as long as its future is polled,
//! and [`inherit`] hands it on to a task that the future spawns. Without one, which is always so outside
//! of the simulation, the machine's own clock and a good random generator answer.
//!
//! Deliberately absent: secrets. Keys, tokens and nonces come from `wire`, from the operating system,
//! whatever is set here. Also absent: waiting for time to pass (sleeping, deadlines); that is tokio's,
//! which can be paused itself.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Where time, ids and chance come from.
pub trait Source: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// The time that passes, whatever the clock is set to.
    fn instant(&self) -> Instant;
    /// An id that sorts after those that were made before.
    fn fresh_id(&self) -> Uuid;
    fn random(&self) -> u64;
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Source>>> = const { RefCell::new(None) };
}

fn current() -> Option<Arc<dyn Source>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Milliseconds since the Unix epoch; 0 on a machine whose clock lies before it.
pub fn now_ms() -> i64 {
    match current() {
        Some(source) => source.now_ms(),
        None => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)),
    }
}

/// A moment to measure lengths of time from; unlike the time of day it is never set.
pub fn instant() -> Instant {
    current().map_or_else(Instant::now, |source| source.instant())
}

/// A fresh id; the order of ids is the order in which one process made them.
pub fn fresh_id() -> Uuid {
    current().map_or_else(Uuid::now_v7, |source| source.fresh_id())
}

/// A random number in 0.0..1.0.
pub fn random_fraction() -> f64 {
    match current() {
        // The 53 bits that a double holds.
        Some(source) => (source.random() >> 11) as f64 / (1_u64 << 53) as f64,
        None => fastrand::f64(),
    }
}

/// A random number in 0..limit; 0 for a limit of 0.
pub fn random_below(limit: u64) -> u64 {
    match (limit, current()) {
        (0, _) => 0,
        (_, Some(source)) => source.random() % limit,
        (_, None) => fastrand::u64(0..limit),
    }
}

/// A future that is polled within a source.
pub struct Within<F> {
    source: Option<Arc<dyn Source>>,
    future: Pin<Box<F>>,
}

/// Polls `future`, and nothing else, within `source`.
pub fn within<F: Future>(source: Arc<dyn Source>, future: F) -> Within<F> {
    Within { source: Some(source), future: Box::pin(future) }
}

/// Takes the present source along, into a task that is about to be spawned.
pub fn inherit<F: Future>(future: F) -> Within<F> {
    Within { source: current(), future: Box::pin(future) }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _restored = Restore(CURRENT.replace(self.source.clone()));
        self.future.as_mut().poll(context)
    }
}

/// Puts the source before back, also when the future panics.
struct Restore(Option<Arc<dyn Source>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    struct Fixed;

    impl Source for Fixed {
        fn now_ms(&self) -> i64 {
            7
        }
        fn instant(&self) -> Instant {
            Instant::now() + std::time::Duration::from_secs(3_600)
        }
        fn fresh_id(&self) -> Uuid {
            Uuid::from_u128(9)
        }
        fn random(&self) -> u64 {
            u64::MAX
        }
    }

    fn poll_once<F: Future>(mut future: Within<F>) -> F::Output {
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(&mut future).poll(&mut context) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("the future waits"),
        }
    }

    #[test]
    fn a_source_holds_within_its_future_and_in_what_inherits_it() {
        // What a task would be given that is spawned within.
        let inner = poll_once(within(
            Arc::new(Fixed),
            std::future::poll_fn(|_| Poll::Ready(Some(inherit(async { (now_ms(), fresh_id()) })))),
        ));
        let inner = inner.expect("it was made");
        assert!(now_ms() > 7, "outside, the machine's clock holds");
        assert_eq!(poll_once(inner), (7, Uuid::from_u128(9)));
        assert!(now_ms() > 7);
        assert!(
            poll_once(within(Arc::new(Fixed), async { instant() }))
                > Instant::now() + std::time::Duration::from_secs(3_000)
        );
    }

    #[test]
    fn chance_stays_within_its_bounds() {
        let seen = poll_once(within(Arc::new(Fixed), async { (random_fraction(), random_below(10), random_below(0)) }));
        assert!(seen.0 < 1.0 && seen.1 < 10 && seen.2 == 0, "{seen:?}");
        assert!((0.0..1.0).contains(&random_fraction()) && random_below(3) < 3);
    }

    #[test]
    fn ids_of_one_process_sort_in_the_order_of_their_making() {
        let ids: Vec<Uuid> = (0..1_000).map(|_| fresh_id()).collect();
        assert!(ids.is_sorted());
    }
}
