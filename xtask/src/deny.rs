//! `cargo deny` with `deny.toml`: licences, duplicate crates, sources and known vulnerabilities.
//!
//! cargo-deny is not built for this: that takes longer than all our tests. Where it is installed it is
//! used; the licences and sources are also checked by `cargo xtask tidy`, which needs nothing.

use crate::{cargo, root, steps};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Duration;

pub fn is_installed() -> bool {
    steps::output(Command::new(cargo()).args(["deny", "--version"])).is_ok()
}

pub fn run() -> Result<()> {
    if !is_installed() {
        bail!("cargo-deny is not installed; `cargo install cargo-deny --locked` builds it");
    }
    steps::run(Command::new(cargo()).current_dir(root()).args(["deny", "check"]), Duration::from_secs(300))
}

/// Without the vulnerability database, which comes from the network.
pub fn run_offline() -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["deny", "--offline", "check", "licenses", "bans", "sources"]);
    steps::run(&mut command, Duration::from_secs(300))
}
