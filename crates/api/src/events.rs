//! Things that happened, in order, each with its cause.

use crate::UnixMillis;
use crate::cause::Cause;
use crate::ids::{DeploymentId, EventId, InstanceId, ServerId, ServiceId, StackId};
use serde::{Deserialize, Serialize};

/// The enum, and the list of all that is in it.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident),+ $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum EventKind {
            $($(#[$doc])* $kind),+
        }

        impl EventKind {
            pub const ALL: &[Self] = &[$(Self::$kind),+];
        }
    };
}

kinds! {
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

/// What an event is about, as people look for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EventTopic {
    Deployments,
    Builds,
    Instances,
    Servers,
    Access,
}

impl EventTopic {
    pub const ALL: [Self; 5] = [Self::Deployments, Self::Builds, Self::Instances, Self::Servers, Self::Access];

    /// The word in JSON and in addresses: `builds`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Deployments => "deployments",
            Self::Builds => "builds",
            Self::Instances => "instances",
            Self::Servers => "servers",
            Self::Access => "access",
        }
    }

    /// What happens in this field.
    pub fn kinds(self) -> Vec<EventKind> {
        EventKind::ALL.iter().copied().filter(|kind| Self::of(*kind) == self).collect()
    }

    pub fn of(kind: EventKind) -> Self {
        use EventKind as K;
        match kind {
            K::DeploymentCreated
            | K::DeploymentStageChanged
            | K::StackApplied
            | K::StackDegraded
            | K::StackChanged
            | K::StackRemoved
            | K::ServiceScaled
            | K::ServiceStopped
            | K::ServiceStarted
            | K::EnvChanged => Self::Deployments,
            K::SyncFailed | K::BuildStarted | K::BuildSucceeded | K::BuildFailed => Self::Builds,
            K::InstanceStarted
            | K::InstanceAdopted
            | K::InstanceStopped
            | K::InstanceExited
            | K::InstanceCrashLooping
            | K::HealthChanged => Self::Instances,
            K::RoutesChanged
            | K::DnsChanged
            | K::ConfigReceived
            | K::ConfigApplied
            | K::ConfigRefused
            | K::ServerRegistered
            | K::ServerOnline
            | K::ServerOffline
            | K::ServerRemoved
            | K::AgentStarted
            | K::EventsDropped
            | K::DiskLow
            | K::DiskFreed
            | K::GatewayStarted
            | K::GatewayStopped => Self::Servers,
            K::TokenCreated | K::TokenUsed | K::TokenRevoked | K::UserSignedIn | K::PasswordChanged => Self::Access,
        }
    }
}

impl std::fmt::Display for EventTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key())
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

impl EventLevel {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Error];

    /// The word in JSON: `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
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
