//! Streams of records as server-sent events: nothing lost, nothing doubled, and an end.
//!
//! A follower reads the store after the last sequence it sent, sends that, and waits to be woken.
//! The wake-up is subscribed to before the first read, so what is stored in between is seen. A
//! reader that is slow simply reads larger pieces later; there is no queue that could overflow.
//!
//! A sign of life goes out every 15 seconds, which is also when the caller's right to listen is
//! looked at again, as it is the moment that anybody's token or session ends: with it ends the stream.

use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, Instant};
use store::{Scope, Store};
use tokio::sync::watch;

/// How many records one read takes from the store.
pub const PAGE: u32 = 500;
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Records that can be followed, as the filter that chooses them.
pub trait Followed: Clone + Send + Sync + 'static {
    type Record: Serialize + Send + 'static;
    /// What the events of the stream are called.
    const NAME: &'static str;

    fn sequence(record: &Self::Record) -> i64;
    fn wakeup(state: &AppState) -> watch::Receiver<u64>;
    /// The highest sequence so far.
    fn newest(store: &Store, scope: &Scope) -> impl Future<Output = store::Result<i64>> + Send;
    /// The last `limit` records up to a sequence, oldest first.
    fn last(
        &self,
        store: &Store,
        scope: &Scope,
        up_to: i64,
        limit: u32,
    ) -> impl Future<Output = store::Result<Vec<Self::Record>>> + Send;
    /// At most [`PAGE`] records after a sequence, oldest first.
    fn after(
        &self,
        store: &Store,
        scope: &Scope,
        after: i64,
    ) -> impl Future<Output = store::Result<Vec<Self::Record>>> + Send;
}

/// Where a stream begins.
#[derive(Debug, Clone, Copy)]
pub enum Begin {
    /// Right after this sequence: the reader was here before.
    After(i64),
    /// With the last so many of what is there.
    Last(u32),
}

struct Running<F: Followed> {
    state: AppState,
    caller: Caller,
    filter: F,
    wakeup: watch::Receiver<u64>,
    waiting: VecDeque<F::Record>,
    /// Records after this one are read.
    after: i64,
    revoked: watch::Receiver<u64>,
    checked_at: Instant,
}

/// Answers with the stream.
pub async fn answer<F: Followed>(state: AppState, caller: Caller, filter: F, begin: Begin) -> Result<Response> {
    let mut wakeup = F::wakeup(&state);
    wakeup.mark_changed();
    let (waiting, after) = match begin {
        Begin::After(after) => (VecDeque::new(), after),
        Begin::Last(limit) => {
            // What comes between the two reads is after `newest`, and read with what follows.
            let newest = F::newest(state.store(), caller.scope()).await?;
            let last = match limit {
                0 => Vec::new(),
                _ => filter.last(state.store(), caller.scope(), newest, limit).await?,
            };
            (last.into(), newest)
        }
    };
    let revoked = state.wakeups().credentials();
    let running = Running { state, caller, filter, wakeup, waiting, after, revoked, checked_at: Instant::now() };
    let events = stream::unfold(running, |mut running| async {
        let record = running.next().await?;
        let event = to_event(F::NAME, F::sequence(&record), &record)?;
        Some((Ok::<_, Infallible>(event), running))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("still here")).into_response())
}

fn to_event<T: Serialize>(name: &str, sequence: i64, record: &T) -> Option<Event> {
    match Event::default().event(name).id(sequence.to_string()).json_data(record) {
        Ok(event) => Some(event),
        Err(error) => {
            tracing::error!(%error, "a record of a stream could not be written as JSON");
            None
        }
    }
}

impl<F: Followed> Running<F> {
    /// The next record, or `None` when the stream has to end. Cancelling it loses nothing: what was
    /// read waits in `waiting`, and `after` moves only together with it.
    async fn next(&mut self) -> Option<F::Record> {
        loop {
            if let Some(record) = self.waiting.pop_front() {
                return Some(record);
            }
            if !self.wait().await {
                return None;
            }
            match self.filter.after(self.state.store(), self.caller.scope(), self.after).await {
                Ok(records) => {
                    if let Some(last) = records.last() {
                        // There may be more than one page.
                        self.wakeup.mark_changed();
                        self.after = self.after.max(F::sequence(last));
                    }
                    self.waiting.extend(records);
                }
                Err(error) => {
                    // The client opens the stream again after its last sequence.
                    let _ = HttpError::from(error).to_answer();
                    return None;
                }
            }
        }
    }

    /// Waits until there may be news; `false` when the stream has to end.
    async fn wait(&mut self) -> bool {
        loop {
            let revoked = self.revoked.has_changed().unwrap_or(true);
            if revoked || self.checked_at.elapsed() >= HEARTBEAT {
                self.revoked.mark_unchanged();
                self.checked_at = Instant::now();
                if !self.caller.still_good(&self.state).await {
                    return false;
                }
            }
            tokio::select! {
                // All are safe to cancel: nothing is taken out of anywhere.
                () = self.state.stopping().cancelled() => return false,
                _ = self.revoked.changed() => self.revoked.mark_changed(),
                changed = self.wakeup.changed() => {
                    if changed.is_err() || !self.revoked.has_changed().unwrap_or(false) {
                        return changed.is_ok();
                    }
                    self.wakeup.mark_changed();
                }
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    }
}
