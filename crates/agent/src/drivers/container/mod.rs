//! Services as containers of images, over the API that Podman and Docker share.
//!
//! ```text
//!   prepare ─▶ engine: pull by digest ─▶ images/<build key>.json
//!   start ───▶ network, address, secret files ─▶ create ─▶ start
//!   list ────▶ the engine's containers with our label, and what is remembered of each (record.rs)
//!              └─▶ keeper: what ended is started again, what does not stop is killed (keeper.rs)
//! ```
//!
//! The engine and its containers are the state, with a folder beside each for what the engine does not keep: how often it
//! was started again and its log. An agent that is killed at any point finds all of it again; containers do not notice.
//!
//! When the engine does not answer, what is known stays known: instances are listed as they were last seen, with that
//! said beside, so that nobody starts a second copy of what may well run. Their health is asked over their own address
//! and needs no engine.
//!
//! Deliberately absent: published ports. A container has an address of its own in its server's network, and only the
//! gateway is reached from outside.

mod answers;
mod api;
mod create;
mod engine;
mod exec;
mod garbage;
mod image;
mod instances;
mod keeper;
mod logs;
pub mod network;
mod prepare;
mod record;
mod secrets;
mod volumes;
mod watch;

use crate::drivers::log::{LogLimits, extent, tail};
use crate::drivers::log_watch::LogWatch;
use crate::drivers::{
    CheckOutcome, DriverError, Keep, LogActivity, LogState, PrepareError, PrepareRequest, StartRequest,
    StartedInstance, Workloads, WorkloadsFacts, blocking,
};
use ::api::ids::{InstanceId, ServiceId};
use ::api::logs::{LogBatch, LogSource};
use ::api::observed::{InstanceObserved, PreparationObserved};
use engine::{EngineError, Finder, Places};
use instances::Instances;
use network::ContainerNetwork;
use prepare::Images;
use record::Folders;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The name of the network, unless the agent is told another.
pub const DEFAULT_NETWORK: &str = "mainstay";

/// What the driver needs to know once.
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// The agent's data directory; the driver's folder is made in it.
    pub data_dir: PathBuf,
    /// Kept in memory where the machine has such a place: secret files, and the socket of an engine that we run.
    pub run_dir: PathBuf,
    /// The engine's socket; `None`: the usual places are looked at.
    pub socket: Option<PathBuf>,
    /// Name of the containers' network in the engine.
    pub network: String,
    pub log_limits: LogLimits,
    /// Whether containers ask the gateway for names. It needs root to answer on port 53.
    pub name_server: bool,
    /// An image is not pulled while less than this is free; `None`: what suits the size of the disk.
    pub disk_reserve_bytes: Option<u64>,
}

impl ContainerOptions {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        let root = rustix::process::geteuid().is_root();
        let owner = owner_of(&data_dir);
        let run_dir = if root { Path::new("/run/mainstay").join(&owner) } else { data_dir.join("run") };
        Self {
            data_dir,
            run_dir,
            socket: None,
            network: DEFAULT_NETWORK.into(),
            log_limits: LogLimits::default(),
            name_server: root,
            disk_reserve_bytes: None,
        }
    }
}

/// Which engine an agent with this data directory uses, or would use, and where: for whoever looks at a machine. Starts
/// nothing.
pub async fn engine_of(data_dir: &Path) -> Result<String, String> {
    let options = ContainerOptions::new(data_dir);
    let root = rustix::process::geteuid().is_root();
    let mut places = Places::usual(None, &options.run_dir, root);
    let own = places.own_service.take();
    places.candidates.extend(own.as_ref().map(|own| own.socket.clone()));
    let finder = Finder::new(places, data_dir.join("containers/engine.json")).without_memory();
    match (finder.engine().await, own) {
        (Ok(engine), _) => {
            let socket = engine.api.socket().display();
            Ok(format!("{} {} answers at {socket}", engine.kind.as_str(), engine.version))
        }
        (Err(EngineError::None { .. }), Some(own)) => {
            Ok(format!("{} is installed; the agent runs its API", own.podman.display()))
        }
        (Err(error), _) => Err(error.to_string()),
    }
}

/// Whose a container is: a data directory's, so that an agent that lost what was in it finds its containers again.
fn owner_of(data_dir: &Path) -> String {
    let path = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    wire::sha256_hex(path.as_os_str().as_encoded_bytes())[..16].to_owned()
}

/// What all parts of the driver share.
struct Shared {
    options: ContainerOptions,
    owner: String,
    folders: Folders,
    finder: Finder,
    changes: tokio::sync::watch::Sender<u64>,
}

impl Shared {
    fn changed(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }
}

pub struct ContainerDriver {
    shared: Arc<Shared>,
    images: Arc<Images>,
    instances: Arc<Instances>,
    log_watch: Arc<LogWatch>,
    _watchers: watch::Watchers,
}

impl ContainerDriver {
    /// Open the folders and begin to watch the engine, if there is one. Starts nothing.
    pub fn open(options: ContainerOptions) -> Result<Self, DriverError> {
        let failed =
            |source| DriverError::Io { operation: "make the folders in", path: options.data_dir.clone(), source };
        let folders = Folders::open(&options.data_dir).map_err(failed)?;
        let root = rustix::process::geteuid().is_root();
        let places = Places::usual(options.socket.clone(), &options.run_dir, root);
        let finder = Finder::new(places, folders.engine());
        let owner = owner_of(&options.data_dir);
        let changes = tokio::sync::watch::Sender::new(0);
        let shared = Arc::new(Shared { options, owner, folders, finder, changes });
        let images = Arc::new(Images::open(shared.clone()));
        let instances = Arc::new(Instances::open(shared.clone()));
        let _watchers = watch::Watchers::begin(&shared, &instances);
        Ok(Self { shared, images, instances, log_watch: Arc::new(LogWatch::open()), _watchers })
    }

    /// Whether an instance is a container of this driver.
    pub fn owns(&self, instance: &InstanceId) -> bool {
        self.instances.service_of(instance).is_some()
    }

    /// The folder of a log, and whose it is.
    fn log(&self, source: &LogSource) -> Option<(PathBuf, ServiceId)> {
        match source {
            LogSource::Run { instance_id } => {
                let service = self.instances.service_of(instance_id)?;
                Some((self.shared.folders.log(instance_id), service))
            }
            LogSource::Build { deployment_id } => {
                let directory = self.shared.folders.pull(deployment_id);
                let owner = crate::drivers::process::log_owner(&directory)?;
                Some((directory, owner))
            }
        }
    }

    fn all_logs(&self) -> Vec<(LogSource, ServiceId, PathBuf)> {
        let runs = self.instances.all_services().into_iter().map(|(instance_id, service)| {
            let directory = self.shared.folders.log(&instance_id);
            (LogSource::Run { instance_id }, service, directory)
        });
        let pulls =
            std::fs::read_dir(self.shared.folders.pulls()).into_iter().flatten().flatten().filter_map(|entry| {
                let deployment_id = entry.file_name().to_str()?.parse().ok()?;
                let owner = crate::drivers::process::log_owner(&entry.path())?;
                Some((LogSource::Build { deployment_id }, owner, entry.path()))
            });
        pulls.chain(runs).collect()
    }
}

fn engine_error(error: EngineError) -> DriverError {
    DriverError::temporary(error.to_string())
}

impl Workloads for ContainerDriver {
    fn kind(&self) -> &'static str {
        "container"
    }

    async fn probe(&self) -> WorkloadsFacts {
        let mut facts = WorkloadsFacts::default();
        let engine = match self.shared.finder.engine().await {
            Ok(engine) => engine,
            Err(error) => {
                facts.limitations.push(format!("Services from images cannot run here: {error}."));
                return facts;
            }
        };
        facts.engine = Some(engine.kind.as_str().into());
        facts.engine_version = Some(engine.version.clone());
        match engine::abilities(&engine).await {
            Ok(abilities) => {
                facts.runtimes = abilities.runtimes;
                facts.limitations = abilities.limitations;
            }
            Err(error) => facts.limitations.push(format!("What the container engine can do is not known: {error}.")),
        }
        facts.limitations.extend(self.instances.network_limitation());
        facts
    }

    async fn list(&self) -> Result<Vec<InstanceObserved>, DriverError> {
        Ok(self.instances.list().await)
    }

    async fn preparations(&self) -> Vec<PreparationObserved> {
        self.images.observed()
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    async fn prepare(&self, request: PrepareRequest, cancel: CancellationToken) -> Result<(), PrepareError> {
        self.images.prepare(request, cancel).await
    }

    async fn start(&self, request: StartRequest) -> Result<StartedInstance, DriverError> {
        let Some(image) = self.images.record(&request.revision.build_key) else {
            return Err(DriverError::NotPrepared(request.revision.revision_id));
        };
        let started = self.instances.start(&request, &image).await;
        if let Err(DriverError::NotPrepared(_)) = &started {
            self.images.is_gone(&request.revision.build_key);
        }
        self.shared.changed();
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
        if let LogSource::Run { instance_id } = source {
            self.instances.copy_log(instance_id).await;
        }
        let source = source.clone();
        blocking(move || crate::drivers::log::batch(&directory, source, service_id, offset, max_bytes)).await?
    }

    async fn log_tail(&self, source: &LogSource, lines: usize) -> Vec<String> {
        let Some((directory, _)) = self.log(source) else { return Vec::new() };
        if let LogSource::Run { instance_id } = source {
            self.instances.copy_log(instance_id).await;
        }
        blocking(move || tail(&directory, lines)).await.unwrap_or_default()
    }

    async fn logs(&self) -> Vec<LogState> {
        let all = self.all_logs();
        let log_watch = self.log_watch.clone();
        let states = blocking(move || {
            // Before they are looked at: what is written in between is told.
            log_watch.set(&all.iter().map(|(_, _, directory)| Path::new(directory)).collect::<BTreeSet<_>>());
            let state = |(source, service_id, directory): (LogSource, ServiceId, PathBuf)| {
                let (first_offset, end_offset) = extent(&directory).ok().flatten()?;
                Some(LogState { source, service_id, first_offset, end_offset })
            };
            all.into_iter().filter_map(state).collect()
        });
        states.await.unwrap_or_default()
    }

    fn log_activity(&self) -> Option<tokio::sync::watch::Receiver<LogActivity>> {
        self.log_watch.listen()
    }

    async fn collect_garbage(&self, keep: &Keep) -> Result<u64, DriverError> {
        garbage::collect(&self.shared, &self.images, &self.instances.used_images(), keep).await
    }

    async fn check(
        &self,
        instance: &InstanceId,
        command: &str,
        timeout: Duration,
    ) -> Result<CheckOutcome, DriverError> {
        let shown: String = command.lines().next().unwrap_or_default().chars().take(80).collect();
        let words = ["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()];
        self.instances.exec(instance, &words, &format!("`{shown}`"), timeout).await
    }

    async fn check_of_image(&self, instance: &InstanceId, timeout: Duration) -> Result<CheckOutcome, DriverError> {
        let test = self.instances.image_check(instance)?;
        self.instances.exec(instance, &image::check_command(&test), "the image's health check", timeout).await
    }

    fn container_network(&self) -> Option<ContainerNetwork> {
        self.instances.network()
    }

    async fn listening(&self, instance: &InstanceId) -> Vec<SocketAddr> {
        self.instances.listening(instance).await
    }
}
