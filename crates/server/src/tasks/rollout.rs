//! The worker that moves deployments: reads a service's rows and its servers' reports, asks
//! [`plan::rollout`], writes the answer in one transaction, tells the servers, looks again.
//!
//! It is woken per service (a report, a request of a person) and by time (a deadline that the plan
//! named); [`schedule`] says whose turn it is. Several services are looked at side by side: most of a look
//! is waiting for the database, and with a thousand machines nobody's deployment is to wait for all of
//! that. A tick that was overtaken, because a person asked for something else in between, is
//! refused by the store as stale and simply done again on what is true now. A tick that fails is
//! repeated with backoff; other services do not wait for it.
//!
//! Deliberately absent: a task per look. All are polled by this one, so that what moves a fleet is one
//! thing to stop, and a simulation can hold it still between two of its steps.

mod schedule;

use crate::error::{HttpError, Result};
use crate::rollouts::{self, Outcome};
use crate::state::AppState;
use api::ids::ServiceId;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use schedule::Schedule;
use std::time::Duration;
use store::Service;
use tokio::time::Instant;

/// Ticks in a row for one service before others get their turn.
const TICKS_AT_ONCE: u32 = 12;
/// After which somebody whom that was not enough for is looked at again.
const TURN: Duration = Duration::from_millis(1);
/// Everything is looked at this often even if nobody asks: the floor under a lost wake-up.
const SWEEP: Duration = Duration::from_secs(30);
/// When that could not be read.
const SWEEP_AGAIN: Duration = Duration::from_millis(200);

pub struct Worker {
    schedule: Schedule,
    next_sweep: Instant,
    /// Looks at services, and one read of everything beside them.
    begun: FuturesUnordered<BoxFuture<'static, Done>>,
    reads_everything: bool,
}

enum Done {
    Looked { service_id: ServiceId, wait: Result<Option<Duration>> },
    Refreshed(Result<()>),
    Listed(store::Result<Vec<Service>>),
}

pub async fn run(state: AppState) {
    let mut worker = Worker::new(Instant::now());
    while !state.stopping().is_cancelled() {
        worker.begin(&state, Instant::now());
        let wake_at = worker.wake_at();
        tokio::select! {
            biased;
            // All are safe to cancel: what is to be looked at stays in the schedule and the wakeups.
            () = state.stopping().cancelled() => {}
            Some(done) = worker.begun.next() => worker.note(&state, done, Instant::now()),
            () = state.wakeups().services_changed() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }
    // What has begun comes to its end.
    while worker.begun.next().await.is_some() {}
}

impl Worker {
    pub fn new(now: Instant) -> Self {
        Self { schedule: Schedule::default(), next_sweep: now, begun: FuturesUnordered::new(), reads_everything: false }
    }

    /// Looks at everybody who waits for it and answers when to come back at the latest: for a simulation,
    /// whose time stands still meanwhile.
    pub async fn round(&mut self, state: &AppState, now: Instant) -> Instant {
        loop {
            self.begin(state, now);
            match self.begun.next().await {
                Some(done) => self.note(state, done, now),
                None => return self.wake_at(),
            }
        }
    }

    fn begin(&mut self, state: &AppState, now: Instant) {
        for service_id in state.wakeups().take_services() {
            self.schedule.has_news(service_id);
        }
        if !self.reads_everything {
            self.read_everything(state, now);
        }
        while let Some(service_id) = self.schedule.next(now) {
            let state = state.clone();
            self.begun.push(Box::pin(async move {
                let wait = look(&state, &service_id).await;
                Done::Looked { service_id, wait }
            }));
        }
    }

    /// If it is time for that.
    fn read_everything(&mut self, state: &AppState, now: Instant) {
        let (state, scope) = (state.clone(), state.system_scope("rollout"));
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP;
            // Also a document that could not be refreshed when its rows changed.
            let refresh = async move { Done::Refreshed(crate::desired::refresh_all(&state, &scope).await) };
            self.begun.push(Box::pin(refresh));
            self.reads_everything = true;
        } else if self.schedule.is_swept() && state.wakeups().take_all_services() {
            // Begun again only when it is through: a thousand servers that come back one after the other
            // must not have the first services looked at a thousand times and the last ones never.
            let list = async move { Done::Listed(state.store().service_list(&scope, None).await) };
            self.begun.push(Box::pin(list));
            self.reads_everything = true;
        }
    }

    fn note(&mut self, state: &AppState, done: Done, now: Instant) {
        match done {
            Done::Looked { service_id, wait: Ok(wait) } => self.schedule.looked(service_id, wait, now),
            Done::Looked { service_id, wait: Err(error) } => {
                tracing::warn!(service = %service_id, "a rollout step failed and will be repeated");
                let _ = error.to_answer();
                self.schedule.failed(service_id, now, Duration::from_millis(ambient::random_below(100)));
            }
            Done::Refreshed(refreshed) => {
                self.reads_everything = false;
                match refreshed {
                    Ok(()) => state.wakeups().all_services_changed(),
                    Err(error) => {
                        let _ = error.to_answer();
                        self.next_sweep = now + SWEEP_AGAIN;
                    }
                }
            }
            Done::Listed(listed) => {
                self.reads_everything = false;
                match listed {
                    Ok(services) => self.schedule.sweep(services.into_iter().map(|service| service.id)),
                    // The next sweep is never far.
                    Err(error) => drop(HttpError::from(error).to_answer()),
                }
            }
        }
    }

    fn wake_at(&self) -> Instant {
        self.schedule.wake_at().map_or(self.next_sweep, |due| due.min(self.next_sweep))
    }
}

/// Ticks until nothing changes any more; answers how long until time alone changes the answer.
async fn look(state: &AppState, service_id: &ServiceId) -> Result<Option<Duration>> {
    for _ in 0..TICKS_AT_ONCE {
        match rollouts::tick(state, service_id).await? {
            Outcome::Changed => {}
            Outcome::Quiet { wait } => return Ok(wait),
            Outcome::Gone => return Ok(None),
        }
    }
    Ok(Some(TURN))
}
