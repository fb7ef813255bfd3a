//! The real gateway in front of real backends, on loopback.

// Helpers are tests as much as the functions that call them: a failure there should end the test.
#![allow(clippy::unwrap_used)]

mod config;
mod dns;
mod failures;
mod http1;
mod hygiene;
mod load;
mod routing;
mod streaming;
mod support;
mod tls;
