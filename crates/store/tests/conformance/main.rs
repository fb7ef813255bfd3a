//! One suite, every database. See `database.rs` for how SQLite and PostgreSQL are provided.

#[macro_use]
mod database;
mod fixtures;

mod access;
mod deployments;
mod desired;
mod events;
mod instances;
mod isolation;
mod joining;
mod logs;
mod opening;
mod retention;
mod services;
mod stacks;
mod throughput;
