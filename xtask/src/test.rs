//! Everything that must pass before a merge, in one command, on a fresh machine.

use crate::postgres::Postgres;
use crate::steps::Steps;
use crate::{cargo, deny, docs, packages, root, tidy};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;

const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
const TEST_LIMIT: Duration = Duration::from_secs(18 * 60);

pub fn run(require_all: bool) -> Result<()> {
    let mut steps = Steps::new();
    steps.step("packages", || packages::ensure(require_all));
    steps.step("tidy", tidy::run);
    if has_component("fmt") {
        steps.program("format", in_root(["fmt", "--all", "--check"]).as_mut(), Duration::from_secs(120));
    } else {
        missing_component(&mut steps, "format", "rustfmt", require_all);
    }
    if deny::is_installed() {
        steps.step("deny", deny::run_offline);
    } else {
        steps.skip("deny", "cargo-deny is not installed; tidy has checked licences and sources");
    }
    if has_component("clippy") {
        let lint = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        steps.program("clippy", in_root(lint).as_mut(), BUILD_LIMIT);
    } else {
        missing_component(&mut steps, "clippy", "clippy", require_all);
    }
    let built = steps.program("build", in_root(["build", "--bin", "mainstay", "--locked"]).as_mut(), BUILD_LIMIT);
    if built {
        steps.step("docs are up to date", || docs::run(docs::Mode::Check));
    }
    tests(&mut steps, require_all);
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
    let mut command = in_root(["test", "--workspace", "--locked", "--no-fail-fast"]);
    match &postgres {
        Some(postgres) => {
            command.env("MAINSTAY_TEST_POSTGRES_URL", postgres.url()).env("MAINSTAY_REQUIRE_POSTGRES", "1");
        }
        None if started => println!("the store is tested on SQLite alone"),
        None => {}
    }
    steps.program("test", command.as_mut(), TEST_LIMIT);
}

/// One command with a PostgreSQL beside it, for working on the store.
pub fn with_postgres(command: &[&str]) -> Result<()> {
    let postgres =
        Postgres::start()?.ok_or_else(|| anyhow::anyhow!("PostgreSQL is not installed: apt-get install postgresql"))?;
    let mut child = Command::new(command[0]);
    child.args(&command[1..]).env("MAINSTAY_TEST_POSTGRES_URL", postgres.url()).env("MAINSTAY_REQUIRE_POSTGRES", "1");
    crate::steps::run(&mut child, TEST_LIMIT)
}

fn in_root<const N: usize>(arguments: [&str; N]) -> Box<Command> {
    let mut command = Box::new(Command::new(cargo()));
    command.current_dir(root()).args(arguments);
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
