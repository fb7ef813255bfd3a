//! The rows that documents are made of: all of them, read once for any number of servers, or only those
//! that the documents of a few servers need. What a change of one service costs must not grow with the
//! number of servers.

use super::document::{self, HttpsPart, ServerPart, ServicePart, StackPart};
use super::may_take;
use crate::error::Result;
use crate::state::AppState;
use api::desired::{GitCredential, InstanceDesired};
use api::ids::{RevisionId, ServerId, ServiceId, StackId};
use api::name::Name;
use api::services::Revision;
use std::collections::{BTreeMap, BTreeSet};
use store::{Instance, Project, Scope, Server, Service, Stack};

pub struct Rows {
    pub servers: BTreeMap<ServerId, Server>,
    projects: Vec<Project>,
    stacks: BTreeMap<StackId, Stack>,
    services: BTreeMap<ServiceId, Service>,
    /// Services without any instance, because they are stopped or about to start. They keep their routes
    /// on every server that may take them: those lead to a page that says so, not to "no such page".
    idle: Vec<ServiceId>,
    instances: BTreeMap<ServerId, Vec<Instance>>,
    revisions: BTreeMap<RevisionId, Revision>,
    credentials: BTreeMap<Name, GitCredential>,
    https: HttpsPart,
}

impl Rows {
    pub async fn all(state: &AppState, scope: &Scope) -> Result<Self> {
        let store = state.store();
        let idle = store.service_list_idle(scope).await?;
        let mut instances: BTreeMap<ServerId, Vec<Instance>> = BTreeMap::new();
        for instance in store.instance_list(scope).await? {
            instances.entry(instance.server_id.clone()).or_default().push(instance);
        }
        let revisions = store.revision_list_in_use(scope).await?;
        let services = store.service_list(scope, None).await?;
        let stacks = store.stack_list(scope).await?;
        let servers = store.server_list(scope).await?;
        Ok(Self {
            servers: servers.into_iter().map(|server| (server.id.clone(), server)).collect(),
            projects: store.project_list(scope).await?,
            stacks: stacks.into_iter().map(|stack| (stack.id.clone(), stack)).collect(),
            services: services.into_iter().map(|service| (service.id.clone(), service)).collect(),
            idle: idle.into_iter().map(|service| service.id).collect(),
            instances,
            revisions: revisions.into_iter().map(|revision| (revision.id.clone(), revision)).collect(),
            credentials: credentials(state, scope).await?,
            https: https(state, scope).await?,
        })
    }

    /// What the documents of these servers need, and nothing else.
    pub async fn of(state: &AppState, scope: &Scope, ids: &BTreeSet<ServerId>) -> Result<Self> {
        let store = state.store();
        let mut rows = Self {
            servers: BTreeMap::new(),
            projects: store.project_list(scope).await?,
            stacks: BTreeMap::new(),
            services: BTreeMap::new(),
            idle: Vec::new(),
            instances: BTreeMap::new(),
            revisions: BTreeMap::new(),
            credentials: credentials(state, scope).await?,
            https: https(state, scope).await?,
        };
        for service in store.service_list_idle(scope).await? {
            rows.idle.push(service.id.clone());
            rows.services.insert(service.id.clone(), service);
        }
        if ids.is_empty() {
            return Ok(rows);
        }
        for server in store.server_list_of(scope, ids).await? {
            rows.servers.insert(server.id.clone(), server);
        }
        for instance in store.instance_list_on_servers(scope, ids).await? {
            rows.instances.entry(instance.server_id.clone()).or_default().push(instance);
        }
        let of_instances: BTreeSet<ServiceId> =
            rows.instances.values().flatten().map(|instance| instance.service_id.clone()).collect();
        for service in store.service_list_of(scope, &of_instances).await? {
            rows.services.insert(service.id.clone(), service);
        }
        let stacks: BTreeSet<StackId> = rows.services.values().map(|service| service.stack_id.clone()).collect();
        for stack in store.stack_list_of(scope, &stacks).await? {
            rows.stacks.insert(stack.id.clone(), stack);
        }
        let instances = rows.instances.values().flatten().map(|instance| instance.revision_id.clone());
        let current = rows.services.values().filter_map(|service| service.current_revision_id.clone());
        let needed: BTreeSet<RevisionId> = instances.chain(current).collect();
        // Its service was forgotten between the two reads, if one is not there.
        for revision in store.revision_list_of(scope, &needed).await? {
            rows.revisions.insert(revision.id.clone(), revision);
        }
        Ok(rows)
    }

    /// The document of a server, with generation and time left at zero.
    pub fn document(&self, state: &AppState, server: &Server) -> api::desired::DesiredState {
        let part = ServerPart {
            id: server.id.clone(),
            name: server.name.clone(),
            security_mode: server.security_mode,
            agent_is_root: server.facts.root,
            in_fleet: server.facts.mesh.is_some() && state.fleet.known().is_active(),
        };
        let mut here: BTreeMap<&ServiceId, Vec<&Instance>> = BTreeMap::new();
        for instance in self.instances.get(&server.id).into_iter().flatten() {
            here.entry(&instance.service_id).or_default().push(instance);
        }
        for id in &self.idle {
            let stack = self.services.get(id).and_then(|service| self.stacks.get(&service.stack_id));
            if stack.is_some_and(|stack| may_take(&server.binding, stack, &self.projects)) {
                here.entry(id).or_default();
            }
        }
        let mut stacks: BTreeMap<&StackId, Vec<ServicePart>> = BTreeMap::new();
        for (id, instances) in here {
            let Some(service) = self.services.get(id) else { continue };
            stacks.entry(&service.stack_id).or_default().push(self.service_part(service, &instances));
        }
        let parts = stacks.into_iter().filter_map(|(id, services)| {
            let stack = self.stacks.get(id)?;
            Some(StackPart {
                id: stack.id.clone(),
                project_id: stack.project_id.clone(),
                name: stack.name.clone(),
                version: stack.version,
                services,
            })
        });
        document::assemble(&part, parts.collect(), &self.credentials, &self.https, state.options())
    }

    fn service_part(&self, service: &Service, here: &[&Instance]) -> ServicePart {
        let mut needed: BTreeSet<&RevisionId> = here.iter().map(|i| &i.revision_id).collect();
        needed.extend(&service.current_revision_id);
        let instance = |i: &&Instance| InstanceDesired {
            instance_id: i.id.clone(),
            revision_id: i.revision_id.clone(),
            deployment_id: i.deployment_id.clone(),
            ordinal: i.ordinal,
            intent: i.intent,
            traffic: i.traffic,
            address: i.address,
        };
        ServicePart {
            id: service.id.clone(),
            name: service.name.clone(),
            current_revision_id: service.current_revision_id.clone(),
            revisions: needed.into_iter().filter_map(|id| self.revisions.get(id).cloned()).collect(),
            instances: here.iter().map(instance).collect(),
        }
    }
}

async fn https(state: &AppState, scope: &Scope) -> Result<HttpsPart> {
    Ok(HttpsPart {
        book: state.certificates(),
        challenges: state.store().challenge_list(scope).await?,
        fleet_hosts: state.fleet.known().hosts(),
    })
}

async fn credentials(state: &AppState, scope: &Scope) -> Result<BTreeMap<Name, GitCredential>> {
    let credentials = state.store().credential_list(scope).await?;
    Ok(credentials.into_iter().map(|c| (c.name, c.credential)).collect())
}
