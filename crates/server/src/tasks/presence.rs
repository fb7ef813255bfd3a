//! Notices servers that no longer report.

use crate::error::Result;
use crate::state::{AppState, event};
use api::cause::Cause;
use api::events::{EventKind, EventLevel};
use api::servers::wrong_clock;
use std::time::Duration;

/// Three missed reports, and a little for the way.
pub fn patience_ms(poll_interval_ms: u64) -> i64 {
    (3 * poll_interval_ms + poll_interval_ms / 4) as i64
}

pub async fn run(state: AppState) {
    let pause = Duration::from_millis((state.options().poll_interval_ms / 4).clamp(50, 2_500));
    loop {
        tokio::select! {
            biased;
            () = state.stopping().cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        if let Err(error) = look(&state).await {
            let _ = error.to_answer();
            state.pardon(state.steady.now_ms());
        }
    }
}

/// One look at every server.
pub async fn look(state: &AppState) -> Result<()> {
    let scope = state.system_scope("presence");
    let now_ms = state.steady.now_ms();
    let patience_ms = patience_ms(state.options().poll_interval_ms);
    // Asked of memory: with a thousand machines that all report, nothing is read.
    for (server_id, last_ms) in state.silent_since(now_ms - patience_ms) {
        let server = match state.store().server_get(&scope, &server_id).await {
            Ok(server) => server,
            Err(store::Error::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if !server.online {
            continue;
        }
        let seconds = (now_ms - last_ms) / 1000;
        let name = &server.name;
        let (message, cause) = match state.wrong_clocks.difference_ms(&server_id) {
            Some(difference_ms) => {
                let wrong = wrong_clock(difference_ms);
                let message = format!(
                    "the server {name} cannot report since {seconds} s: {wrong}, so its requests are refused; \
                     what runs on it goes on. Set its clock, or this control plane's, whichever is wrong (NTP)"
                );
                (message, wrong)
            }
            None => {
                let message = format!(
                    "the server {name} has not reported for {seconds} s; what runs on it may well go on running"
                );
                (message, "no report".to_owned())
            }
        };
        let mut offline =
            event(EventKind::ServerOffline, EventLevel::Warning, message, Cause::system("presence", cause));
        offline.server_id = Some(server.id.clone());
        if !state.store().server_online_set(&scope, &server.id, false, &[offline]).await? {
            continue;
        }
        state.wakeups().events_stored();
        if server.facts.mesh.is_some() {
            state.wakeups().change_fleet();
        }
        for instance in state.store().instance_list_on_server(&scope, &server.id).await? {
            state.wakeups().service_changed(&instance.service_id);
        }
    }
    Ok(())
}
