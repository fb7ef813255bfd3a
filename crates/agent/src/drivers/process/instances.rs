//! Starting, finding, stopping and removing instances.
//!
//! Everything about an instance lies in its folder, so a driver that was just built knows as much as
//! one that ran for months: `list` reads the folders and asks the supervisors. A supervisor that is
//! gone without having stopped its instance was killed, or the machine went down; the instance is then
//! *exited*, with the reason, and `start` ends what is left of it before it begins anew on the same
//! port.

use super::cgroup::{Cgroups, Group, kill_owned};
use super::directory::{inside, source_directory};
use super::layout::Layout;
use super::ports;
use super::procfs::{self, Marks};
use super::spec::{HOME_DIRECTORY, INSTANCE_VARIABLE, InstanceSpec, InstanceStatus, LOG_DIRECTORY, Phase, Request};
use super::supervisors::{self, Begun, Watchers};
use super::{ProcessOptions, surroundings};
use crate::drivers::files::{io_error, private_directory, remove_tree};
use crate::drivers::log;
use crate::drivers::{CheckOutcome, DriverError, StartRequest, StartedInstance};
use api::ids::InstanceId;
use api::observed::{InstanceObserved, InstanceState};
use api::secret::Secret;
use api::services::{PortSpec, RunSpec};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// How often another port is tried when another agent was quicker.
const PORT_ATTEMPTS: usize = 10;
const TAIL_LINES: usize = 20;
const CHECK_OUTPUT_CHARACTERS: usize = 300;

pub struct Instances {
    layout: Layout,
    cgroups: Cgroups,
    options: ProcessOptions,
    watchers: Watchers,
    /// One start at a time: a port is chosen, written down and claimed in it.
    starting: tokio::sync::Mutex<()>,
}

/// What a folder and its supervisor say together.
struct Seen {
    directory: PathBuf,
    spec: InstanceSpec,
    status: Option<InstanceStatus>,
    alive: bool,
    /// The supervisor lives but does not answer.
    silent: bool,
}

impl Instances {
    pub fn open(
        layout: Layout,
        cgroups: Cgroups,
        options: ProcessOptions,
        changes: tokio::sync::watch::Sender<u64>,
    ) -> Self {
        Self { layout, cgroups, options, watchers: Watchers::new(changes), starting: tokio::sync::Mutex::default() }
    }

    pub async fn start(&self, request: StartRequest) -> Result<StartedInstance, DriverError> {
        let _turn = self.starting.lock().await;
        let id = &request.instance.instance_id;
        let directory = self.layout.instance(id);
        let before = supervisors::read_spec(&directory).map_err(io_error("read the instance in", &directory))?;
        if let Some(spec) = &before
            && supervisors::is_alive_for_long(&directory).await
        {
            let stopping = supervisors::read_status(&directory).is_some_and(|status| status.phase == Phase::Stopping);
            if stopping {
                return Err(DriverError::temporary(format!(
                    "instance {id} is still stopping; it is started again when it has"
                )));
            }
            return Ok(StartedInstance { port: spec.port, already_running: true });
        }
        if let Some(spec) = &before {
            self.end_leftovers(spec).await?;
        }
        for _ in 0..PORT_ATTEMPTS {
            let lock = ports::lock(&self.layout)?;
            let port = match request.revision.port {
                PortSpec::Injected => {
                    let before = before.as_ref().and_then(|spec| spec.port);
                    Some(ports::choose(&self.layout, &self.options.ports, id, before, &lock)?)
                }
                PortSpec::Fixed { port } => {
                    ports::check_fixed(port)?;
                    Some(port)
                }
                PortSpec::None => None,
            };
            self.write(&directory, &self.spec(&request, port)?)?;
            drop(lock);
            match supervisors::begin(&self.options.mainstay_binary, &directory, &self.cgroups).await? {
                Begun::Ready => {
                    self.watchers.ensure(id, &directory);
                    return Ok(StartedInstance { port, already_running: false });
                }
                Begun::PortClaimed => {
                    tracing::info!(instance = %id, ?port, "another agent claimed the port first; choosing another")
                }
            }
        }
        Err(DriverError::temporary(format!(
            "other agents on this machine claimed {PORT_ATTEMPTS} ports in a row; trying again later"
        )))
    }

    /// The folder appears complete: a half-made one is never seen under its name.
    fn write(&self, directory: &Path, spec: &InstanceSpec) -> Result<(), DriverError> {
        if directory.exists() {
            return supervisors::write_spec(directory, spec).map_err(io_error("write the instance in", directory));
        }
        let fresh = self.layout.instances().join(format!(".new-{}", spec.instance_id));
        let make = || {
            remove_tree(&fresh)?;
            private_directory(&fresh.join(HOME_DIRECTORY))?;
            supervisors::write_spec(&fresh, spec)?;
            std::fs::rename(&fresh, directory)?;
            crate::drivers::files::sync_directory(&self.layout.instances())
        };
        make().map_err(io_error("make the instance in", directory))
    }

    fn spec(&self, request: &StartRequest, port: Option<u16>) -> Result<InstanceSpec, DriverError> {
        let (instance, revision) = (&request.instance, &request.revision);
        let source = source_directory(&self.layout, revision).map_err(DriverError::refused)?;
        let command = match &revision.run {
            RunSpec::Command { command } => vec!["/bin/sh".to_owned(), "-c".to_owned(), command.clone()],
            RunSpec::Static { directory } => {
                let served = inside(&source, directory)
                    .map_err(|problem| DriverError::refused(format!("the files to serve are not there: {problem}")))?;
                let binary = self.options.mainstay_binary.to_string_lossy().into_owned();
                vec![binary, "static".into(), "--directory".into(), served.to_string_lossy().into_owned()]
            }
            RunSpec::Container(_) => {
                return Err(DriverError::refused(format!("{} is not run as a process", revision.source.label())));
            }
        };
        let home = self.layout.instance(&instance.instance_id).join(HOME_DIRECTORY);
        let mut env = surroundings::base(&home);
        if let Some(port) = port {
            env.insert("PORT".into(), port.to_string());
            env.insert("HOST".into(), "127.0.0.1".into());
        }
        env.insert("MAINSTAY_SERVICE".into(), request.service.to_string());
        if let Some(source) = revision.source.git() {
            env.insert("MAINSTAY_COMMIT".into(), source.commit.to_string());
        }
        surroundings::overlay(&mut env, &request.env, &revision.env).map_err(DriverError::refused)?;
        // The static file server takes its port from nowhere else, whatever the user set.
        if let (RunSpec::Static { .. }, Some(port)) = (&revision.run, port) {
            env.insert("PORT".into(), port.to_string());
        }
        Ok(InstanceSpec {
            instance_id: instance.instance_id.clone(),
            service_id: request.service_id.clone(),
            service: request.service.clone(),
            revision_id: revision.revision_id.clone(),
            deployment_id: instance.deployment_id.clone(),
            command,
            directory: source,
            env: env.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            port,
            claim_port: revision.port == PortSpec::Injected,
            limits: revision.limits.clone(),
            cgroup: self.cgroups.group(instance.instance_id.as_str()),
            restart: revision.restart.clone(),
            stop_grace_ms: revision.stop.grace_ms,
            log: self.options.log_limits,
        })
    }

    pub async fn list(&self) -> Result<Vec<InstanceObserved>, DriverError> {
        let directories = self.directories()?;
        let seen = futures_util::future::join_all(directories.into_iter().map(|directory| self.look(directory))).await;
        let seen: Vec<Seen> = seen.into_iter().flatten().collect();
        for one in seen.iter().filter(|one| one.alive && !one.silent) {
            self.watchers.ensure(&one.spec.instance_id, &one.directory);
        }
        let observed = tokio::task::spawn_blocking(move || seen.iter().map(observe).collect::<Vec<_>>()).await;
        observed.map_err(|error| DriverError::temporary(format!("looking at the instances failed: {error}")))
    }

    fn directories(&self) -> Result<Vec<PathBuf>, DriverError> {
        let place = self.layout.instances();
        let entries = std::fs::read_dir(&place).map_err(io_error("list the instances in", &place))?;
        let mut found: Vec<PathBuf> = entries
            .flatten()
            // Only what is named after an instance is ours.
            .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<InstanceId>().is_ok()))
            .map(|entry| entry.path())
            .collect();
        found.sort();
        Ok(found)
    }

    async fn look(&self, directory: PathBuf) -> Option<Seen> {
        let spec = match supervisors::read_spec(&directory) {
            Ok(spec) => spec?,
            Err(error) => {
                tracing::error!(directory = %directory.display(), %error, "an instance cannot be read; its folder is left alone");
                return None;
            }
        };
        if !supervisors::is_alive(&directory) {
            let status = supervisors::read_status(&directory);
            return Some(Seen { directory, spec, status, alive: false, silent: false });
        }
        match supervisors::ask(&directory, &Request::Status).await {
            Ok(status) => Some(Seen { directory, spec, status: Some(status), alive: true, silent: false }),
            Err(_) => {
                // It may have ended, or is about to begin or end, right now; else it hangs.
                let alive = supervisors::is_alive(&directory);
                let status = supervisors::read_status(&directory);
                let between = status.as_ref().is_none_or(|s| matches!(s.phase, Phase::Starting | Phase::Stopped));
                Some(Seen { directory, spec, status, alive, silent: alive && !between })
            }
        }
    }

    pub async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<(), DriverError> {
        let directory = self.layout.instance(id);
        let Some(spec) = self.existing(id)? else { return Ok(()) };
        if !supervisors::is_alive(&directory) {
            return self.end_leftovers(&spec).await;
        }
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        match supervisors::ask(&directory, &Request::Stop { grace_ms }).await {
            Ok(_) => Ok(()),
            Err(_) if !supervisors::is_alive(&directory) => self.end_leftovers(&spec).await,
            // It heard of it before, and is just closing its socket.
            Err(_) if supervisors::read_status(&directory).is_some_and(|s| s.phase == Phase::Stopped) => Ok(()),
            Err(error) => {
                Err(DriverError::temporary(format!("the supervisor of instance {id} cannot be told to stop: {error}")))
            }
        }
    }

    pub async fn remove(&self, id: &InstanceId) -> Result<(), DriverError> {
        let directory = self.layout.instance(id);
        let Some(spec) = self.existing(id)? else { return Ok(()) };
        if supervisors::is_alive_for_long(&directory).await {
            return Err(DriverError::StillRunning(id.clone()));
        }
        self.end_leftovers(&spec).await?;
        let path = directory.clone();
        let removed = tokio::task::spawn_blocking(move || remove_tree(&path)).await;
        removed
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(io_error("remove the instance in", &directory))
    }

    fn existing(&self, id: &InstanceId) -> Result<Option<InstanceSpec>, DriverError> {
        let directory = self.layout.instance(id);
        supervisors::read_spec(&directory).map_err(io_error("read the instance in", &directory))
    }

    /// End whatever outlived a killed supervisor. Nothing of another owner can match: the marks are the
    /// instance's own id, its control group, and a session whose leader's start time is known.
    async fn end_leftovers(&self, spec: &InstanceSpec) -> Result<(), DriverError> {
        let status = supervisors::read_status(&self.layout.instance(&spec.instance_id));
        let (id, group) = (spec.instance_id.clone(), spec.cgroup.clone().filter(Group::exists));
        let ended = tokio::task::spawn_blocking(move || {
            let marks = Marks {
                variable: Some((INSTANCE_VARIABLE, id.as_str())),
                session: status.as_ref().and_then(|status| status.process.as_ref()),
                ..Marks::default()
            };
            let result = kill_owned(&marks, group.as_ref(), || {});
            if let Some(group) = &group {
                group.remove();
            }
            result
        });
        match ended.await {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(count)) => {
                tracing::warn!(instance = %spec.instance_id, count, "ended processes that a killed supervisor had left");
                Ok(())
            }
            Ok(Err(left)) => Err(DriverError::temporary(format!(
                "processes {left:?} of instance {} do not end even on SIGKILL; they may wait for a disk",
                spec.instance_id
            ))),
            Err(error) => Err(DriverError::temporary(format!("ending what was left failed: {error}"))),
        }
    }

    pub async fn listening(&self, id: &InstanceId) -> Vec<SocketAddr> {
        let Ok(Some(spec)) = self.existing(id) else { return Vec::new() };
        let status = supervisors::read_status(&self.layout.instance(id));
        let found = tokio::task::spawn_blocking(move || {
            let pids: Vec<u32> = processes(&spec, status.as_ref()).iter().map(|stat| stat.pid).collect();
            procfs::listening(&pids)
        });
        found.await.unwrap_or_default()
    }

    /// The user's own check, with the instance's variables and in its directory, contained as a build is.
    pub async fn check(&self, id: &InstanceId, command: &str, timeout: Duration) -> Result<CheckOutcome, DriverError> {
        let spec = self.existing(id)?.ok_or_else(|| DriverError::NoSuchInstance(id.clone()))?;
        let mut check = tokio::process::Command::new("/bin/sh");
        check
            .arg("-c")
            .arg(command)
            .env_clear()
            .envs(spec.env.iter().map(|(name, value)| (name, value.expose())))
            .env(INSTANCE_VARIABLE, id.as_str())
            .current_dir(&spec.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let child = check.spawn().map_err(io_error("run the health check in", &spec.directory))?;
        let group = ProcessGroup(child.id());
        let output = tokio::time::timeout(timeout, child.wait_with_output()).await;
        drop(group);
        let shown: String = command.lines().next().unwrap_or_default().chars().take(80).collect();
        match output {
            Err(_) => Ok(CheckOutcome {
                ok: false,
                message: format!("`{shown}` took longer than {} ms", timeout.as_millis()),
            }),
            Ok(Err(source)) => Err(io_error("hear from the health check in", &spec.directory)(source)),
            Ok(Ok(output)) => {
                let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
                let last = String::from_utf8_lossy(text).trim().lines().last().unwrap_or_default().to_owned();
                let last: String = last.chars().take(CHECK_OUTPUT_CHARACTERS).collect();
                let end = match output.status.code() {
                    Some(code) => format!("`{shown}` exited with code {code}"),
                    None => format!("`{shown}` was killed by a signal"),
                };
                let message = if last.is_empty() { end } else { format!("{end}: {last}") };
                Ok(CheckOutcome { ok: output.status.success(), message })
            }
        }
    }

    pub fn log_directory(&self, id: &InstanceId) -> Option<(PathBuf, api::ids::ServiceId)> {
        let spec = self.existing(id).ok().flatten()?;
        Some((self.layout.instance(id).join(LOG_DIRECTORY), spec.service_id))
    }

    pub fn all_logs(&self) -> Vec<(InstanceId, api::ids::ServiceId, PathBuf)> {
        let specs = self.directories().unwrap_or_default().into_iter().filter_map(|directory| {
            let spec = supervisors::read_spec(&directory).ok().flatten()?;
            Some((spec.instance_id, spec.service_id, directory.join(LOG_DIRECTORY)))
        });
        specs.collect()
    }

    /// Build keys whose sources instances run in, whatever the desired state says.
    pub fn used_directories(&self) -> Vec<PathBuf> {
        let directories = self.directories().unwrap_or_default();
        directories.iter().filter_map(|d| supervisors::read_spec(d).ok().flatten()).map(|spec| spec.directory).collect()
    }
}

/// Kills a process group when it goes out of scope.
struct ProcessGroup(Option<u32>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

fn processes(spec: &InstanceSpec, status: Option<&InstanceStatus>) -> Vec<procfs::Stat> {
    procfs::owned(&Marks {
        variable: Some((INSTANCE_VARIABLE, spec.instance_id.as_str())),
        session: status.and_then(|status| status.process.as_ref()),
        ancestor: None,
        also: spec.cgroup.as_ref().map(Group::pids).unwrap_or_default(),
    })
}

fn observe(seen: &Seen) -> InstanceObserved {
    let Seen { directory, spec, status, alive, silent } = seen;
    let phase = status.as_ref().map(|status| status.phase);
    let (state, mut problem) = match (alive, phase) {
        // The supervisor may still be closing its files; of the instance nothing is left.
        (_, Some(Phase::Stopped)) => (InstanceState::Exited, None),
        (true, Some(Phase::Running)) => (InstanceState::Running, None),
        (true, Some(Phase::Waiting)) => (InstanceState::Transient, status.as_ref().map(waiting)),
        (true, _) => (InstanceState::Transient, None),
        (false, None) => (InstanceState::Exited, Some("its supervisor did not start".to_owned())),
        (false, Some(_)) => {
            let rebooted = status.as_ref().is_some_and(|status| status.supervisor.boot_id != procfs::boot_id());
            let reason = if rebooted { "the machine was restarted" } else { "its supervisor was killed" };
            (InstanceState::Exited, Some(reason.to_owned()))
        }
    };
    if *silent {
        problem = Some("its supervisor does not answer".to_owned());
    }
    let running = state == InstanceState::Running;
    let usage = if running { usage(spec, status.as_ref()) } else { Default::default() };
    let log_tail = if problem.is_some() { log::tail(&directory.join(LOG_DIRECTORY), TAIL_LINES) } else { Vec::new() };
    InstanceObserved {
        instance_id: spec.instance_id.clone(),
        service_id: spec.service_id.clone(),
        revision_id: spec.revision_id.clone(),
        state,
        pid: status.as_ref().filter(|_| running).and_then(|status| status.process.as_ref()).map(|process| process.pid),
        port: spec.port,
        address: None,
        started_at_ms: status.as_ref().and_then(|status| status.started_at_ms),
        restarts: status.as_ref().map_or(0, |status| status.restarts),
        stopping: *alive && phase == Some(Phase::Stopping),
        crash_looping: *alive && status.as_ref().is_some_and(|status| status.crash_looping),
        last_exit: status.as_ref().and_then(|status| status.last_exit.clone()),
        last_probe: None,
        problem,
        log_tail,
        memory_bytes: usage.memory_bytes,
        cpu_ms: usage.cpu_ms,
    }
}

/// Why it is down just now: `exited with code 1; starting again in 2 s`.
fn waiting(status: &InstanceStatus) -> String {
    let why = match (&status.problem, &status.last_exit) {
        (Some(problem), _) => problem.clone(),
        (None, Some(exit)) => exit.describe(),
        (None, None) => "it ended".to_owned(),
    };
    let seconds = status.retry_at_ms.map_or(0.0, |at| (at - crate::clock::now_ms()).max(0) as f64 / 1000.0);
    let again = if status.crash_looping { "it keeps crashing; starting again" } else { "starting again" };
    format!("{why}; {again} in {seconds:.0} s")
}

fn usage(spec: &InstanceSpec, status: Option<&InstanceStatus>) -> super::cgroup::Usage {
    let measured = spec.cgroup.as_ref().map(Group::usage).unwrap_or_default();
    if measured.memory_bytes.is_some() && measured.cpu_ms.is_some() {
        return measured;
    }
    // Without reading every process's environment: this is asked often, and is for display.
    let all = procfs::owned(&Marks {
        session: status.and_then(|status| status.process.as_ref()),
        ancestor: status.map(|status| status.supervisor.pid),
        ..Marks::default()
    });
    super::cgroup::Usage {
        memory_bytes: measured.memory_bytes.or_else(|| Some(all.iter().map(|stat| stat.resident_bytes).sum())),
        cpu_ms: measured.cpu_ms.or_else(|| Some(all.iter().map(|stat| stat.cpu_ms).sum())),
    }
}
