//! Starting a process that cannot escape: in its own session, inside its control group from its
//! first instruction, and dead when whoever started it dies.
//!
//! The last is the kernel's parent-death signal. It is sent when the *thread* that forked ends, so
//! both callers fork from a thread that lives as long as the process should: the supervisor from its
//! only one, a build from one made for it.

#![allow(unsafe_code)]

use super::cgroup::Group;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// Start `command` as the leader of a new session and process group.
pub fn spawn_contained(mut command: Command, group: Option<&Group>) -> io::Result<Child> {
    let entrances = group.map(Group::entrances).unwrap_or_default();
    let parent = std::process::id();
    let prepare = move || {
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The parent may have died before the line above.
        if rustix::process::getppid().is_none_or(|now| now.as_raw_nonzero().get().cast_unsigned() != parent) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
        }
        for entrance in &entrances {
            // A group that cannot be entered limits nothing; it was said when it was made.
            let _ = rustix::io::write(entrance, b"0");
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes plain
    // system calls on descriptors that were opened before, allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
