//! Running the user's build command: contained, bounded, heard.
//!
//! The command gets a session, a control group and a clean environment of its own. However it ends
//! (by itself, by its time, by a cancel, by the death of the agent) nothing of it stays behind, also
//! not what it put into the background.

use super::cgroup::{Group, kill_owned};
use super::procfs::{self, Marks};
use super::spawn::spawn_contained;
use super::spec::{BUILD_VARIABLE, ProcessIdentity};
use crate::drivers::log::{LineSplitter, LogWriter};
use api::logs::LogStream;
use api::observed::ExitStatus;
use api::services::Limits;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub struct Build {
    pub key: String,
    pub command: String,
    pub directory: PathBuf,
    pub env: BTreeMap<String, String>,
    pub limits: Limits,
    pub timeout: Duration,
    pub group: Option<Group>,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the build command `{command}` could not be started in {}", directory.display())]
    Spawn {
        command: String,
        directory: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the build command `{command}` {}{}", exit.describe(), oom_hint(exit, *memory_bytes))]
    Failed { command: String, exit: ExitStatus, memory_bytes: Option<u64> },
    #[error("build timed out after {}: `{command}` was stopped; make it faster or raise `timeout` of the build", duration(*after))]
    TimedOut { command: String, after: Duration },
    #[error("the build was cancelled")]
    Cancelled,
}

fn oom_hint(exit: &ExitStatus, memory_bytes: Option<u64>) -> String {
    match memory_bytes {
        Some(bytes) if exit.out_of_memory => {
            format!(
                ": it needed more than its memory limit of {} MB; raise the build's memory limit",
                bytes / 1_000_000
            )
        }
        _ => String::new(),
    }
}

/// `15 min`, `90 s`, `1.5 s`.
fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 60.. if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds @ 10.. => format!("{seconds} s"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
}

/// Ends what is left of a build when it goes out of scope, however that happens.
struct Sweep {
    key: String,
    session: Option<ProcessIdentity>,
    group: Option<Group>,
}

impl Sweep {
    fn kill(&self) {
        let marks =
            Marks { variable: Some((BUILD_VARIABLE, &self.key)), session: self.session.as_ref(), ..Marks::default() };
        if let Err(left) = kill_owned(&marks, self.group.as_ref(), || {}) {
            tracing::error!(?left, build = self.key, "processes of a build do not end even on SIGKILL");
        }
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.kill();
        if let Some(group) = &self.group {
            group.remove();
        }
    }
}

impl Build {
    pub async fn run(self, log: Arc<Mutex<LogWriter>>, cancel: CancellationToken) -> Result<(), BuildError> {
        let mut sweep = Sweep { key: self.key.clone(), session: None, group: self.group.clone() };
        if let Some(group) = &self.group {
            for problem in group.create(&self.limits) {
                lock(&log).note(&problem);
            }
        }
        let kills_before = self.group.as_ref().map_or(0, Group::out_of_memory_kills);
        let (pid_sender, pid) = oneshot::channel();
        let (end_sender, end) = oneshot::channel();
        let command = self.command();
        let group = self.group.clone();
        let thread_log = log.clone();
        // A thread of its own: the parent-death signal follows the thread that forked.
        std::thread::Builder::new()
            .name("build".into())
            .spawn(move || supervise(command, group, thread_log, pid_sender, end_sender))
            .map_err(|source| self.spawn_error(source))?;
        match pid.await {
            Ok(Ok(id)) => sweep.session = procfs::identity(id),
            Ok(Err(source)) => return Err(self.spawn_error(source)),
            Err(_) => return Err(self.spawn_error(std::io::Error::other("its thread ended"))),
        }
        let outcome = tokio::select! {
            ended = end => Ok(ended.unwrap_or(Ended { code: None, signal: None })),
            () = tokio::time::sleep(self.timeout) => Err(BuildError::TimedOut { command: self.shown(), after: self.timeout }),
            () = cancel.cancelled() => Err(BuildError::Cancelled),
        };
        let kills = self.group.as_ref().map_or(0, Group::out_of_memory_kills);
        // Reading /proc and waiting for the end of processes is no work for an async thread.
        let _ = tokio::task::spawn_blocking(move || drop(sweep)).await;
        let ended = outcome?;
        if ended.code == Some(0) {
            return Ok(());
        }
        let exit = ExitStatus {
            code: ended.code,
            signal: ended.signal,
            out_of_memory: kills > kills_before,
            at_ms: crate::clock::now_ms(),
        };
        Err(BuildError::Failed { command: self.shown(), exit, memory_bytes: self.limits.memory_bytes })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(&self.command)
            .env_clear()
            .envs(&self.env)
            .env(BUILD_VARIABLE, &self.key)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn shown(&self) -> String {
        let line = self.command.lines().next().unwrap_or_default();
        let cut: String = line.chars().take(120).collect();
        if cut.len() < self.command.len() { format!("{cut}…") } else { cut }
    }

    fn spawn_error(&self, source: std::io::Error) -> BuildError {
        BuildError::Spawn { command: self.shown(), directory: self.directory.clone(), source }
    }
}

/// Start it, hear it, wait for it. Ends when the command ended and what it printed was read, or what
/// it left behind was killed by the sweep.
fn supervise(
    command: Command,
    group: Option<Group>,
    log: Arc<Mutex<LogWriter>>,
    pid: oneshot::Sender<std::io::Result<u32>>,
    end: oneshot::Sender<Ended>,
) {
    use std::os::unix::process::ExitStatusExt;
    let mut child = match spawn_contained(command, group.as_ref()) {
        Ok(child) => child,
        Err(error) => {
            let _ = pid.send(Err(error));
            return;
        }
    };
    let _ = pid.send(Ok(child.id()));
    let readers = [
        child.stdout.take().map(|pipe| read(pipe, LogStream::Stdout, log.clone())),
        child.stderr.take().map(|pipe| read(pipe, LogStream::Stderr, log.clone())),
    ];
    let status = child.wait();
    // Give the pipes a moment to run dry; a background process may hold them until it is swept away.
    let deadline = std::time::Instant::now() + Duration::from_millis(500);
    while readers.iter().flatten().any(|reader| !reader.is_finished()) && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = end.send(match status {
        Ok(status) => Ended { code: status.code(), signal: status.signal() },
        Err(_) => Ended { code: None, signal: None },
    });
}

fn read(
    mut pipe: impl Read + Send + 'static,
    stream: LogStream,
    log: Arc<Mutex<LogWriter>>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut splitter = LineSplitter::default();
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            splitter.push(&buffer[..count], |line| lock(&log).line(stream, line));
        }
        splitter.finish(|line| lock(&log).line(stream, line));
    })
}

pub fn lock(log: &Mutex<LogWriter>) -> std::sync::MutexGuard<'_, LogWriter> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds of an agent that was killed: end what is left of them.
pub fn sweep_leftovers(key: &str, group: Option<Group>) {
    drop(Sweep { key: key.to_owned(), session: None, group: group.filter(Group::exists) });
}
