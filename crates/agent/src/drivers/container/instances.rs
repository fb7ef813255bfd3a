//! Starting, finding, stopping and removing containers.
//!
//! One turn at a time: whoever looks at the engine or changes something holds the world, so that no two see the same end
//! of a container as new, and no start races with a look.

mod starting;

use super::answers::{ContainerInspect, ContainerSummary};
use super::api::{ApiError, escaped, label_filter};
use super::create::Ceilings;
use super::engine::{Abilities, Engine, EngineKind};
use super::keeper::{Due, Moment, Phase, Sight, Status};
use super::logs::Copier;
use super::network::{self, ContainerNetwork, HostRoute, host_routes, shadowed};
use super::record::{INSTANCE_LABEL, OWNER_LABEL, Spec};
use super::secrets::SecretFiles;
use super::{Shared, engine_error, exec};
use crate::clock::now_ms;
use crate::drivers::log::tail;
use crate::drivers::process::{boot_id, usage_around};
use crate::drivers::{CheckOutcome, DriverError, blocking};
use api::ids::{InstanceId, ServiceId};
use api::observed::{InstanceObserved, InstanceState};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// While events arrive, everything is looked at this often all the same.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const TAIL_LINES: usize = 20;

pub struct Instances {
    shared: Arc<Shared>,
    secrets: SecretFiles,
    ceilings: Option<Ceilings>,
    boot_id: String,
    world: tokio::sync::Mutex<World>,
    /// Of each instance, for those who must not wait for a turn.
    services: Mutex<BTreeMap<InstanceId, ServiceId>>,
    sources: Mutex<BTreeMap<InstanceId, PathBuf>>,
    copiers: Mutex<BTreeMap<InstanceId, Arc<Mutex<Copier>>>>,
    network: Mutex<Option<ContainerNetwork>>,
    abilities: Mutex<Option<(Instant, Abilities)>>,
    /// Containers that an event was about since the last look.
    events: Mutex<BTreeSet<String>>,
    live: AtomicBool,
    wake: Arc<Notify>,
    /// Of checks that ended, until what Podman leaves of them is gone.
    sessions: Mutex<BTreeSet<String>>,
}

#[derive(Default)]
struct World {
    instances: BTreeMap<InstanceId, Known>,
    looked_at: Option<Instant>,
}

struct Known {
    spec: Spec,
    status: Status,
    sight: Option<Sight>,
}

impl Instances {
    pub fn open(shared: Arc<Shared>) -> Self {
        let known: BTreeMap<InstanceId, Known> = shared
            .folders
            .load()
            .into_iter()
            .map(|(spec, status)| (spec.instance_id.clone(), Known { spec, status, sight: None }))
            .collect();
        let services = known.values().map(|k| (k.spec.instance_id.clone(), k.spec.service_id.clone())).collect();
        let network = known.values().next().map(|k| ContainerNetwork::of(k.spec.address));
        Self {
            secrets: SecretFiles::new(shared.options.run_dir.join("files")),
            ceilings: Ceilings::of_this_process(),
            boot_id: boot_id(),
            world: tokio::sync::Mutex::new(World { instances: known, looked_at: None }),
            services: Mutex::new(services),
            sources: Mutex::default(),
            copiers: Mutex::default(),
            network: Mutex::new(network),
            abilities: Mutex::default(),
            events: Mutex::default(),
            live: AtomicBool::new(false),
            wake: Arc::default(),
            sessions: Mutex::default(),
            shared,
        }
    }

    // What the watchers and the driver ask, without a turn.

    pub fn service_of(&self, id: &InstanceId) -> Option<ServiceId> {
        lock(&self.services).get(id).cloned()
    }

    pub fn all_services(&self) -> BTreeMap<InstanceId, ServiceId> {
        lock(&self.services).clone()
    }

    pub fn network(&self) -> Option<ContainerNetwork> {
        *lock(&self.network)
    }

    pub fn network_limitation(&self) -> Option<String> {
        let network = self.network().unwrap_or_else(ContainerNetwork::of_the_first_server);
        let routes = routes_of_this_machine();
        network::conflict(network.subnet, &routes)
            .map(|conflict| format!("Services from images cannot run here: {conflict}."))
            .or_else(|| shadowed(network.subnet, &routes))
    }

    pub fn events_are_live(&self, live: bool) {
        self.live.store(live, Ordering::Relaxed);
        // What happened before the first event, or since the last one, was not told.
        self.is_worth_a_look("");
    }

    pub fn is_worth_a_look(&self, container: &str) {
        lock(&self.events).insert(container.to_owned());
        self.wake.notify_one();
    }

    /// See [`exec::wake_sleepers`].
    pub async fn wake_sleepers(&self) {
        let sessions = std::mem::take(&mut *lock(&self.sessions));
        if !sessions.is_empty() {
            let _ = blocking(move || exec::wake_sleepers(&sessions)).await;
        }
    }

    pub fn woken(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Build keys of images that instances here are of.
    pub fn used_images(&self) -> BTreeSet<String> {
        self.shared.folders.load().into_iter().map(|(spec, _)| spec.build_key).collect()
    }

    pub async fn next_due(&self) -> Option<Duration> {
        let world = self.world.lock().await;
        let due = world.instances.values().filter_map(|known| known.status.due_at_ms(&known.spec.restart)).min()?;
        Some(Duration::from_millis(u64::try_from(due - now_ms()).unwrap_or(0).max(5)))
    }

    /// Look, and do what is due.
    pub async fn turn(&self) {
        let mut world = self.world.lock().await;
        let _ = self.refresh(&mut world).await;
    }

    pub async fn list(&self) -> Vec<InstanceObserved> {
        let mut world = self.world.lock().await;
        let away = self.refresh(&mut world).await.err();
        let now = now_ms();
        world.instances.values().map(|known| self.observe(known, away.as_ref(), now)).collect()
    }

    fn observe(&self, known: &Known, away: Option<&DriverError>, now: api::UnixMillis) -> InstanceObserved {
        let Known { spec, status, .. } = known;
        let state = status.state();
        let usage = status.pid.map(usage_around).unwrap_or_default();
        let problem = match away {
            Some(error) if status.phase != Phase::Stopped => {
                Some(format!("whether it still runs is not known: {}", error.describe()))
            }
            _ => status.why(now),
        };
        let log_tail = match (&problem, state) {
            (Some(_), InstanceState::Transient | InstanceState::Exited) => {
                tail(&self.shared.folders.log(&spec.instance_id), TAIL_LINES)
            }
            _ => Vec::new(),
        };
        InstanceObserved {
            instance_id: spec.instance_id.clone(),
            service_id: spec.service_id.clone(),
            revision_id: spec.revision_id.clone(),
            state,
            pid: status.pid,
            port: spec.port,
            address: spec.port.map(|_| spec.address),
            started_at_ms: status.started_at_ms,
            restarts: status.restarts,
            stopping: status.phase == Phase::Stopping,
            crash_looping: status.crash_looping,
            last_exit: status.last_exit.clone(),
            last_probe: None,
            problem,
            log_tail,
            memory_bytes: usage.memory_bytes,
            cpu_ms: usage.cpu_ms,
        }
    }

    // Looking.

    /// Bring what is known up to date, and do what is due.
    async fn refresh(&self, world: &mut World) -> Result<(), DriverError> {
        let engine = match self.shared.finder.engine().await {
            Ok(engine) => engine,
            // Nothing of ours can be there: with the first start there will be something to know.
            Err(_) if world.instances.is_empty() => return Ok(()),
            Err(error) => return Err(engine_error(error)),
        };
        let events = std::mem::take(&mut *lock(&self.events));
        let old = world.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if (old || !events.is_empty() || !self.live.load(Ordering::Relaxed))
            && let Err(error) = self.look(&engine, world, &events, old).await
        {
            lock(&self.events).extend(events);
            world.looked_at = None;
            return Err(self.failed(error));
        }
        self.act(&engine, world).await
    }

    async fn look(
        &self,
        engine: &Engine,
        world: &mut World,
        events: &BTreeSet<String>,
        everything: bool,
    ) -> Result<(), ApiError> {
        let query = label_filter(&[(OWNER_LABEL, &self.shared.owner)]);
        let all: Vec<ContainerSummary> = engine.api.get(&format!("/containers/json?all=true&{query}")).await?;
        let mut seen = BTreeSet::new();
        for summary in all {
            let id = summary.labels.as_ref().and_then(|labels| labels.get(INSTANCE_LABEL)?.parse::<InstanceId>().ok());
            let Some(id) = id else { continue };
            let known = world.instances.get(&id).and_then(|known| known.sight.as_ref());
            let same =
                matches!(known, Some(Sight::There { id, state }) if *id == summary.id && state.status == summary.state);
            if same && !everything && !events.contains(&summary.id) {
                seen.insert(id);
                continue;
            }
            let found =
                engine.api.find::<ContainerInspect>(&format!("/containers/{}/json", escaped(&summary.id))).await?;
            let Some(found) = found else { continue };
            if self.take_in(world, &id, found) {
                seen.insert(id);
            }
        }
        for (id, known) in &mut world.instances {
            if !seen.contains(id) {
                known.sight = Some(Sight::Gone);
            }
        }
        world.looked_at = Some(Instant::now());
        Ok(())
    }

    /// A container as it is now. One without a folder is adopted by its labels.
    fn take_in(&self, world: &mut World, id: &InstanceId, found: ContainerInspect) -> bool {
        if let Some(path) = found.log_path.filter(|path| !path.is_empty()) {
            lock(&self.sources).insert(id.clone(), path.into());
        }
        let sight = Sight::There { id: found.id, state: found.state };
        if let Some(known) = world.instances.get_mut(id) {
            known.sight = Some(sight);
            return true;
        }
        let Some(spec) = found.config.labels.as_ref().and_then(Spec::from_labels) else {
            tracing::error!(instance = %id, "a container with Mainstay's label does not say what it is; it is left alone");
            return false;
        };
        if let Err(error) = self.shared.folders.save_spec(&spec) {
            tracing::warn!(instance = %id, %error, "an adopted container cannot be written down");
        }
        lock(&self.services).insert(id.clone(), spec.service_id.clone());
        lock(&self.network).get_or_insert(ContainerNetwork::of(spec.address));
        let status = Status { boot_id: self.boot_id.clone(), ..Status::default() };
        world.instances.insert(id.clone(), Known { spec, status, sight: Some(sight) });
        true
    }

    /// Let every instance take in what was seen, and do what is due.
    async fn act(&self, engine: &Engine, world: &mut World) -> Result<(), DriverError> {
        let mut news = false;
        let mut result = Ok(());
        let ids: Vec<InstanceId> = world.instances.keys().cloned().collect();
        for id in ids {
            let Some(known) = world.instances.get_mut(&id) else { continue };
            let before = known.status.clone();
            let Some(sight) = known.sight.clone() else { continue };
            let due = known.status.advance(&known.spec.restart, &sight, self.moment());
            if known.status != before {
                self.tell(known, &before).await;
            }
            if let Some(due) = due {
                result = result.and(self.do_now(engine, known, due).await);
            }
            if known.status != before {
                self.shared.folders.save_status(&id, &known.status);
                news = true;
            }
        }
        if news {
            self.shared.changed();
            self.wake.notify_one();
        }
        result
    }

    fn moment(&self) -> Moment<'_> {
        Moment { now_ms: now_ms(), boot_id: &self.boot_id, spread: ambient::random_fraction() }
    }

    /// What a person wants to find in the log.
    async fn tell(&self, known: &Known, before: &Status) {
        let id = &known.spec.instance_id;
        let text = match (before.phase, known.status.phase) {
            (Phase::Running, Phase::Waiting | Phase::Lost) => known.status.why(now_ms()),
            (Phase::Stopping, Phase::Stopped) => known.status.last_exit.as_ref().map(|exit| exit.describe()),
            _ => None,
        };
        if let Some(text) = text {
            self.copy_log(id).await;
            self.finish_log(id).await;
            self.note(id, text).await;
        }
    }

    async fn do_now(&self, engine: &Engine, known: &mut Known, due: Due) -> Result<(), DriverError> {
        let Some(container) = known.status.container_id.clone() else { return Ok(()) };
        let path = format!("/containers/{}", escaped(&container));
        let call = match due {
            Due::Start => format!("{path}/start"),
            Due::Kill => format!("{path}/kill?signal=SIGKILL"),
            Due::Unpause => format!("{path}/unpause"),
        };
        let done = engine.api.order(http::Method::POST, &call).await;
        match (due, done) {
            (_, Err(error)) if error.is_away() => return Err(self.failed(error)),
            (Due::Start, Ok(())) => {
                known.status.restarts = known.status.restarts.saturating_add(1);
                known.status.problem = None;
                self.see_running(engine, known, &container).await?;
            }
            (Due::Start, Err(error)) if error.is_not_found() => known.sight = Some(Sight::Gone),
            (Due::Start, Err(error)) => {
                known.status.problem = Some(format!("it could not be started again: {error}"));
                known.status.wait(&known.spec.restart, self.moment());
            }
            // It ended in between, which the next look shows.
            (Due::Kill | Due::Unpause, _) => self.is_worth_a_look(&container),
        }
        Ok(())
    }

    async fn see_running(&self, engine: &Engine, known: &mut Known, container: &str) -> Result<(), DriverError> {
        let found = engine.api.get::<ContainerInspect>(&format!("/containers/{}/json", escaped(container))).await;
        let found = found.map_err(|error| self.failed(error))?;
        if let Some(path) = found.log_path.filter(|path| !path.is_empty()) {
            lock(&self.sources).insert(known.spec.instance_id.clone(), path.into());
        }
        let sight = Sight::There { id: found.id, state: found.state };
        if known.status.phase == Phase::Starting {
            // It may have ended within these milliseconds: an end like any other, not a start that was cut short.
            known.status.phase = Phase::Running;
            known.status.boot_id.clone_from(&self.boot_id);
        } else if known.status.phase == Phase::Waiting {
            known.status.retry_at_ms = None;
            known.status.phase = Phase::Running;
            known.status.started_at_ms = None;
        }
        known.status.advance(&known.spec.restart, &sight, self.moment());
        known.sight = Some(sight);
        let started = match known.status.pid {
            Some(pid) => format!("started with pid {pid}"),
            None => "started".into(),
        };
        self.note(&known.spec.instance_id, started).await;
        Ok(())
    }

    fn failed(&self, error: ApiError) -> DriverError {
        if error.is_away() {
            self.shared.finder.lost();
        }
        DriverError::temporary(error.to_string())
    }

    // Changing. How one is started is in `starting`.

    pub async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<(), DriverError> {
        let mut world = self.world.lock().await;
        self.refresh(&mut world).await?;
        let Some(known) = world.instances.get_mut(id) else { return Ok(()) };
        let first = known.status.phase == Phase::Running;
        if let (true, Some(container)) = (first, &known.status.container_id) {
            let engine = self.shared.finder.engine().await.map_err(engine_error)?;
            let path = format!("/containers/{}/kill?signal={}", escaped(container), escaped(&known.spec.stop_signal));
            match engine.api.order(http::Method::POST, &path).await {
                Err(error) if error.is_away() => return Err(self.failed(error)),
                // It ended just now; the look after this shows it.
                Ok(()) | Err(_) => self.is_worth_a_look(container),
            }
        }
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        known.status.stop(now_ms().saturating_add(grace_ms));
        self.shared.folders.save_status(id, &known.status);
        self.wake.notify_one();
        self.shared.changed();
        Ok(())
    }

    pub async fn remove(&self, id: &InstanceId) -> Result<(), DriverError> {
        let mut world = self.world.lock().await;
        self.refresh(&mut world).await?;
        let Some(known) = world.instances.get(id) else { return Ok(()) };
        if !matches!(known.status.phase, Phase::Stopped | Phase::Lost) {
            return Err(DriverError::StillRunning(id.clone()));
        }
        if let Some(container) = &known.status.container_id {
            let engine = self.shared.finder.engine().await.map_err(engine_error)?;
            self.copy_log(id).await;
            self.remove_container(&engine, container).await?;
        }
        self.secrets.remove(id);
        let forgotten = self.shared.folders.forget(id);
        forgotten.map_err(|source| self.io("remove the instance in", &known.spec, source))?;
        world.instances.remove(id);
        lock(&self.services).remove(id);
        lock(&self.sources).remove(id);
        lock(&self.copiers).remove(id);
        self.shared.changed();
        Ok(())
    }

    fn io(&self, operation: &'static str, spec: &Spec, source: std::io::Error) -> DriverError {
        DriverError::Io { operation, path: self.shared.folders.instance(&spec.instance_id), source }
    }

    // What is asked of one that runs.

    async fn running(&self, id: &InstanceId) -> Result<(String, Option<u32>), DriverError> {
        let world = self.world.lock().await;
        let known = world.instances.get(id).ok_or_else(|| DriverError::NoSuchInstance(id.clone()))?;
        match (&known.status.container_id, known.status.phase) {
            (Some(container), Phase::Running) => Ok((container.clone(), known.status.pid)),
            _ => Err(DriverError::temporary("it does not run just now")),
        }
    }

    pub async fn exec(
        &self,
        id: &InstanceId,
        command: &[String],
        shown: &str,
        timeout: Duration,
    ) -> Result<CheckOutcome, DriverError> {
        let (container, _) = self.running(id).await?;
        let engine = self.shared.finder.engine().await.map_err(engine_error)?;
        let ended = exec::check(&engine.api, &container, command, shown, timeout).await;
        let ended = ended.map_err(|error| self.failed(error))?;
        if engine.kind == EngineKind::Podman {
            lock(&self.sessions).insert(ended.session);
        }
        Ok(ended.outcome)
    }

    pub fn image_check(&self, id: &InstanceId) -> Result<Vec<String>, DriverError> {
        let spec: Option<Spec> =
            crate::drivers::files::read_json(&self.shared.folders.instance(id).join(super::record::SPEC_FILE))
                .unwrap_or(None);
        let spec = spec.ok_or_else(|| DriverError::NoSuchInstance(id.clone()))?;
        spec.image_check.ok_or_else(|| {
            DriverError::refused("its image brings no health check; set `health` to a path, a command or tcp")
        })
    }

    pub async fn listening(&self, id: &InstanceId) -> Vec<SocketAddr> {
        let Ok((_, Some(pid))) = self.running(id).await else { return Vec::new() };
        let found = blocking(move || {
            let all = sockets::listening_beside(pid, sockets::Transport::Tcp);
            all.into_iter().map(|socket| socket.address).collect::<BTreeSet<_>>()
        });
        found.await.unwrap_or_default().into_iter().collect()
    }

    // Logs.

    fn copier(&self, id: &InstanceId) -> Option<Arc<Mutex<Copier>>> {
        let mut copiers = lock(&self.copiers);
        if let Some(copier) = copiers.get(id) {
            return Some(copier.clone());
        }
        let folder = self.shared.folders.instance(id);
        if !folder.is_dir() {
            return None;
        }
        match Copier::open(&folder, self.shared.options.log_limits) {
            Ok(copier) => {
                let copier = Arc::new(Mutex::new(copier));
                copiers.insert(id.clone(), copier.clone());
                Some(copier)
            }
            Err(error) => {
                tracing::warn!(instance = %id, %error, "the log of an instance cannot be opened");
                None
            }
        }
    }

    async fn note(&self, id: &InstanceId, text: String) {
        let Some(copier) = self.copier(id) else { return };
        let _ = blocking(move || lock(&copier).note(&text)).await;
    }

    pub async fn copy_log(&self, id: &InstanceId) {
        let source = lock(&self.sources).get(id).cloned();
        if let (Some(path), Some(copier)) = (source, self.copier(id)) {
            let _ = blocking(move || lock(&copier).copy(&path)).await;
        }
    }

    async fn finish_log(&self, id: &InstanceId) {
        let Some(copier) = self.copier(id) else { return };
        let _ = blocking(move || lock(&copier).finish()).await;
    }

    pub async fn copy_logs(&self) {
        let sources = lock(&self.sources).clone();
        let all: Vec<_> = sources.into_iter().filter_map(|(id, path)| Some((self.copier(&id)?, path))).collect();
        if all.is_empty() {
            return;
        }
        let _ = blocking(move || all.iter().for_each(|(copier, path)| lock(copier).copy(path))).await;
    }
}

fn routes_of_this_machine() -> Vec<HostRoute> {
    host_routes(&std::fs::read_to_string(Path::new("/proc/net/route")).unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
