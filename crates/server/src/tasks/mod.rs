//! What the control plane does by itself. No task takes input or keeps state: each is told "look
//! again" or looks on a timer, reads rows, and acts on what they say. Killing one at any point and
//! starting it again is therefore always right.

mod presence;
mod retention;
mod rollout;

use crate::error::Result;
use crate::state::AppState;
use store::Scope;
use tokio::task::JoinHandle;

/// Starts all tasks; they end with the control plane.
pub fn spawn(state: &AppState) -> Vec<JoinHandle<()>> {
    vec![
        tokio::spawn(rollout::run(state.clone())),
        tokio::spawn(presence::run(state.clone())),
        tokio::spawn(retention::run(state.clone())),
    ]
}

/// Has the rollout look at every service: after a start, and when a server came or went.
pub async fn look_at_all_services(state: &AppState, scope: &Scope) -> Result<()> {
    for service in state.store().service_list(scope, None).await? {
        state.wakeups().service_changed(&service.id);
    }
    Ok(())
}
