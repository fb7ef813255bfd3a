//! The verbs of Mainstay, pure: what to do next, given what is wanted, what is seen and what time
//! it is.
//!
//! Nothing here reads a clock, draws a random number, touches a file or logs; the crate's own
//! `clippy.toml` forbids it. Every function is total: any desired and observed state, however odd,
//! has a plan. A plan holds only what is safe *now*; the caller does some of it, looks again and
//! plans again. There is no stored plan and no saga, so recovering from a crash is the ordinary path.
//!
//! ```text
//!  control plane                                   machine
//!  stack::diff      manifest → what would change    host::plan      desired + observed → changes
//!  placement::place instance → server               gateway::render desired + observed → routes
//!  rollout::plan    deployment → instances, stage
//! ```
//!
//! What is held back is as much an answer as what is done: every difference has a change or a
//! [`Blocked`](api::observed::Blocked) with its reason.

pub mod certificates;
pub mod disk;
pub mod gateway;
pub mod host;
pub mod mesh;
pub mod placement;
pub mod render;
pub mod rollout;
#[cfg(test)]
mod samples;
pub mod stack;
