//! Removing stacks.

use super::deploy::begun_events;
use crate::auth::Caller;
use crate::error::Result;
use crate::state::{AppState, event, fresh};
use crate::views::find_stack;
use api::events::{EventKind, EventLevel};
use api::ids::DeploymentId;
use store::ServiceRemoval;

/// Begins to stop all services of a stack; they and it are forgotten once nothing of them runs.
pub async fn remove(state: &AppState, caller: &Caller, key: &str) -> Result<()> {
    let _deciding = state.deciding.lock().await;
    let scope = caller.scope();
    let stack = find_stack(state, scope, key).await?;
    let services = state.store().service_list(scope, Some(&stack.id)).await?;
    let removals: Vec<ServiceRemoval> = services
        .iter()
        .filter(|service| !service.removing)
        .map(|service| ServiceRemoval { service_id: service.id.clone(), deployment_id: fresh(DeploymentId::from_uuid) })
        .collect();
    let cause = caller.cause("remove the stack");
    let begun = state.store().stack_remove(scope, &stack.id, &removals, &cause, state.steady.now_ms()).await?;
    let message = format!("{} is being removed with its {}", stack.name, api::words::count_of(&services, "service"));
    let mut removed = event(EventKind::StackChanged, EventLevel::Warning, message, cause);
    removed.stack_id = Some(stack.id.clone());
    let mut events = vec![removed];
    for deployment in &begun {
        events.extend(begun_events(state, scope, deployment).await?);
    }
    crate::events::record(state, scope, events).await?;
    // A stack without services goes at once.
    state.store().stack_delete_if_empty(scope, &stack.id).await?;
    crate::desired::refresh_all(state, scope).await?;
    for service in services {
        state.wakeups().service_changed(&service.id);
    }
    Ok(())
}
