//! One suite, every database. See `database.rs` for how SQLite and PostgreSQL are provided.

// Helpers of tests are tests: an unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod database;
mod fixtures;

mod access;
mod certificates;
mod deployments;
mod desired;
mod dump;
mod events;
mod giving_up;
mod instances;
mod isolation;
mod joining;
mod logs;
mod metrics;
mod opening;
mod power_cut;
mod power_loss;
mod retention;
mod services;
mod stacks;
mod telling;
mod throughput;
