//! `mainstay shim`: supervises one instance. Started by the agent, never by a person.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Supervise one instance (started by the agent)
#[derive(Debug, clap::Args)]
pub struct Options {
    pub directory: PathBuf,
}

pub fn run(directory: &Path) -> ExitCode {
    agent::drivers::process::shim::run(directory)
}
