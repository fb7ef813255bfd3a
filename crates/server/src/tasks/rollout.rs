//! The one worker that moves deployments: reads a service's rows and its servers' reports, asks
//! [`plan::rollout`], writes the answer in one transaction, tells the servers, looks again.
//!
//! It is woken per service (a report, a request of a person) and by time (a deadline that the plan
//! named). Looking at everything, because a server came or as the floor under a lost wake-up, happens a
//! few services at a time between those, so that with a thousand of them nobody's deployment waits. A tick that was overtaken, because a person asked for something else in between, is
//! refused by the store as stale and simply done again on what is true now. A tick that fails is
//! repeated with backoff; other services do not wait for it.

use crate::error::Result;
use crate::rollouts::{self, Outcome};
use crate::state::AppState;
use api::ids::ServiceId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Ticks in a row for one service before others get their turn.
const TICKS_AT_ONCE: u32 = 12;
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);
/// Everything is looked at this often even if nobody asks: the floor under a lost wake-up.
const SWEEP: Duration = Duration::from_secs(30);

/// Services of a sweep that are looked at before those with news get their turn again.
const SWEPT_AT_ONCE: usize = 4;

/// When to look at which service again.
pub struct Schedule {
    /// Everything, still to be looked at.
    sweep: VecDeque<ServiceId>,
    next_sweep: Instant,
    due: BTreeMap<ServiceId, Instant>,
    failures: BTreeMap<ServiceId, u32>,
}

pub async fn run(state: AppState) {
    let mut schedule = Schedule::new(Instant::now());
    while !state.stopping().is_cancelled() {
        let wake_at = schedule.round(&state, Instant::now()).await;
        tokio::select! {
            biased;
            // All three are safe to cancel: what is to be looked at stays in the schedule and the wakeups.
            () = state.stopping().cancelled() => return,
            () = state.wakeups().services_changed() => {}
            () = tokio::time::sleep_until(wake_at) => {}
        }
    }
}

impl Schedule {
    pub fn new(now: Instant) -> Self {
        Self { sweep: VecDeque::new(), next_sweep: now, due: BTreeMap::new(), failures: BTreeMap::new() }
    }

    /// Looks at what has news or whose time has come, and at a part of everything if a sweep is due;
    /// answers when to come back at the latest.
    pub async fn round(&mut self, state: &AppState, now: Instant) -> Instant {
        if now >= self.next_sweep {
            // Also a document that could not be refreshed when its rows changed.
            match crate::desired::refresh_all(state, &state.system_scope("rollout")).await {
                Ok(()) => {
                    self.next_sweep = now + SWEEP;
                    state.wakeups().all_services_changed();
                }
                Err(error) => {
                    let _ = error.to_answer();
                    self.next_sweep = now + BACKOFF;
                }
            }
        }
        for service_id in self.take_ready(state, now) {
            if state.stopping().is_cancelled() {
                return now;
            }
            self.look(state, service_id, now).await;
        }
        if self.sweep(state, now).await {
            return now;
        }
        self.due.values().min().copied().map_or(self.next_sweep, |due| due.min(self.next_sweep))
    }

    fn take_ready(&mut self, state: &AppState, now: Instant) -> BTreeSet<ServiceId> {
        let mut ready = state.wakeups().take_services();
        ready.extend(self.due.iter().filter(|(_, due)| **due <= now).map(|(id, _)| id.clone()));
        // One that failed just now waits for its turn, whoever asks.
        ready.retain(|id| !(self.failures.contains_key(id) && self.due.get(id).is_some_and(|due| *due > now)));
        self.due.retain(|id, _| !ready.contains(id));
        ready
    }

    /// Looks at the next few of everything; answers whether there is more, and stops with the control plane.
    async fn sweep(&mut self, state: &AppState, now: Instant) -> bool {
        // Begun again only when it is through: a thousand servers that come back one after the other must
        // not have the first services looked at a thousand times and the last ones never.
        if self.sweep.is_empty() && state.wakeups().take_all_services() {
            match state.store().service_list(&state.system_scope("rollout"), None).await {
                Ok(services) => self.sweep.extend(services.into_iter().map(|service| service.id)),
                // The next sweep is never far.
                Err(error) => drop(crate::error::HttpError::from(error).to_answer()),
            }
        }
        for _ in 0..SWEPT_AT_ONCE {
            let Some(service_id) = self.sweep.pop_front() else { return false };
            let waits_after_failure = self.failures.contains_key(&service_id);
            if !waits_after_failure && !state.stopping().is_cancelled() {
                self.look(state, service_id, now).await;
            }
        }
        !self.sweep.is_empty() && !state.stopping().is_cancelled()
    }

    async fn look(&mut self, state: &AppState, service_id: ServiceId, now: Instant) {
        match work(state, &service_id).await {
            Ok(wait) => {
                self.failures.remove(&service_id);
                if let Some(wait) = wait {
                    self.due.insert(service_id, now + wait);
                }
            }
            Err(error) => {
                tracing::warn!(service = %service_id, "a rollout step failed and will be repeated");
                let _ = error.to_answer();
                let failures = self.failures.entry(service_id.clone()).or_default();
                *failures = failures.saturating_add(1);
                let backoff = (BACKOFF * 2u32.saturating_pow((*failures).min(8))).min(BACKOFF_LIMIT);
                let jitter = Duration::from_millis(ambient::random_below(100));
                self.due.insert(service_id, now + backoff + jitter);
            }
        }
    }
}

/// Ticks until nothing changes any more; answers how long until time alone changes the answer.
async fn work(state: &AppState, service_id: &ServiceId) -> Result<Option<Duration>> {
    for _ in 0..TICKS_AT_ONCE {
        match rollouts::tick(state, service_id).await? {
            Outcome::Changed => {}
            Outcome::Quiet { wait } => return Ok(wait),
            Outcome::Gone => return Ok(None),
        }
    }
    Ok(Some(Duration::ZERO))
}
