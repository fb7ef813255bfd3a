//! The agent: the shell on the machine.
//!
//! It pulls the one document that says what this machine should be, looks at what the machine is,
//! lets the pure `plan` crate say what to do now, does it, looks again, and reports. Nothing dials in
//! to it. With the control plane gone it goes on from the last verified document in its
//! [`ledger`]; killed at any point and started again it finds everything that runs and carries on,
//! because nothing that matters is only in its memory.
//!
//! ```text
//!   control plane ──long-poll──▶ control ──watch──▶ reconcile ──▶ drivers (process, routes, dns)
//!         ▲                                          │  ▲            │
//!         └──── report ◀── reporter ◀──watch─────────┘  └─ changes ──┘
//!         └──── logs   ◀── log_shipping ◀──offset reads── drivers
//! ```
//!
//! Every arrow between tasks is a `watch` channel (the newest value counts) and every piece of state
//! has one owner. Deliberately absent: a listening port, a remote shell, and any decision that the
//! pure crates could make.

pub mod backoff;
pub mod clock;
pub mod control_plane;
pub mod drivers;
pub mod facts;
pub mod fleet;
pub mod health;
pub mod identity;
pub mod install;
pub mod ledger;
pub mod log_shipping;
pub mod observe;
pub mod paths;
pub mod reconcile;
pub mod reporter;
pub mod resources;
mod run;
mod spawn;
pub mod subscribe;
pub mod transitions;
pub mod transport;

pub use run::{Agent, AgentOptions, StoppedAll, assemble, assemble_over};

/// Version of this agent, and of the gateway that it starts.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
