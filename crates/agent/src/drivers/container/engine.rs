//! Which container engine this machine has, and the way to it.
//!
//! The first that answers is taken: what the agent was told, what the environment says, the engine that was used before,
//! Podman's socket, Docker's. Where Podman is installed and nothing listens (its socket is a unit of systemd that nobody
//! switched on), the agent runs Podman's API itself, as a child that it ends with itself; containers are not the child's
//! children and stay.
//!
//! The engine that was used before comes early because its containers are there: a machine on which a second engine is
//! installed later must not lose sight of what runs.

use super::answers::{Info, Version};
use super::api::{Api, ApiError};
use crate::drivers::files::{Durability, read_json, write_json};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The newest version of the API whose answers this driver knows.
const NEWEST: (u32, u32) = (1, 44);
/// The oldest that has all that is used.
const OLDEST: (u32, u32) = (1, 40);
/// Podman's own API: the oldest version that can leave the name server out.
const LIBPOD: &str = "/v4.0.0/libpod";
/// An engine that is not there is not looked for more often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const OWN_SERVICE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    Podman,
    Docker,
}

impl EngineKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

/// An engine that answered.
#[derive(Debug, Clone)]
pub struct Engine {
    pub api: Api,
    pub kind: EngineKind,
    pub version: String,
}

impl Engine {
    /// Podman's own API at the same socket.
    pub fn libpod(&self) -> Option<Api> {
        (self.kind == EngineKind::Podman).then(|| self.api.with_prefix(LIBPOD.to_owned()))
    }
}

/// Why there is no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error(
        "this server has no container engine: install Podman (`apt-get install podman`, `dnf install podman`) or Docker, \
         and it goes on by itself; looked for one at {}", .looked_at.join(", ")
    )]
    None { looked_at: Vec<String> },
    #[error("{0}")]
    Away(String),
    #[error("the container engine at {socket} speaks version {version} of the API, and {}.{} is needed; install a newer one", OLDEST.0, OLDEST.1)]
    TooOld { socket: String, version: String },
}

/// Where to look.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// What the agent was told: this one and no other.
    pub told: Option<PathBuf>,
    pub candidates: Vec<PathBuf>,
    /// Where the agent's own Podman service listens, and with what it is started; `None`: it is not started.
    pub own_service: Option<OwnService>,
}

#[derive(Debug, Clone)]
pub struct OwnService {
    pub podman: PathBuf,
    pub socket: PathBuf,
}

impl Places {
    /// What is usual, as the environment of this process says.
    pub fn usual(told: Option<PathBuf>, run_directory: &Path, root: bool) -> Self {
        let variable = |name: &str| socket_of(&std::env::var(name).ok()?);
        let mut candidates: Vec<PathBuf> =
            [variable("CONTAINER_HOST"), variable("DOCKER_HOST")].into_iter().flatten().collect();
        candidates.push("/run/podman/podman.sock".into());
        if let Some(directory) = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !root) {
            candidates.push(Path::new(&directory).join("podman/podman.sock"));
        }
        candidates.push("/run/docker.sock".into());
        candidates.push("/var/run/docker.sock".into());
        let own_service = if root && told.is_none() { own_service(run_directory) } else { None };
        Self { told, candidates, own_service }
    }
}

fn own_service(run_directory: &Path) -> Option<OwnService> {
    let podman = program("podman")?;
    Some(OwnService { podman, socket: run_directory.join("podman.sock") })
}

/// A program on the search path.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// `unix:///run/x.sock`, or a path.
pub fn socket_of(text: &str) -> Option<PathBuf> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    path.starts_with('/').then(|| PathBuf::from(path))
}

/// Finds the engine, and finds it again.
pub struct Finder {
    places: Places,
    /// Where it is written down which one is used.
    memory: PathBuf,
    writes: bool,
    found: Mutex<Option<Arc<Engine>>>,
    missed: Mutex<Option<(Instant, EngineError)>>,
    service: tokio::sync::Mutex<Option<tokio::process::Child>>,
    looking: tokio::sync::Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    socket: PathBuf,
    kind: EngineKind,
}

impl Finder {
    pub fn new(places: Places, memory: PathBuf) -> Self {
        Self {
            places,
            memory,
            writes: true,
            found: Mutex::default(),
            missed: Mutex::default(),
            service: tokio::sync::Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// For whoever only looks: nothing is written down.
    pub fn without_memory(mut self) -> Self {
        self.writes = false;
        self
    }

    /// The engine, if one has been found, without looking.
    pub fn known(&self) -> Option<Arc<Engine>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Look again from the beginning at the next call: it did not answer.
    pub fn lost(&self) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub async fn engine(&self) -> Result<Arc<Engine>, EngineError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let _turn = self.looking.lock().await;
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, error)) = missed.filter(|(at, _)| at.elapsed() < LOOK_AGAIN) {
            return Err(error);
        }
        match self.look().await {
            Ok(engine) => {
                let engine = Arc::new(engine);
                *self.missed.lock().unwrap_or_else(PoisonError::into_inner) = None;
                *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine.clone());
                self.remember(&engine);
                Ok(engine)
            }
            Err(error) => {
                *self.missed.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn look(&self) -> Result<Engine, EngineError> {
        if let Some(told) = &self.places.told {
            return greet(told).await;
        }
        let remembered: Option<Remembered> = read_json(&self.memory).unwrap_or(None);
        let own = self.places.own_service.as_ref();
        let mut problem = None;
        let mut looked_at = Vec::new();
        let before = remembered.as_ref().map(|remembered| remembered.socket.clone());
        for socket in before.iter().chain(&self.places.candidates).chain(own.map(|own| &own.socket)) {
            if looked_at.contains(socket) {
                continue;
            }
            looked_at.push(socket.clone());
            if !socket.exists() {
                continue;
            }
            match greet(socket).await {
                Ok(engine) if remembered.as_ref().is_none_or(|remembered| remembered.kind == engine.kind) => {
                    return Ok(engine);
                }
                // Its containers are not here. Only when the one that has them is gone from this machine, this is it.
                Ok(_) => {}
                Err(error) => problem = Some(error),
            }
        }
        if let Some(own) = own
            && remembered.as_ref().is_none_or(|remembered| remembered.kind == EngineKind::Podman)
        {
            return self.start_own(own).await;
        }
        if let Some(remembered) = remembered {
            let text = format!(
                "the container engine that this agent uses ({} at {}) does not answer{}; start it again, or, if it is gone \
                 for good, remove {}",
                remembered.kind.as_str(),
                remembered.socket.display(),
                problem.map(|problem| format!(": {problem}")).unwrap_or_default(),
                self.memory.display()
            );
            return Err(EngineError::Away(text));
        }
        let looked_at = looked_at.iter().map(|path| path.display().to_string()).collect();
        Err(problem.unwrap_or(EngineError::None { looked_at }))
    }

    fn remember(&self, engine: &Engine) {
        if !self.writes {
            return;
        }
        let remembered = Remembered { socket: engine.api.socket().to_owned(), kind: engine.kind };
        if let Err(error) = write_json(&self.memory, &remembered, Durability::Synced) {
            tracing::warn!(path = %self.memory.display(), %error, "which container engine is used cannot be written down");
        }
    }

    async fn start_own(&self, own: &OwnService) -> Result<Engine, EngineError> {
        let failed = |reason: String| EngineError::Away(format!("Podman's API could not be started: {reason}"));
        let mut service = self.service.lock().await;
        let alive = service.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !alive {
            if let Some(folder) = own.socket.parent() {
                crate::drivers::files::private_directory(folder).map_err(|error| failed(error.to_string()))?;
            }
            let _ = std::fs::remove_file(&own.socket);
            let mut command = tokio::process::Command::new(&own.podman);
            command
                .args(["system", "service", "--time", "0"])
                .arg(format!("unix://{}", own.socket.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .current_dir("/")
                .process_group(0)
                .kill_on_drop(true);
            *service = Some(command.spawn().map_err(|error| failed(error.to_string()))?);
            tracing::info!(socket = %own.socket.display(), "no container engine listens; Podman's API was started");
        }
        let deadline = Instant::now() + OWN_SERVICE_TIMEOUT;
        loop {
            let answered = if own.socket.exists() { greet(&own.socket).await.ok() } else { None };
            if let Some(engine) = answered {
                return Ok(engine);
            }
            let ended = service.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(failed(format!("`podman system service` ended with {status}; run it by hand to see why")));
            }
            if Instant::now() > deadline {
                return Err(failed(format!("it did not answer within {} s", OWN_SERVICE_TIMEOUT.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Ask who it is, and agree on a version.
async fn greet(socket: &Path) -> Result<Engine, EngineError> {
    let api = Api::unversioned(socket);
    let version: Version = api.get("/version").await.map_err(|error: ApiError| EngineError::Away(error.to_string()))?;
    let kind = match version.components.iter().any(|component| component.name.contains("Podman")) {
        true => EngineKind::Podman,
        false => EngineKind::Docker,
    };
    let prefix = agree(&version.api_version).ok_or_else(|| EngineError::TooOld {
        socket: socket.display().to_string(),
        version: version.api_version.clone(),
    })?;
    Ok(Engine { api: api.with_prefix(prefix), kind, version: version.version })
}

/// `/v1.41`: the newest version that both know.
fn agree(theirs: &str) -> Option<String> {
    let (major, minor) = theirs.split_once('.')?;
    let theirs: (u32, u32) = (major.parse().ok()?, minor.split(['.', '-']).next()?.parse().ok()?);
    let agreed = theirs.min(NEWEST);
    (agreed >= OLDEST).then(|| format!("/v{}.{}", agreed.0, agreed.1))
}

/// What an engine can do here, and what it cannot with what follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Abilities {
    pub runtimes: Vec<String>,
    pub rootless: bool,
    pub limitations: Vec<String>,
}

pub async fn abilities(engine: &Engine) -> Result<Abilities, ApiError> {
    let info: Info = engine.api.get("/info").await?;
    Ok(judge(engine.kind, &info, |path| Path::new(path).exists() || (!path.contains('/') && program(path).is_some())))
}

/// An engine lists runtimes that it would know how to use, whether they are installed or not.
fn judge(kind: EngineKind, info: &Info, exists: impl Fn(&str) -> bool) -> Abilities {
    let listed = info.runtimes.iter().flatten();
    let mut runtimes: Vec<String> = listed
        .filter(|(name, runtime)| info.default_runtime.as_deref() == Some(name) || exists(&runtime.path))
        .map(|(name, _)| name.clone())
        .collect();
    if kind == EngineKind::Docker {
        // Docker's own needs no path.
        runtimes.extend(info.default_runtime.clone().filter(|name| !runtimes.contains(name)));
    }
    let security = info.security_options.iter().flatten();
    let rootless = info.rootless || security.clone().any(|option| option.contains("rootless"));
    let mut limitations = Vec::new();
    if rootless {
        limitations.push(format!(
            "The container engine ({}) runs without root: its containers' addresses lead nowhere outside of it, so services \
             from images that listen on a port cannot be reached and are refused; run agent and engine as root.",
            kind.as_str()
        ));
    }
    let lacks = [
        (info.memory_limit, "memory"),
        (info.cpu_cfs_quota, "CPU"),
        (info.pids_limit || kind == EngineKind::Docker, "process"),
    ];
    for (_, what) in lacks.iter().filter(|(has, _)| !has) {
        limitations
            .push(format!("The container engine cannot enforce {what} limits here: they are ignored for images."));
    }
    Abilities { runtimes, rootless, limitations }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_speak_the_newest_version_that_both_know() {
        assert_eq!(agree("1.41").as_deref(), Some("/v1.41"));
        assert_eq!(agree("1.53").as_deref(), Some("/v1.44"));
        assert_eq!(agree("1.39"), None);
        assert_eq!(agree("new"), None);
    }

    #[test]
    fn a_socket_is_named_by_path_or_unix_address_and_other_addresses_are_not_sockets() {
        assert_eq!(socket_of("unix:///run/x.sock"), Some("/run/x.sock".into()));
        assert_eq!(socket_of("/run/x.sock"), Some("/run/x.sock".into()));
        assert_eq!(socket_of("tcp://10.0.0.1:2375"), None);
        assert_eq!(socket_of("ssh://root@host"), None);
    }

    #[test]
    fn a_runtime_that_is_only_listed_is_not_there() {
        let info: Info = serde_json::from_value(serde_json::json!({
            "Runtimes": { "runc": { "path": "/usr/bin/runc" }, "runsc": { "path": "/usr/bin/runsc" } },
            "DefaultRuntime": "runc", "MemoryLimit": true, "CpuCfsQuota": true, "PidsLimit": true,
            "SecurityOptions": ["name=seccomp,profile=default"],
        }))
        .unwrap();
        let found = judge(EngineKind::Podman, &info, |_| false);
        assert_eq!(found.runtimes, ["runc"]);
        assert_eq!(found.limitations, Vec::<String>::new());
        let found = judge(EngineKind::Podman, &info, |path| path == "/usr/bin/runsc");
        assert_eq!((found.runtimes.len(), found.limitations.len()), (2, 0));
        let rootless = Info { rootless: true, ..info };
        assert!(judge(EngineKind::Podman, &rootless, |_| true).limitations[0].contains("without root"));
    }
}
