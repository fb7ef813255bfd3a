//! What the control plane does by itself. No task takes input or keeps state: each is told "look
//! again" or looks on a timer, reads rows, and acts on what they say. Killing one at any point and
//! starting it again is therefore always right.

mod certificates;
mod disk;
mod fleet;
mod metrics;
pub mod presence;
mod retention;
pub mod rollout;

use crate::state::AppState;
use tokio::task::JoinHandle;

/// Starts all tasks; they end with the control plane.
pub fn spawn(state: &AppState) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(rollout::run(state.clone())),
        tokio::spawn(presence::run(state.clone())),
        tokio::spawn(retention::run(state.clone())),
        tokio::spawn(certificates::run(state.clone())),
        tokio::spawn(disk::run(state.clone())),
        tokio::spawn(fleet::run(state.clone())),
        tokio::spawn(metrics::run(state.clone())),
    ]
}
