//! The supervisor of one instance: a small process of its own, so that no restart of the agent ever
//! touches a service.
//!
//! ```text
//!            spec.json                         stdout, stderr
//!   agent ───────────────▶ mainstay shim DIR ◀──────────────── user's command
//!         ◀─ control.sock ─┤                 ──── session ───▶   └ whatever it starts
//!         ◀─ status.json ──┘
//! ```
//!
//! It starts the command in a session and control group of its own, keeps what it prints, starts it
//! again when it ends (later and later), and on demand ends it with everything that came of it. One
//! thread, no async runtime, one `poll` over pipes, signals and sockets.
//!
//! - *Started directly, in its own session.* The agent is its parent as long as it lives and reaps it;
//!   when the agent dies the system's first process does. A second fork would make it nobody's child
//!   from the start, and in a container without an init it would stay a zombie for ever. Under systemd
//!   the agent's unit says `KillMode=process`, so stopping the agent stops no shim.
//! - *One per instance.* It holds a lock on its folder as long as it lives.
//! - *Nothing escapes.* It is a child subreaper: a process that the command started and abandoned
//!   becomes the shim's child and is found there.
//! - *If the shim itself is killed*, the kernel kills the command with it; what else is left is found
//!   by the agent through its session, control group and environment, and ended before a new start.
//!
//! Deliberately absent: any decision about *whether* to run. That is the agent's, by starting a shim
//! or telling it to stop.

mod control;

mod supervise;

use super::spec::{InstanceSpec, LOCK_FILE, PORT_CLAIMED, READY, SPEC_FILE, port_claim_name};
use crate::drivers::files::read_json;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;

/// `mainstay shim DIR`: supervise until the instance is stopped. The first line on stdout says whether
/// it began; after it stdout is not used any more.
pub fn run(directory: &Path) -> ExitCode {
    match begin(directory) {
        Ok(mut supervisor) => {
            say(READY);
            supervisor.run();
            ExitCode::SUCCESS
        }
        Err(problem) => {
            say(&problem);
            ExitCode::FAILURE
        }
    }
}

/// The agent may be gone already; then nobody listens.
fn say(line: &str) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{}", line.replace('\n', " "));
    let _ = stdout.flush();
}

fn begin(directory: &Path) -> Result<supervise::Supervisor, String> {
    // Fails only where the process leads a group already, as in a shell: then it has one of its own.
    let _ = rustix::process::setsid();
    // Relative paths from here on: a socket's path may have 108 bytes at most.
    std::env::set_current_dir(directory).map_err(|e| format!("could not enter {}: {e}", directory.display()))?;
    let lock = lock()?;
    let spec: InstanceSpec = read_json(Path::new(SPEC_FILE))
        .map_err(|e| format!("could not read {}/{SPEC_FILE}: {e}", directory.display()))?
        .ok_or_else(|| format!("{}/{SPEC_FILE} is missing", directory.display()))?;
    let claim = claim_port(&spec)?;
    let me = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(me)).map_err(|e| format!("could not become a subreaper: {e}"))?;
    supervise::Supervisor::begin(spec, lock, claim)
}

fn lock() -> Result<File, String> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(LOCK_FILE)
        .map_err(|e| format!("could not open the lock: {e}"))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| "another supervisor of this instance is running".to_owned())?;
    Ok(file)
}

/// Hold the port against other agents on this machine, before the service itself listens.
fn claim_port(spec: &InstanceSpec) -> Result<Option<UnixListener>, String> {
    let Some(port) = spec.port.filter(|_| spec.claim_port) else { return Ok(None) };
    let address = SocketAddr::from_abstract_name(port_claim_name(port)).map_err(|e| e.to_string())?;
    UnixListener::bind_addr(&address).map(Some).map_err(|_| PORT_CLAIMED.to_owned())
}
