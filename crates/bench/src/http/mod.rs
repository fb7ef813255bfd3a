//! Load and origin for the rows about the gateway: each one process with one thread, pinned to one core.
//!
//! Why not a load generator that exists: what is compared must be the proxies. So both ends of every
//! connection are ours, the same for all, do as little as possible, and look at everything: each status, each
//! byte of each body. They also speak what the rows need beside plain requests (fresh connections,
//! many hosts, idle WebSockets), which no single tool does.
//!
//! Deliberately absent: pipelining, because browsers do not, and pacing: each connection asks again as
//! soon as it has its answer, so throughput and latency are those of a proxy that is never idle.

pub mod histogram;
pub mod load;
pub mod origin;
pub mod poller;
pub mod sockets;
pub mod tls;
pub mod visitor;

/// The answer to `GET /N`: N bytes that both ends know.
pub fn body(bytes: usize) -> Vec<u8> {
    const TEXT: &[u8] = b"Mainstay measures what a visitor gets, and looks at every byte of it.\n";
    TEXT.iter().copied().cycle().take(bytes).collect()
}
