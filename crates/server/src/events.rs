//! Writing events down and waking those who follow them.

use crate::error::Result;
use crate::state::AppState;
use api::events::Event;
use api::ids::EventId;
use store::Scope;

/// Keeps events; those that are known already are not kept twice. Answers all that are kept now.
pub async fn append(state: &AppState, scope: &Scope, events: &[Event]) -> Result<Vec<EventId>> {
    let kept = state.store().event_append(scope, events).await?;
    if !events.is_empty() {
        state.wakeups().events_stored();
    }
    Ok(kept)
}

/// Keeps events of our own making.
pub async fn record(state: &AppState, scope: &Scope, events: Vec<Event>) -> Result<()> {
    append(state, scope, &events).await.map(|_| ())
}
