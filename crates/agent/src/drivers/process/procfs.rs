//! What `/proc` says about processes and sockets. Read-only; a process that goes away in the middle
//! of a question is simply not in the answer.

use super::spec::ProcessIdentity;
use crate::resources::TICKS_PER_SECOND;
use sockets::Transport;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

/// Pages are 4 KiB on the machines Mainstay is built for; the figure is for display only.
const PAGE_BYTES: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub pid: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    pub zombie: bool,
    pub cpu_ms: u64,
    pub started_ticks: u64,
    pub resident_bytes: u64,
}

pub fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command stands in parentheses and may hold anything, parentheses included.
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let small = |index: usize| number(index).map(|value| u32::try_from(value).unwrap_or(0));
    Some(Stat {
        pid,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: small(1)?,
        group: small(2).unwrap_or(0),
        session: small(3).unwrap_or(0),
        cpu_ms: (number(11)? + number(12)?) * 1000 / TICKS_PER_SECOND,
        started_ticks: number(19)?,
        resident_bytes: number(21)? * PAGE_BYTES,
    })
}

/// Every process that can be seen.
pub fn processes() -> Vec<Stat> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .collect()
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub fn identity(pid: u32) -> Option<ProcessIdentity> {
    Some(ProcessIdentity { pid, started_ticks: stat(pid)?.started_ticks, boot_id: boot_id() })
}

fn has_variable(pid: u32, name: &str, value: &str) -> bool {
    let wanted = format!("{name}={value}");
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|data| data.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
}

/// How the processes of one instance or build are told from all others. Any of the marks is enough:
/// a process can leave its session, lose its parent or overwrite its environment, but hardly all three.
#[derive(Debug, Clone, Default)]
pub struct Marks<'a> {
    /// Variable and value in the environment.
    pub variable: Option<(&'a str, &'a str)>,
    /// Leader of the session.
    pub session: Option<&'a ProcessIdentity>,
    /// A process whose descendants all belong (a supervisor, which is a child subreaper).
    pub ancestor: Option<u32>,
    /// Further process ids, such as those in the control group.
    pub also: Vec<u32>,
}

/// Processes that carry one of the marks, without the asking one and without zombies.
pub fn owned(marks: &Marks<'_>) -> Vec<Stat> {
    let all = processes();
    let by_pid: HashMap<u32, &Stat> = all.iter().map(|stat| (stat.pid, stat)).collect();
    let session = marks.session.filter(|leader| leader.boot_id == boot_id()).filter(|leader| {
        // The number may have been given to a new session once all of the old one were gone.
        by_pid.get(&leader.pid).is_none_or(|stat| stat.started_ticks == leader.started_ticks)
    });
    let descends = |mut pid: u32| {
        let Some(ancestor) = marks.ancestor else { return false };
        for _ in 0..all.len() {
            match by_pid.get(&pid) {
                Some(stat) if stat.parent == ancestor => return true,
                Some(stat) if stat.parent > 1 => pid = stat.parent,
                _ => return false,
            }
        }
        false
    };
    let myself = std::process::id();
    all.iter()
        .filter(|stat| !stat.zombie && stat.pid != myself && Some(stat.pid) != marks.ancestor)
        .filter(|stat| {
            session.is_some_and(|leader| stat.session == leader.pid && stat.started_ticks >= leader.started_ticks)
                || marks.also.contains(&stat.pid)
                || descends(stat.pid)
                || marks.variable.is_some_and(|(name, value)| has_variable(stat.pid, name, value))
        })
        .copied()
        .collect()
}

/// TCP addresses on which the given processes listen.
pub fn listening(pids: &[u32]) -> Vec<SocketAddr> {
    let inodes: HashSet<u64> = pids.iter().flat_map(|pid| sockets::inodes_of(*pid)).collect();
    let theirs = sockets::listening(Transport::Tcp).into_iter().filter(|socket| inodes.contains(&socket.inode));
    let found: BTreeSet<SocketAddr> = theirs.map(|socket| socket.address).collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_listening_socket_is_found_by_the_process_that_holds_it() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(!listening(&[std::process::id()]).contains(&v4), "it was dropped");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listening(&[std::process::id()]).contains(&address));
    }
}
