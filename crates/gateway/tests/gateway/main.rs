//! The real gateway in front of real backends, on loopback.

mod config;
mod dns;
mod failures;
mod hygiene;
mod load;
mod routing;
mod streaming;
mod support;
