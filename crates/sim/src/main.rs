//! The simulation as a program; `cargo xtask sim` builds and runs it.

use sim::{Outcome, Stage, run, stay_on_core};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const USAGE: &str = "\
sim --seed S            tell the story of one seed
sim --seeds N [--from F] [--within S]
                        all seeds from F (0) on, N of them, or as many as S seconds allow
sim --minutes M         random seeds for so long
";

enum Task {
    Tell(u64),
    /// From, how many, and for how long.
    Fixed(u64, u64, Option<Duration>),
    Random(Duration),
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(task) = parse(&words) else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let done = match task {
        Task::Tell(seed) => tell(seed),
        Task::Fixed(from, count, limit) => many(from, count, limit),
        Task::Random(limit) => many(fastrand::u64(1 << 32..1 << 62), u64::MAX, Some(limit)),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(words: &[String]) -> Option<Task> {
    let mut numbers = std::collections::BTreeMap::new();
    for pair in words.chunks(2) {
        let [name, value] = pair else { return None };
        numbers.insert(name.as_str(), value.parse::<u64>().ok()?);
    }
    let names: Vec<&str> = numbers.keys().copied().collect();
    let fixed = || {
        let limit = numbers.get("--within").map(|seconds| Duration::from_secs(*seconds));
        Task::Fixed(numbers.get("--from").copied().unwrap_or(0), numbers["--seeds"], limit)
    };
    match names.as_slice() {
        ["--seed"] => Some(Task::Tell(numbers["--seed"])),
        ["--seeds"] | ["--from", "--seeds"] | ["--seeds", "--within"] | ["--from", "--seeds", "--within"] => {
            Some(fixed())
        }
        ["--minutes"] => Some(Task::Random(Duration::from_secs(60 * numbers["--minutes"]))),
        _ => None,
    }
}

fn tell(seed: u64) -> anyhow::Result<bool> {
    stay_on_core(0);
    let outcome = run(&Stage::new()?, seed)?;
    for line in &outcome.story {
        println!("{line}");
    }
    match &outcome.violation {
        None => println!("seed {seed}: all promises kept"),
        Some(violation) => println!("seed {seed}: BROKEN: {violation}"),
    }
    Ok(outcome.violation.is_none())
}

/// Two threads share the seeds. The first broken promise ends it all.
fn many(from: u64, count: u64, limit: Option<Duration>) -> anyhow::Result<bool> {
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let (next, broken) = (AtomicU64::new(0), AtomicBool::new(false));
    let (told, passed_ms) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let begun = Instant::now();
    let work = &|core: usize| -> anyhow::Result<()> {
        stay_on_core(core);
        let stage = Stage::new()?;
        while !broken.load(Ordering::SeqCst) && limit.is_none_or(|limit| begun.elapsed() < limit) {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= count {
                break;
            }
            let seed = from.wrapping_add(number);
            let Outcome { violation, passed, .. } = run(&stage, seed)?;
            told.fetch_add(1, Ordering::SeqCst);
            passed_ms.fetch_add(passed.as_millis() as u64, Ordering::SeqCst);
            if let Some(violation) = violation {
                broken.store(std::env::var_os("SIM_GO_ON").is_none(), Ordering::SeqCst);
                println!("seed {seed}: BROKEN: {violation}");
                println!("  its story: cargo xtask sim --seed {seed}");
                failures.lock().unwrap_or_else(|e| e.into_inner()).push(seed);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|core| scope.spawn(move || work(core))).collect();
        running.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    let told = told.load(Ordering::SeqCst);
    let hours = passed_ms.load(Ordering::SeqCst) / 3_600_000;
    let took = begun.elapsed().as_secs_f64();
    let of = if limit.is_some() && count < u64::MAX { format!(" of {count}") } else { String::new() };
    println!("{told}{of} seeds in {took:.1} s, {hours} hours of virtual time, {} broken", failures.len());
    Ok(failures.is_empty())
}
