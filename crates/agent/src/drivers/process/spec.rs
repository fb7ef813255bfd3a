//! What the agent and the supervisor of one instance tell each other: a file each, and a socket.
//!
//! `spec.json` is written by the agent before the supervisor starts and never changes under it.
//! `status.json` is written by the supervisor at every turn. The socket carries the same status, and
//! the one thing that cannot wait for anybody: stop.

use super::cgroup::Group;
use crate::drivers::log::LogLimits;
use api::UnixMillis;
use api::ids::{DeploymentId, InstanceId, RevisionId, ServiceId};
use api::name::Name;
use api::observed::ExitStatus;
use api::secret::Secret;
use api::services::{Limits, RestartSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

pub const SPEC_FILE: &str = "spec.json";
pub const STATUS_FILE: &str = "status.json";
pub const CONTROL_SOCKET: &str = "control.sock";
/// Held (`flock`) by the supervisor as long as it lives.
pub const LOCK_FILE: &str = "lock";
pub const LOG_DIRECTORY: &str = "log";
pub const HOME_DIRECTORY: &str = "home";

/// Set in everything that an instance starts: how its processes are found again when they left their
/// process group and their supervisor is gone.
pub const INSTANCE_VARIABLE: &str = "MAINSTAY_INSTANCE";
/// The same for a build.
pub const BUILD_VARIABLE: &str = "MAINSTAY_BUILD";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    pub instance_id: InstanceId,
    pub service_id: ServiceId,
    pub service: Name,
    pub revision_id: RevisionId,
    pub deployment_id: DeploymentId,
    /// Program and arguments.
    pub command: Vec<String>,
    pub directory: PathBuf,
    /// All of it; nothing is inherited.
    pub env: BTreeMap<String, Secret>,
    pub port: Option<u16>,
    /// The port was picked by the agent, so the supervisor holds a claim on it.
    pub claim_port: bool,
    pub limits: Limits,
    pub cgroup: Option<Group>,
    pub restart: RestartSpec,
    /// Grace when the supervisor itself is told to end (the machine shuts down).
    pub stop_grace_ms: u64,
    pub log: LogLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The supervisor is there, the process not yet. Next: running, waiting.
    Starting,
    /// Next: waiting (it exited), stopping.
    Running,
    /// It exited; it is started again at `retry_at_ms`. Next: running, stopped.
    Waiting,
    /// It was asked to end. Next: stopped.
    Stopping,
    /// Everything of it is gone. Final; the supervisor ends.
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceStatus {
    pub phase: Phase,
    pub supervisor: ProcessIdentity,
    /// The newest process; kept after its end, because others of its session may be left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at_ms: Option<UnixMillis>,
    pub restarts: u32,
    pub crash_looping: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<ExitStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at_ms: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A process id alone may have been given to another; with its start time and boot it may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Clock ticks since boot, from `/proc/PID/stat`.
    pub started_ticks: u64,
    pub boot_id: String,
}

/// One line of JSON to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Answer the status once.
    Status,
    /// Answer the status now and at every change.
    Watch,
    /// End the process and everything it started; answer the status at once.
    Stop { grace_ms: u64 },
}

/// First line of the supervisor's stdout when the process was started; anything else is an error.
pub const READY: &str = "ready";
/// Told instead of [`READY`] when another agent on this machine claimed the port first.
pub const PORT_CLAIMED: &str = "port-claimed";

/// Name of the abstract socket that claims a port. Abstract names belong to a network namespace, as
/// ports do, so the claim holds between several agents on one machine and never too far.
pub fn port_claim_name(port: u16) -> String {
    format!("mainstay-port-{port}")
}
