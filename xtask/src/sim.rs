//! The simulated fleet (`crates/sim`), built so that ten thousand stories are told in three minutes.
//!
//! Such a program takes longer to build than to run: ten minutes on two cores, because all crates are optimised as one
//! (the profile `sim`). `cargo xtask test` has half an hour for everything, so it builds it while there is time
//! for that, and tells fewer seeds with the unoptimised program that lies beside this one where there is not.

use crate::{cargo, root};
use anyhow::{Context, Result};
use std::process::Command;
use std::time::Duration;

/// The fixed seeds; a change is judged by these.
const SEEDS: &str = "10000";
/// What `cargo xtask test` gives to them: so many as that allows are told, from the first one on.
const TEST_SECONDS: u64 = 180;
/// Time for building it within `cargo xtask test`, which is everything that is left of half an hour then.
const TEST_BUILD_SECONDS: u64 = 12 * 60;
/// Whoever needed longer than this for everything else has no time left for building it.
const BUILD_IF_BEFORE: Duration = Duration::from_secs(13 * 60);
/// Beyond the time that was asked for. All fixed seeds take three minutes on two cores, and building this another ten.
const SLACK: Duration = Duration::from_secs(45 * 60);
/// The optimised program, as cargo is told of it.
const OPTIMISED: [&str; 6] = ["--quiet", "--locked", "--profile", "sim", "--package", "sim"];

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

/// What every change has to pass, `elapsed` after the first of all steps.
pub fn test(elapsed: Duration) -> Result<()> {
    let seconds = TEST_SECONDS.to_string();
    let mut told = if elapsed < BUILD_IF_BEFORE && is_built_in_time() {
        program()
    } else {
        println!("there is no time to build the optimised program: fewer seeds are told, by the unoptimised one");
        let itself = std::env::current_exe().context("find the directory of built programs")?;
        Command::new(itself.with_file_name("sim"))
    };
    told.current_dir(root()).args(["--seeds", SEEDS, "--within", &seconds]);
    crate::steps::run(&mut told, Duration::from_secs(TEST_SECONDS + 120))
}

/// `timeout` ends the compilers with cargo: they are of its process group. Why it was not built is said by them; what
/// the unoptimised program finds is worth knowing all the same.
fn is_built_in_time() -> bool {
    let mut build = Command::new("timeout");
    build.args(["--signal=INT", "--kill-after=10", &TEST_BUILD_SECONDS.to_string()]).arg(cargo());
    build.current_dir(root()).arg("build").args(OPTIMISED);
    match crate::steps::run(&mut build, Duration::from_secs(TEST_BUILD_SECONDS + 60)) {
        Ok(()) => true,
        Err(error) => {
            println!("{error:#}");
            false
        }
    }
}

fn program() -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).arg("run").args(OPTIMISED).arg("--");
    command
}
