//! The gateway of this machine as a config that is replaced whole.
//!
//! The gateway is a process of its own that outlives the agent: started detached, found again through
//! its control socket, started anew when it died, and replaced without dropping a connection when it
//! is of another version than the agent (`--take-over` passes the listening sockets on). This driver
//! owns that process and nothing of what it serves: the config comes rendered from
//! [`plan::gateway`], and what is live is judged by the digest that the gateway itself answers.

use super::process::cgroup::Cgroups;
use super::{Config, DriverError};
use crate::backoff::Backoff;
use crate::spawn;
use api::gateway::{GatewayConfig, GatewayObserved};
use api::tls::CertificateDesired;
use client::gateway::{GatewayClient, GatewayError};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// A gateway that ended sooner than this after its start does not work, and the next start waits. One
/// that served for longer is started again at once: every moment of waiting refuses visitors.
const HELD_AFTER: Duration = Duration::from_secs(5);
/// The log of the gateway process is begun anew at a start once it is larger.
const LOG_LIMIT_BYTES: u64 = 8 * 1024 * 1024;

pub struct GatewayDriver {
    directory: PathBuf,
    binary: PathBuf,
    version: &'static str,
    client: GatewayClient,
    /// Where the process moves to, so that it does not share the fate of the agent's control group.
    cgroups: Cgroups,
    changes: watch::Sender<u64>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The process whose end is being waited for.
    watched: Option<u32>,
    attempts: u32,
    not_before: Option<Instant>,
    started_at: Option<Instant>,
    problem: Option<String>,
    /// What the binary on disk brings; it may be another version than this agent when it was replaced
    /// under a running agent, and replacing the gateway over and over would not change that.
    brought: Option<String>,
}

impl GatewayDriver {
    pub fn new(directory: PathBuf, binary: PathBuf) -> Self {
        Self::with_version(directory, binary, crate::VERSION)
    }

    /// As [`Self::new`], for a gateway that should be of another version than this agent.
    pub fn with_version(directory: PathBuf, binary: PathBuf, version: &'static str) -> Self {
        let client = GatewayClient::new(&directory);
        let (cgroups, changes) = (Cgroups::default(), watch::Sender::new(0));
        Self { directory, binary, version, client, cgroups, changes, state: Arc::default() }
    }

    /// Has the gateway moved out of the agent's own control group.
    pub fn in_control_groups(self, cgroups: Cgroups) -> Self {
        Self { cgroups, ..self }
    }

    /// Whether a gateway of this version should stay.
    pub fn is_wanted(&self, version: Option<&str>) -> bool {
        version.is_some_and(|version| version == self.version || self.lock().brought.as_deref() == Some(version))
    }

    /// Forgets why something else was refused before.
    pub fn settled(&self) {
        self.lock().problem = None;
    }

    /// Rises when the gateway process began or ended.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Where the rendered config should have the access log written.
    pub fn access_log(&self) -> PathBuf {
        self.directory.join("access.log")
    }

    /// What the gateway says of itself; not running, with the reason, when it does not answer.
    pub async fn observe(&self) -> GatewayObserved {
        match self.client.status().await {
            Ok(mut status) => {
                self.watch(&status);
                status.running = true;
                status.problem = status.problem.or_else(|| self.lock().problem.clone());
                status
            }
            Err(error) => {
                // That none runs is not a problem as long as none was asked for.
                let other = (!error.is_not_running()).then(|| error.to_string());
                let problem = self.lock().problem.clone().or(other);
                GatewayObserved { problem, ..GatewayObserved::default() }
            }
        }
    }

    /// Sees to it that a gateway of the right version runs.
    pub async fn ensure_running(&self) -> Result<(), DriverError> {
        match self.client.status().await {
            Ok(status) if self.is_wanted(status.version.as_deref()) => {
                self.watch(&status);
                Ok(())
            }
            Ok(status) => {
                let found = status.version.clone().unwrap_or_else(|| "an unknown version".into());
                tracing::info!(%found, wanted = self.version, "replacing the gateway without dropping a connection");
                self.start(true, status.pid).await
            }
            Err(error) if error.is_not_running() => self.start(false, None).await,
            Err(error) => Err(DriverError::temporary(error.to_string())),
        }
    }

    /// Gives the gateway those of these certificates that it does not hold yet.
    pub async fn bring(&self, certificates: &[CertificateDesired]) -> Result<(), DriverError> {
        if certificates.is_empty() {
            return Ok(());
        }
        self.ensure_running().await?;
        let temporary = |error: GatewayError| DriverError::temporary(error.to_string());
        let held: BTreeSet<String> = self.client.certificates().await.map_err(temporary)?.into_iter().collect();
        for certificate in certificates.iter().filter(|certificate| !held.contains(&certificate.digest)) {
            match self.client.put_certificate(certificate).await {
                // The routes should not wait for it, and another attempt would not help.
                Err(GatewayError::Refused { problem, .. }) => {
                    let names: Vec<&str> = certificate.names.iter().map(|name| name.as_str()).collect();
                    tracing::error!(names = names.join(", "), problem, "the gateway cannot use a certificate");
                }
                put => put.map_err(temporary)?,
            }
        }
        Ok(())
    }

    async fn start(&self, take_over: bool, old_pid: Option<u32>) -> Result<(), DriverError> {
        if let Some(left) = self.back_off() {
            let reason = self.lock().problem.clone().unwrap_or_else(|| "it ended soon after its start".into());
            let text = format!("the gateway is started again in {} ms: {reason}", left.as_millis());
            return Err(DriverError::temporary(text));
        }
        let result = self.start_now(take_over, old_pid).await;
        let mut state = self.lock();
        match &result {
            Ok(()) => {
                state.problem = None;
                state.started_at = Some(Instant::now());
            }
            Err(error) => {
                state.attempts += 1;
                state.not_before = Some(Instant::now() + Backoff::GATEWAY.delay(state.attempts));
                state.problem = Some(error.describe());
            }
        }
        result
    }

    /// How long a start must still wait, after starts that failed or did not hold.
    fn back_off(&self) -> Option<Duration> {
        let mut state = self.lock();
        if let Some(started) = state.started_at.take() {
            // It ended after having run: soon counts as a failure, late as a fresh beginning.
            if started.elapsed() < HELD_AFTER {
                state.attempts += 1;
                let delay =
                    if state.attempts <= 1 { Duration::ZERO } else { Backoff::GATEWAY.delay(state.attempts - 1) };
                state.not_before = Some(Instant::now() + delay);
            } else {
                state.attempts = 0;
                state.not_before = None;
            }
        }
        state.not_before.and_then(|at| at.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    async fn start_now(&self, take_over: bool, old_pid: Option<u32>) -> Result<(), DriverError> {
        let io = |operation, path: &Path, source| DriverError::Io { operation, path: path.to_owned(), source };
        fs::create_dir_all(&self.directory).map_err(|e| io("create", &self.directory, e))?;
        let log = self.directory.join("gateway.log");
        if fs::metadata(&log).is_ok_and(|m| m.len() > LOG_LIMIT_BYTES) {
            let former = self.directory.join("gateway.log.1");
            fs::rename(&log, &former).map_err(|e| io("rotate", &log, e))?;
        }
        let mut arguments: Vec<&OsStr> =
            vec![OsStr::new("gateway"), OsStr::new("--directory"), self.directory.as_os_str()];
        if take_over {
            arguments.push(OsStr::new("--take-over"));
        }
        let mut child = spawn::spawn_detached(&self.binary, &arguments, &log)
            .map_err(|e| io("start the gateway from", &self.binary, e))?;
        if let Some(pid) = child.id() {
            self.cgroups.shelter(pid);
        }
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            tokio::time::sleep(Duration::from_millis(15)).await;
            if let Ok(Some(status)) = child.try_wait() {
                let tail = last_line(&log).unwrap_or_else(|| "it wrote nothing".into());
                return Err(DriverError::temporary(format!(
                    "the gateway ended at once ({status}): {tail}. Its log is {}",
                    log.display()
                )));
            }
            if let Ok(status) = self.client.status().await
                && (old_pid.is_none() || status.pid != old_pid)
            {
                // The child has to be waited for, or its end would leave a zombie.
                tokio::spawn(async move { child.wait().await });
                self.watch(&status);
                self.lock().brought = status.version;
                self.bump();
                return Ok(());
            }
            if Instant::now() > deadline {
                tokio::spawn(async move { child.wait().await });
                return Err(DriverError::temporary(format!(
                    "the gateway did not answer within {} s after its start. Its log is {}",
                    START_TIMEOUT.as_secs(),
                    log.display()
                )));
            }
        }
    }

    /// Bumps `changes` the moment the process ends, so that it is started again at once.
    fn watch(&self, status: &GatewayObserved) {
        let Some(pid) = status.pid else { return };
        let mut state = self.lock();
        if state.watched == Some(pid) {
            return;
        }
        state.watched = Some(pid);
        let (shared, changes) = (self.state.clone(), self.changes.clone());
        tokio::spawn(async move {
            if let Err(error) = spawn::process_ended(pid).await {
                tracing::debug!(%pid, %error, "the end of the gateway cannot be watched; it is noticed at the next look");
            }
            let mut state = shared.lock().unwrap_or_else(|e| e.into_inner());
            if state.watched == Some(pid) {
                state.watched = None;
            }
            drop(state);
            changes.send_modify(|n| *n += 1);
        });
    }

    fn bump(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic while holding it cannot leave it half-written: every field stands alone.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Config for GatewayDriver {
    type Desired = GatewayConfig;

    fn name(&self) -> &'static str {
        "routes"
    }

    async fn live_digest(&self) -> Option<String> {
        self.client.status().await.ok()?.digest
    }

    async fn apply(&self, desired: &GatewayConfig) -> Result<String, DriverError> {
        self.ensure_running().await?;
        match self.client.put_config(desired).await {
            Ok(digest) => {
                self.lock().problem = None;
                Ok(digest)
            }
            Err(GatewayError::Refused { problem, .. }) => {
                self.lock().problem = Some(problem.clone());
                Err(DriverError::temporary(problem))
            }
            Err(error) => Err(DriverError::temporary(error.to_string())),
        }
    }

    async fn remove(&self) -> Result<(), DriverError> {
        let pid = match self.client.status().await {
            Ok(status) => status.pid,
            Err(error) if error.is_not_running() => return Ok(()),
            Err(_) => None,
        };
        match self.client.stop().await {
            Ok(()) => {}
            Err(error) if error.is_not_running() => return Ok(()),
            Err(error) => return Err(DriverError::temporary(error.to_string())),
        }
        let Some(pid) = pid else { return Ok(()) };
        match tokio::time::timeout(STOP_TIMEOUT, spawn::process_ended(pid)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                // Open connections (a WebSocket) may outlast every patience; whoever stops all wants them gone.
                let target = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                if let Some(target) = target {
                    let _ = rustix::process::kill_process(target, rustix::process::Signal::KILL);
                }
                Ok(())
            }
        }
    }
}

fn last_line(path: &Path) -> Option<String> {
    let text = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
