//! `docs/reference`, made from the code: the manifest from its types, the command line from clap, the
//! API from the server's own OpenAPI document.
//!
//! Making it needs the real crates, so the task builds itself again with the `docs` feature.

use anyhow::Result;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Write,
    Check,
}

#[cfg(not(feature = "docs"))]
pub fn run(mode: Mode) -> Result<()> {
    use crate::{cargo, root, steps};
    let mut command = std::process::Command::new(cargo());
    command.current_dir(root()).args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "xtask",
        "--features",
        "docs",
        "--",
        "docs",
    ]);
    if mode == Mode::Check {
        command.arg("--check");
    }
    steps::run(&mut command, std::time::Duration::from_secs(15 * 60))
}

#[cfg(feature = "docs")]
pub fn run(mode: Mode) -> Result<()> {
    reference::run(mode)?;
    commands::check()
}

#[cfg(feature = "docs")]
mod commands;
#[cfg(feature = "docs")]
mod json;
#[cfg(feature = "docs")]
mod reference;
