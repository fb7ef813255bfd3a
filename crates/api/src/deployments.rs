//! Making one revision live, and the stages that it passes.

use crate::UnixMillis;
use crate::cause::Cause;
use crate::ids::{DeploymentId, RevisionId, ServerId, ServiceId, StackId};
use crate::name::Name;
use crate::observed::ProbeResult;
use crate::sources::SourceVersion;
use serde::{Deserialize, Serialize};

/// Where a deployment is. A stage that does not apply is passed through, so every deployment that
/// succeeds has seen them all in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Stage {
    Pending,
    Building,
    Pulling,
    Starting,
    Healthy,
    DnsUpdating,
    RoutesUpdating,
    StoppingOld,
    Running,
    Failed,
    RolledBack,
    Stopped,
    Cancelled,
    Superseded,
    Unknown,
}

impl Stage {
    /// The stages of a deployment that goes well, in order.
    pub const PATH: [Stage; 9] = [
        Stage::Pending,
        Stage::Building,
        Stage::Pulling,
        Stage::Starting,
        Stage::Healthy,
        Stage::DnsUpdating,
        Stage::RoutesUpdating,
        Stage::StoppingOld,
        Stage::Running,
    ];

    /// Whether the deployment still moves. A running deployment that bakes is no longer in flight.
    pub fn in_flight(self) -> bool {
        self < Stage::Running || self == Stage::Unknown
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Pending => "pending",
            Stage::Building => "building",
            Stage::Pulling => "pulling",
            Stage::Starting => "starting",
            Stage::Healthy => "healthy",
            Stage::DnsUpdating => "dns_updating",
            Stage::RoutesUpdating => "routes_updating",
            Stage::StoppingOld => "stopping_old",
            Stage::Running => "running",
            Stage::Failed => "failed",
            Stage::RolledBack => "rolled_back",
            Stage::Stopped => "stopped",
            Stage::Cancelled => "cancelled",
            Stage::Superseded => "superseded",
            Stage::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Stage {
    type Err = String;
    fn from_str(value: &str) -> Result<Self, String> {
        serde_json::from_value(serde_json::Value::String(value.into()))
            .map_err(|_| format!("`{value}` is not a deployment stage"))
    }
}

/// What was asked for. All kinds go through the one rollout engine; they differ in which instances
/// count as the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeploymentKind {
    /// A new revision.
    Deploy,
    /// Back to an earlier revision; warm instances of it are used again.
    Rollback,
    /// The same revision in new instances.
    Restart,
    /// The same revision with another number of instances.
    Scale,
    /// Run again after a stop.
    Start,
    /// No instances.
    Stop,
}

impl DeploymentKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::Restart => "restart",
            Self::Scale => "scale",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

impl std::fmt::Display for DeploymentKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for DeploymentKind {
    type Err = String;
    fn from_str(value: &str) -> Result<Self, String> {
        serde_json::from_value(serde_json::Value::String(value.into()))
            .map_err(|_| format!("`{value}` is not a deployment kind"))
    }
}

/// Why a deployment failed or was rolled back: what a person needs to mend it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentFailure {
    /// The stage in which it failed.
    pub stage: Stage,
    /// What was tried, on what, why it failed, what to do next.
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<ServerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<ProbeResult>,
    /// The last lines of the build or of the instance.
    #[serde(default)]
    pub log_tail: Vec<String>,
}

/// When a stage began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StageEntry {
    pub stage: Stage,
    pub at_ms: UnixMillis,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Deployment {
    pub id: DeploymentId,
    pub stack_id: StackId,
    pub service_id: ServiceId,
    pub service: Name,
    pub kind: DeploymentKind,
    pub revision_id: RevisionId,
    pub revision_number: u64,
    #[serde(alias = "commit")]
    pub source_version: SourceVersion,
    #[serde(default, alias = "commit_subject")]
    pub source_subject: String,
    /// The revision that served before: where a failure leaves or returns the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_revision_id: Option<RevisionId>,
    pub replicas: u32,
    pub stage: Stage,
    /// Every stage entered so far, oldest first.
    pub stages: Vec<StageEntry>,
    pub cause: Cause,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<DeploymentFailure>,
    pub created_at_ms: UnixMillis,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<UnixMillis>,
    /// Set while running: until then a break rolls it back by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bake_until_ms: Option<UnixMillis>,
    /// Set while running: until then the old release stays started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_until_ms: Option<UnixMillis>,
    /// While it is in flight: what it waits for, in words. Empty while it moves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<String>,
}

impl Deployment {
    /// Whether its release was healthy once: it came as far as running, whatever became of it afterwards.
    pub fn ran(&self) -> bool {
        self.stages.iter().any(|entry| entry.stage == Stage::Running)
    }
}

/// `POST …/rollback`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RollbackRequest {
    /// Revision number to go back to; `None`: the one before the current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_reads_back_from_its_own_text() {
        for stage in Stage::PATH {
            assert_eq!(stage.as_str().parse::<Stage>(), Ok(stage));
        }
        assert!(Stage::StoppingOld.in_flight() && !Stage::Running.in_flight() && !Stage::Failed.in_flight());
    }
}
