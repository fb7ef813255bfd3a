//! The agent as a whole: joining, the tasks and how they hang together, and stopping everything.

use crate::clock::now_ms;
use crate::control_plane::ControlPlane;
use crate::drivers::both::Both;
use crate::drivers::container::{ContainerDriver, ContainerOptions};
use crate::drivers::dns::{self, DnsDriver, DnsPaths};
use crate::drivers::mesh::{self, MeshDriver, MeshSettings};
use crate::drivers::process::{ProcessDriver, ProcessOptions};
use crate::drivers::routes::GatewayDriver;
use crate::drivers::{Config, DriverError, Workloads};
use crate::facts::{self, Machine as Host};
use crate::fleet::{self, FleetKeeper};
use crate::health::Health;
use crate::identity::{self, Identity};
use crate::ledger::Ledger;
use crate::log_shipping::{LogShipping, Shipped};
use crate::paths::AgentDirectory;
use crate::reconcile::{Gateway, Inputs, Machine, Outputs, Reconciler};
use crate::reporter::Reporter;
use crate::subscribe::{self, Accepted, Gatekeeper};
use anyhow::Context;
use api::cause::Cause;
use api::events::{Event, EventKind, EventLevel};
use api::ids::EventId;
use api::name::Name;
use api::observed::{AgentState, InstanceState};
use api::secret::Secret;
use api::servers::ServerFacts;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const FACTS_INTERVAL: Duration = Duration::from_secs(3_600);
const ADDRESSES_INTERVAL: Duration = Duration::from_secs(60);
/// How long the tasks may take to end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long stopping everything waits beyond the longest grace time.
const STOP_ALL_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What an agent needs to be told.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// The `agent/` directory; made if missing.
    pub data_dir: PathBuf,
    /// Where to join, with `token`; otherwise a new address of the control plane that was joined.
    pub control_plane_url: Option<String>,
    /// One-time join token. Not needed, and not used, once this machine is a member.
    pub token: Option<Secret>,
    /// Wished name of this server.
    pub name: Option<Name>,
    /// The `mainstay` binary that is started as gateway and as supervisor.
    pub mainstay_binary: PathBuf,
    /// Whether internal names may be hooked into this machine's resolver (as root).
    pub dns_hook: bool,
    /// How much of the disk new work leaves alone; `None`: what suits its size.
    pub disk_reserve_bytes: Option<u64>,
    /// Socket of the container engine; `None`: the usual places are looked at.
    pub container_socket: Option<PathBuf>,
    /// Name of the containers' network in the engine; `None`: the usual one.
    pub container_network: Option<String>,
    pub mesh: MeshSettings,
}

impl AgentOptions {
    pub fn new(data_dir: impl Into<PathBuf>, mainstay_binary: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            control_plane_url: None,
            token: None,
            name: None,
            mainstay_binary: mainstay_binary.into(),
            dns_hook: true,
            disk_reserve_bytes: None,
            container_socket: None,
            container_network: None,
            mesh: MeshSettings::default(),
        }
    }
}

/// What [`Agent::stop_all`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoppedAll {
    pub instances: usize,
    pub gateway: bool,
    /// What could not be stopped or taken away.
    pub problems: Vec<String>,
}

pub struct Agent;

impl Agent {
    /// Runs until `shutdown`. Services and gateway go on after that.
    pub async fn run(options: AgentOptions, shutdown: CancellationToken) -> anyhow::Result<()> {
        let directory = AgentDirectory::new(absolute(&options.data_dir)?);
        let host = Host::this();
        let identity = join(&options, &directory, &host).await?;
        make_private_directory(directory.root())?;
        let _lock = lock(&directory)?;
        let opened = Ledger::open(&directory.ledger()).await.map_err(chain)?;
        let ledger = opened.ledger;
        let mut tasks =
            start(&options, &directory, &host, identity, ledger.clone(), opened.set_aside, &shutdown).await?;
        // A task ends only after the shutdown; sooner means a defect, and a fresh start mends more than going on halfway.
        // The shutdown is looked at first, because it ends the tasks, too.
        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(()),
            ended = tasks.join_next() => Err(match ended {
                Some(Err(error)) => anyhow::anyhow!("a part of the agent broke: {error}"),
                _ => anyhow::anyhow!("a part of the agent ended unexpectedly"),
            }),
        };
        shutdown.cancel();
        let all = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            tracing::warn!("parts of the agent did not end in time and are abandoned");
            tasks.abort_all();
        }
        ledger.close().await;
        result
    }

    /// Stops every instance and the gateway that an agent in this directory owns, and takes its hook
    /// out of the resolver. No agent may run in it meanwhile.
    pub async fn stop_all(data_dir: &Path) -> anyhow::Result<StoppedAll> {
        let directory = AgentDirectory::new(absolute(data_dir)?);
        if !directory.root().is_dir() {
            return Ok(StoppedAll::default());
        }
        let _lock = lock(&directory)?;
        let binary = std::env::current_exe().context("finding the own binary")?;
        let mut stopped = StoppedAll::default();
        match workloads(&AgentOptions::new(directory.root(), &binary), &directory) {
            Ok(driver) => stop_instances(&driver, &mut stopped).await,
            Err(error) => stopped.problems.push(format!("instances: {}", error.describe())),
        }
        let gateway = GatewayDriver::new(directory.gateway(), binary);
        stopped.gateway = gateway.live_digest().await.is_some();
        if let Err(error) = gateway.remove().await {
            stopped.problems.push(format!("gateway: {}", error.describe()));
        }
        if let Err(error) = ::mesh::kernel::remove_all_of(&directory.root().display().to_string()).await {
            stopped.problems.push(format!("mesh: {}", error.describe()));
        }
        if let Err(error) = dns::remove_hooks(&DnsPaths::system(), &directory.root().display().to_string()).await {
            stopped.problems.push(format!("internal names: {}", error.describe()));
        }
        Ok(stopped)
    }
}

/// Who this machine is; joins the control plane if it is nobody yet.
async fn join(options: &AgentOptions, directory: &AgentDirectory, host: &Host) -> anyhow::Result<Identity> {
    let path = directory.identity();
    let given = options.control_plane_url.as_deref().map(|url| url.trim_end_matches('/'));
    if let Some(mut identity) = Identity::load(&path).map_err(chain)? {
        if options.token.is_some() {
            tracing::info!(
                server = %identity.name, control_plane = %identity.control_plane_url,
                "this machine is already a member; the token was not used"
            );
        } else if let Some(url) = given.filter(|url| *url != identity.control_plane_url) {
            // Safe without asking: whoever answers there has to prove itself with the pinned key.
            tracing::info!(from = %identity.control_plane_url, to = %url, "the control plane has a new address");
            identity.control_plane_url = url.to_owned();
            identity.save(&path).map_err(chain)?;
        }
        return Ok(identity);
    }
    let (Some(url), Some(token)) = (given, options.token.clone()) else {
        anyhow::bail!(
            "this machine has not joined a control plane ({} does not exist). Make a token there with \
             `mainstay tokens create`, then run `mainstay agent --join URL --token TOKEN`",
            path.display()
        );
    };
    let facts = facts::detect(host, Default::default());
    let identity = identity::register(&path, url, token, options.name.clone(), facts, now_ms()).await.map_err(chain)?;
    tracing::info!(server = %identity.name, control_plane = %identity.control_plane_url, "this machine joined");
    Ok(identity)
}

async fn start(
    options: &AgentOptions,
    directory: &AgentDirectory,
    host: &Host,
    identity: Identity,
    ledger: Ledger,
    set_aside: Option<(PathBuf, String)>,
    shutdown: &CancellationToken,
) -> anyhow::Result<JoinSet<()>> {
    let workloads = Arc::new(workloads(options, directory).map_err(|error| anyhow::anyhow!(error.describe()))?);
    let gateway = GatewayDriver::new(directory.gateway(), options.mainstay_binary.clone());
    let gateway = Arc::new(gateway.in_control_groups(workloads.processes().control_groups().clone()));
    let dns = Arc::new(if options.dns_hook {
        DnsDriver::new(DnsPaths::system(), directory.root(), host.is_root())
    } else {
        let consequence = "switched off here; `SERVICE_<NAME>_URL` points to a port on loopback instead";
        DnsDriver::off(directory.root(), consequence)
    });
    let gateway_directory = directory.gateway();
    let mesh = MeshDriver::open(
        identity.server_id.clone(),
        identity.index,
        options.mesh.clone(),
        directory.root(),
        &gateway_directory,
        host.is_root(),
    );
    let machine = Machine {
        mesh: Arc::new(mesh.await),
        health: Arc::new(Health::new(workloads.clone())),
        workloads,
        gateway,
        dns,
        proc: "/proc".into(),
        data: directory.root().to_owned(),
        resolv_conf: "/etc/resolv.conf".into(),
        disk_reserve_bytes: options.disk_reserve_bytes,
    };
    let events = started_events(&identity, set_aside);
    if let Err(error) = ledger.outbox_append(&events, now_ms()).await {
        // On a full disk the machine must be looked after all the more.
        tracing::error!(error = &error as &dyn std::error::Error, "events cannot be kept and are lost");
    }
    assemble(&identity, ledger, machine, host, shutdown).await
}

fn workloads(options: &AgentOptions, directory: &AgentDirectory) -> Result<Both, DriverError> {
    let processes = ProcessDriver::open(ProcessOptions {
        disk_reserve_bytes: options.disk_reserve_bytes,
        ..ProcessOptions::new(directory.root(), &options.mainstay_binary)
    })?;
    let mut containers = ContainerOptions::new(directory.root());
    containers.socket.clone_from(&options.container_socket);
    containers.disk_reserve_bytes = options.disk_reserve_bytes;
    if let Some(network) = &options.container_network {
        containers.network.clone_from(network);
    }
    Ok(Both::new(processes, ContainerDriver::open(containers)?))
}

/// Begins the tasks of an agent on these edges. They end with `shutdown`.
pub async fn assemble<W: Workloads, G: Gateway>(
    identity: &Identity,
    ledger: Ledger,
    machine: Machine<W, G>,
    host: &Host,
    shutdown: &CancellationToken,
) -> anyhow::Result<JoinSet<()>> {
    let control_plane = ControlPlane::new(identity).map_err(chain)?;
    assemble_over(control_plane, identity, ledger, machine, host, shutdown).await
}

/// As [`assemble`], with a control plane that may be reached over any network.
pub async fn assemble_over<W: Workloads, G: Gateway>(
    control_plane: ControlPlane,
    identity: &Identity,
    ledger: Ledger,
    machine: Machine<W, G>,
    host: &Host,
    shutdown: &CancellationToken,
) -> anyhow::Result<JoinSet<()>> {
    let control_plane = Arc::new(control_plane);
    let workloads = machine.workloads.clone();
    let mesh = machine.mesh.clone();
    let (accepted, accepted_seen) = watch::channel(Accepted::default());
    let (observed, observed_seen) = watch::channel(None);
    let (state, state_seen) = watch::channel(AgentState::Idle);
    let interval = Duration::from_millis(identity.poll_interval_ms.clamp(100, 600_000));
    let (poll_interval, poll_interval_seen) = watch::channel(interval);
    let (facts, facts_seen) = watch::channel(detect(host, workloads.as_ref(), &mesh).await);
    let hurry = Arc::new(Notify::new());
    let shipped = Shipped::default();

    let gatekeeper = Gatekeeper {
        server_id: identity.server_id.clone(),
        key: wire::VerifyingKey::from_base64(&identity.control_plane_key).context("the identity's pinned key")?,
        ledger: ledger.clone(),
        accepted,
        unkept: Default::default(),
    };
    gatekeeper.load().await;
    let (fleet, fleet_seen) = watch::channel(None);
    let keeper = FleetKeeper { key: gatekeeper.key.clone(), ledger: ledger.clone(), fleet };
    keeper.load().await;
    let inputs = Inputs { accepted: accepted_seen.clone(), fleet: fleet_seen };
    let outputs = Outputs { observed, state, poll_interval };
    let server_id = identity.server_id.clone();
    let reconciler = Reconciler::new(machine, server_id, ledger.clone(), shipped.clone(), inputs, outputs).await;
    let reporter = Reporter {
        control_plane: control_plane.clone(),
        ledger: ledger.clone(),
        observed: observed_seen,
        facts: facts_seen,
        hurry: hurry.clone(),
        poll_interval: poll_interval_seen,
    };
    let shipping = LogShipping { workloads: workloads.clone(), sink: control_plane.clone(), ledger, shipped };

    let mut tasks = JoinSet::new();
    tasks.spawn(ambient::inherit(reconciler.run(shutdown.clone())));
    tasks.spawn(ambient::inherit(fleet::run(control_plane.clone(), keeper, accepted_seen, shutdown.clone())));
    tasks.spawn(ambient::inherit(subscribe::run(control_plane, gatekeeper, state_seen, hurry, shutdown.clone())));
    tasks.spawn(ambient::inherit(reporter.run(shutdown.clone())));
    tasks.spawn(ambient::inherit(shipping.run(shutdown.clone())));
    tasks.spawn(ambient::inherit(mesh::run(mesh.clone(), shutdown.clone())));
    tasks.spawn(ambient::inherit(refresh_facts(host.clone(), workloads, mesh, facts, shutdown.clone())));
    Ok(tasks)
}

async fn detect<W: Workloads>(host: &Host, workloads: &W, mesh: &MeshDriver) -> ServerFacts {
    let mut found = workloads.probe().await;
    found.limitations.extend(mesh.limitation());
    let mut facts = facts::detect(host, found);
    facts.mesh = mesh.facts().await;
    facts
}

async fn refresh_facts<W: Workloads>(
    host: Host,
    workloads: Arc<W>,
    mesh: Arc<MeshDriver>,
    facts: watch::Sender<ServerFacts>,
    shutdown: CancellationToken,
) {
    let mut whole_at = tokio::time::Instant::now() + FACTS_INTERVAL;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(if mesh.takes_part() { ADDRESSES_INTERVAL } else { FACTS_INTERVAL }) => {}
        }
        if tokio::time::Instant::now() >= whole_at {
            whole_at += FACTS_INTERVAL;
            facts.send_replace(detect(&host, workloads.as_ref(), &mesh).await);
            continue;
        }
        // A machine that has another address now is to be reached there before an hour is over.
        let place = mesh.facts().await;
        facts.send_if_modified(|facts| std::mem::replace(&mut facts.mesh, place.clone()) != place);
    }
}

fn started_events(identity: &Identity, set_aside: Option<(PathBuf, String)>) -> Vec<Event> {
    let event = |level, message: String, action: &str| Event {
        id: EventId::from_uuid(ambient::fresh_id()),
        at_ms: now_ms(),
        kind: EventKind::AgentStarted,
        level,
        message,
        cause: Cause::system("agent", action),
        stack_id: None,
        service_id: None,
        deployment_id: None,
        instance_id: None,
        server_id: Some(identity.server_id.clone()),
    };
    let mut events =
        vec![event(EventLevel::Info, format!("the agent {} started on {}", crate::VERSION, identity.name), "start")];
    if let Some((path, reason)) = set_aside {
        let message =
            format!("the agent's ledger was broken ({reason}); it was set aside as {} and begun anew", path.display());
        events.push(event(EventLevel::Error, message, "the ledger could not be read"));
    }
    events
}

async fn stop_instances<W: Workloads>(driver: &W, stopped: &mut StoppedAll) {
    let alive = |state| !matches!(state, InstanceState::Absent | InstanceState::Exited);
    let mut changes = driver.changes();
    let deadline = tokio::time::Instant::now() + STOP_ALL_TIMEOUT;
    let mut asked = std::collections::BTreeSet::new();
    loop {
        changes.borrow_and_update();
        let instances = match driver.list().await {
            Ok(instances) => instances,
            Err(error) => return stopped.problems.push(format!("instances: {}", error.describe())),
        };
        let running: Vec<_> = instances.into_iter().filter(|i| alive(i.state)).collect();
        if running.is_empty() {
            return;
        }
        for instance in &running {
            if asked.insert(instance.instance_id.clone()) {
                match driver.stop(&instance.instance_id, STOP_GRACE).await {
                    Ok(()) => stopped.instances += 1,
                    Err(error) => {
                        stopped.problems.push(format!(
                            "instance {}: {}",
                            instance.instance_id.short(),
                            error.describe()
                        ));
                    }
                }
            }
        }
        if tokio::time::Instant::now() > deadline {
            stopped.problems.push(format!("{} did not stop in time", api::words::count(running.len(), "instance")));
            return;
        }
        let _ = tokio::time::timeout(Duration::from_millis(100), changes.changed()).await;
    }
}

/// The lock ends with the returned file, also when the process is killed.
fn lock(directory: &AgentDirectory) -> anyhow::Result<fs::File> {
    let path = directory.lock();
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening the lock {}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => anyhow::bail!(
            "another agent works in {}; stop it first, or choose another --data-dir",
            directory.root().display()
        ),
        Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("making the data directory {}", path.display()))
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("finding {}", path.display()))
}

/// An error with all its causes in one text.
fn chain<E: std::error::Error + Send + Sync + 'static>(error: E) -> anyhow::Error {
    anyhow::Error::new(error)
}
