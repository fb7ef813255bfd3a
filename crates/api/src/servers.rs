//! Machines with an agent.

use crate::UnixMillis;
use crate::desired::SecurityMode;
use crate::ids::ServerId;
use crate::name::Name;
use crate::observed::ObservedState;
use serde::{Deserialize, Serialize};

/// What a machine is and can do, found out by its agent. What is missing is said in `limitations`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerFacts {
    pub hostname: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub operating_system: String,
    pub kernel: String,
    pub architecture: String,
    pub cpu_count: u32,
    pub memory_bytes: u64,
    /// Whether the agent runs as root.
    pub root: bool,
    /// `v2`, `v1` or `none`: how limits are enforced.
    pub cgroups: String,
    pub git_version: Option<String>,
    pub git_lfs: bool,
    /// What this machine cannot do and what follows, one sentence each.
    pub limitations: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ServerCondition {
    Online,
    /// No report for longer than three poll intervals.
    Offline,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerView {
    pub id: ServerId,
    pub name: Name,
    /// 1 to 255, unique: mesh and container addresses follow from it.
    pub index: u8,
    pub condition: ServerCondition,
    pub security_mode: SecurityMode,
    pub facts: ServerFacts,
    pub agent_version: String,
    pub registered_at_ms: UnixMillis,
    pub last_seen_at_ms: Option<UnixMillis>,
    pub desired_generation: u64,
    /// The last report, whole.
    pub observed: Option<ObservedState>,
}
