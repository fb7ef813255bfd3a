//! From rows to the signed document that a server waits for.
//!
//! Whoever changed rows asks for a refresh of the servers that they concern. A refresh puts the
//! document together anew and compares its digest with the kept one: only a difference makes a new
//! generation, so refreshing too often costs a read and never a pointless wake-up. Generations rise
//! by one under the store's own check; a refresh that was overtaken simply looks again.

pub mod document;

use crate::clock;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use api::desired::{GitCredential, InstanceDesired, SignedDesiredState};
use api::ids::{RevisionId, ServerId, StackId};
use api::name::Name;
use api::services::Revision;
use document::{ServerPart, ServicePart, StackPart};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::{DesiredRow, Error, Instance, Project, Scope, Server, Service, Stack};
use tokio::time::Instant;

/// How often an overtaken refresh looks again.
const TRIES: u32 = 8;

/// All rows that documents are made of, read once for any number of servers.
struct Rows {
    servers: Vec<Server>,
    projects: Vec<Project>,
    stacks: Vec<Stack>,
    services: Vec<Service>,
    instances: Vec<Instance>,
    revisions: BTreeMap<RevisionId, Revision>,
    credentials: BTreeMap<Name, GitCredential>,
}

/// Brings the document of one server up to date.
pub async fn refresh(state: &AppState, scope: &Scope, server_id: &ServerId) -> Result<()> {
    refresh_some(state, scope, &BTreeSet::from([server_id.clone()])).await
}

/// Brings the documents of all servers up to date.
pub async fn refresh_all(state: &AppState, scope: &Scope) -> Result<()> {
    let servers = state.store().server_list(scope).await?;
    refresh_some(state, scope, &servers.into_iter().map(|server| server.id).collect()).await
}

async fn refresh_some(state: &AppState, scope: &Scope, ids: &BTreeSet<ServerId>) -> Result<()> {
    let mut overtaken = ids.clone();
    for _ in 0..TRIES {
        // The heads first: rows that change after that lead to a higher generation than ours, and
        // ours is refused.
        let mut heads = BTreeMap::new();
        for id in &overtaken {
            heads.insert(id.clone(), state.store().desired_state_head(scope, id).await?.unwrap_or_default());
        }
        let rows = Rows::read(state, scope).await?;
        overtaken.clear();
        for (id, head) in heads {
            if !refresh_one(state, scope, &rows, &id, head).await? {
                overtaken.insert(id);
            }
        }
        if overtaken.is_empty() {
            return Ok(());
        }
    }
    Err(HttpError::internal(anyhow::anyhow!("desired states were overtaken {TRIES} times in a row: {overtaken:?}")))
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
    let Some(server) = rows.servers.iter().find(|server| &server.id == server_id) else { return Ok(true) };
    let mut next = rows.document(state, server);
    let digest = document::digest(&next);
    if generation > 0 && known == digest {
        return Ok(true);
    }
    next.generation = generation + 1;
    next.issued_at_ms = clock::now_ms();
    let row = DesiredRow { generation: next.generation, digest, signed: state.signing_key.sign(&next) };
    match state.store().desired_state_put(scope, server_id, &row).await {
        Ok(()) => {
            state.wakeups().server_changed(server_id, row.generation);
            Ok(true)
        }
        Err(Error::Stale { .. }) => Ok(false),
        Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
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
        if let Some(row) = state.store().desired_state_get(scope, server_id).await?
            && row.generation > after
        {
            return Ok(Some(row.signed));
        }
        tokio::select! {
            // All three are safe to cancel: nothing is taken out of anywhere.
            changed = wakeup.changed() => if changed.is_err() {
                return Err(HttpError::not_found("server", server_id.as_str()));
            },
            () = tokio::time::sleep_until(deadline) => return Ok(None),
            () = state.stopping().cancelled() => return Ok(None),
        }
    }
}

impl Rows {
    async fn read(state: &AppState, scope: &Scope) -> Result<Self> {
        let store = state.store();
        let services = store.service_list(scope, None).await?;
        let instances = store.instance_list(scope).await?;
        let current = services.iter().filter_map(|service| service.current_revision_id.as_ref());
        let needed: BTreeSet<&RevisionId> = instances.iter().map(|i| &i.revision_id).chain(current).collect();
        let mut revisions = BTreeMap::new();
        for id in needed {
            match store.revision_get(scope, id).await {
                Ok(revision) => drop(revisions.insert(id.clone(), revision)),
                // Its service was forgotten between the two reads.
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let credentials = store.credential_list(scope).await?;
        Ok(Self {
            servers: store.server_list(scope).await?,
            projects: store.project_list(scope).await?,
            stacks: store.stack_list(scope).await?,
            credentials: credentials.into_iter().map(|c| (c.name, c.credential)).collect(),
            services,
            instances,
            revisions,
        })
    }

    fn document(&self, state: &AppState, server: &Server) -> api::desired::DesiredState {
        let part = ServerPart {
            id: server.id.clone(),
            name: server.name.clone(),
            security_mode: server.security_mode,
            agent_is_root: server.facts.root,
        };
        let stacks = self.stacks.iter().filter_map(|stack| self.stack_part(stack, server)).collect();
        document::assemble(&part, stacks, &self.credentials, state.options())
    }

    fn stack_part(&self, stack: &Stack, server: &Server) -> Option<StackPart> {
        let own = self.services.iter().filter(|service| service.stack_id == stack.id);
        let services: Vec<ServicePart> = own.filter_map(|service| self.service_part(service, stack, server)).collect();
        (!services.is_empty()).then(|| StackPart {
            id: stack.id.clone(),
            project_id: stack.project_id.clone(),
            name: stack.name.clone(),
            version: stack.version,
            services,
        })
    }

    fn service_part(&self, service: &Service, stack: &Stack, server: &Server) -> Option<ServicePart> {
        let of_service = self.instances.iter().filter(|i| i.service_id == service.id);
        let here: Vec<InstanceDesired> = of_service
            .clone()
            .filter(|i| i.server_id == server.id)
            .map(|i| InstanceDesired {
                instance_id: i.id.clone(),
                revision_id: i.revision_id.clone(),
                deployment_id: i.deployment_id.clone(),
                ordinal: i.ordinal,
                intent: i.intent,
                traffic: i.traffic,
            })
            .collect();
        // A service that has no instance, because it is stopped or about to start, keeps its routes:
        // they lead to a page that says so, not to "no such page".
        let idle = service.current_revision_id.is_some() && !service.removing && of_service.count() == 0;
        if here.is_empty() && !(idle && may_take(server, stack, &self.projects)) {
            return None;
        }
        let mut needed: BTreeSet<&RevisionId> = here.iter().map(|i| &i.revision_id).collect();
        needed.extend(&service.current_revision_id);
        Some(ServicePart {
            id: service.id.clone(),
            name: service.name.clone(),
            current_revision_id: service.current_revision_id.clone(),
            revisions: needed.into_iter().filter_map(|id| self.revisions.get(id).cloned()).collect(),
            instances: here,
        })
    }
}

/// Whether a server's token lets it take services of a stack.
pub fn may_take(server: &Server, stack: &Stack, projects: &[Project]) -> bool {
    let project = projects.iter().find(|project| project.id == stack.project_id).map(|project| &project.name);
    let of_stack = server.binding.stack.as_ref().is_none_or(|id: &StackId| id == &stack.id);
    let of_project = server.binding.project.as_ref().is_none_or(|name| Some(name) == project);
    of_stack && of_project
}
