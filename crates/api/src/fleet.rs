//! What all servers of an organization are told alike: who else there is, and which services run where.
//!
//! A server's desired state says what it runs itself, and grows with that alone. To reach what runs elsewhere, every
//! server needs the same list, so it is one document for all of them: put together once, signed once, and asked for by
//! a long-poll of its own. An agent that has it needs no control plane to go on routing.
//!
//! Generations are times: a control plane that was restored from a backup goes on above what it gave out before.

use crate::UnixMillis;
use crate::ids::{InstanceId, OrganizationId, ProjectId, ServerId, ServiceId};
use crate::mesh::MeshPeer;
use crate::name::Name;
use crate::services::RouteSpec;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FleetState {
    pub organization_id: OrganizationId,
    /// Rises with every change; an agent refuses a lower one.
    pub generation: u64,
    pub issued_at_ms: UnixMillis,
    /// Every server that is in the mesh, the reader included.
    pub peers: Vec<MeshPeer>,
    /// Services that have an instance which can be reached from other servers.
    pub services: Vec<FleetService>,
}

impl FleetState {
    /// Whether the server is one of those that can reach each other.
    pub fn has(&self, server_id: &ServerId) -> bool {
        self.peers.iter().any(|peer| &peer.server_id == server_id)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FleetService {
    pub service_id: ServiceId,
    pub project_id: ProjectId,
    pub project: Name,
    pub name: Name,
    pub routes: Vec<RouteSpec>,
    pub instances: Vec<FleetInstance>,
}

/// An instance that is well, as far as its server says, and can be reached through the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FleetInstance {
    pub instance_id: InstanceId,
    pub server_id: ServerId,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: SocketAddr,
    /// It gets no new request; open ones are let finish.
    #[serde(default)]
    pub draining: bool,
}
