//! The agent's side of the wire: registering and reporting.

use crate::desired::SignedDesiredState;
use crate::events::Event;
use crate::ids::{EventId, ServerId};
use crate::name::Name;
use crate::observed::ObservedState;
use crate::secret::Secret;
use crate::servers::ServerFacts;
use serde::{Deserialize, Serialize};

/// `POST /api/v1/agent/register`, unsigned: the token is the credential.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterRequest {
    pub token: Secret,
    /// Wished name; the control plane appends a number if it is taken.
    pub name: Option<Name>,
    /// Ed25519 public key of the machine, base64; the private half never leaves it.
    pub public_key: String,
    pub agent_version: String,
    pub facts: ServerFacts,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegisterAnswer {
    pub server_id: ServerId,
    pub name: Name,
    pub index: u16,
    /// Key of the HMAC over every later request, base64 of 32 bytes.
    pub secret: Secret,
    /// The control plane's Ed25519 public key, base64: pinned from now on.
    pub control_plane_key: String,
    pub poll_interval_ms: u64,
}

/// `POST /api/v1/agent/status`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusReport {
    pub observed: ObservedState,
    /// Sent when they changed since the last report, and with the first one.
    #[serde(default)]
    pub facts: Option<ServerFacts>,
    /// Events not acknowledged yet, oldest first.
    #[serde(default)]
    pub events: Vec<Event>,
    /// The desired state that the machine keeps; `None` before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldDocument>,
}

/// Which desired state a machine keeps. A control plane that was restored from a backup learns from it
/// what it told the machine after the backup was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeldDocument {
    pub generation: u64,
    pub sha256: String,
    /// All of it, when [`StatusAnswer::send_document`] asked for it. It carries the control plane's own
    /// signature, so nobody else can have made it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<SignedDesiredState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StatusAnswer {
    /// Events that are kept now; the agent forgets them.
    pub acknowledged_events: Vec<EventId>,
    /// Newest generation of this server's desired state: higher than the agent's means fetch it.
    pub generation: u64,
    /// The control plane does not know the document that the agent holds and wants to see it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub send_document: bool,
}
