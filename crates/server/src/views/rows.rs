//! Everything that views are made of, read once, and the views made of it.

use super::conditions::{self, Part};
use crate::certificates::Book;
use crate::clock;
use crate::error::Result;
use crate::presence::Heard;
use crate::state::AppState;
use crate::urls;
use api::UnixMillis;
use api::deployments::Deployment;
use api::gateway::GatewaySettings;
use api::ids::{RevisionId, ServerId, ServiceId};
use api::name::HostName;
use api::observed::{InstanceState, StackCondition, StackObserved};
use api::services::{InstanceView, PortSpec, Revision, RevisionSummary, ServiceCondition, ServiceView};
use api::stacks::StackView;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::{Instance, Project, Scope, Server, Service, Stack};

pub(super) struct Rows {
    pub stacks: Vec<Stack>,
    pub services: Vec<Service>,
    projects: Vec<Project>,
    servers: BTreeMap<ServerId, Server>,
    instances: BTreeMap<ServiceId, Vec<Instance>>,
    deployments: BTreeMap<ServiceId, Deployment>,
    revisions: BTreeMap<RevisionId, Revision>,
    heard: BTreeMap<ServerId, Heard>,
    gateways: BTreeMap<ServerId, GatewaySettings>,
    certificates: Arc<Book>,
    now_ms: UnixMillis,
}

impl Rows {
    /// What the views of everything need.
    pub async fn all(state: &AppState, scope: &Scope) -> Result<Self> {
        let store = state.store();
        let stacks = store.stack_list(scope).await?;
        let services = store.service_list(scope, None).await?;
        let (instances, servers) = (store.instance_list(scope).await?, store.server_list(scope).await?);
        Self::with(state, scope, stacks, services, instances, servers).await
    }

    /// What the views of these services of these stacks need, and nothing else: to look at one must not cost more
    /// the more others there are.
    pub async fn of(state: &AppState, scope: &Scope, stacks: Vec<Stack>, services: Vec<Service>) -> Result<Self> {
        let store = state.store();
        let ids: Vec<&ServiceId> = services.iter().map(|service| &service.id).collect();
        let instances = store.instance_list_of_services(scope, ids).await?;
        let holders: BTreeSet<&ServerId> = instances.iter().map(|instance| &instance.server_id).collect();
        let servers = store.server_list_of(scope, holders).await?;
        Self::with(state, scope, stacks, services, instances, servers).await
    }

    async fn with(
        state: &AppState,
        scope: &Scope,
        stacks: Vec<Stack>,
        services: Vec<Service>,
        instances: Vec<Instance>,
        servers: Vec<Server>,
    ) -> Result<Self> {
        let store = state.store();
        let ids: Vec<&ServiceId> = services.iter().map(|service| &service.id).collect();
        let newest = store.deployment_list_newest(scope, ids).await?;
        let shown = newest.into_iter().map(|deployment| state.waits.shown(deployment));
        let deployments: BTreeMap<ServiceId, Deployment> = shown.map(|d| (d.service_id.clone(), d)).collect();
        let mut wanted: BTreeSet<&RevisionId> = instances.iter().map(|instance| &instance.revision_id).collect();
        wanted.extend(services.iter().flat_map(|s| s.current_revision_id.iter().chain(&s.previous_revision_id)));
        wanted.extend(deployments.values().map(|deployment| &deployment.revision_id));
        // One that retention forgot is not among them.
        let revisions = store.revision_list_of(scope, wanted).await?;
        let mut instances_of: BTreeMap<ServiceId, Vec<Instance>> = BTreeMap::new();
        for instance in instances {
            instances_of.entry(instance.service_id.clone()).or_default().push(instance);
        }
        Ok(Self {
            certificates: state.certificates(),
            now_ms: clock::now_ms(),
            projects: store.project_list(scope).await?,
            heard: servers.iter().filter_map(|s| Some((s.id.clone(), state.heard(&s.id)?))).collect(),
            gateways: servers.iter().map(|s| (s.id.clone(), state.options().gateway_settings(s.facts.root))).collect(),
            servers: servers.into_iter().map(|server| (server.id.clone(), server)).collect(),
            stacks,
            services,
            instances: instances_of,
            deployments,
            revisions: revisions.into_iter().map(|revision| (revision.id.clone(), revision)).collect(),
        })
    }

    fn summary(&self, id: Option<&RevisionId>) -> Option<RevisionSummary> {
        let revision = self.revisions.get(id?)?;
        Some(RevisionSummary {
            id: revision.id.clone(),
            number: revision.number,
            source_version: revision.source_version.clone(),
            source_subject: revision.source_subject.clone(),
            created_at_ms: revision.created_at_ms,
        })
    }

    fn instance_view(&self, instance: &Instance) -> InstanceView {
        let server = self.servers.get(&instance.server_id);
        let report = self.heard.get(&instance.server_id).and_then(|heard| heard.observed.as_ref());
        let observed = report.and_then(|report| report.instances.iter().find(|seen| seen.instance_id == instance.id));
        InstanceView {
            id: instance.id.clone(),
            server_id: instance.server_id.clone(),
            server: server.map_or_else(|| "removed".parse().expect("a valid name"), |server| server.name.clone()),
            revision_id: instance.revision_id.clone(),
            revision_number: self.revisions.get(&instance.revision_id).map_or(0, |revision| revision.number),
            deployment_id: instance.deployment_id.clone(),
            ordinal: instance.ordinal,
            intent: instance.intent,
            traffic: instance.traffic,
            observed: observed.cloned(),
        }
    }

    fn online(&self, id: &ServerId) -> bool {
        self.servers.get(id).is_some_and(|server| server.online)
    }

    fn condition(
        &self,
        service: &Service,
        deployment: Option<&Deployment>,
        instances: &[InstanceView],
    ) -> ServiceCondition {
        let parts = instances.iter().map(|instance| Part {
            revision_id: &instance.revision_id,
            traffic: instance.traffic,
            healthy: instance.observed.as_ref().is_some_and(|seen| seen.state == InstanceState::Healthy),
            online: self.online(&instance.server_id),
        });
        conditions::of_service(service, deployment.is_some_and(|deployment| deployment.stage.in_flight()), parts)
    }

    /// `None`: its stack is gone meanwhile.
    pub fn service_view(&self, service: &Service) -> Option<ServiceView> {
        let stack = self.stacks.iter().find(|stack| stack.id == service.stack_id)?;
        let own = self.instances.get(&service.id).into_iter().flatten();
        let instances: Vec<InstanceView> = own.map(|instance| self.instance_view(instance)).collect();
        let deployment = self.deployments.get(&service.id).cloned();
        let shown = service.current_revision_id.as_ref().or(deployment.as_ref().map(|d| &d.revision_id));
        let revision = shown.and_then(|id| self.revisions.get(id));
        let routes = revision.map(|revision| revision.spec.routes.clone()).unwrap_or_default();
        let listens = revision.is_some_and(|revision| revision.spec.port != PortSpec::None);
        let here: BTreeSet<&ServerId> = instances.iter().map(|instance| &instance.server_id).collect();
        let gateways: Vec<&GatewaySettings> = here.into_iter().filter_map(|id| self.gateways.get(id)).collect();
        let urls = if listens { urls::of_service(&routes, gateways, |host| self.is_secured(host)) } else { Vec::new() };
        Some(ServiceView {
            id: service.id.clone(),
            name: service.name.clone(),
            stack_id: stack.id.clone(),
            stack: stack.name.clone(),
            project_id: stack.project_id.clone(),
            intent: service.intent,
            condition: self.condition(service, deployment.as_ref(), &instances),
            replicas: service.replicas,
            current: self.summary(service.current_revision_id.as_ref()),
            previous: self.summary(service.previous_revision_id.as_ref()),
            urls,
            deployment,
            instances,
            routes,
        })
    }

    fn is_secured(&self, host: &HostName) -> bool {
        self.certificates.find(host).is_some_and(|held| held.is_good(self.now_ms))
    }

    pub fn stack_view(&self, stack: &Stack) -> StackView {
        let own = self.services.iter().filter(|service| service.stack_id == stack.id);
        let services: Vec<ServiceView> = own.filter_map(|service| self.service_view(service)).collect();
        let (condition, problems) = self.stack_condition(stack, &services);
        let project = self.projects.iter().find(|project| project.id == stack.project_id);
        StackView {
            id: stack.id.clone(),
            name: stack.name.clone(),
            project_id: stack.project_id.clone(),
            project: project.map_or_else(|| stack.name.clone(), |project| project.name.clone()),
            version: stack.version,
            condition,
            problems,
            manifest: manifest::without_env_values(&stack.manifest).unwrap_or_default(),
            created_at_ms: stack.created_at_ms,
            updated_at_ms: stack.updated_at_ms,
            services,
        }
    }

    /// Applied when every server that holds a part of it says so; degraded when one says that, or
    /// when a service is not as it should be.
    fn stack_condition(&self, stack: &Stack, services: &[ServiceView]) -> (StackCondition, Vec<String>) {
        let holders: BTreeSet<&ServerId> =
            services.iter().flat_map(|service| service.instances.iter().map(|instance| &instance.server_id)).collect();
        let mut problems = Vec::new();
        let mut waiting = services.iter().any(|service| service.condition == ServiceCondition::Deploying);
        for id in holders {
            let name = self.servers.get(id).map_or_else(|| id.to_string(), |server| server.name.to_string());
            if !self.online(id) {
                problems.push(format!("the server {name} does not report"));
                continue;
            }
            let report = self.heard.get(id).and_then(|heard| heard.observed.as_ref());
            let said: Option<&StackObserved> =
                report.and_then(|report| report.stacks.iter().find(|said| said.stack_id == stack.id));
            match said.map(|said| said.condition) {
                Some(StackCondition::Degraded) => {
                    problems.extend(said.iter().flat_map(|s| s.problems.iter().map(|p| format!("{name}: {p}"))));
                }
                Some(StackCondition::Applied) if said.is_some_and(|s| s.version == stack.version) => {}
                _ => waiting = true,
            }
        }
        problems.extend(services.iter().filter_map(conditions::problem_of));
        problems.dedup();
        let condition = match (problems.is_empty(), waiting) {
            (false, _) => StackCondition::Degraded,
            (true, true) => StackCondition::Applying,
            (true, false) => StackCondition::Applied,
        };
        (condition, problems)
    }
}
