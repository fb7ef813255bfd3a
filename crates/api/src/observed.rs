//! What the agent saw: one document, sent whole with every report. Nothing in it is guessed: what
//! could not be found out is absent or `unknown`.

use crate::UnixMillis;
use crate::gateway::{DnsObserved, GatewayObserved};
use crate::ids::{DeploymentId, InstanceId, RevisionId, ServerId, ServiceId, StackId};
use crate::mesh::MeshObserved;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ObservedState {
    pub server_id: ServerId,
    /// Generation of the desired state that this was compared with; 0 before the first.
    pub generation: u64,
    pub observed_at_ms: UnixMillis,
    /// Generation of the fleet state that the live gateway was told; 0 for none.
    #[serde(default)]
    pub fleet_generation: u64,
    pub agent: AgentObserved,
    pub stacks: Vec<StackObserved>,
    pub instances: Vec<InstanceObserved>,
    pub preparations: Vec<PreparationObserved>,
    pub gateway: GatewayObserved,
    pub dns: DnsObserved,
    #[serde(default)]
    pub mesh: MeshObserved,
    /// What differs from the desired state and is held back, with the reason.
    pub blocked: Vec<Blocked>,
    #[serde(default)]
    pub resources: Resources,
}

/// The two-state machine of the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum AgentState {
    #[default]
    Idle,
    Processing,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AgentObserved {
    pub version: String,
    pub state: AgentState,
    pub started_at_ms: UnixMillis,
    /// A desired state that was refused (bad signature, fallen generation, …), until a good one arrives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A stack on this server: all of it as desired, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StackCondition {
    /// Not compared yet, or on its way.
    Applying,
    Applied,
    Degraded,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StackObserved {
    pub stack_id: StackId,
    pub version: u64,
    pub hash: String,
    pub condition: StackCondition,
    /// Why it is degraded, one sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// What the machine says about an instance, apart from what is wanted of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum InstanceState {
    Absent,
    /// Between two states: being started, being stopped, waiting to be restarted.
    Transient,
    /// The process runs; its health is not known yet.
    Running,
    Healthy,
    Unhealthy,
    /// The process ended and will not be started again.
    Exited,
}

impl InstanceState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Transient => "transient",
            Self::Running => "running",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Exited => "exited",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExitStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(default)]
    pub out_of_memory: bool,
    pub at_ms: UnixMillis,
}

impl ExitStatus {
    /// `exited with code 1`, `was killed by signal 9 (out of memory)`.
    pub fn describe(&self) -> String {
        let oom = if self.out_of_memory { " (out of memory)" } else { "" };
        match (self.code, self.signal) {
            (Some(code), _) => format!("exited with code {code}{oom}"),
            (None, Some(signal)) => format!("was killed by signal {signal}{oom}"),
            (None, None) => format!("ended{oom}"),
        }
    }
}

/// One answer of a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProbeResult {
    pub ok: bool,
    pub at_ms: UnixMillis,
    pub duration_ms: u64,
    /// `GET http://127.0.0.1:20001/health answered 200`, or why it did not.
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceObserved {
    pub instance_id: InstanceId,
    pub service_id: ServiceId,
    pub revision_id: RevisionId,
    pub state: InstanceState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Where its port is; `None`: on loopback, as of every process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<UnixMillis>,
    #[serde(default)]
    pub restarts: u32,
    #[serde(default)]
    pub crash_looping: bool,
    /// It was asked to stop and is on its way.
    #[serde(default)]
    pub stopping: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<ExitStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_probe: Option<ProbeResult>,
    /// Why it is not as desired, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The last log lines, when something is wrong.
    #[serde(default)]
    pub log_tail: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// CPU time used since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
}

impl InstanceObserved {
    /// Where it listens, as seen from its machine.
    pub fn socket(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(IpAddr::V4(self.address.unwrap_or(Ipv4Addr::LOCALHOST)), self.port?))
    }

    /// Whether it ended because it was asked to, and not by itself: whatever ends otherwise is started again
    /// by its supervisor, or has a problem.
    pub fn was_put_down(&self) -> bool {
        self.state == InstanceState::Exited && self.problem.is_none() && !self.crash_looping
    }

    /// How its process ended last, to be said after its name: `exited with code 1`; `stopped`, by whatever signal,
    /// if it was asked to.
    pub fn last_end(&self) -> String {
        match &self.last_exit {
            _ if self.was_put_down() => "stopped".into(),
            Some(exit) => exit.describe(),
            None => "ended".into(),
        }
    }
}

/// What has to be done before a revision can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PreparationStep {
    /// Fetch the exact commit.
    Sync,
    Build,
    /// Get the image from its registry.
    Pull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PreparationState {
    Absent,
    Working,
    Ready,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PreparationObserved {
    pub service_id: ServiceId,
    pub revision_id: RevisionId,
    pub deployment_id: DeploymentId,
    pub state: PreparationState,
    /// The step that is worked on, or that failed.
    pub step: PreparationStep,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether trying again could help (network) or not (the build command failed).
    #[serde(default)]
    pub retryable: bool,
    #[serde(default)]
    pub attempts: u32,
    #[serde(default)]
    pub log_tail: Vec<String>,
}

/// A difference that is not acted on now, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Blocked {
    /// What it is about: `service web`, `routes`, `dns`.
    pub subject: String,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<UnixMillis>,
}

/// Use of the machine as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resources {
    pub cpu_count: u32,
    /// Time of all its processors since it was started; absent where it is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuTime>,
    pub load_1m: f64,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
    pub disk_total_bytes: u64,
    pub disk_available_bytes: u64,
    /// How much of the disk new work leaves alone.
    #[serde(default)]
    pub disk_reserve_bytes: u64,
    /// Only the reserve is left: nothing new is fetched or built until there is room again.
    #[serde(default)]
    pub disk_low: bool,
}

/// Two sums, so that what they grew by between two reports says which part of the machine was busy, whenever
/// exactly they were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CpuTime {
    pub busy_ms: u64,
    /// Busy and idle.
    pub total_ms: u64,
}
