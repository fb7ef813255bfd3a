//! Brings the fleet state up to date after something that it holds has changed.

use crate::fleet;
use crate::state::AppState;
use std::time::Duration;

/// Many changes come together, as when a server has reported; they are told together.
const TOGETHER: Duration = Duration::from_millis(10);
/// After a refresh that failed.
const AGAIN: Duration = Duration::from_secs(1);

pub async fn run(state: AppState) {
    loop {
        tokio::select! {
            biased;
            // Both are safe to cancel: that something changed is remembered.
            () = state.stopping().cancelled() => return,
            () = state.wakeups().fleet_changed() => {}
        }
        tokio::time::sleep(TOGETHER).await;
        if let Err(error) = fleet::refresh(&state).await {
            let _ = error.to_answer();
            state.wakeups().change_fleet();
            tokio::time::sleep(AGAIN).await;
        }
    }
}
