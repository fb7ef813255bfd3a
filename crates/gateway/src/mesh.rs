//! This process's part in the mesh: the userspace tunnel, where the kernel has no WireGuard, and the answers to probes.
//!
//! It is here and not in the agent because it has to outlive the agent, as the routes do. What it was told is kept in a
//! file of its own beside the config, so that a gateway that starts alone has its tunnel, too. It is no part of the
//! config of routes: the two change at different times and for different reasons, and a refused route must not hold up
//! a peer.
//!
//! When a newer gateway takes over, the tun device and the UDP socket go to it after this one has stopped reading from
//! them; what arrives in between waits in their queues. Sessions do not go along, see [`mesh::userspace`].

use api::mesh_device::{GatewayMesh, GatewayMeshLive, ProbeAnswerer};
use mesh::userspace::{PassedOn, UserspaceDevice};
use mesh::{Device, DeviceError, probe};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

const FILE: &str = "mesh.json";

pub struct Mesh {
    directory: PathBuf,
    device: UserspaceDevice,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    told: GatewayMesh,
    answering: Option<Answering>,
    problem: Option<String>,
}

struct Answering {
    as_told: ProbeAnswerer,
    /// An interface that was made anew has another, and the socket would be bound to the one that is gone.
    index: u32,
    task: JoinHandle<()>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Mesh {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, device: UserspaceDevice::default(), state: Mutex::default() }
    }

    /// Makes it as told. What fails is said, and tried again with every [`Self::mend`].
    pub async fn apply(&self, told: GatewayMesh) -> Result<(), String> {
        let mut state = self.state.lock().await;
        state.told = told;
        let result = self.converge(&mut state).await;
        let kept = self.with_live_endpoints(&state.told).await;
        let directory = self.directory.clone();
        let saved = tokio::task::spawn_blocking(move || save(&directory, &kept)).await;
        if let Err(error) = saved.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            // It works now; only a start of this process without the agent would not have it.
            tracing::error!(%error, "what this gateway was told about the mesh cannot be kept");
        }
        result
    }

    /// From what was told before this process began.
    pub async fn resume(&self) {
        match load(&self.directory) {
            Ok(None) => {}
            Ok(Some(told)) => {
                let mut state = self.state.lock().await;
                state.told = told;
                let _ = self.converge(&mut state).await;
            }
            Err(error) => {
                tracing::error!(%error, "what was told about the mesh cannot be read; the agent sends it again")
            }
        }
    }

    /// Goes on with the tunnel of the gateway before.
    pub async fn adopt(&self, told: GatewayMesh, passed_on: Option<PassedOn>) {
        let mut state = self.state.lock().await;
        if let (Some(config), Some(passed_on)) = (&told.device, passed_on)
            && let Err(error) = self.device.adopt(config, passed_on).await
        {
            tracing::error!(error = %error.describe(), "the tunnel of the gateway before cannot be taken over; making a new one");
        }
        state.told = told;
        let _ = self.converge(&mut state).await;
    }

    /// What a newer gateway needs, with the endpoints that are in use.
    pub async fn offer(&self) -> io::Result<(GatewayMesh, Option<PassedOn>)> {
        let told = self.with_live_endpoints(&self.state.lock().await.told).await;
        Ok((told, self.device.pass_on().await?))
    }

    /// Stops reading; the tunnel is another process's now.
    pub async fn cease(&self) {
        self.state.lock().await.answering = None;
        self.device.cease().await;
    }

    /// Takes the tunnel away, with its interface.
    pub async fn stop(&self) {
        self.state.lock().await.answering = None;
        if let Err(error) = self.device.remove().await {
            tracing::warn!(error = %error.describe(), "the tunnel could not be taken away");
        }
    }

    /// Tries again what failed. What somebody changed by hand is the agent's to find and to report.
    pub async fn mend(&self) {
        let mut state = self.state.lock().await;
        if state.problem.is_some() {
            let _ = self.converge(&mut state).await;
        }
    }

    pub async fn live(&self) -> GatewayMeshLive {
        let state = self.state.lock().await;
        let (device, problem) = match self.device.live().await {
            Ok(device) => (device, None),
            Err(error) => (None, Some(error.describe())),
        };
        GatewayMeshLive {
            device,
            answering: state.answering.as_ref().map(|answering| answering.as_told.clone()),
            problem: state.problem.clone().or(problem),
        }
    }

    async fn converge(&self, state: &mut State) -> Result<(), String> {
        let result = match &state.told.device {
            Some(config) => self.device.apply(config).await,
            None => self.device.remove().await,
        };
        let result = match result {
            Ok(()) => answer(state).await,
            Err(error) => Err(error),
        };
        let problem = result.as_ref().err().map(DeviceError::describe);
        if problem.is_some() && problem != state.problem {
            tracing::error!(problem, "the mesh is not as it should be; trying again");
        }
        state.problem = problem.clone();
        problem.map_or(Ok(()), Err)
    }

    /// What is told of endpoints is a hint that may be old; where peers really are is worth keeping.
    async fn with_live_endpoints(&self, told: &GatewayMesh) -> GatewayMesh {
        let mut told = told.clone();
        let (Some(config), Ok(Some(live))) = (&mut told.device, self.device.live().await) else { return told };
        let endpoints: BTreeMap<_, _> = live.peers.iter().map(|peer| (peer.public_key, peer.endpoint)).collect();
        for peer in &mut config.peers {
            peer.endpoint = endpoints.get(&peer.public_key).copied().flatten().or(peer.endpoint);
        }
        told
    }
}

/// Sees to it that probes are answered where they should be.
async fn answer(state: &mut State) -> Result<(), DeviceError> {
    let Some(wanted) = &state.told.answer else {
        state.answering = None;
        return Ok(());
    };
    let network = mesh::network::Network::open()?;
    let missing = || mesh::network::NetworkError::Missing { name: wanted.interface.clone() };
    let index = network.link(&wanted.interface).await?.ok_or_else(missing)?.index;
    if state.answering.as_ref().is_some_and(|a| a.as_told == *wanted && a.index == index && !a.task.is_finished()) {
        return Ok(());
    }
    state.answering = None;
    let bound = probe::bind(&wanted.interface, wanted.address, probe::PORT).await;
    let socket = bound.map_err(|source| DeviceError::Port { port: probe::PORT, source })?;
    let task = tokio::spawn(probe::answer(socket));
    state.answering = Some(Answering { as_told: wanted.clone(), index, task });
    Ok(())
}

/// Replaces the file in one step that a loss of power cannot halve.
fn save(directory: &Path, told: &GatewayMesh) -> io::Result<()> {
    let (path, temporary) = (directory.join(FILE), directory.join(format!("{FILE}.new")));
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec(told)?)?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    File::open(directory)?.sync_all()
}

fn load(directory: &Path) -> io::Result<Option<GatewayMesh>> {
    match fs::read(directory.join(FILE)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
