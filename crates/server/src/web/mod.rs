//! The dashboard: pages rendered on the server, live by one stream of events.
//!
//! Reading and acting work without a script. Every page is a pure function from the API's own views
//! to markup; every form posts to a handler that calls the same action as the API's endpoint and
//! then redirects back with a message. What a page adds of its own is only words and layout, so a
//! page can never show or do something that the API could not.
//!
//! `live.js` follows `/live/…/stream`, which sends a part of the page again when it differs from
//! what was sent before, and log lines as they are written. Parts hold no text field, so nothing
//! that a person types is ever replaced.
//!
//! Absent on purpose: client-side state, a bundler, inline script and style (the policy forbids
//! both), and any address outside of this server.

mod ansi;
mod assets;
mod deployments;
mod events;
mod frame;
mod instances;
mod logs;
mod names;
mod overview;
mod problems;
mod reference;
#[cfg(test)]
mod samples;
mod schemas;
mod servers;
mod services;
mod sign_in;
mod stacks;
mod times;
mod tokens;
mod words;
