//! Writing events down and waking those who follow them.

use crate::error::Result;
use crate::state::AppState;
use api::events::Event;
use store::Scope;

/// Keeps events that tell of nothing else that is written: what is written is told in its own transaction.
pub async fn record(state: &AppState, scope: &Scope, events: Vec<Event>) -> Result<()> {
    state.store().event_append(scope, &events).await?;
    state.wakeups().events_stored();
    Ok(())
}
