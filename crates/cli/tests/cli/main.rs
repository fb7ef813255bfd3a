//! The real binary against a small control plane that answers what each test tells it to: what goes
//! over the wire, what a person reads, what a script gets.

#![allow(clippy::unwrap_used, reason = "a test that meets an error has found one")]

mod control_plane;
mod deploying;
mod errors;
mod helping;
mod logs;
mod looking;
mod signing_in;
mod terminal;
mod user;
mod whole;
