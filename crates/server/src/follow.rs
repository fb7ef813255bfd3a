//! Streams of records as server-sent events: nothing lost, nothing doubled, and an end.
//!
//! A follower reads the store after the last sequence it sent, sends that, and waits to be woken.
//! The wake-up is subscribed to before the first read, so what is stored in between is seen. A
//! reader that is slow simply reads larger pieces later; there is no queue that could overflow.
//!
//! A sign of life goes out every 15 seconds, which is also when the caller's right to listen is
//! looked at again, as it is the moment that anybody's token or session ends: with it ends the stream.

use crate::auth::Caller;
use crate::error::Result;
use crate::state::AppState;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How many records one read takes from the store.
pub const PAGE: u32 = 500;
const HEARTBEAT: Duration = Duration::from_secs(15);

/// What a stream needs beside a way to read.
pub struct Follower<T, R> {
    pub state: AppState,
    pub caller: Caller,
    /// `event` or `log`.
    pub name: &'static str,
    pub wakeup: watch::Receiver<u64>,
    /// Sent before anything else, oldest first.
    pub first: Vec<T>,
    /// Records after this one are read.
    pub after: i64,
    pub sequence_of: fn(&T) -> i64,
    /// Reads at most [`PAGE`] records after a sequence, and says up to which sequence it looked.
    pub read: R,
}

struct Running<T, R> {
    follower: Follower<T, R>,
    waiting: VecDeque<T>,
    revoked: watch::Receiver<u64>,
    checked_at: Instant,
}

/// Answers with the stream.
pub fn answer<T, R, F>(mut follower: Follower<T, R>) -> Response
where
    T: Serialize + Send + 'static,
    R: FnMut(i64) -> F + Send + 'static,
    F: Future<Output = Result<(Vec<T>, i64)>> + Send + 'static,
{
    follower.wakeup.mark_changed();
    let waiting = std::mem::take(&mut follower.first).into();
    let revoked = follower.state.wakeups().credentials();
    let running = Running { follower, waiting, revoked, checked_at: Instant::now() };
    let events = stream::unfold(running, |mut running| async {
        let record = running.next().await?;
        let event = to_event(running.follower.name, (running.follower.sequence_of)(&record), &record)?;
        Some((Ok::<_, Infallible>(event), running))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("still here")).into_response()
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

impl<T, R, F> Running<T, R>
where
    R: FnMut(i64) -> F,
    F: Future<Output = Result<(Vec<T>, i64)>>,
{
    /// The next record, or `None` when the stream has to end. Cancelling it loses nothing: what was
    /// read waits in `waiting`, and `after` moves only together with it.
    async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(record) = self.waiting.pop_front() {
                return Some(record);
            }
            if !self.wait().await {
                return None;
            }
            match (self.follower.read)(self.follower.after).await {
                Ok((records, looked_up_to)) => {
                    if looked_up_to > self.follower.after {
                        // There may be more than one page.
                        self.follower.wakeup.mark_changed();
                    }
                    self.follower.after = self.follower.after.max(looked_up_to);
                    self.waiting.extend(records);
                }
                Err(error) => {
                    // The client opens the stream again after its last sequence.
                    let _ = error.to_answer();
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
                if !self.follower.caller.still_good(&self.follower.state).await {
                    return false;
                }
            }
            tokio::select! {
                // All are safe to cancel: nothing is taken out of anywhere.
                () = self.follower.state.stopping().cancelled() => return false,
                _ = self.revoked.changed() => self.revoked.mark_changed(),
                changed = self.follower.wakeup.changed() => {
                    if changed.is_err() || !self.revoked.has_changed().unwrap_or(false) {
                        return changed.is_ok();
                    }
                    self.follower.wakeup.mark_changed();
                }
                () = tokio::time::sleep(HEARTBEAT) => {}
            }
        }
    }
}
