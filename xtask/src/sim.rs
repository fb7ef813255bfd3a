//! The simulated fleet (`crates/sim`), built so that it is fast and yet soon built.

use crate::{cargo, root};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// Fixed seeds: what two cores do in three minutes. Some of them are part of `cargo xtask test`, in a debug
/// build, because building all this optimised takes longer than telling them.
const SEEDS: &str = "3000";
/// Beyond the minutes that somebody asked for.
const SLACK: Duration = Duration::from_secs(15 * 60);

/// `cargo xtask sim …`
pub fn run(arguments: &[&str]) -> Result<()> {
    let minutes = match arguments {
        ["--minutes", minutes] => minutes.parse().unwrap_or(0),
        _ => 0,
    };
    let fixed = ["--seeds", SEEDS];
    let arguments = if arguments.is_empty() { &fixed } else { arguments };
    crate::steps::run(program().args(arguments), Duration::from_secs(60 * minutes) + SLACK)
}

fn program() -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["run", "--quiet", "--profile", "sim", "--package", "sim", "--"]);
    command
}
