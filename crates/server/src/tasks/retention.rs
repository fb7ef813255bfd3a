//! Forgets what is past its time: nonces, sessions, old events, log lines, deployments, revisions.

use crate::clock;
use crate::error::HttpError;
use crate::state::AppState;
use std::time::Duration;
use store::Retention;

const PAUSE: Duration = Duration::from_secs(60);

pub async fn run(state: AppState) {
    let retention = Retention::default();
    loop {
        match state.store().retention_apply(&retention, clock::now_ms()).await {
            Ok(0) => {}
            Ok(rows) => tracing::debug!(rows, "forgot what was past its time"),
            Err(error) => drop(HttpError::from(error).to_answer()),
        }
        // Some jitter, so that it does not fall together with what else happens every minute.
        let jitter = Duration::from_millis(ambient::random_below(5_000));
        tokio::select! {
            biased;
            () = state.stopping().cancelled() => return,
            () = tokio::time::sleep(PAUSE + jitter) => {}
        }
    }
}
