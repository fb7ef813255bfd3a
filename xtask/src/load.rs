//! The control plane under the load of a thousand machines: `crates/e2e/src/fleet`, built as `cargo run --release`
//! builds it.
//!
//! A short form with fifty machines is part of `cargo xtask test`; this one takes minutes and wants a
//! quiet machine, because control plane and load share its cores.

use crate::{cargo, root, steps};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Duration;

const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The program ends itself before, and cleans up then; this is for a program that hangs.
const SLACK: Duration = Duration::from_secs(20 * 60);
const MINUTES: f64 = 5.0;

/// `cargo xtask load …`
pub fn run(options: &[&str]) -> Result<()> {
    let mut minutes = MINUTES;
    for option in options.chunks(2) {
        match option {
            ["--minutes", number] => {
                minutes = number.parse().with_context(|| format!("--minutes {number}"))?;
                if !(0.0..=600.0).contains(&minutes) {
                    bail!("--minutes {number}: a run takes up to 600 minutes");
                }
            }
            ["--agents" | "--change-percent" | "--database", _] => {}
            other => bail!(
                "unknown option: {}; there are --agents N, --minutes M, --change-percent P and --database URL",
                other.join(" ")
            ),
        }
    }
    steps::run(released("build").args(["--package", "cli", "--bins"]), BUILD_LIMIT)?;
    let mut load = released("run");
    load.args(["--quiet", "--bin", "e2e-load", "--"]).args(options);
    steps::run(&mut load, Duration::from_secs_f64(minutes * 60.0) + SLACK)
}

fn released(subcommand: &str) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args([subcommand, "--locked", "--release", "--package", "e2e"]);
    command
}
