//! Starting a process that outlives the agent: its own session, no terminal, no descriptor of ours.

#![allow(unsafe_code)]

use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// Starts `program` in a session of its own, with both outputs appended to `log`.
pub fn spawn_detached(program: &Path, arguments: &[&std::ffi::OsStr], log: &Path) -> io::Result<Child> {
    let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    let errors = output.try_clone()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors))
        .kill_on_drop(false);
    // SAFETY: between fork and exec only `setsid` is called, which is async-signal-safe and touches
    // no memory of ours.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(io::Error::from));
    }
    command.spawn()
}

/// Waits until a process that need not be our child is gone.
pub async fn process_ended(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else { return Ok(()) };
    let descriptor = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // A pidfd becomes readable when its process ends.
    // SAFETY: the descriptor is owned, stays open and keeps its number until the `AsyncFd` that it is
    // moved into is dropped.
    let descriptor =
        unsafe { tokio::io::unix::AsyncFd::register_with_interest(descriptor, tokio::io::Interest::READABLE)? };
    let _ready = descriptor.readable().await?;
    Ok(())
}
