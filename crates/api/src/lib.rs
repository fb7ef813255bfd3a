//! The nouns of Mainstay: what travels between its parts, and nothing that acts.
//!
//! Every crate agrees on these shapes: the control plane, the agent, the gateway, the command line
//! and the tests. They are plain data with serde; there is no clock, no randomness and no IO here,
//! so the pure `plan` crate can be built on them alone.
//!
//! Two rules keep versions apart by one able to talk to each other. Readers ignore unknown fields
//! (no `deny_unknown_fields` on anything that crosses the wire), and a field added later has a
//! `#[serde(default)]`. Outside strings become types at the edge: an id, a name or a path that
//! exists as a value here is valid.
//!
//! Times are milliseconds since the Unix epoch in fields that end in `_at_ms`; lengths of time end
//! in `_ms`; sizes end in `_bytes`.

pub mod addresses;
pub mod agent;
pub mod cause;
pub mod deployments;
pub mod desired;
pub mod domains;
pub mod error;
pub mod events;
pub mod fleet;
pub mod gateway;
pub mod ids;
pub mod images;
pub mod latency;
pub mod logs;
pub mod mesh;
pub mod mesh_device;
pub mod metrics;
pub mod name;
pub mod nearest;
pub mod observed;
pub mod plans;
pub mod secret;
pub mod servers;
pub mod services;
pub mod sources;
pub mod stacks;
mod text;
pub mod tls;
pub mod tokens;
pub mod words;

/// Milliseconds since the Unix epoch.
pub type UnixMillis = i64;
