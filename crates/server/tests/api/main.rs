//! The control plane as its users meet it: one binary, modules named after the addresses they test.

// In a test a panic is the report.
#![allow(clippy::unwrap_used)]

mod agent;
mod deploy;
mod domains;
mod env;
mod events;
mod fake_agent;
mod harness;
mod logs;
mod metrics;
mod openapi;
mod pages;
mod postgres;
mod rollout;
mod services;
mod session;
mod startup;
mod tokens;
