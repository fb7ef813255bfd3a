//! The simulation as a program; `cargo xtask sim` builds and runs it.

use anyhow::Context;
use sim::{Beginning, Stage, Told, narrate, run, stay_on_core};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const USAGE: &str = "\
sim --seed S            tell the story of one seed
sim --seeds N [--from F] [--within S]
                        all seeds from F (0) on, N of them, or as many as S seconds allow
sim --minutes M         random seeds for so long
sim --narrate CORE      read seeds, a line each, and say what became of their stories (this is for sim itself)
";

enum Task {
    Tell(u64),
    /// From, how many, and for how long.
    Fixed(u64, u64, Option<Duration>),
    Random(Duration),
    Narrate(usize),
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
        Task::Narrate(core) => {
            stay_on_core(core);
            // Not locked while it is written to: a double may write to it as well.
            Stage::new().and_then(|stage| narrate(&stage, std::io::stdin().lock(), std::io::stdout())).map(|()| true)
        }
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
        ["--narrate"] => Some(Task::Narrate(usize::try_from(numbers["--narrate"]).ok()?)),
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

/// Seeds that are still to be told, and by whom: stories that begin alike are told on one core, where that beginning
/// has been told before.
struct Seeds {
    next: u64,
    left: u64,
    waiting: Vec<VecDeque<u64>>,
}

impl Seeds {
    /// More than this do not wait for one core while another one has nothing to do.
    const WAIT_AT_MOST: usize = 32;

    fn new(from: u64, count: u64, cores: usize) -> Self {
        Self { next: from, left: count, waiting: vec![VecDeque::new(); cores] }
    }

    fn take(&mut self, core: usize) -> Option<u64> {
        while self.waiting[core].is_empty() && self.left > 0 && self.longest().1 < Self::WAIT_AT_MOST {
            let seed = self.next;
            (self.next, self.left) = (seed.wrapping_add(1), self.left - 1);
            let cores = self.waiting.len() as u64;
            let of = match Beginning::of(seed) {
                Beginning::Shared(number) => (number % cores) as usize,
                Beginning::Own(_) => core,
            };
            self.waiting[of].push_back(seed);
        }
        let from = if self.waiting[core].is_empty() { self.longest().0 } else { core };
        self.waiting[from].pop_front()
    }

    fn longest(&self) -> (usize, usize) {
        let lengths = self.waiting.iter().map(VecDeque::len).enumerate();
        lengths.max_by_key(|(_, length)| *length).unwrap_or_default()
    }
}

/// A process of its own for each core, because only one with a single thread can double itself.
struct Teller {
    process: Child,
    seeds: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Teller {
    fn begin(core: usize) -> anyhow::Result<Self> {
        let itself = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(itself);
        command.arg("--narrate").arg(core.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("start this program once more")?;
        let (seeds, told) = (process.stdin.take(), process.stdout.take());
        let told = BufReader::new(told.context("it was started with a pipe")?);
        Ok(Self { process, seeds: seeds.context("it was started with a pipe")?, told })
    }

    fn ask(&mut self, seed: u64) -> anyhow::Result<Told> {
        writeln!(self.seeds, "{seed}").context("ask a teller")?;
        let mut line = String::new();
        self.told.read_line(&mut line).context("hear a teller")?;
        anyhow::ensure!(!line.is_empty(), "whoever was to tell the story of seed {seed} has ended");
        serde_json::from_str(&line).with_context(|| format!("understand what was told of seed {seed}"))
    }

    fn end(self) -> anyhow::Result<()> {
        let Self { mut process, seeds, told } = self;
        drop(seeds);
        let status = process.wait().context("wait for a teller")?;
        drop(told);
        anyhow::ensure!(status.success(), "a teller has not ended well: {status}");
        Ok(())
    }
}

/// All cores share the seeds. The first broken promise ends it all.
fn many(from: u64, count: u64, limit: Option<Duration>) -> anyhow::Result<bool> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let seeds = Mutex::new(Seeds::new(from, count, cores));
    let take = |core| seeds.lock().unwrap_or_else(|e| e.into_inner()).take(core);
    let broken = AtomicBool::new(false);
    let (told, passed_ms) = (AtomicU64::new(0), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let begun = Instant::now();
    let work = &|core: usize| -> anyhow::Result<()> {
        let mut teller = Teller::begin(core)?;
        while !broken.load(Ordering::SeqCst) && limit.is_none_or(|limit| begun.elapsed() < limit) {
            let Some(seed) = take(core) else { break };
            let story = teller.ask(seed)?;
            told.fetch_add(1, Ordering::SeqCst);
            passed_ms.fetch_add(story.passed_ms, Ordering::SeqCst);
            if let Some(violation) = story.violation {
                broken.store(std::env::var_os("SIM_GO_ON").is_none(), Ordering::SeqCst);
                println!("seed {seed}: BROKEN: {violation}");
                println!("  its story: cargo xtask sim --seed {seed}");
                failures.lock().unwrap_or_else(|e| e.into_inner()).push(seed);
            }
        }
        teller.end()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..cores).map(|core| scope.spawn(move || work(core))).collect();
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
