//! Writes what was used: a little now and then, and everything at the end.

use crate::clock;
use crate::error::HttpError;
use crate::metrics;
use crate::state::AppState;
use std::time::Duration;

const PAUSE: Duration = Duration::from_secs(10);

pub async fn run(state: AppState) {
    loop {
        let stopping = tokio::select! {
            biased;
            () = state.stopping().cancelled() => true,
            () = tokio::time::sleep(PAUSE) => false,
        };
        // The last room on a disk is for what matters more; half an hour of points waits meanwhile.
        if state.disk.problem().is_none() {
            match metrics::write(&state, clock::now_ms(), stopping).await {
                Ok(0) => {}
                Ok(subjects) => tracing::debug!(subjects, "kept what services and servers used"),
                Err(error) => drop(HttpError::to_answer(&error)),
            }
        }
        if stopping {
            return;
        }
    }
}
