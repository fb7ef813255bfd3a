//! The edge of the agent: everything that touches the machine stands behind one of two shapes.
//!
//! [`Workloads`] are things with a lifecycle: they are prepared (fetched, built), started, watched,
//! stopped, removed, and found again after the agent restarted. [`Config`] is a thing that is
//! replaced whole: the gateway's routes, the resolver's answers. The loop above knows only these
//! shapes, so a container driver or a Kubernetes driver is one more implementation that passes the
//! same conformance suite (`tests/workloads/`), and nothing above changes.
//!
//! What a driver promises:
//!
//! - *Owned or untouched.* It lists, stops and removes only what it made itself.
//! - *Nothing remembered that is not on the machine.* A driver object may be dropped at any moment
//!   and built anew; `list` then shows the same instances. Adopting is nothing else than that.
//! - *Every verb may be repeated.* Starting what runs, stopping what is stopped and removing what is
//!   gone succeed and change nothing.
//! - *Observed, not assumed.* `start` and `stop` ask; what came of it is read from `list`.
//!
//! Deliberately absent: health. A driver says whether a process runs; whether it is *well* is asked
//! over its port by [`crate::health`], the same way for every driver.

mod book;
pub mod both;
pub mod container;
pub mod dns;
pub mod fake;
mod files;
mod log;
mod log_watch;
pub mod mesh;
pub mod process;
mod restart;
pub mod routes;

use api::desired::{InstanceDesired, RevisionDesired};
use api::ids::{DeploymentId, InstanceId, ProjectId, RevisionId, ServiceId};
use api::logs::{LogBatch, LogSource};
use api::name::Name;
use api::observed::{InstanceObserved, PreparationObserved, PreparationStep};
use api::secret::Secret;
pub use container::network::ContainerNetwork;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a driver found out about the machine, for `ServerFacts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadsFacts {
    /// `v2`, `v1` or `none`: how limits are enforced.
    pub cgroups: String,
    pub git_version: Option<String>,
    pub git_lfs: bool,
    /// `podman` or `docker`, with its version.
    pub engine: Option<String>,
    pub engine_version: Option<String>,
    /// OCI runtimes that it can use: `runc`, `runsc`, …
    pub runtimes: Vec<String>,
    /// What this machine cannot do and what follows from it, one sentence each.
    pub limitations: Vec<String>,
}

/// Fetch and build one revision.
#[derive(Debug, Clone)]
pub struct PrepareRequest {
    pub service_id: ServiceId,
    pub service: Name,
    pub revision: RevisionDesired,
    /// Variables that Mainstay adds (`SERVICE_<NAME>_URL`); the revision's own win over them.
    pub env: BTreeMap<String, Secret>,
}

/// Run one instance of a prepared revision.
#[derive(Debug, Clone)]
pub struct StartRequest {
    pub project_id: ProjectId,
    pub service_id: ServiceId,
    pub service: Name,
    pub instance: InstanceDesired,
    pub revision: RevisionDesired,
    /// As in [`PrepareRequest::env`].
    pub env: BTreeMap<String, Secret>,
}

/// An instance that was handed to its supervisor. Whether it runs is read from `list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartedInstance {
    /// Where it should listen; `None` for a worker.
    pub port: Option<u16>,
    /// It ran already; nothing was done.
    pub already_running: bool,
}

/// Why a preparation did not succeed, with the end of its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PrepareError {
    pub step: PreparationStep,
    /// What happened, why, and what to do next.
    pub message: String,
    /// Whether trying the same again could help (the network) or not (the build command failed).
    pub retryable: bool,
    /// It was stopped because nobody wants it any more; not a failure to show.
    pub cancelled: bool,
    pub log_tail: Vec<String>,
}

/// Why a driver could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("instance {0} does not exist on this server")]
    NoSuchInstance(InstanceId),
    #[error("revision {0} is not prepared on this server; it has to be fetched and built before it can start")]
    NotPrepared(RevisionId),
    #[error("instance {0} still runs; stop it before it is removed")]
    StillRunning(InstanceId),
    #[error("port {port} is in use by {owner}; stop that process, or let the service listen on another port")]
    PortInUse { port: u16, owner: String },
    #[error("no free port is left between {first} and {last}; {hint}")]
    NoFreePort { first: u16, last: u16, hint: String },
    #[error("could not {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The thing asked for cannot be done, in words for a person.
    #[error("{message}")]
    Refused { message: String, retryable: bool },
}

impl DriverError {
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), retryable: false }
    }

    pub fn temporary(message: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), retryable: true }
    }

    /// Whether the same call could succeed later without anybody changing the desired state.
    pub fn retryable(&self) -> bool {
        match self {
            Self::NoSuchInstance(_) => false,
            // The plan prepares it next.
            Self::NotPrepared(_)
            | Self::StillRunning(_)
            | Self::PortInUse { .. }
            | Self::NoFreePort { .. }
            | Self::Io { .. } => true,
            Self::Refused { retryable, .. } => *retryable,
        }
    }

    /// The whole chain in one line, for reports.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// What the desired state still needs; everything else that a driver keeps may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    pub services: BTreeSet<ServiceId>,
    pub revisions: BTreeSet<RevisionId>,
    pub build_keys: BTreeSet<String>,
    pub deployments: BTreeSet<DeploymentId>,
    /// How many of the newest builds per service stay beyond those, so that a rollback need not build.
    pub warm_builds: usize,
    /// Builds of a service that the desired state does not name stay this long: it may only be stopped.
    pub unnamed_age: Duration,
}

/// See [`Keep::unnamed_age`].
const UNNAMED_AGE: Duration = Duration::from_secs(24 * 3600);

impl Keep {
    /// Everything that a desired state names.
    pub fn of(desired: &api::desired::DesiredState, warm_builds: usize) -> Self {
        let mut keep = Self { warm_builds, unnamed_age: UNNAMED_AGE, ..Self::default() };
        for (_, service) in desired.services() {
            keep.services.insert(service.service_id.clone());
            for revision in &service.revisions {
                keep.revisions.insert(revision.revision_id.clone());
                keep.build_keys.insert(revision.build_key.clone());
                keep.deployments.insert(revision.deployment_id.clone());
            }
            keep.deployments.extend(service.instances.iter().map(|instance| instance.deployment_id.clone()));
        }
        keep
    }
}

/// What was written to logs, as far as it is known without looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogActivity {
    /// Another one: something was written.
    pub count: u64,
    /// Whether all of them are watched. Once not, never again: look.
    pub complete: bool,
}

/// One log that exists on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogState {
    pub source: LogSource,
    pub service_id: ServiceId,
    /// Offset of the oldest line still kept.
    pub first_offset: u64,
    /// Offset after the newest line: a reader that got there has everything.
    pub end_offset: u64,
}

/// How a command health check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOutcome {
    pub ok: bool,
    /// `exited with code 1: connection refused`
    pub message: String,
}

/// Things with a lifecycle on this machine.
pub trait Workloads: Send + Sync + 'static {
    /// `process`, `container`, …
    fn kind(&self) -> &'static str;

    /// What the machine can do. Cheap enough to repeat once an hour.
    fn probe(&self) -> impl Future<Output = WorkloadsFacts> + Send;

    /// Everything this driver owns, also what no desired state names any more. After a restart of
    /// the agent this is the adoption. `state` is one of transient, running and exited; health adds
    /// healthy and unhealthy. *Exited* with the wish to run means: call [`start`](Self::start)
    /// again (a supervisor was killed, the machine was rebooted); the instance keeps its port.
    fn list(&self) -> impl Future<Output = Result<Vec<InstanceObserved>, DriverError>> + Send;

    /// Preparations in flight and ended, ready ones included; what is missing here is absent.
    fn preparations(&self) -> impl Future<Output = Vec<PreparationObserved>> + Send;

    /// A number that changes whenever `list` or `preparations` may answer differently, so that the
    /// loop can look again at once instead of waiting for its next tick.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Fetch, then build. Slow: run it beside the loop, one task per revision; the driver itself
    /// bounds how many build at once. A revision whose build exists already is ready at once. A
    /// second call for a revision in work waits for the first.
    fn prepare(
        &self,
        request: PrepareRequest,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<(), PrepareError>> + Send;

    fn start(&self, request: StartRequest) -> impl Future<Output = Result<StartedInstance, DriverError>> + Send;

    /// Ask an instance to stop: politely, then for good after `grace`. Returns at once; `list` shows
    /// it transient until it is exited.
    fn stop(&self, instance: &InstanceId, grace: Duration) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Forget a stopped instance with its files and its log. Refuses while it runs.
    fn remove(&self, instance: &InstanceId) -> impl Future<Output = Result<(), DriverError>> + Send;

    /// Whole lines of a log from `offset` on, at most about `max_bytes` of them. An offset that was
    /// rotated away begins at the oldest line kept; `LogBatch::offset` says where. `None`: no such log.
    fn read_log(
        &self,
        source: &LogSource,
        offset: u64,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Option<LogBatch>, DriverError>> + Send;

    /// The last `lines` lines of a log as plain text.
    fn log_tail(&self, source: &LogSource, lines: usize) -> impl Future<Output = Vec<String>> + Send;

    /// All logs on this machine.
    fn logs(&self) -> impl Future<Output = Vec<LogState>> + Send;

    /// Tells when a log of the last [`logs`](Self::logs) may have grown, from the first call of this on. `None`: this
    /// driver cannot, so look.
    fn log_activity(&self) -> Option<watch::Receiver<LogActivity>> {
        None
    }

    /// Throw away builds, sources, caches and logs that nothing needs. Instances are never touched:
    /// they go by `stop` and `remove`. Answers how many bytes were freed.
    fn collect_garbage(&self, keep: &Keep) -> impl Future<Output = Result<u64, DriverError>> + Send;

    /// Run a command health check in the instance's surroundings.
    fn check(
        &self,
        instance: &InstanceId,
        command: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<CheckOutcome, DriverError>> + Send;

    /// Run the health check that the instance's image brings.
    fn check_of_image(
        &self,
        instance: &InstanceId,
        timeout: Duration,
    ) -> impl Future<Output = Result<CheckOutcome, DriverError>> + Send {
        let _ = (instance, timeout);
        async { Err(DriverError::refused("only an image brings a health check of its own")) }
    }

    /// The network that instances with an address of their own are in, once there is one.
    fn container_network(&self) -> Option<ContainerNetwork> {
        None
    }

    /// TCP addresses on which the instance's processes listen, to tell a person where it really is.
    fn listening(&self, instance: &InstanceId) -> impl Future<Output = Vec<SocketAddr>> + Send;
}

/// File work, off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, DriverError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| DriverError::temporary(format!("work on files failed: {error}")))
}

/// A thing that is replaced whole and knows the digest of what is live.
pub trait Config: Send + Sync + 'static {
    /// All that it needs to know, rendered by a pure function from desired and observed state.
    type Desired: Send + Sync;

    /// `routes`, `dns`, …
    fn name(&self) -> &'static str;

    /// Digest of what is live; `None` when nothing is, or nothing answers.
    fn live_digest(&self) -> impl Future<Output = Option<String>> + Send;

    /// Replace what is live in one step and answer its digest. On an error the old one stays live.
    fn apply(&self, desired: &Self::Desired) -> impl Future<Output = Result<String, DriverError>> + Send;

    /// Take everything of ours away again.
    fn remove(&self) -> impl Future<Output = Result<(), DriverError>> + Send;
}
