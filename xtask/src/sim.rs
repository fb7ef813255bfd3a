//! The simulated fleet (`crates/sim`), built so that it is fast and yet soon built.

use crate::{cargo, root};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// Fixed seeds that are run before every merge: what two cores do in three minutes.
const SEEDS: &str = "1500";
const BUILD_LIMIT: Duration = Duration::from_secs(10 * 60);
const RUN_LIMIT: Duration = Duration::from_secs(6 * 60);
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

/// What `cargo xtask test` runs: first built, so that building does not count as running.
pub fn build() -> Result<()> {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["build", "--locked", "--profile", "sim", "--package", "sim"]);
    crate::steps::run(&mut command, BUILD_LIMIT)
}

pub fn fixed_seeds() -> Result<()> {
    crate::steps::run(program().args(["--seeds", SEEDS]), RUN_LIMIT)
}

fn program() -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["run", "--quiet", "--profile", "sim", "--package", "sim", "--"]);
    command
}
