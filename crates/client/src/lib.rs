//! The HTTP client of the control plane's API, typed by the same nouns that the control plane speaks.
//!
//! The command line, the tests and anything else that talks to a control plane goes through
//! [`Client`], so that there is one place that knows addresses, timeouts and how an error reads. Each
//! failure is a [`ClientError`] that says what was tried, on what, why it failed and what to do next;
//! the control plane's own [`api::error::ApiError`] is handed through whole, because it holds the line
//! and column of a manifest.
//!
//! Events and logs come as streams ([`Follow`]) that open themselves again after a break and go on
//! after the last sequence number they saw, so a restarted control plane costs a follower nothing.
//!
//! Absent on purpose: retries of requests that change something. Whether a deployment that may or may
//! not have been accepted should be sent again is for a person to say.

mod client;
mod endpoints;
mod error;
mod follow;
pub mod gateway;
mod lines;

pub use client::{Client, DEFAULT_ADDRESS, Greeting};
pub use endpoints::{EVENTS_AT_ONCE, EventQuery, LogFileQuery, LogKind, LogQuery};
pub use error::ClientError;
pub use follow::Follow;
pub use lines::Lines;
