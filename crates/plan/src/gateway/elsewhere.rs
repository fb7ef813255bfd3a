//! What runs on other servers, as the gateway of this one sees it.

use super::RenderContext;
use api::desired::DesiredState;
use api::fleet::{FleetInstance, FleetService};
use api::gateway::{GatewayService, Upstream};
use api::ids::{ServerId, ServiceId};
use std::collections::BTreeMap;

/// Services of the fleet state that have an instance on another server.
pub struct Elsewhere<'a> {
    own: &'a ServerId,
    services: BTreeMap<&'a ServiceId, &'a FleetService>,
}

impl<'a> Elsewhere<'a> {
    pub fn of(desired: &'a DesiredState, context: &'a RenderContext) -> Self {
        let own = &desired.server_id;
        // A server that is not in the mesh reaches nobody, whatever it was told.
        let fleet = context.fleet.as_deref().filter(|fleet| fleet.has(own));
        let services = fleet.into_iter().flat_map(|fleet| &fleet.services);
        let has_others = |service: &&FleetService| service.instances.iter().any(|i| &i.server_id != own);
        Self { own, services: services.filter(has_others).map(|service| (&service.service_id, service)).collect() }
    }

    /// Those of which this server has nothing itself.
    pub fn without(&self, has: impl Fn(&ServiceId) -> bool) -> Vec<&'a FleetService> {
        self.services.values().filter(|service| !has(&service.service_id)).copied().collect()
    }

    /// Instances on other servers that are let finish their open requests.
    pub fn draining(&self, service_id: &ServiceId) -> impl Iterator<Item = Upstream> {
        self.upstreams(service_id, true)
    }

    /// Instances on other servers that may get requests.
    pub fn active(&self, service_id: &ServiceId) -> impl Iterator<Item = Upstream> {
        self.upstreams(service_id, false)
    }

    fn upstreams(&self, service_id: &ServiceId, draining: bool) -> impl Iterator<Item = Upstream> {
        let own = self.own;
        let instances = self.services.get(service_id).into_iter().flat_map(|service| &service.instances);
        instances.filter(move |instance| &instance.server_id != own && instance.draining == draining).map(upstream)
    }

    /// A service that runs only elsewhere.
    pub fn service(&self, service: &FleetService) -> GatewayService {
        let id = &service.service_id;
        let mut upstreams: Vec<Upstream> = self.active(id).chain(self.draining(id)).collect();
        upstreams.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
        GatewayService {
            service_id: id.clone(),
            name: service.name.clone(),
            upstreams,
            unavailable_reason: format!("{} has no instance that can be reached", service.name),
        }
    }
}

fn upstream(instance: &FleetInstance) -> Upstream {
    Upstream { instance_id: instance.instance_id.clone(), address: instance.address, draining: instance.draining }
}
