//! The one worker that moves deployments: reads a service's rows and its servers' reports, asks
//! [`plan::rollout`], writes the answer in one transaction, tells the servers, looks again.
//!
//! It is woken per service (a report, a request of a person) and by time (a deadline that the plan
//! named). A tick that was overtaken, because a person asked for something else in between, is
//! refused by the store as stale and simply done again on what is true now. A tick that fails is
//! repeated with backoff; other services do not wait for it.

use crate::error::Result;
use crate::rollouts::{self, Outcome};
use crate::state::AppState;
use api::ids::ServiceId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Ticks in a row for one service before others get their turn.
const TICKS_AT_ONCE: u32 = 12;
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);
/// Everything is looked at this often even if nobody asks: the floor under a lost wake-up.
const SWEEP: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Schedule {
    due: BTreeMap<ServiceId, Instant>,
    failures: BTreeMap<ServiceId, u32>,
}

pub async fn run(state: AppState) {
    let mut schedule = Schedule::default();
    let mut next_sweep = Instant::now();
    loop {
        if Instant::now() >= next_sweep {
            match sweep(&state).await {
                Ok(()) => next_sweep = Instant::now() + SWEEP,
                Err(error) => {
                    let _ = error.to_answer();
                    next_sweep = Instant::now() + BACKOFF;
                }
            }
        }
        let ready = schedule.take_ready(&state, Instant::now());
        for service_id in ready {
            if state.stopping().is_cancelled() {
                return;
            }
            schedule.look(&state, service_id).await;
        }
        let wake_at = schedule.due.values().min().copied().map_or(next_sweep, |due| due.min(next_sweep));
        tokio::select! {
            // All three are safe to cancel: what is to be looked at stays in the schedule and the wakeups.
            () = state.stopping().cancelled() => return,
            () = state.wakeups().services_changed() => {}
            () = tokio::time::sleep_until(wake_at.into()) => {}
        }
    }
}

/// Looks at everything: also a document that could not be refreshed when its rows changed.
async fn sweep(state: &AppState) -> Result<()> {
    let scope = state.system_scope("rollout");
    crate::desired::refresh_all(state, &scope).await?;
    super::look_at_all_services(state, &scope).await
}

impl Schedule {
    fn take_ready(&mut self, state: &AppState, now: Instant) -> BTreeSet<ServiceId> {
        let mut ready = state.wakeups().take_services();
        ready.extend(self.due.iter().filter(|(_, due)| **due <= now).map(|(id, _)| id.clone()));
        // One that failed just now waits for its turn, whoever asks.
        ready.retain(|id| !(self.failures.contains_key(id) && self.due.get(id).is_some_and(|due| *due > now)));
        self.due.retain(|id, _| !ready.contains(id));
        ready
    }

    async fn look(&mut self, state: &AppState, service_id: ServiceId) {
        match work(state, &service_id).await {
            Ok(wait) => {
                self.failures.remove(&service_id);
                if let Some(wait) = wait {
                    self.due.insert(service_id, Instant::now() + wait);
                }
            }
            Err(error) => {
                tracing::warn!(service = %service_id, "a rollout step failed and will be repeated");
                let _ = error.to_answer();
                let failures = self.failures.entry(service_id.clone()).or_default();
                *failures = failures.saturating_add(1);
                let backoff = (BACKOFF * 2u32.saturating_pow((*failures).min(8))).min(BACKOFF_LIMIT);
                let jitter = Duration::from_millis(fastrand::u64(0..100));
                self.due.insert(service_id, Instant::now() + backoff + jitter);
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
