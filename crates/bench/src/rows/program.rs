//! The program as a file, and how soon it begins.

use crate::context::Context;
use crate::figure::{Better, Figure};
use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Starts per run; the median of them is the run's value.
const STARTS: usize = 20;

/// Program, and what makes it say its version and end.
const STARTED: [(&str, &str); 5] =
    [("mainstay", "--version"), ("nginx", "-v"), ("haproxy", "-v"), ("caddy", "version"), ("traefik", "version")];

pub fn measure(context: &Context) -> Result<Vec<Figure>> {
    let mut size = Figure::new("binary", "size of the program", "MB", Better::Less).goal(40.0);
    let mut start = Figure::new("binary", "start until it has said its version", "ms", Better::Less).goal(10.0);
    let there = STARTED.iter().filter_map(|(name, word)| Some((*name, *word, context.tools.path(name)?)));
    let there: Vec<(&str, &str, &Path)> = there.collect();
    for (name, _, path) in &there {
        size.add(name, path.metadata().with_context(|| format!("look at {}", path.display()))?.len() as f64 / 1e6);
    }
    size.note("a file has one size: the others bring only a proxy, and nginx and HAProxy share libraries".into());
    for _ in 0..context.runs() {
        for (name, word, path) in &there {
            let mut times = (0..STARTS).map(|_| start_once(path, word)).collect::<Result<Vec<f64>>>()?;
            times.sort_by(f64::total_cmp);
            start.add(name, times[STARTS / 2]);
        }
    }
    Ok(vec![size, start])
}

fn start_once(program: &Path, word: &str) -> Result<f64> {
    let begun = Instant::now();
    let status = Command::new(program)
        .arg(word)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    anyhow::ensure!(status.success(), "{} {word} ended with {status}", program.display());
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}
