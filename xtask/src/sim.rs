//! The simulated fleet (`crates/sim`), built so that it is fast and yet soon built.

use crate::{cargo, root};
use anyhow::{Context, Result};
use std::process::Command;
use std::time::Duration;

/// The fixed seeds; a change is judged by these.
const SEEDS: &str = "10000";
/// What `cargo xtask test` gives to them: so many as that allows are told, from the first one on.
const TEST_SECONDS: u64 = 180;
/// Beyond the time that was asked for. All fixed seeds take three to five minutes on two cores, and building this
/// another seven.
const SLACK: Duration = Duration::from_secs(45 * 60);

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

/// What every change has to pass. With the unoptimised program that lies beside this one, because everything has
/// just been built that way: to build the fleet optimised takes longer than telling the seeds.
pub fn test() -> Result<()> {
    let itself = std::env::current_exe().context("find the directory of built programs")?;
    let seconds = TEST_SECONDS.to_string();
    let mut told = Command::new(itself.with_file_name("sim"));
    told.current_dir(root()).args(["--seeds", SEEDS, "--within", &seconds]);
    crate::steps::run(&mut told, Duration::from_secs(TEST_SECONDS + 120))
}

fn program() -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["run", "--quiet", "--locked", "--profile", "sim", "--package", "sim", "--"]);
    command
}
