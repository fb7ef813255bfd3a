//! Tests of the workload drivers at their boundary.
//!
//! `conformance` holds what every driver promises and runs over each of them; the other modules hold
//! what only the process driver can be asked. All of it runs real processes and real git on temporary
//! folders and ephemeral ports, and ends what it started also when a test fails.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod builds;
mod conformance;
mod containers;
mod engine_lab;
mod health;
mod machine;
mod processes;
mod repositories;
