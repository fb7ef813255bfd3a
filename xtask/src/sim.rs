//! The simulated fleet (`crates/sim`), built so that it is fast and yet soon built.

use crate::{cargo, root};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

/// The fixed seeds; a change is judged by these.
const SEEDS: &str = "10000";
/// What `cargo xtask test` gives to them: so many as that allows are told, from the first one on.
const TEST_SECONDS: u64 = 180;
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Beyond the minutes that somebody asked for. All fixed seeds take about ten on two cores.
const SLACK: Duration = Duration::from_secs(45 * 60);

/// `cargo xtask sim …`
pub fn run(arguments: &[&str]) -> Result<()> {
    let minutes = match arguments {
        ["--minutes", minutes] => minutes.parse().unwrap_or(0),
        _ => 0,
    };
    let fixed = ["--seeds", SEEDS];
    let arguments = if arguments.is_empty() { &fixed } else { arguments };
    crate::steps::run(program("run").arg("--").args(arguments), Duration::from_secs(60 * minutes) + SLACK)
}

/// What every change has to pass.
pub fn test() -> Result<()> {
    crate::steps::run(&mut program("build"), BUILD_LIMIT)?;
    let seconds = TEST_SECONDS.to_string();
    let mut told = program("run");
    told.args(["--", "--seeds", SEEDS, "--within", &seconds]);
    crate::steps::run(&mut told, Duration::from_secs(TEST_SECONDS) + BUILD_LIMIT)
}

fn program(subcommand: &str) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args([subcommand, "--quiet", "--locked", "--profile", "sim", "--package", "sim"]);
    command
}
