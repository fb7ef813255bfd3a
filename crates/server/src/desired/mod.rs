//! From rows to the signed document that a server waits for.
//!
//! Whoever changed rows asks for a refresh of the servers that they concern. A refresh puts the
//! document together anew and compares its digest with the kept one: only a difference makes a new
//! generation, so refreshing too often costs a read and never a pointless wake-up. Generations rise
//! by one under the store's own check; a refresh that was overtaken simply looks again.

pub mod document;
mod rows;
mod turns;

pub use turns::Turns;

use crate::certificates;
use crate::clock;
use crate::error::{HttpError, Result};
use crate::recovery;
use crate::state::AppState;
use api::desired::{DesiredState, SignedDesiredState};
use api::ids::{ServerId, ServiceId, StackId};
use rows::Rows;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::{DesiredRow, Error, Instance, Project, Scope, ServerBinding, Service, Stack};
use tokio::time::Instant;

/// How often an overtaken refresh looks again.
const TRIES: u32 = 8;

/// Up to so many servers their own rows are read; above, it is cheaper to read all.
const FEW: usize = 8;
/// Documents put together before others get their turn.
const DOCUMENTS_AT_ONCE: usize = 64;

/// Brings the document of one server up to date.
pub async fn refresh(state: &AppState, scope: &Scope, server_id: &ServerId) -> Result<()> {
    refresh_some(state, scope, BTreeSet::from([server_id.clone()])).await
}

/// Brings the documents of all servers up to date.
pub async fn refresh_all(state: &AppState, scope: &Scope) -> Result<()> {
    let mut overtaken = None;
    for _ in 0..TRIES {
        // The heads first: rows that change after that lead to a higher generation than ours, and
        // ours is refused.
        let heads = state.store().desired_state_heads(scope).await?;
        let rows = Rows::all(state, scope).await?;
        let ids = overtaken.take().unwrap_or_else(|| rows.servers.keys().cloned().collect::<BTreeSet<ServerId>>());
        let left = refresh_from(state, scope, &rows, &heads, &ids).await?;
        if left.is_empty() {
            return Ok(());
        }
        overtaken = Some(left);
    }
    Err(given_up(&overtaken.unwrap_or_default()))
}

/// Brings the documents up to date that a change of one service concerns, given as it was before with
/// its instances: those of the servers that had or have one. Only a service that has none, now or before,
/// concerns every server, because each answers for its routes then.
pub async fn refresh_service(state: &AppState, scope: &Scope, before: &Service, had: &[Instance]) -> Result<()> {
    let idle = |service: &Service, instances: &[Instance]| {
        let served = service.current_revision_id.clone();
        served.filter(|_| instances.is_empty() && !service.removing)
    };
    let has = state.store().instance_list_of_service(scope, &before.id).await?;
    let now = match state.store().service_get(scope, &before.id).await {
        Ok(service) => idle(&service, &has),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    if idle(before, had) != now {
        return refresh_all(state, scope).await;
    }
    refresh_some(state, scope, had.iter().chain(&has).map(|instance| instance.server_id.clone()).collect()).await
}

/// Brings the documents up to date that a change of a stack concerns: those of the servers that have an
/// instance of it. The services are those that it has now. Also one that stays as it is carries the stack's
/// new version, and one without instances is named on every server, or was until now.
pub async fn refresh_stack(state: &AppState, scope: &Scope, services: &[Service]) -> Result<()> {
    let instances = state.store().instance_list_of_services(scope, services.iter().map(|service| &service.id)).await?;
    let running: BTreeSet<&ServiceId> = instances.iter().map(|instance| &instance.service_id).collect();
    let is_everywhere = |service: &Service| service.current_revision_id.is_some() && !running.contains(&service.id);
    if services.iter().any(is_everywhere) {
        return refresh_all(state, scope).await;
    }
    refresh_some(state, scope, instances.iter().map(|instance| instance.server_id.clone()).collect()).await
}

async fn refresh_some(state: &AppState, scope: &Scope, ids: BTreeSet<ServerId>) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    if ids.len() > FEW {
        return refresh_all(state, scope).await;
    }
    let _turn = state.refreshing.take(&ids).await;
    let mut overtaken = ids;
    for _ in 0..TRIES {
        let heads = state.store().desired_state_heads_of(scope, &overtaken).await?;
        let rows = Rows::of(state, scope, &overtaken).await?;
        overtaken = refresh_from(state, scope, &rows, &heads, &overtaken).await?;
        if overtaken.is_empty() {
            return Ok(());
        }
    }
    Err(given_up(&overtaken))
}

fn given_up(overtaken: &BTreeSet<ServerId>) -> HttpError {
    HttpError::internal(anyhow::anyhow!("desired states were overtaken {TRIES} times in a row: {overtaken:?}"))
}

/// Answers the servers whose document somebody else wrote at the same time.
async fn refresh_from(
    state: &AppState,
    scope: &Scope,
    rows: &Rows,
    heads: &BTreeMap<ServerId, (u64, String)>,
    ids: &BTreeSet<ServerId>,
) -> Result<BTreeSet<ServerId>> {
    let mut overtaken = BTreeSet::new();
    for (position, id) in ids.iter().enumerate() {
        if position % DOCUMENTS_AT_ONCE == DOCUMENTS_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        let head = heads.get(id).cloned().unwrap_or_default();
        if !refresh_one(state, scope, rows, id, head).await? {
            overtaken.insert(id.clone());
        }
    }
    Ok(overtaken)
}

/// Answers whether the document is up to date now; `false`: somebody else was faster.
async fn refresh_one(
    state: &AppState,
    scope: &Scope,
    rows: &Rows,
    server_id: &ServerId,
    (generation, known): (u64, String),
) -> Result<bool> {
    // An instance may outlive its server for a moment.
    let Some(server) = rows.servers.get(server_id) else { return Ok(true) };
    if state.recoveries.freezes(server_id) {
        return Ok(true);
    }
    let mut next = rows.document(state, server);
    let floor = recovery::apply(state, server_id, &mut next);
    let digest = document::digest(&next);
    if generation > floor && known == digest {
        return Ok(true);
    }
    next.generation = generation.max(floor) + 1;
    next.issued_at_ms = clock::now_ms();
    let mut signed = state.signing_key.sign(&next);
    if !next.certificates.is_empty() {
        signed.document = certificates::seal_document(state, scope, server_id, &signed.document);
    }
    let row = DesiredRow { generation: next.generation, digest, signed };
    match state.store().desired_state_put(scope, server_id, &row).await {
        Ok(()) => {
            state.wakeups().server_changed(server_id, row.generation);
            if server.facts.mesh.is_some() {
                state.wakeups().change_fleet();
            }
            Ok(true)
        }
        Err(Error::Stale { .. }) => Ok(false),
        Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The document of a server as its rows have it now, without number and time; `None` if it is not there.
pub async fn document_of(state: &AppState, scope: &Scope, server_id: &ServerId) -> Result<Option<DesiredState>> {
    let rows = Rows::of(state, scope, &BTreeSet::from([server_id.clone()])).await?;
    Ok(rows.servers.get(server_id).map(|server| rows.document(state, server)))
}

/// A document with a generation above `after`: at once if there is one, or as soon as there is, or
/// `None` when the time is over or the control plane stops.
pub async fn newer_than(
    state: &AppState,
    scope: &Scope,
    server_id: &ServerId,
    after: u64,
    limit: Duration,
) -> Result<Option<SignedDesiredState>> {
    let deadline = Instant::now() + limit;
    // Subscribed before the first look, so that nothing falls in between.
    let mut wakeup = state.wakeups().server(server_id);
    loop {
        wakeup.mark_unchanged();
        // Mostly there is no news: the document is read only when there is.
        if let Some((generation, _)) = state.store().desired_state_head(scope, server_id).await?
            && recovery::on_poll(state, scope, server_id, after, generation).await?
            && let Some(row) = state.store().desired_state_get(scope, server_id).await?
        {
            return certificates::open_document(state, &scope.organization, server_id, row.signed).map(Some);
        }
        if limit.is_zero() {
            return Ok(None);
        }
        tokio::select! {
            biased;
            // All three are safe to cancel: nothing is taken out of anywhere.
            changed = wakeup.changed() => if changed.is_err() {
                return Err(HttpError::not_found("server", server_id.as_str()));
            },
            () = tokio::time::sleep_until(deadline) => return Ok(None),
            () = state.stopping().cancelled() => return Ok(None),
        }
    }
}

/// Whether a server's token lets it take services of a stack.
pub fn may_take(binding: &ServerBinding, stack: &Stack, projects: &[Project]) -> bool {
    let project = projects.iter().find(|project| project.id == stack.project_id).map(|project| &project.name);
    let of_stack = binding.stack.as_ref().is_none_or(|id: &StackId| id == &stack.id);
    let of_project = binding.project.as_ref().is_none_or(|name| Some(name) == project);
    of_stack && of_project
}
