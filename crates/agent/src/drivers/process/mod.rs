//! Services as plain processes: fetched by git, built and run by the user's own commands.
//!
//! ```text
//!   prepare ─▶ sources (mirror, checkout) ─▶ build (contained, cache) ─▶ builds/<key>/.ready
//!   start ───▶ ports ─▶ instances/<id>/spec.json ─▶ one supervisor (shim) per instance
//!   list ────▶ every folder under instances/, asked by its supervisor's socket
//! ```
//!
//! The driver object holds no truth. Folders, supervisors and control groups are the state, so the
//! agent may be killed at any instruction and built anew; `list` finds what runs, and half-done work is
//! recognised by a missing marker and thrown away. See [`shim`] for the part that outlives the agent.
//!
//! Deliberately absent: users, namespaces and file system isolation. All services of a machine run as
//! the agent's user; what they may use is limited, what they may see is not. Containers are another
//! driver.

mod build;
mod cache;
pub mod cgroup;
mod directory;
mod garbage;
mod instances;
mod layout;
mod ports;
mod prepare;
mod problem;
pub(crate) mod procfs;
pub mod shim;
mod sources;
mod spawn;
mod spec;
mod supervisors;
mod surroundings;

pub use super::log::LogLimits;
pub(crate) use cgroup::usage_around;
pub(crate) use garbage::log_owner;
pub(crate) use layout::{BuildKey, build_key};
pub(crate) use prepare::LOG_OWNER;
pub(crate) use procfs::boot_id;
pub(crate) use surroundings::overlay;

use crate::drivers::log_watch::LogWatch;
use crate::drivers::{
    CheckOutcome, DriverError, Keep, LogActivity, LogState, PrepareError, PrepareRequest, StartRequest,
    StartedInstance, Workloads, WorkloadsFacts, blocking,
};
use api::ids::InstanceId;
use api::logs::{LogBatch, LogSource};
use api::observed::{InstanceObserved, PreparationObserved};
use cgroup::Cgroups;
use git::run::{Call, Git};
use instances::Instances;
use layout::Layout;

use prepare::Preparations;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What the driver needs to know once.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// The agent's data directory; the driver's folders are made in it.
    pub data_dir: PathBuf,
    /// What to run as supervisor, static file server and git helper.
    pub mainstay_binary: PathBuf,
    pub ports: RangeInclusive<u16>,
    pub concurrent_builds: usize,
    /// Use control groups where the machine offers them. Without, nothing is limited.
    pub control_groups: bool,
    pub log_limits: LogLimits,
    /// Each single call of git may take this long.
    pub git_timeout: Duration,
    /// A build is not begun while less than this is free; `None`: what suits the size of the disk.
    pub disk_reserve_bytes: Option<u64>,
}

impl ProcessOptions {
    pub fn new(data_dir: impl Into<PathBuf>, mainstay_binary: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            data_dir: data_dir.into(),
            mainstay_binary: mainstay_binary.into(),
            ports: ports::DEFAULT_RANGE,
            concurrent_builds: (cores / 2).max(1),
            control_groups: true,
            log_limits: LogLimits::default(),
            git_timeout: Duration::from_secs(600),
            disk_reserve_bytes: None,
        }
    }
}

pub struct ProcessDriver {
    layout: Layout,
    git: git::Environment,
    cgroups: Cgroups,
    preparations: Arc<Preparations>,
    instances: Arc<Instances>,
    changes: watch::Sender<u64>,
    log_watch: Arc<LogWatch>,
}

impl ProcessDriver {
    /// Open the folders; find out what the machine offers. Starts nothing.
    pub fn open(options: ProcessOptions) -> Result<Self, DriverError> {
        let layout = Layout::open(&options.data_dir)?;
        let git = git::Environment::prepare(&layout.git(), &options.mainstay_binary)
            .map_err(|error| DriverError::refused(problem::describe(&error)))?;
        let cgroups = if options.control_groups { Cgroups::detect() } else { Cgroups::default() };
        let changes = watch::Sender::new(0);
        let preparations = Preparations::open(layout.clone(), git.clone(), cgroups.clone(), &options, changes.clone());
        let instances = Instances::open(layout.clone(), cgroups.clone(), options, changes.clone());
        let (preparations, instances) = (Arc::new(preparations), Arc::new(instances));
        Ok(Self { layout, git, cgroups, preparations, instances, changes, log_watch: Arc::new(LogWatch::open()) })
    }

    pub fn control_groups(&self) -> &Cgroups {
        &self.cgroups
    }

    async fn git_version(&self) -> (Option<String>, bool) {
        let Ok(url) = "file:///".parse() else { return (None, false) };
        let timeout = Duration::from_secs(10);
        let git =
            Git { environment: &self.git, url: &url, credential: None, timeout, cancel: CancellationToken::new() };
        let version = git.quietly(Call::local("asking git's version").arg("version")).await.ok();
        let version =
            version.map(|text| String::from_utf8_lossy(&text).trim().trim_start_matches("git version ").to_owned());
        let lfs = version.is_some() && sources::has_lfs(&git).await;
        (version, lfs)
    }

    /// The folder of a log, and whose it is.
    fn log(&self, source: &LogSource) -> Option<(PathBuf, api::ids::ServiceId)> {
        match source {
            LogSource::Run { instance_id } => self.instances.log_directory(instance_id),
            LogSource::Build { deployment_id } => {
                let directory = self.layout.build_log(deployment_id);
                let owner = garbage::log_owner(&directory)?;
                Some((directory, owner))
            }
        }
    }

    fn all_logs(&self) -> Vec<(LogSource, api::ids::ServiceId, PathBuf)> {
        let runs = self
            .instances
            .all_logs()
            .into_iter()
            .map(|(instance_id, service, directory)| (LogSource::Run { instance_id }, service, directory));
        let builds = std::fs::read_dir(self.layout.build_logs()).into_iter().flatten().flatten().filter_map(|entry| {
            let deployment_id = entry.file_name().to_str()?.parse().ok()?;
            let owner = garbage::log_owner(&entry.path())?;
            Some((LogSource::Build { deployment_id }, owner, entry.path()))
        });
        builds.chain(runs).collect()
    }
}

impl Workloads for ProcessDriver {
    fn kind(&self) -> &'static str {
        "process"
    }

    async fn probe(&self) -> WorkloadsFacts {
        let (git_version, git_lfs) = self.git_version().await;
        let mut limitations = self.cgroups.limitations();
        if git_version.is_none() {
            limitations
                .push("git is not installed: nothing can be fetched; install it (`apt-get install git`).".into());
        } else if !git_lfs {
            limitations.push("git-lfs is not installed: repositories that keep files in Git LFS are refused.".into());
        }
        let cgroups = self.cgroups.version().into();
        WorkloadsFacts { cgroups, git_version, git_lfs, limitations, ..WorkloadsFacts::default() }
    }

    async fn list(&self) -> Result<Vec<InstanceObserved>, DriverError> {
        self.instances.list().await
    }

    async fn preparations(&self) -> Vec<PreparationObserved> {
        self.preparations.observed()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn prepare(&self, request: PrepareRequest, cancel: CancellationToken) -> Result<(), PrepareError> {
        self.preparations.prepare(request, cancel).await
    }

    async fn start(&self, request: StartRequest) -> Result<StartedInstance, DriverError> {
        let key = build_key(&request.revision.build_key)?;
        if !self.preparations.is_ready(&key) {
            return Err(DriverError::NotPrepared(request.revision.revision_id));
        }
        let started = self.instances.start(request).await;
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
        started
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), DriverError> {
        self.instances.stop(instance, grace).await
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), DriverError> {
        self.instances.remove(instance).await
    }

    async fn read_log(
        &self,
        source: &LogSource,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<LogBatch>, DriverError> {
        let Some((directory, service_id)) = self.log(source) else { return Ok(None) };
        blocking({
            let source = source.clone();
            move || crate::drivers::log::batch(&directory, source, service_id, offset, max_bytes)
        })
        .await?
    }

    async fn log_tail(&self, source: &LogSource, lines: usize) -> Vec<String> {
        let Some((directory, _)) = self.log(source) else { return Vec::new() };
        blocking(move || crate::drivers::log::tail(&directory, lines)).await.unwrap_or_default()
    }

    async fn logs(&self) -> Vec<LogState> {
        let all = self.all_logs();
        let log_watch = self.log_watch.clone();
        let states = blocking(move || {
            // Before they are looked at: what is written in between is told.
            log_watch.set(&all.iter().map(|(_, _, directory)| Path::new(directory)).collect::<BTreeSet<_>>());
            let state = |(source, service_id, directory): (LogSource, api::ids::ServiceId, PathBuf)| {
                let (first_offset, end_offset) = crate::drivers::log::extent(&directory).ok().flatten()?;
                Some(LogState { source, service_id, first_offset, end_offset })
            };
            all.into_iter().filter_map(state).collect()
        });
        states.await.unwrap_or_default()
    }

    fn log_activity(&self) -> Option<watch::Receiver<LogActivity>> {
        self.log_watch.listen()
    }

    async fn collect_garbage(&self, keep: &Keep) -> Result<u64, DriverError> {
        let (layout, keep) = (self.layout.clone(), keep.clone());
        let (preparations, instances) = (self.preparations.clone(), self.instances.clone());
        let freed =
            blocking(move || garbage::collect(&layout, &preparations, &instances.used_directories(), &keep)).await?;
        self.preparations.tidy_mirrors().await;
        Ok(freed)
    }

    async fn check(
        &self,
        instance: &InstanceId,
        command: &str,
        timeout: Duration,
    ) -> Result<CheckOutcome, DriverError> {
        self.instances.check(instance, command, timeout).await
    }

    async fn listening(&self, instance: &InstanceId) -> Vec<SocketAddr> {
        self.instances.listening(instance).await
    }
}
