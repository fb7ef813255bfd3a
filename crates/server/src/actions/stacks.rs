//! Removing stacks.

use super::deploy::begun_events;
use crate::auth::Caller;
use crate::error::Result;
use crate::state::{AppState, event, fresh};
use crate::views::find_stack;
use api::events::{EventKind, EventLevel};
use api::ids::DeploymentId;
use store::{ServiceRemoval, StackRemove};

/// Begins to stop all services of a stack; they and it are forgotten once nothing of them runs.
pub async fn remove(state: &AppState, caller: &Caller, key: &str) -> Result<()> {
    let _deciding = state.deciding.write().await;
    let scope = caller.scope();
    let stack = find_stack(state, scope, key).await?;
    let services = state.store().service_list(scope, Some(&stack.id)).await?;
    let removals: Vec<ServiceRemoval> = services
        .iter()
        .filter(|service| !service.removing)
        .map(|service| ServiceRemoval { service_id: service.id.clone(), deployment_id: fresh(DeploymentId::from_uuid) })
        .collect();
    let cause = caller.cause("remove the stack");
    let message = format!("{} is being removed with its {}", stack.name, api::words::count_of(&services, "service"));
    let mut removed = event(EventKind::StackChanged, EventLevel::Warning, message, cause.clone());
    removed.stack_id = Some(stack.id.clone());
    let remove = StackRemove { stack_id: stack.id, removals, cause, tell: begun_events, events: vec![removed] };
    state.store().stack_remove(scope, &remove, state.steady.now_ms()).await?;
    state.wakeups().events_stored();
    crate::desired::refresh_stack(state, scope, &services).await?;
    for service in services {
        state.wakeups().service_changed(&service.id);
    }
    Ok(())
}
