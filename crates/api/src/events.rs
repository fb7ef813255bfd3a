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
    /// A peer in the mesh is reached now, or no longer.
    MeshPeerChanged,
    /// The tunnel was not as the agent had left it, and was put right.
    MeshRepaired,
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
    /// A certificate is to be ordered, because it is needed or a person asked.
    CertificateOrdered,
    /// A certificate was stored for a host: ordered, or given by a person.
    CertificateIssued,
    /// A certificate could not be ordered.
    CertificateFailed,
    /// A certificate that a person gave ends soon, or has ended.
    CertificateExpiring,
    CertificateRemoved,
    /// Automatic HTTPS was set up, changed or turned off.
    HttpsSetUp,
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
    Certificates,
    Access,
}

impl EventTopic {
    pub const ALL: [Self; 6] =
        [Self::Deployments, Self::Builds, Self::Instances, Self::Servers, Self::Certificates, Self::Access];

    /// The word in JSON and in addresses: `builds`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Deployments => "deployments",
            Self::Builds => "builds",
            Self::Instances => "instances",
            Self::Servers => "servers",
            Self::Certificates => "certificates",
            Self::Access => "access",
        }
    }

    /// The kinds that are looked for by what they are about, by one kind, or by both; `None`: all.
    pub fn kinds_wanted(about: Option<Self>, kind: Option<EventKind>) -> Option<Vec<EventKind>> {
        let all = || about.map_or_else(|| EventKind::ALL.to_vec(), Self::kinds);
        let wanted = || all().into_iter().filter(|one| kind.is_none_or(|kind| kind == *one)).collect();
        (about.is_some() || kind.is_some()).then(wanted)
    }

    /// What happens in this field.
    fn kinds(self) -> Vec<EventKind> {
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
            | K::MeshPeerChanged
            | K::MeshRepaired
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
            K::CertificateOrdered
            | K::CertificateIssued
            | K::CertificateFailed
            | K::CertificateExpiring
            | K::CertificateRemoved
            | K::HttpsSetUp => Self::Certificates,
            K::TokenCreated | K::TokenUsed | K::TokenRevoked | K::UserSignedIn | K::PasswordChanged => Self::Access,
        }
    }
}

impl std::fmt::Display for EventTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.key())
    }
}

impl std::str::FromStr for EventTopic {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|topic| topic.key() == word).ok_or_else(|| format!("`{word}` is not known"))
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

impl Event {
    /// What it was done for, unless what happened says so already: often the reason is what happened. One word, such
    /// as `deploy`, is told all the same, because a sentence has such a word by chance.
    pub fn untold_reason(&self) -> Option<&str> {
        let reason = self.cause.action.as_str();
        let told = reason.contains(' ') && self.message.contains(reason);
        (!told).then_some(reason)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_is_what_happened_is_not_told_twice() {
        let told = |message: &str, action: &str| {
            let cause = Cause::system("test", action);
            let event = Event {
                id: EventId::from_uuid(uuid::Uuid::from_u128(1)),
                at_ms: 0,
                kind: EventKind::StackDegraded,
                level: EventLevel::Warning,
                message: message.into(),
                cause,
                stack_id: None,
                service_id: None,
                deployment_id: None,
                instance_id: None,
                server_id: None,
            };
            event.untold_reason().map(str::to_owned)
        };
        assert_eq!(told("shop is degraded: web crashed", "web crashed"), None);
        assert_eq!(told("the deploy of web has begun", "deploy").as_deref(), Some("deploy"));
        assert_eq!(told("web is healthy", "its check answers").as_deref(), Some("its check answers"));
    }

    #[test]
    fn kinds_are_looked_for_by_what_they_are_about_by_one_kind_or_by_both() {
        use EventKind::{BuildFailed, BuildStarted, BuildSucceeded, DiskLow, SyncFailed};
        let builds = Some(EventTopic::Builds);
        assert_eq!(EventTopic::kinds_wanted(None, None), None);
        assert_eq!(EventTopic::kinds_wanted(None, Some(DiskLow)), Some(vec![DiskLow]));
        assert_eq!(EventTopic::kinds_wanted(builds, Some(BuildFailed)), Some(vec![BuildFailed]));
        assert_eq!(EventTopic::kinds_wanted(builds, Some(DiskLow)), Some(Vec::new()), "none is both");
        let all = vec![SyncFailed, BuildStarted, BuildSucceeded, BuildFailed];
        assert_eq!(EventTopic::kinds_wanted(builds, None), Some(all));
    }
}
