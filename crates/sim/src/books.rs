//! The control plane's rows, as the referee reads them: what must hold of them at every moment, and
//! whether they and the machines agree in the end.

use crate::machine::Machine;
use crate::time::locked;
use crate::world::World;
use api::deployments::{Deployment, Stage};
use api::desired::InstanceIntent;
use api::ids::{InstanceId, ServerId};
use api::logs::LogSource;
use api::observed::{InstanceState, ObservedState, StackCondition};
use api::services::ServiceIntent;
use api::tokens::{TokenPurpose, TokenState};
use server::AppState;
use std::collections::BTreeSet;
use std::sync::Arc;
use store::{Instance, Scope, Service};

/// A server as the control plane sees it: id, name, whether it is online, the newest generation for it, and
/// what it last reported.
type ServerRow = (ServerId, String, bool, u64, Option<Arc<ObservedState>>);

pub struct Books {
    pub servers: Vec<ServerRow>,
    pub services: Vec<Service>,
    pub deployments: Vec<Deployment>,
    pub instances: Vec<Instance>,
    /// Join tokens that were used.
    pub spent: usize,
}

async fn read_books(state: &AppState, scope: &Scope) -> store::Result<Books> {
    let store = state.store();
    let mut servers = Vec::new();
    for server in store.server_list(scope).await? {
        let head = store.desired_state_head(scope, &server.id).await?.map_or(0, |(generation, _)| generation);
        let observed = state.heard(&server.id).and_then(|heard| heard.observed);
        servers.push((server.id, server.name.to_string(), server.online, head, observed));
    }
    let services = store.service_list(scope, None).await?;
    let mut deployments = Vec::new();
    for service in &services {
        deployments.extend(store.deployment_list(scope, &service.id, 50).await?);
    }
    let tokens = store.token_list(scope, 0).await?;
    let joins = tokens.iter().filter(|token| matches!(token.purpose, TokenPurpose::Join { .. }));
    let spent = joins.filter(|token| token.state == TokenState::Used).count();
    Ok(Books { servers, services, deployments, instances: store.instance_list(scope).await?, spent })
}

impl World {
    /// `None` while the control plane is down.
    pub fn books(&self) -> Option<Books> {
        self.plane
            .inspect(|state| {
                Box::pin(async move {
                    let scope = state.system_scope("referee");
                    read_books(state, &scope).await
                })
            })?
            .ok()
    }

    /// What holds of the rows at every moment.
    pub fn look_at_books(&self) -> Option<Books> {
        let books = self.books()?;
        for service in &books.services {
            let flying = books.deployments.iter().filter(|d| d.service_id == service.id && d.stage.in_flight()).count();
            if flying > 1 {
                self.story.never(format_args!("{flying} deployments of {} are in flight at once", service.name));
            }
            let runs = |i: &&Instance| i.service_id == service.id && i.intent == InstanceIntent::Run;
            let running = books.instances.iter().filter(runs).count();
            self.referee.look_at_running(&self.story, service.name.as_str(), running);
        }
        let (joined, spent) = (books.servers.len(), books.spent);
        if joined > spent {
            self.story.never(format_args!("{joined} machines joined with {spent} tokens"));
        }
        for deployment in &books.deployments {
            self.look_at_deployment(deployment);
        }
        // A row goes only when its machine has heard that it should, and said that nothing of it runs.
        for machine in self.machines.iter().filter(|machine| machine.holds_what_it_said()) {
            if let Some(orphan) = self.orphan(machine, &books) {
                self.story.never(format_args!("{orphan} runs on {} and was forgotten", machine.name));
            }
        }
        if let Some(id) = self.referee.promises.missing_deployment(&books.deployments) {
            self.story.never(format_args!("the deployment {} was promised and is lost", id.short()));
        }
        Some(books)
    }

    /// A deployment goes through its stages in their order, and what has ended has ended.
    fn look_at_deployment(&self, deployment: &Deployment) {
        let now = deployment.stage;
        let Some(before) = self.referee.promises.stage_seen(&deployment.id, now) else { return };
        let on = match before {
            before if before == now => true,
            Stage::Running => now == Stage::RolledBack,
            before if before.in_flight() => !now.in_flight() || now > before,
            _ => false,
        };
        if !on {
            let (kind, service) = (deployment.kind.as_str(), &deployment.service);
            self.story.never(format_args!("a {kind} of {service} that was {before} is {now} again"));
        }
    }

    /// Why the fleet is not yet what it should be; nothing when it is.
    pub fn unfinished(&self) -> Option<String> {
        // What the machines show is asked first: it costs less than to read rows.
        if let Some(why) = self.machines_unfinished().or_else(|| self.logs_unfinished()) {
            return Some(why);
        }
        let Some(books) = self.look_at_books() else { return Some("the control plane is down".into()) };
        if let Some(d) = books.deployments.iter().find(|d| d.stage.in_flight()) {
            return Some(format!("the {} of {} is still {}", d.kind.as_str(), d.service, d.stage));
        }
        let fragile = self.fragile();
        for machine in &self.machines {
            let Some(id) = machine.server_id() else { continue };
            let name = machine.name;
            let Some((_, _, online, head, observed)) = books.servers.iter().find(|(known, ..)| *known == id) else {
                return Some(format!("the control plane does not know {name}"));
            };
            let Some(observed) = observed.as_ref().filter(|_| *online) else {
                return Some(format!("{name} is offline"));
            };
            if observed.generation != *head {
                return Some(format!("{name} is at generation {} of {head}", observed.generation));
            }
            if fragile.is_empty() {
                if let Some(blocked) = observed.blocked.first() {
                    return Some(format!("{name}: {}: {}", blocked.subject, blocked.reason));
                }
                let applied = observed.stacks.iter().all(|stack| stack.condition == StackCondition::Applied);
                if !applied {
                    return Some(format!("{name} has not applied its stacks"));
                }
            }
            if let Some(orphan) = self.orphan(machine, &books) {
                return Some(format!("{orphan} runs on {name} and nobody knows it"));
            }
        }
        for service in &books.services {
            let name = service.name.as_str();
            let rows = books.instances.iter().filter(|i| i.service_id == service.id).count();
            let wanted = match service.intent {
                ServiceIntent::Run if service.current_revision_id.is_some() => service.replicas as usize,
                _ => 0,
            };
            if rows != wanted && !fragile.contains(name) {
                return Some(format!("{name} has {rows} instances instead of {wanted}"));
            }
            let serving = self.serving(name);
            if serving < wanted && !fragile.contains(name) {
                return Some(format!("{serving} of {wanted} instances of {name} serve"));
            }
        }
        None
    }

    fn machines_unfinished(&self) -> Option<String> {
        let seen = self.seen.borrow();
        for machine in &self.machines {
            let Some(id) = machine.server_id() else { continue };
            let (name, newest) = (machine.name, seen.generations.get(&id).copied().unwrap_or(0));
            if machine.disk.highest_generation() < newest {
                return Some(format!("{name} keeps generation {} of {newest}", machine.disk.highest_generation()));
            }
            let waiting = machine.disk.waiting_events().len();
            if waiting > 0 {
                return Some(format!("{waiting} events of {name} wait"));
            }
        }
        None
    }

    /// An instance that runs on a machine and is in no book.
    fn orphan(&self, machine: &Machine, books: &Books) -> Option<String> {
        let known = |id: &InstanceId| books.instances.iter().any(|row| &row.id == id);
        let here = machine.workloads.instances();
        let orphan = here.iter().find(|i| i.state == InstanceState::Running && !known(&i.instance_id))?;
        Some(self.referee.name_of(&orphan.instance_id))
    }

    fn fragile(&self) -> BTreeSet<String> {
        let instances = locked(&self.referee.instances);
        let running = self.machines.iter().flat_map(|machine| machine.workloads.instances());
        running
            .filter_map(|i| instances.get(&i.instance_id).filter(|known| known.check == "breaks"))
            .map(|known| known.service.clone())
            .collect()
    }

    fn serving(&self, service: &str) -> usize {
        let routed = |machine: &Machine| -> Vec<InstanceId> {
            let config = machine.gateway.config().unwrap_or_default();
            let services = config.services.into_iter().filter(|s| s.name.as_str() == service);
            services.flat_map(|s| s.upstreams).filter(|u| !u.draining).map(|u| u.instance_id).collect()
        };
        let well =
            |machine: &Machine| routed(machine).iter().filter(|id| self.referee.is_well(self, machine, id)).count();
        self.machines.iter().map(|machine| well(machine)).sum()
    }

    /// Logs of instances that are still there arrive whole.
    fn logs_unfinished(&self) -> Option<String> {
        for machine in self.machines.iter().filter(|machine| machine.server_id().is_some()) {
            for instance in machine.workloads.instances() {
                let source = LogSource::Run { instance_id: instance.instance_id.clone() };
                if self.referee.promises.begun_anew(&source) {
                    continue;
                }
                let end: u64 = machine.workloads.log_lines(&source).iter().map(|line| line.len() as u64 + 1).sum();
                let acknowledged = self.referee.promises.log_kept_up_to(&source);
                if acknowledged < end {
                    let what = self.referee.name_of(&instance.instance_id);
                    return Some(format!("the log of {what} is kept up to {acknowledged} of {end}"));
                }
            }
        }
        None
    }
}
