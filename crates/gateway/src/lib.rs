//! The data path: a process of its own between visitors and instances.
//!
//! The agent hands it a whole config over a Unix socket and reads back what is live; everything else
//! (agent, control plane) may be down, restarted or replaced, and requests go on. It keeps the last
//! config on disk and comes back alone. A newer gateway takes its sockets over while it runs.
//!
//! ```text
//! control.sock ─► control ─► core ──swap──► routes ◄── read ── proxy ◄── serve ◄── (tls) ◄── listeners
//!                              │                                │
//! handover.sock ─► handover ───┤                                └─► upstreams (counts, connections)
//!                              └──► dns (names of services on loopback)
//! control.sock ─► control ─► mesh (the tunnel to other servers, where the kernel has none)
//! ```
//!
//! A request of HTTP/1.1 is passed on by our own code (`http1`), one of HTTP/2 by hyper (`proxy`); what
//! both are counted, logged, routed and refused by is the same.
//!
//! Absent on purpose: health checks (the agent probes and says who is active), any decision about which
//! instance should be live, and every conversation with a certificate authority: certificates come with
//! the config, and so do the answers to an authority's questions.

mod access_log;
mod activity;
mod config;
mod control;
mod core;
mod dns;
mod handover;
mod http1;
mod limits;
mod listeners;
mod mesh;
mod process;
mod proxy;
mod routes;
mod serve;
mod shared;
pub mod static_files;
mod tls;
mod upstreams;

pub use limits::Limits;
pub use process::{GatewayOptions, TASKS_BETWEEN_EVENTS, run, run_until};
