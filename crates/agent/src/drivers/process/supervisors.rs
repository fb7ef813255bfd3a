//! The agent's end of the supervisors: starting one, asking one, hearing when something changed.

use super::cgroup::Cgroups;
use super::spec::{
    CONTROL_SOCKET, InstanceSpec, InstanceStatus, LOCK_FILE, PORT_CLAIMED, Phase, READY, Request, SPEC_FILE,
    STATUS_FILE,
};
use crate::drivers::DriverError;
use crate::drivers::files::{Durability, io_error, read_json, write_json};
use api::ids::InstanceId;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A supervisor answers within microseconds; one that takes this long hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Starting a supervisor is one exec of this binary.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Where an instance's own stderr goes before and beside its log: only a crash of the supervisor.
const SUPERVISOR_ERRORS: &str = "supervisor.err";

#[derive(Debug)]
pub enum Begun {
    Ready,
    /// Another agent on this machine has the port; choose another.
    PortClaimed,
}

/// Start a supervisor in an instance's folder and wait for its word.
pub async fn begin(mainstay: &Path, directory: &Path, cgroups: &Cgroups) -> Result<Begun, DriverError> {
    let errors = File::create(directory.join(SUPERVISOR_ERRORS)).map_err(io_error("write", directory))?;
    let mut command = tokio::process::Command::new(mainstay);
    command.arg("shim").arg(directory).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    // It lives longer than whoever started it.
    command.kill_on_drop(false);
    let mut child = command.spawn().map_err(io_error("start the supervisor by", mainstay))?;
    if let Some(pid) = child.id() {
        cgroups.shelter(pid);
    }
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut line = String::new();
    let heard = tokio::time::timeout(BEGIN_TIMEOUT, BufReader::new(stdout).read_line(&mut line)).await;
    let word = line.trim();
    match (heard, word) {
        (Ok(Ok(_)), READY) => {
            // Reaped when it ends, as long as this agent lives.
            tokio::spawn(async move { child.wait().await });
            Ok(Begun::Ready)
        }
        (Ok(Ok(_)), PORT_CLAIMED) => {
            let _ = child.wait().await;
            Ok(Begun::PortClaimed)
        }
        (Ok(Ok(_)), problem) => {
            let _ = child.wait().await;
            let errors = std::fs::read_to_string(directory.join(SUPERVISOR_ERRORS)).unwrap_or_default();
            let words = [problem, errors.trim()].join(" ");
            Err(DriverError::temporary(format!("the supervisor of the instance did not start: {}", words.trim())))
        }
        (Ok(Err(source)), _) => Err(io_error("hear from the supervisor in", directory)(source)),
        (Err(_), _) => {
            let _ = child.start_kill();
            Err(DriverError::temporary(format!(
                "the supervisor of the instance did not start within {} s; the machine may be overloaded",
                BEGIN_TIMEOUT.as_secs()
            )))
        }
    }
}

/// Whether a supervisor lives: it holds the lock.
pub fn is_alive(directory: &Path) -> bool {
    let Ok(file) = File::options().read(true).open(directory.join(LOCK_FILE)) else { return false };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

/// Like [`is_alive`], but one that has stopped its instance and is only closing its files is waited for.
pub async fn is_alive_for_long(directory: &Path) -> bool {
    let deadline = std::time::Instant::now() + ANSWER_TIMEOUT;
    loop {
        if !is_alive(directory) {
            return false;
        }
        let closing = read_status(directory).is_some_and(|status| status.phase == Phase::Stopped);
        if !closing || std::time::Instant::now() > deadline {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn ask(directory: &Path, request: &Request) -> io::Result<InstanceStatus> {
    let exchange = async {
        let mut stream = connect(directory, request).await?;
        next(&mut stream).await
    };
    tokio::time::timeout(ANSWER_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the supervisor does not answer")))
}

async fn connect(directory: &Path, request: &Request) -> io::Result<BufReader<UnixStream>> {
    // By way of the open folder, because the path of a socket may have 108 bytes at most.
    let folder = File::open(directory)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(CONTROL_SOCKET);
    let mut stream = BufReader::new(UnixStream::connect(path).await?);
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(stream)
}

async fn next(stream: &mut BufReader<UnixStream>) -> io::Result<InstanceStatus> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

pub fn read_spec(directory: &Path) -> io::Result<Option<InstanceSpec>> {
    read_json(&directory.join(SPEC_FILE))
}

pub fn write_spec(directory: &Path, spec: &InstanceSpec) -> io::Result<()> {
    write_json(&directory.join(SPEC_FILE), spec, Durability::Synced)
}

pub fn read_status(directory: &Path) -> Option<InstanceStatus> {
    read_json(&directory.join(STATUS_FILE)).unwrap_or(None)
}

/// One listener per living supervisor, so that a crash is seen when it happens.
pub struct Watchers {
    changes: watch::Sender<u64>,
    tasks: Mutex<BTreeMap<InstanceId, AbortHandle>>,
}

impl Watchers {
    pub fn new(changes: watch::Sender<u64>) -> Self {
        Self { changes, tasks: Mutex::default() }
    }

    /// Listen to this supervisor, if nobody does yet.
    pub fn ensure(&self, instance: &InstanceId, directory: &Path) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|_, task| !task.is_finished());
        if tasks.contains_key(instance) {
            return;
        }
        let (directory, changes) = (directory.to_owned(), self.changes.clone());
        let task = tokio::spawn(async move {
            let Ok(mut stream) = connect(&directory, &Request::Watch).await else { return };
            // The first status is what the caller has just seen.
            let _ = next(&mut stream).await;
            loop {
                let ended = next(&mut stream).await.is_err();
                changes.send_modify(|number| *number = number.wrapping_add(1));
                if ended {
                    return;
                }
            }
        });
        tasks.insert(instance.clone(), task.abort_handle());
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner).values() {
            task.abort();
        }
    }
}
