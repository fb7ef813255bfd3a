//! The fleet state, put together from plain parts. Pure: equal parts give an equal document, whatever order they come
//! in.
//!
//! Only what can be reached from another server is told: containers, which have an address of their own, on servers that
//! report. Who is well is judged as a gateway judges its own machine's instances: those that are not well are left
//! out, unless none is well, because a failing check is weaker evidence than a visitor's own answer.

use api::desired::{InstanceIntent, Traffic};
use api::fleet::{FleetInstance, FleetService, FleetState};
use api::ids::{OrganizationId, ServerId};
use api::mesh::MeshPeer;
use api::observed::{InstanceState, ObservedState};
use api::services::Revision;
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{Instance, Project, Service, Stack};

/// A server that reports.
pub struct ServerPart {
    pub observed: Arc<ObservedState>,
}

pub struct Parts {
    pub organization_id: OrganizationId,
    pub peers: Vec<MeshPeer>,
    /// Servers of the mesh that report.
    pub online: BTreeMap<ServerId, ServerPart>,
    pub services: Vec<Service>,
    /// The current ones of these services.
    pub revisions: Vec<Revision>,
    pub stacks: Vec<Stack>,
    pub projects: Vec<Project>,
    pub instances: Vec<Instance>,
}

/// The document, with generation and time left at zero for the caller.
pub fn assemble(mut parts: Parts) -> FleetState {
    parts.services.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    parts.instances.sort_by(|a, b| a.id.cmp(&b.id));
    parts.peers.sort_by(|a, b| a.server_id.cmp(&b.server_id));
    let services = parts.services.iter().filter_map(|service| fleet_service(&parts, service)).collect();
    FleetState { organization_id: parts.organization_id, generation: 0, issued_at_ms: 0, peers: parts.peers, services }
}

/// The digest of all that an agent acts on.
pub fn digest(state: &FleetState) -> String {
    wire::digest_of(&FleetState { generation: 0, issued_at_ms: 0, ..state.clone() })
}

/// `None` if nothing of it can be reached.
fn fleet_service(parts: &Parts, service: &Service) -> Option<FleetService> {
    let stack = parts.stacks.iter().find(|stack| stack.id == service.stack_id)?;
    let project = parts.projects.iter().find(|project| project.id == stack.project_id)?;
    let current = parts.revisions.iter().find(|revision| Some(&revision.id) == service.current_revision_id.as_ref())?;
    let (mut well, mut unwell, mut instances) = (Vec::new(), Vec::new(), Vec::new());
    for instance in parts.instances.iter().filter(|instance| instance.service_id == service.id) {
        let Some((told, state)) = fleet_instance(parts, instance) else { continue };
        match (told.draining, state) {
            (true, _) => instances.push(told),
            (false, InstanceState::Unhealthy) => unwell.push(told),
            (false, _) => well.push(told),
        }
    }
    instances.extend(if well.is_empty() { unwell } else { well });
    instances.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    (!instances.is_empty()).then(|| FleetService {
        service_id: service.id.clone(),
        project_id: project.id.clone(),
        project: project.name.clone(),
        name: service.name.clone(),
        routes: current.spec.routes.clone(),
        instances,
    })
}

fn fleet_instance(parts: &Parts, instance: &Instance) -> Option<(FleetInstance, InstanceState)> {
    let draining = match instance.traffic {
        Traffic::Active if instance.intent == InstanceIntent::Run => false,
        Traffic::Draining => true,
        _ => return None,
    };
    let observed = &parts.online.get(&instance.server_id)?.observed;
    let seen = observed.instances.iter().find(|seen| seen.instance_id == instance.id)?;
    let runs = matches!(seen.state, InstanceState::Running | InstanceState::Healthy | InstanceState::Unhealthy);
    // What it is told to have and what it has must be the same: another address is not its own.
    if !runs || seen.address != instance.address || seen.revision_id != instance.revision_id {
        return None;
    }
    let told = FleetInstance {
        instance_id: instance.id.clone(),
        server_id: instance.server_id.clone(),
        address: seen.socket()?,
        draining,
    };
    Some((told, seen.state))
}

#[cfg(test)]
mod tests;
