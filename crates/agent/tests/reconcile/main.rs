//! Tests of the loop and of everything around it that is not a driver: the real tasks, the real
//! ledger and the real wire, on a machine in memory and against a small control plane in this process.

#![allow(clippy::unwrap_used)]

mod control_plane;
mod convergence;
mod crashes;
mod documents;
mod joining;
mod logs;
mod power_loss;
mod real_gateway;
mod reports;
mod world;
