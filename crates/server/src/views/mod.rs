//! What people are shown: rows and reports put together, with one word for how each thing is.
//!
//! Reading is snapshot-like but not a transaction: a view may be a step behind by the time it
//! arrives, like every view of something that moves. Nothing here writes.

mod conditions;
pub mod domains;
mod pages;
mod rows;

pub use pages::{ServicePage, ServiceQuery, Tally, service_page, tally};

use crate::error::{HttpError, Result};
use crate::state::AppState;
use api::deployments::Deployment;
use api::ids::{DeploymentId, ServerId, ServiceId, StackId};
use api::name::Name;
use api::plans::Difference;
use api::secret::Secret;
use api::servers::{ServerCondition, ServerView};
use api::services::{Revision, ServiceView};
use api::stacks::StackView;
use rows::Rows;
use std::collections::BTreeSet;
use std::str::FromStr;
use store::{Scope, Server, Service, Stack};

/// How many deployments of a service are looked at for what ran once: all that are kept.
pub const DEPLOYMENTS_KEPT: u32 = 200;

/// All stacks, by name.
pub async fn stacks(state: &AppState, scope: &Scope) -> Result<Vec<StackView>> {
    let rows = Rows::all(state, scope).await?;
    Ok(rows.stacks.iter().map(|stack| rows.stack_view(stack)).collect())
}

/// The stacks behind a name, in the order of names; `limit` at most.
pub async fn stack_page(state: &AppState, scope: &Scope, after: &str, limit: u32) -> Result<Vec<StackView>> {
    let stacks = state.store().stack_page(scope, after, limit).await?;
    let mut services = Vec::new();
    for stack in &stacks {
        services.extend(state.store().service_list(scope, Some(&stack.id)).await?);
    }
    let rows = Rows::of(state, scope, stacks, services).await?;
    Ok(rows.stacks.iter().map(|stack| rows.stack_view(stack)).collect())
}

/// One stack, by name or id.
pub async fn stack(state: &AppState, scope: &Scope, key: &str) -> Result<StackView> {
    let stack = find_stack(state, scope, key).await?;
    let services = state.store().service_list(scope, Some(&stack.id)).await?;
    Ok(Rows::of(state, scope, vec![stack.clone()], services).await?.stack_view(&stack))
}

/// The manifest of a stack as it was sent, values of variables included: to plan it again, never to
/// be shown.
pub async fn whole_manifest(state: &AppState, scope: &Scope, key: &str) -> Result<String> {
    Ok(find_stack(state, scope, key).await?.manifest)
}

/// All services, by name.
pub async fn services(state: &AppState, scope: &Scope) -> Result<Vec<ServiceView>> {
    let rows = Rows::all(state, scope).await?;
    Ok(rows.services.iter().filter_map(|service| rows.service_view(service)).collect())
}

/// One service, by names or ids.
pub async fn service(state: &AppState, scope: &Scope, stack: &str, service: &str) -> Result<ServiceView> {
    let (stack, found) = find_service(state, scope, stack, service).await?;
    let rows = Rows::of(state, scope, vec![stack], vec![found.clone()]).await?;
    rows.service_view(&found).ok_or_else(|| HttpError::not_found("service", service))
}

/// Newest first.
pub async fn deployments(
    state: &AppState,
    scope: &Scope,
    stack: &str,
    service: &str,
    limit: u32,
) -> Result<Vec<Deployment>> {
    let (_, found) = find_service(state, scope, stack, service).await?;
    let deployments = state.store().deployment_list(scope, &found.id, limit).await?;
    Ok(deployments.into_iter().map(|deployment| state.waits.shown(deployment)).collect())
}

/// Numbers of the revisions that a release of was healthy once, as far as its deployments are kept. To go back to
/// another one is a deployment that nobody knows the end of.
pub async fn revisions_that_ran(state: &AppState, scope: &Scope, id: &ServiceId) -> Result<BTreeSet<u64>> {
    Ok(numbers_that_ran(&state.store().deployment_list(scope, id, DEPLOYMENTS_KEPT).await?))
}

/// The same, of [`DEPLOYMENTS_KEPT`] deployments that are there already.
pub fn numbers_that_ran(history: &[Deployment]) -> BTreeSet<u64> {
    history.iter().filter(|deployment| deployment.ran()).map(|deployment| deployment.revision_number).collect()
}

/// Newest first; values of environment variables are left out.
pub async fn revisions(
    state: &AppState,
    scope: &Scope,
    stack: &str,
    service: &str,
    limit: u32,
) -> Result<Vec<Revision>> {
    let (_, found) = find_service(state, scope, stack, service).await?;
    let mut revisions = state.store().revision_list(scope, &found.id, limit).await?;
    for revision in &mut revisions {
        revision.spec.env.values_mut().for_each(|value| *value = Secret::default());
    }
    Ok(revisions)
}

/// What differs between two revisions of a service, by their numbers. Of variables only that they differ.
pub async fn revision_differences(
    state: &AppState,
    scope: &Scope,
    stack: &str,
    service: &str,
    from: u64,
    to: u64,
) -> Result<Vec<Difference>> {
    let (_, found) = find_service(state, scope, stack, service).await?;
    let read = async |number: u64| {
        let revision = state.store().revision_by_number(scope, &found.id, number).await?;
        revision.ok_or_else(|| HttpError::not_found("revision", &number.to_string()))
    };
    let (from, to) = (read(from).await?, read(to).await?);
    Ok(plan::stack::between((&from.spec, &from.source_version), (&to.spec, &to.source_version)))
}

pub async fn deployment(state: &AppState, scope: &Scope, id: &str) -> Result<Deployment> {
    let parsed: DeploymentId = parse("deployment", id)?;
    Ok(state.waits.shown(state.store().deployment_get(scope, &parsed).await?))
}

/// All servers, by number.
pub async fn servers(state: &AppState, scope: &Scope) -> Result<Vec<ServerView>> {
    server_views(state, scope, state.store().server_list(scope).await?).await
}

/// The servers behind the one of this name, in the order of numbers; `limit` at most.
pub async fn server_page(state: &AppState, scope: &Scope, after: Option<&str>, limit: u32) -> Result<Vec<ServerView>> {
    let after = match after {
        Some(name) => find_server(state, scope, name).await?.index,
        None => 0,
    };
    server_views(state, scope, state.store().server_page(scope, after, limit).await?).await
}

async fn server_views(state: &AppState, scope: &Scope, servers: Vec<Server>) -> Result<Vec<ServerView>> {
    let mut views = Vec::with_capacity(servers.len());
    for server in servers {
        views.push(server_view(state, scope, server).await?);
    }
    Ok(views)
}

/// Some servers of very many, with how many there are.
pub struct SomeServers {
    pub shown: Vec<ServerView>,
    pub total: usize,
    /// How many of all do not report.
    pub offline: usize,
}

/// At most `limit` of the servers that are wanted: first those that do not report, then those that matter to the reader, then by number.
pub async fn servers_first(
    state: &AppState,
    scope: &Scope,
    limit: usize,
    wanted: impl Fn(&Server) -> bool,
    matters: impl Fn(&ServerId) -> bool,
) -> Result<SomeServers> {
    let mut servers = state.store().server_list(scope).await?;
    servers.retain(|server| wanted(server));
    let (total, offline) = (servers.len(), servers.iter().filter(|server| !server.online).count());
    servers.sort_by_key(|server| (server.online, !matters(&server.id), server.index));
    let mut shown = Vec::new();
    for server in servers.into_iter().take(limit) {
        shown.push(server_view(state, scope, server).await?);
    }
    Ok(SomeServers { shown, total, offline })
}

/// One server, by name or id.
pub async fn server(state: &AppState, scope: &Scope, key: &str) -> Result<ServerView> {
    let server = find_server(state, scope, key).await?;
    server_view(state, scope, server).await
}

async fn server_view(state: &AppState, scope: &Scope, server: Server) -> Result<ServerView> {
    let heard = state.heard(&server.id);
    let head = state.store().desired_state_head(scope, &server.id).await?;
    let observed = heard.as_ref().and_then(|heard| heard.observed.as_deref().cloned());
    // What was heard before this start is only as new as the store knew.
    let reported_at_ms = observed.as_ref().and(heard.as_ref()).map(|heard| heard.reported_at_ms);
    let last_seen_at_ms = reported_at_ms.max(server.last_seen_at_ms);
    let desired_generation = head.map_or(0, |(generation, _)| generation);
    let recovery = crate::recovery::view(state, scope, &server.id, desired_generation).await?;
    Ok(ServerView {
        clock_difference_ms: state.wrong_clocks.difference_ms(&server.id),
        id: server.id,
        name: server.name,
        index: server.index,
        condition: if server.online { ServerCondition::Online } else { ServerCondition::Offline },
        security_mode: server.security_mode,
        facts: server.facts,
        agent_version: server.agent_version,
        registered_at_ms: server.registered_at_ms,
        last_seen_at_ms,
        desired_generation,
        observed,
        recovery,
    })
}

/// An id given by the client; one that cannot be an id is as one that is not there.
pub fn parse<T: FromStr>(noun: &str, key: &str) -> Result<T> {
    key.parse().map_err(|_| HttpError::not_found(noun, key))
}

pub async fn find_stack(state: &AppState, scope: &Scope, key: &str) -> Result<Stack> {
    if let Ok(id) = key.parse::<StackId>() {
        return Ok(state.store().stack_get(scope, &id).await?);
    }
    let name: Name = parse("stack", key)?;
    state.store().stack_find(scope, &name).await?.ok_or_else(|| HttpError::not_found("stack", key))
}

pub async fn find_service(state: &AppState, scope: &Scope, stack: &str, service: &str) -> Result<(Stack, Service)> {
    let stack = find_stack(state, scope, stack).await?;
    let services = state.store().service_list(scope, Some(&stack.id)).await?;
    let id = service.parse::<ServiceId>().ok();
    let found = services.into_iter().find(|s| s.name.as_str() == service || Some(&s.id) == id.as_ref());
    let missing = || {
        HttpError::not_found("service", service).help(format!("`mainstay status {}` lists its services", stack.name))
    };
    found.map(|found| (stack.clone(), found)).ok_or_else(missing)
}

/// A service by name or id, of one stack or of any; a name that several stacks have is refused.
pub async fn find_service_anywhere(state: &AppState, scope: &Scope, stack: Option<&str>, key: &str) -> Result<Service> {
    if let Some(stack) = stack {
        return Ok(find_service(state, scope, stack, key).await?.1);
    }
    let id = key.parse::<ServiceId>().ok();
    let services = state.store().service_list(scope, None).await?;
    let mut found = services.into_iter().filter(|s| s.name.as_str() == key || Some(&s.id) == id.as_ref());
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            Err(HttpError::invalid("service", format!("several stacks have a service `{key}`"))
                .help("name the stack, too"))
        }
        (None, _) => Err(HttpError::not_found("service", key)),
    }
}

pub async fn find_server(state: &AppState, scope: &Scope, key: &str) -> Result<Server> {
    let id = key.parse::<ServerId>().ok();
    let servers = state.store().server_list(scope).await?;
    let found = servers.into_iter().find(|s| s.name.as_str() == key || Some(&s.id) == id.as_ref());
    found.ok_or_else(|| HttpError::not_found("server", key))
}
