//! A list of steps, each a program with a time limit. All are run, also after one has failed: a person
//! wants to know everything that is wrong, and a machine has the time.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[derive(Default)]
pub struct Steps {
    done: Vec<Done>,
    started: Option<Instant>,
}

struct Done {
    name: String,
    outcome: Outcome,
    took: Duration,
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl Steps {
    pub fn new() -> Self {
        Self { done: Vec::new(), started: Some(Instant::now()) }
    }

    /// Since the first step.
    pub fn elapsed(&self) -> Duration {
        self.started.map(|started| started.elapsed()).unwrap_or_default()
    }

    /// Runs a program as a step; its output goes where ours goes.
    pub fn program(&mut self, name: &str, command: &mut Command, limit: Duration) -> bool {
        self.step(name, || run(command, limit))
    }

    /// Runs a function as a step.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> bool {
        println!("\n=== {name}");
        let started = Instant::now();
        let result = work();
        let took = started.elapsed();
        let passed = result.is_ok();
        match &result {
            Ok(()) => println!("--- {name}: passed in {}", seconds(took)),
            Err(error) => println!("--- {name}: FAILED in {}: {error:#}", seconds(took)),
        }
        let outcome = match result {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        self.done.push(Done { name: name.into(), outcome, took });
        passed
    }

    pub fn skip(&mut self, name: &str, reason: &str) {
        println!("\n=== {name}: skipped, {reason}");
        self.done.push(Done { name: name.into(), outcome: Outcome::Skipped(reason.into()), took: Duration::ZERO });
    }

    /// A line for each step and one for all; an error if any failed.
    pub fn finish(self) -> Result<()> {
        println!("\n=== summary");
        let mut failed = Vec::new();
        let mut skipped = 0;
        for Done { name, outcome, took } in &self.done {
            match outcome {
                Outcome::Passed => println!("  passed   {:>8}  {name}", seconds(*took)),
                Outcome::Failed(reason) => {
                    println!("  FAILED   {:>8}  {name}: {reason}", seconds(*took));
                    failed.push(name.as_str());
                }
                Outcome::Skipped(reason) => {
                    println!("  skipped            {name}: {reason}");
                    skipped += 1;
                }
            }
        }
        let total = self.elapsed();
        let passed = self.done.len() - failed.len() - skipped;
        println!("{passed} passed, {} failed, {skipped} skipped in {}", failed.len(), seconds(total));
        if !failed.is_empty() {
            bail!("these steps failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

/// Runs a program to its end, or ends it when its time is over.
pub fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let shown = shown(command);
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("`{shown}` could not be started"))?;
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("`{shown}` cannot be waited for"))? {
            if status.success() {
                return Ok(());
            }
            bail!("`{shown}` ended with {status}");
        }
        if started.elapsed() > limit {
            // The program may be gone by now; then there is nothing to end.
            let _ = child.kill();
            let _ = child.wait();
            bail!("`{shown}` took longer than {} and was ended", seconds(limit));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The output of a program, if it succeeds.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("`{shown}` could not be started"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` wrote something that is not text"))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole >= 60 { format!("{}m{:02}s", whole / 60, whole % 60) } else { format!("{:.1}s", time.as_secs_f64()) }
}
