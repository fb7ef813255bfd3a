//! What a machine has and lacks for Mainstay, and how to mend it.
//!
//! In two halves, so that each judgement can be tested on any machine: [`look`] finds facts and judges
//! nothing, [`judge`](judge::judge) makes findings of facts and touches nothing. A finding is good, or it says what
//! follows from what is missing and what to do about it. What could not be found out is a fact, too.
//!
//! Absent on purpose: mending. What is missing is installed by the machine's owner, in their way.

mod certificate;
pub mod judge;
pub mod look;

use plan::disk::Space;
use serde::Serialize;
use std::path::PathBuf;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Good,
    /// Good to know; nothing is missing for what Mainstay does today.
    Note,
    /// Something does without.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Finding {
    /// What was looked at: `git`, `clock`, `port 80`.
    pub check: String,
    pub verdict: Verdict,
    /// How it is, and what follows from that.
    pub message: String,
    /// How to mend it.
    pub mend: Option<String>,
}

/// Everything a judgement needs to know.
#[derive(Debug, Clone)]
pub struct Facts {
    pub root: bool,
    /// `6.1.0-18-amd64`
    pub kernel: Option<String>,
    /// `v2`, `v1` or `none`, and what that leaves out, one sentence each.
    pub cgroups: String,
    pub cgroup_limitations: Vec<String>,
    pub wireguard: bool,
    /// `/dev/net/tun` is there.
    pub tun: bool,
    pub nftables: bool,
    pub ports: Vec<PortFact>,
    /// `2.39.5`
    pub git: Option<String>,
    pub git_lfs: bool,
    /// The container engine, or why there is none.
    pub engine: Result<String, String>,
    pub systemd: bool,
    /// The program that keeps the clock right, if one runs: `systemd-timesyncd`.
    pub time_service: Option<String>,
    /// This machine's clock against the control plane's; ahead is positive.
    pub clock_difference_ms: Option<i64>,
    pub data_dir: PathBuf,
    pub disk: Space,
    /// Files that may still be made, of how many.
    pub inodes: Option<(u64, u64)>,
    /// How many files one process may hold open, and up to where it may raise that itself.
    pub open_files: (Option<u64>, Option<u64>),
    pub control_plane: ControlPlane,
    /// For how long its certificate is still good; `None` without TLS.
    pub certificate_left_ms: Option<i64>,
    pub agent: AgentFact,
    pub names: Names,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortFact {
    /// What Mainstay does there: `the gateway`.
    pub purpose: &'static str,
    pub port: u16,
    pub state: PortState,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortState {
    Free,
    /// Taken by Mainstay itself.
    Ours,
    /// In use, by whom if that can be known: `pid 12 (nginx)`.
    Taken(Option<String>),
    /// This user may not.
    Forbidden,
}

/// The control plane that the other commands would speak to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlPlane {
    /// Nobody signed in anywhere, and none runs here.
    Nowhere {
        address: String,
    },
    Answers {
        address: String,
        version: String,
    },
    /// It answers, but not to us.
    Refuses {
        address: String,
        reason: String,
    },
    Unreachable {
        address: String,
        reason: String,
    },
}

/// The agent of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentFact {
    /// This machine is nobody's server.
    NotJoined,
    /// Joined; what is known of how it runs.
    Joined {
        name: String,
        /// What the control plane says: reporting or not; `None` if it could not be asked.
        online: Option<bool>,
        /// What systemd says of its unit (`active`, `failed`, …), if there is a unit.
        unit: Option<String>,
        /// It runs inside of `mainstay up`.
        with_up: bool,
    },
}

/// Whether `<service>.svc.internal` resolves here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// No agent here, or no report from it.
    Unknown,
    /// There is no service to resolve yet.
    None,
    Resolves {
        name: String,
    },
    Fails {
        name: String,
    },
    /// Somebody chose so when the agent was started.
    SwitchedOff {
        consequence: String,
    },
    /// The agent said why not.
    Impossible {
        reason: String,
    },
}
