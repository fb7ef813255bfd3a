//! `cargo xtask load`: the control plane under the load of a fleet, with a report at the end. Fails if
//! anything was not as it should be: an error, a change that did not arrive, memory that grows.
//!
//! However it ends, by itself, by Ctrl-C or because its time is over, it ends the control plane that it
//! started and removes its folder.

use anyhow::{Context, Result, bail};
use e2e::Machine;
use e2e::fleet::{FleetOptions, run};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// For joining, the first deployments and the last ones, beside the time for which services are changed.
const SLACK: Duration = Duration::from_secs(15 * 60);
/// Far more than a delivery takes, and far less than the 25 s after which a machine that nobody woke
/// comes to ask by itself.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);
const USAGE: &str = "usage: e2e-load [--agents N] [--minutes M | --seconds S] [--change-percent P] [--database URL]";

fn main() -> ExitCode {
    let outcome = options(std::env::args().skip(1)).and_then(|options| {
        let runtime = tokio::runtime::Runtime::new().context("start tokio")?;
        runtime.block_on(load(&options))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<FleetOptions> {
    let duration = Duration::from_secs(300);
    let mut options = FleetOptions { agents: 1000, duration, changes_percent: 1.0, database: None, talkative: true };
    while let Some(name) = arguments.next() {
        let value = arguments.next().context(USAGE)?;
        match name.as_str() {
            "--agents" => options.agents = value.parse().context(USAGE)?,
            "--minutes" => options.duration = Duration::from_secs_f64(value.parse::<f64>().context(USAGE)? * 60.0),
            "--seconds" => options.duration = Duration::from_secs(value.parse().context(USAGE)?),
            "--change-percent" => options.changes_percent = value.parse().context(USAGE)?,
            "--database" => options.database = Some(value),
            _ => bail!("{USAGE}"),
        }
    }
    Ok(options)
}

async fn load(options: &FleetOptions) -> Result<()> {
    let machine = Machine::new()?;
    let mut terminated = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let limit = options.duration + SLACK;
    let report = tokio::select! {
        outcome = tokio::time::timeout(limit, run(&machine, options)) => {
            outcome.with_context(|| format!("it did not end within {limit:?}"))??
        }
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminated.recv() => bail!("terminated"),
    };
    println!("\n{report}");
    let (early, late) = report.memory_early_and_late();
    let mut wrong = Vec::new();
    if report.errors_count > 0 {
        wrong.push(format!("{} errors", report.errors_count));
    }
    if report.undelivered > 0 {
        wrong.push(format!("{} changes never arrived", report.undelivered));
    }
    if report.delivery.p99 > DELIVERY_LIMIT {
        wrong.push(format!("one change in a hundred took longer than {:.1?} to arrive", report.delivery.p99));
    }
    if !report.unfinished.is_empty() {
        wrong.push(format!("{} deployments did not end well", report.unfinished.len()));
    }
    // A tenth is what an allocator wavers by; a leak of a kilobyte for each change is more in five minutes.
    if late > early + early / 10 {
        wrong.push(format!("memory grew from {} to {} bytes", early, late));
    }
    if wrong.is_empty() { Ok(()) } else { bail!("{}", wrong.join("; ")) }
}
