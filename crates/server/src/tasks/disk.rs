//! Says when the control plane's disk fills up, and when there is room again.

use crate::error::Result;
use crate::state::{AppState, event};
use api::cause::Cause;
use api::events::{EventKind, EventLevel};
use std::time::Duration;

const PAUSE: Duration = Duration::from_secs(2);

pub async fn run(state: AppState) {
    // What was said last. After a start nothing was, so a disk that is still full is said again.
    let mut said = false;
    loop {
        let problem = state.disk.problem();
        if problem.is_some() != said {
            match say(&state, problem.as_deref()).await {
                Ok(()) => said = problem.is_some(),
                // On a disk that is really full not even this can be kept; it is tried again.
                Err(error) => drop(error.to_answer()),
            }
        }
        tokio::select! {
            biased;
            () = state.stopping().cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn say(state: &AppState, problem: Option<&str>) -> Result<()> {
    let scope = state.system_scope("disk");
    let (kind, level, message, cause) = match problem {
        Some(problem) => {
            tracing::error!(problem, "the control plane's disk is nearly full");
            let message = format!(
                "the control plane's disk is nearly full: {problem}; deployments and log lines are refused until \
                 some of it is freed, and what runs goes on"
            );
            (EventKind::DiskLow, EventLevel::Error, message, "only the reserve is left")
        }
        None => {
            let message = "the control plane's disk has room again; deployments and log lines are taken".to_owned();
            (EventKind::DiskFreed, EventLevel::Info, message, "space was freed")
        }
    };
    crate::events::record(state, &scope, vec![event(kind, level, message, Cause::system("disk", cause))]).await
}
