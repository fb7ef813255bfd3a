//! Sockets that never let the only thread wait.

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::io;
use std::net::{SocketAddr, TcpStream};

/// Begins a connection. On loopback it stands at once, or the server's queue is full.
pub fn begin_connection(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// As many open files as the system allows; answers how many that is.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Without the right to it, the limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Makes this process a part of the bench: on one core alone, and ended when the bench ends.
pub fn become_part(core: usize) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("end with the bench")?;
    pin_to(core)
}

fn pin_to(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("run on core {core} alone"))
}
