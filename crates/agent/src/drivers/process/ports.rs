//! Which port an instance gets.
//!
//! Three things keep two instances from ever having the same one. Within one agent, a lock is held
//! from choosing a port until it stands in the instance's spec. Between agents on one machine, each
//! supervisor holds a claim on its port (an abstract socket named after it) for as long as it lives.
//! And against everybody else, a port is taken only if it can be bound right now, on every address.
//! The range lies outside the one from which the kernel hands out ports for outgoing connections.

use super::layout::Layout;
use super::spec::{InstanceSpec, SPEC_FILE, port_claim_name};
use crate::drivers::DriverError;
use crate::drivers::files::{io_error, read_json};
use api::ids::InstanceId;
use sockets::Transport;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

/// Instance ports of an ordinary agent.
pub const DEFAULT_RANGE: RangeInclusive<u16> = 20_000..=29_999;

/// Held while a port is chosen and written down.
pub struct PortLock(#[expect(dead_code, reason = "held for its lock")] File);

pub fn lock(layout: &Layout) -> Result<PortLock, DriverError> {
    let path = layout.ports_lock();
    let failed = |error: std::io::Error| io_error("lock the ports with", &path)(error);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    Ok(PortLock(file))
}

/// A free port: the one the instance had before if it still is, else another.
pub fn choose(
    layout: &Layout,
    range: &RangeInclusive<u16>,
    instance: &InstanceId,
    before: Option<u16>,
    _lock: &PortLock,
) -> Result<u16, DriverError> {
    let taken = taken_by_others(layout, instance);
    let usable = |port: &u16| !taken.contains(port) && is_unclaimed(*port) && is_free(*port);
    if let Some(port) = before.filter(|port| range.contains(port)).filter(usable) {
        return Ok(port);
    }
    // From a random place on, so that a port which was just given up is not the next one given out.
    let count = u32::from(range.end() - range.start()) + 1;
    let offset = fastrand::u32(0..count);
    (0..count)
        .map(|step| range.start() + u16::try_from((offset + step) % count).unwrap_or(0))
        .find(|port| usable(port))
        .ok_or_else(|| DriverError::NoFreePort {
            first: *range.start(),
            last: *range.end(),
            hint: format!("{} belong to instances of this agent; stop some services", taken.len()),
        })
}

/// A port that the service insists on.
pub fn check_fixed(port: u16) -> Result<(), DriverError> {
    if is_free(port) {
        return Ok(());
    }
    let owner = sockets::owner(Transport::Tcp, (Ipv4Addr::UNSPECIFIED, port).into());
    let owner = owner.map(|owner| owner.to_string()).unwrap_or_else(|| {
        if port < 1024 && !rustix::process::geteuid().is_root() {
            "the system (ports below 1024 need root)".to_owned()
        } else {
            "a process that cannot be seen from here".to_owned()
        }
    });
    Err(DriverError::PortInUse { port, owner })
}

fn taken_by_others(layout: &Layout, instance: &InstanceId) -> BTreeSet<u16> {
    std::fs::read_dir(layout.instances())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| read_json::<InstanceSpec>(&entry.path().join(SPEC_FILE)).ok().flatten())
        .filter(|spec| &spec.instance_id != instance)
        .filter_map(|spec| spec.port)
        .collect()
}

fn is_unclaimed(port: u16) -> bool {
    UnixAddr::from_abstract_name(port_claim_name(port)).is_ok_and(|name| UnixListener::bind_addr(&name).is_ok())
}

/// Whether the port can be bound on loopback and on every address, in both families.
pub fn is_free(port: u16) -> bool {
    let addresses: [SocketAddr; 4] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ];
    addresses.iter().all(|address| match TcpListener::bind(address) {
        Ok(_) => true,
        // A machine without that family cannot have it in use either.
        Err(error) => address.is_ipv6() && !matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied),
    })
}
