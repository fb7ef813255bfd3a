//! Everything that must pass before a merge, in one command, on a fresh machine.

use crate::postgres::Postgres;
use crate::steps::Steps;
use crate::{cargo, deny, packages, root, sim, site, tidy};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
const PROPERTY_SEED: &str = "20261121";
/// A machine that has needed longer than this for all else is slow, and everything together has half an hour.
const BEFORE_THE_FLEET: Duration = Duration::from_secs(22 * 60);
const TEST_LIMIT: Duration = Duration::from_secs(24 * 60);

pub fn run(require_all: bool) -> Result<()> {
    let mut steps = Steps::new();
    steps.step("packages", || packages::ensure(require_all));
    steps.step("tidy", tidy::run);
    if has_component("fmt") {
        steps.program(
            "format",
            Command::new(cargo()).current_dir(root()).args(["fmt", "--all", "--check"]),
            Duration::from_secs(120),
        );
    } else {
        missing_component(&mut steps, "format", "rustfmt", require_all);
    }
    if deny::is_installed() {
        steps.step("deny", deny::run_offline);
    } else {
        steps.skip("deny", "cargo-deny is not installed; tidy has checked licences and sources");
    }
    if has_component("clippy") {
        let strict = ["--lib", "--bins", "--", "-D", "warnings"];
        steps.program("clippy", in_workspace("clippy").args(strict), BUILD_LIMIT);
        // In tests an `unwrap` is how a test fails.
        let in_tests = ["--all-targets", "--", "-D", "warnings", "-A", "clippy::unwrap_used"];
        steps.program("clippy on tests", in_workspace("clippy").args(in_tests), BUILD_LIMIT);
    } else {
        missing_component(&mut steps, "clippy", "clippy", require_all);
    }
    let itself = std::env::current_exe();
    if steps.program("build", in_workspace("build").arg("--bins"), BUILD_LIMIT) {
        // The build has put an xtask with the `docs` feature in the place of this one.
        steps.step("docs are up to date", || {
            let mut command = Command::new(itself?);
            crate::steps::run(command.current_dir(root()).args(["docs", "--check"]), Duration::from_secs(60))
        });
    }
    match site::get_ready() {
        Ok(()) => {
            steps.step("site", site::run);
        }
        Err(why) => steps.skip("site", &format!("{why:#}; `cargo xtask site` builds mdBook instead")),
    }
    tests(&mut steps, require_all);
    let elapsed = steps.elapsed();
    if elapsed < BEFORE_THE_FLEET {
        steps.step("simulated fleet", || sim::test(elapsed));
    } else {
        steps.skip(
            "simulated fleet",
            "this machine is slow; the tests have told forty seeds, `cargo xtask sim` tells more",
        );
    }
    steps.finish()
}

/// The tests themselves, with a PostgreSQL beside them where there is one.
fn tests(steps: &mut Steps, require_all: bool) {
    let mut postgres = None;
    let started = steps.step("start PostgreSQL", || {
        postgres = Postgres::start()?;
        anyhow::ensure!(postgres.is_some() || !require_all, "PostgreSQL is not installed, and everything is required");
        Ok(())
    });
    let mut command = in_workspace("test");
    command.arg("--no-fail-fast");
    // The same cases each time: a change is judged by what it changed. `cargo test` alone looks for new ones.
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        command.env("PROPTEST_RNG_SEED", PROPERTY_SEED);
    }
    if require_all {
        command.env("MAINSTAY_REQUIRE_ALL", "1");
    }
    match &postgres {
        Some(postgres) => {
            command.env("MAINSTAY_TEST_POSTGRES_URL", postgres.url()).env("MAINSTAY_REQUIRE_POSTGRES", "1");
        }
        None if started => println!("the store is tested on SQLite alone"),
        None => {}
    }
    steps.program("test", &mut command, TEST_LIMIT);
}

/// One command with a PostgreSQL beside it, for working on the store.
pub fn with_postgres(command: &[&str]) -> Result<()> {
    let postgres =
        Postgres::start()?.ok_or_else(|| anyhow::anyhow!("PostgreSQL is not installed: apt-get install postgresql"))?;
    let mut child = Command::new(command[0]);
    child.args(&command[1..]).env("MAINSTAY_TEST_POSTGRES_URL", postgres.url()).env("MAINSTAY_REQUIRE_POSTGRES", "1");
    crate::steps::run(&mut child, TEST_LIMIT)
}

/// One set of features for all steps, so that nothing is compiled twice.
fn in_workspace(subcommand: &str) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args([subcommand, "--workspace", "--locked", "--features", "xtask/docs"]);
    command
}

fn has_component(subcommand: &str) -> bool {
    crate::steps::output(Command::new(cargo()).args([subcommand, "--version"])).is_ok()
}

fn missing_component(steps: &mut Steps, step: &str, component: &str, require_all: bool) {
    let reason = format!("`rustup component add {component}` installs it");
    if require_all {
        steps.step(step, || anyhow::bail!("{component} is missing, and everything is required; {reason}"));
    } else {
        steps.skip(step, &reason);
    }
}
