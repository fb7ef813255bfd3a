//! Who holds a port: the second half of "address in use".
//!
//! The kernel says only that an address is taken. `/proc/net/tcp` and `tcp6` name the inode of the
//! listening socket, and the descriptors of each process link to inodes; other users' processes
//! cannot be looked into without root, and then the owner stays unnamed. Read only after a failure.

use std::fs;
use std::path::Path;

/// The kernel's tables of one transport, and the state in which a socket there holds its port.
#[derive(Debug, Clone, Copy)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn tables(self) -> ([&'static str; 2], &'static str) {
        match self {
            Self::Tcp => (["/proc/net/tcp", "/proc/net/tcp6"], "0A"),
            Self::Udp => (["/proc/net/udp", "/proc/net/udp6"], "07"),
        }
    }
}

/// `pid 123 (nginx)`, if this user may know.
pub fn describe(transport: Transport, port: u16) -> Option<String> {
    let (tables, state) = transport.tables();
    let inodes: Vec<String> = tables.iter().flat_map(|table| inodes(table, port, state)).collect();
    let pid = fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        holds_any(&process.path(), &inodes).then_some(pid)
    })?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("pid {pid} ({})", command.trim()))
}

fn inodes(table: &str, port: u16, state: &str) -> Vec<String> {
    let text = fs::read_to_string(table).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| inode(line, port, state)).collect()
}

/// One line of the table: `sl local_address rem_address st … inode`, numbers in hexadecimal.
fn inode(line: &str, port: u16, state: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(local_port, 16).ok()? == port && *fields.get(3)? == state;
    matches.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
}

fn holds_any(process: &Path, inodes: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let Ok(target) = fs::read_link(descriptor.path()) else { return false };
        let target = target.to_string_lossy();
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|wanted| wanted == inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_port_is_named_with_pid_and_command() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owner = describe(Transport::Tcp, port).unwrap();
        assert!(owner.starts_with(&format!("pid {} (", std::process::id())), "{owner}");
        drop(listener);
        assert_eq!(describe(Transport::Tcp, port), None);
    }
}
