//! One file per noun; every handler reads its request, calls an action or a view, and answers.
//! Nothing is decided here: what the dashboard does as well lives in [`crate::actions`].

pub mod agent;
pub mod credentials;
pub mod deployments;
pub mod domains;
pub mod env;
pub mod events;
pub mod health;
pub mod info;
pub mod logs;
pub mod metrics;
pub mod plans;
pub mod servers;
pub mod services;
pub mod session;
pub mod stacks;
pub mod tokens;
