//! Machines with an agent.

use crate::UnixMillis;
use crate::desired::SecurityMode;
use crate::ids::ServerId;
use crate::mesh::MeshFacts;
use crate::name::Name;
use crate::observed::ObservedState;
use serde::{Deserialize, Serialize};

/// How many servers an organization may have: as many as there are numbers that give addresses of their own
/// (`crate::addresses`, docs/rfd/0007).
pub const SERVERS_LIMIT: u16 = 14_335;

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
    /// The container engine: `podman` or `docker`; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
    /// OCI runtimes that are installed for it: `runc`, `runsc` (gVisor), …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<String>,
    /// What this machine cannot do and what follows, one sentence each.
    pub limitations: Vec<String>,
    /// Absent where the machine cannot take part in the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<MeshFacts>,
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
    /// From 1, unique: mesh and container addresses follow from it.
    pub index: u16,
    pub condition: ServerCondition,
    pub security_mode: SecurityMode,
    pub facts: ServerFacts,
    pub agent_version: String,
    pub registered_at_ms: UnixMillis,
    pub last_seen_at_ms: Option<UnixMillis>,
    pub desired_generation: u64,
    /// The last report, whole.
    pub observed: Option<ObservedState>,
    /// Set while the machine holds a desired state that this control plane does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<ServerRecovery>,
    /// By how much its clock is ahead of the control plane's (negative: behind), while that is why its
    /// requests are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_difference_ms: Option<i64>,
}

impl ServerView {
    /// `its clock is 60 min ahead`, while that is why its requests are refused.
    pub fn wrong_clock(&self) -> Option<String> {
        self.clock_difference_ms.map(wrong_clock)
    }
}

/// `its clock is 60 min ahead`: the machine's clock against the control plane's.
pub fn wrong_clock(difference_ms: i64) -> String {
    let seconds = difference_ms.unsigned_abs() / 1000;
    let length = match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", (seconds + 30) / 60),
        7_200..=172_799 => format!("{} h", (seconds + 1_800) / 3_600),
        _ => format!("{} days", (seconds + 43_200) / 86_400),
    };
    format!("its clock is {length} {}", if difference_ms > 0 { "ahead" } else { "behind" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_clock_is_told_in_a_unit_that_a_person_would_choose() {
        assert_eq!(wrong_clock(61_000), "its clock is 61 s ahead");
        assert_eq!(wrong_clock(-3_599_400), "its clock is 60 min behind");
        assert_eq!(wrong_clock(7_300_000), "its clock is 2 h ahead");
        assert_eq!(wrong_clock(i64::MIN), "its clock is 106751991167 days behind");
    }
}

/// Where a server stands after the control plane was restored from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RecoveryState {
    /// The control plane was restored and has not heard this agent since.
    Unheard,
    /// The machine goes on with what it was told after the backup. A person decides.
    Ahead,
    /// A person decided; what ran goes on until what takes its place is healthy.
    Replacing,
}

/// A control plane was restored from a backup, and the machine holds something newer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServerRecovery {
    pub state: RecoveryState,
    pub since_ms: UnixMillis,
    /// Of the document that the machine holds, as far as it was told.
    pub held_generation: u64,
    /// Of the newest document here.
    pub generation: u64,
    /// Whether the machine has shown what it holds; without that the changes are not known.
    pub document_known: bool,
    /// What accepting the restored state does to this machine.
    pub changes: Vec<RecoveryChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RecoveryAction {
    /// The restored revision takes the place of the one that runs, without a gap.
    Replace,
    /// The backup does not know it, or knows it as stopped.
    Stop,
    /// It was removed or stopped after the backup.
    Start,
}

/// What becomes of one service on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RecoveryChange {
    pub action: RecoveryAction,
    /// `shop/web`
    pub service: String,
    /// What runs now: `revision 7 (commit 1a2b3c4)`.
    pub from: Option<String>,
    /// What the backup says.
    pub to: Option<String>,
}

/// `POST /servers/{server}/accept-restore`: what was looked at before agreeing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AcceptRestoreRequest {
    /// [`ServerRecovery::held_generation`] as it was shown; if it is another one now, nothing is done.
    pub held_generation: u64,
}
