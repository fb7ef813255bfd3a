//! The fleet state: one signed document that tells all servers of the organization alike who else there is, and which
//! services run where (`api::fleet`).
//!
//! Whoever changed something that it holds says so ([`crate::wakeups`]); a task puts it together anew, and only a
//! difference makes a new generation. There is none until a second server is in the mesh: a single machine routes to
//! itself, and is asked for nothing.
//!
//! What the servers' gateways do with it is acknowledged by generation, see [`acknowledged`].

pub mod acknowledged;
pub mod document;

use crate::clock;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use acknowledged::Known;
use api::desired::SignedDesiredState;
use api::fleet::FleetState;
use api::ids::ServerId;
use document::{Parts, ServerPart};
use plan::mesh::MeshServer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{DesiredRow, Error, Scope};
use tokio::time::Instant;

/// How often an overtaken refresh looks again.
const TRIES: u32 = 4;

/// What is known of the newest document, so that nobody has to read it.
#[derive(Default)]
pub struct Fleet(Mutex<Known>);

impl Fleet {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes in what was given out before this start.
pub async fn load(store: &store::Store, scope: &Scope) -> Result<Fleet> {
    let fleet = Fleet::default();
    if let Some(row) = store.fleet_state_get(scope).await? {
        let state: FleetState = serde_json::from_str(&row.signed.document).map_err(HttpError::internal)?;
        fleet.known().take(&state, row.digest);
    }
    Ok(fleet)
}

/// Brings the document up to date.
pub async fn refresh(state: &AppState) -> Result<()> {
    let scope = state.system_scope("fleet");
    for _ in 0..TRIES {
        let Some(mut next) = assemble(state, &scope).await? else { return Ok(()) };
        let digest = document::digest(&next);
        let (generation, began) = {
            let known = state.fleet.known();
            if known.digest() == digest {
                return Ok(());
            }
            (known.generation(), !known.is_active())
        };
        next.issued_at_ms = clock::now_ms();
        next.generation = (generation + 1).max(u64::try_from(next.issued_at_ms).unwrap_or_default());
        let row = DesiredRow { generation: next.generation, digest, signed: state.signing_key.sign(&next) };
        match state.store().fleet_state_put(&scope, &row).await {
            Ok(()) => {}
            Err(Error::Stale { .. }) => continue,
            Err(error) => return Err(error.into()),
        }
        let other_hosts = state.fleet.known().take(&next, row.digest);
        state.wakeups().fleet_told(next.generation);
        let other_certificates = other_hosts && !state.certificates().all().is_empty();
        if began || other_certificates {
            // From now on there is something to ask for, or another host to have a certificate for.
            crate::desired::refresh_all(state, &scope).await?;
        }
        return Ok(());
    }
    Err(HttpError::internal(anyhow::anyhow!("the fleet state was overtaken {TRIES} times in a row")))
}

/// The document as rows and reports have it now, without number and time; `None` while there is nothing to tell.
async fn assemble(state: &AppState, scope: &Scope) -> Result<Option<FleetState>> {
    let store = state.store();
    let servers = store.server_list(scope).await?;
    let members: Vec<MeshServer> = servers
        .iter()
        .map(|server| MeshServer {
            server_id: server.id.clone(),
            name: server.name.clone(),
            index: server.index,
            facts: server.facts.mesh.clone(),
            seen_from: server.seen_from,
        })
        .collect();
    let peers = plan::mesh::peers(&members).peers;
    if peers.len() < 2 && !state.fleet.known().is_active() {
        return Ok(None);
    }
    let members: BTreeSet<&ServerId> = peers.iter().map(|peer| &peer.server_id).collect();
    let online = servers.iter().filter(|server| server.online && members.contains(&server.id));
    let online: BTreeMap<ServerId, ServerPart> = online
        .filter_map(|server| {
            let observed = state.heard(&server.id)?.observed?;
            Some((server.id.clone(), ServerPart { observed }))
        })
        .collect();
    let mut instances = store.instance_list(scope).await?;
    instances.retain(|instance| instance.address.is_some() && online.contains_key(&instance.server_id));
    let services: BTreeSet<_> = instances.iter().map(|instance| instance.service_id.clone()).collect();
    let services = store.service_list_of(scope, &services).await?;
    let revisions: BTreeSet<_> = services.iter().filter_map(|service| service.current_revision_id.clone()).collect();
    let stacks: BTreeSet<_> = services.iter().map(|service| service.stack_id.clone()).collect();
    Ok(Some(document::assemble(Parts {
        organization_id: scope.organization.clone(),
        peers,
        online,
        revisions: store.revision_list_of(scope, &revisions).await?,
        stacks: store.stack_list_of(scope, &stacks).await?,
        projects: store.project_list(scope).await?,
        services,
        instances,
    })))
}

/// A document with a generation above `after`: at once if there is one, or as soon as there is, or `None` when the
/// time is over or the control plane stops.
pub async fn newer_than(
    state: &AppState,
    scope: &Scope,
    after: u64,
    limit: Duration,
) -> Result<Option<SignedDesiredState>> {
    let deadline = Instant::now() + limit;
    let mut told = state.wakeups().fleet();
    loop {
        told.mark_unchanged();
        if state.fleet.known().generation() > after
            && let Some(row) = state.store().fleet_state_get(scope).await?
            && row.generation > after
        {
            return Ok(Some(row.signed));
        }
        if limit.is_zero() {
            return Ok(None);
        }
        tokio::select! {
            biased;
            // All three are safe to cancel: nothing is taken out of anywhere.
            changed = told.changed() => if changed.is_err() { return Ok(None) },
            () = tokio::time::sleep_until(deadline) => return Ok(None),
            () = state.stopping().cancelled() => return Ok(None),
        }
    }
}
