//! Who listens where: the second half of "address in use".
//!
//! The kernel says only that an address is taken. `/proc/net/tcp`, `udp` and their twins for IPv6 name the inode of
//! each socket, and the descriptors of each process link to inodes. Processes of other users cannot be looked into
//! without root; then their sockets are seen and their owner stays unnamed. It is a walk through all of `/proc`, to
//! be made after a failure or for a small number of processes, not while somebody waits.
//!
//! An owner is told by the name of its program, not by its command line, which may hold what is nobody's business
//! in an event that is kept. Deliberately absent: what is connected.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// The kernel's tables, and the state in which a socket there takes others' requests.
    fn tables(self) -> ([&'static str; 2], &'static str) {
        match self {
            Self::Tcp => (["tcp", "tcp6"], "0A"),
            Self::Udp => (["udp", "udp6"], "07"),
        }
    }
}

/// A socket that takes others' requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    pub address: SocketAddr,
    pub inode: u64,
}

/// A process, shown as `pid 123 (nginx)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub pid: u32,
    pub name: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} ({})", self.pid, self.name)
    }
}

/// Who keeps us from listening on this address, if this user may know.
pub fn owner(transport: Transport, wanted: SocketAddr) -> Option<Owner> {
    let inodes: HashSet<u64> =
        listening(transport).into_iter().filter(|l| overlap(l.address, wanted)).map(|l| l.inode).collect();
    if inodes.is_empty() {
        return None;
    }
    let pid = fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        inodes_of(pid).any(|inode| inodes.contains(&inode)).then_some(pid)
    })?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Owner { pid, name: name.trim().to_owned() })
}

pub fn listening(transport: Transport) -> Vec<Listening> {
    listening_in("self", transport)
}

/// In the network namespace of another process.
pub fn listening_beside(pid: u32, transport: Transport) -> Vec<Listening> {
    listening_in(&pid.to_string(), transport)
}

fn listening_in(process: &str, transport: Transport) -> Vec<Listening> {
    let (tables, state) = transport.tables();
    let texts =
        tables.iter().map(|table| fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default());
    texts.flat_map(|text| text.lines().skip(1).filter_map(|line| row(line, state)).collect::<Vec<_>>()).collect()
}

/// The sockets that a process holds; none of one that is gone or may not be looked into.
pub fn inodes_of(pid: u32) -> impl Iterator<Item = u64> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

/// One that listens on all addresses is in the way of each, also of the other family's: Linux binds both.
fn overlap(held: SocketAddr, wanted: SocketAddr) -> bool {
    let (held_ip, wanted_ip) = (held.ip().to_canonical(), wanted.ip().to_canonical());
    held.port() == wanted.port() && (held_ip.is_unspecified() || wanted_ip.is_unspecified() || held_ip == wanted_ip)
}

/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode …`, see `man 5 proc_pid_net`.
fn row(line: &str, wanted_state: &str) -> Option<Listening> {
    let mut fields = line.split_ascii_whitespace();
    let (address, state) = (fields.nth(1)?, fields.nth(1)?);
    let inode = fields.nth(5)?;
    (state == wanted_state)
        .then(|| Some(Listening { address: socket_address(address)?, inode: inode.parse().ok()? }))?
}

/// `0100007F:4E20`: the address in 32-bit words of the machine's byte order.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, four) in bytes.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(index * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn me(transport: Transport, address: SocketAddr) -> bool {
        owner(transport, address).is_some_and(|owner| owner.pid == std::process::id() && !owner.name.is_empty())
    }

    #[test]
    fn who_listens_on_an_address_is_named_until_it_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(me(Transport::Tcp, address));
        assert!(
            inodes_of(std::process::id())
                .any(|inode| { listening(Transport::Tcp).contains(&Listening { address, inode }) })
        );
        assert_eq!(owner(Transport::Udp, address), None);
        drop(listener);
        assert_eq!(owner(Transport::Tcp, address), None);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(me(Transport::Udp, socket.local_addr().unwrap()));
    }

    #[test]
    fn only_who_is_in_the_way_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(me(Transport::Tcp, SocketAddr::from(([0, 0, 0, 0], port))));
        assert!(me(Transport::Tcp, format!("[::ffff:127.0.0.1]:{port}").parse().unwrap()));
        assert_eq!(owner(Transport::Tcp, SocketAddr::from(([127, 0, 0, 2], port))), None);
    }

    #[test]
    fn rows_of_the_kernel_are_read_and_what_is_no_row_is_none() {
        let line =
            "   0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 31337 1 x";
        let read = Listening { address: "127.0.0.1:20000".parse().unwrap(), inode: 31_337 };
        assert_eq!(row(line, "0A"), Some(read));
        assert_eq!(row(line, "07"), None);
        assert_eq!(socket_address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
        for nonsense in
            ["", "1", "0: 7F:4E20 0:0 0A a b c d e 1", "0: \u{e9}\u{e9}\u{e9}\u{e9}:4E20 0:0 0A a b c d e 1"]
        {
            assert_eq!(row(nonsense, "0A"), None);
        }
    }
}
