//! Things that happened, in order, each with its cause.

use crate::UnixMillis;
use crate::cause::Cause;
use crate::ids::{DeploymentId, EventId, InstanceId, ServerId, ServiceId, StackId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EventKind {
    SyncFailed,
    BuildStarted,
    BuildSucceeded,
    BuildFailed,
    InstanceStarted,
    InstanceAdopted,
    InstanceStopped,
    InstanceExited,
    InstanceCrashLooping,
    HealthChanged,
    RoutesChanged,
    DnsChanged,
    ConfigReceived,
    ConfigApplied,
    ConfigRefused,
    StackApplied,
    StackDegraded,
    StackChanged,
    StackRemoved,
    DeploymentCreated,
    DeploymentStageChanged,
    ServiceScaled,
    ServiceStopped,
    ServiceStarted,
    EnvChanged,
    ServerRegistered,
    ServerOnline,
    ServerOffline,
    ServerRemoved,
    AgentStarted,
    /// An agent that could not report for long let the oldest events go.
    EventsDropped,
    /// Only the reserve is left on the disk of a server or, without one, of the control plane.
    DiskLow,
    DiskFreed,
    GatewayStarted,
    GatewayStopped,
    TokenCreated,
    TokenUsed,
    TokenRevoked,
    UserSignedIn,
    PasswordChanged,
}

impl EventKind {
    /// The name in JSON: `build_failed`.
    pub fn as_str(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(text)) => text,
            _ => String::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EventLevel {
    Info,
    Warning,
    Error,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Event {
    /// Made where the event was made, so that a repeated report adds nothing.
    pub id: EventId,
    pub at_ms: UnixMillis,
    pub kind: EventKind,
    pub level: EventLevel,
    /// One sentence for a person.
    pub message: String,
    pub cause: Cause,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_id: Option<StackId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<ServiceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<DeploymentId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<ServerId>,
}

/// An event in the control plane's order, as `GET /events` and its stream answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventRecord {
    /// Rises; pass the last one seen as `after` to go on from there.
    pub sequence: i64,
    #[serde(flatten)]
    pub event: Event,
}
