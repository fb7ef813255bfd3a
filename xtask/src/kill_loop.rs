//! The long form of the test that kills every part at every stage of a deployment: as many kills as
//! wanted, on SQLite and then on PostgreSQL, with the figures printed.
//!
//! The short form is part of `cargo xtask test`; both are `crates/e2e/tests/real/kill_loop`.

use crate::{cargo, root, steps};
use anyhow::{Context, Result, bail};
use std::process::Command;
use std::time::Duration;

/// Enough for every part at every stage, some of which last only milliseconds.
const KILLS: u64 = 150;
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
/// A kill and everything until the desired state is reached again take some seconds.
const LIMIT_PER_KILL: Duration = Duration::from_secs(20);

pub fn run(options: &[&str]) -> Result<()> {
    let (mut kills, mut seed) = (KILLS, None);
    for option in options.chunks(2) {
        match option {
            ["--kills", number] => kills = number.parse().with_context(|| format!("--kills {number}"))?,
            ["--seed", number] => seed = Some(number.parse::<u64>().with_context(|| format!("--seed {number}"))?),
            other => bail!("unknown option: {}; there are --kills N and --seed S", other.join(" ")),
        }
    }
    let mut build = Command::new(cargo());
    build.current_dir(root()).args(["build", "--locked", "--package", "cli", "--package", "e2e"]);
    steps::run(&mut build, BUILD_LIMIT)?;
    let mut test = Command::new(cargo());
    test.current_dir(root()).args(["test", "--locked", "--package", "e2e", "--test", "real", "--"]);
    test.args(["kill_loop::", "--nocapture", "--test-threads=1"]).env("MAINSTAY_KILLS", kills.to_string());
    if let Some(seed) = seed {
        test.env("MAINSTAY_KILL_SEED", seed.to_string());
    }
    let kills = u32::try_from(kills).unwrap_or(u32::MAX);
    steps::run(&mut test, BUILD_LIMIT + LIMIT_PER_KILL.saturating_mul(kills.saturating_mul(2)))
}
