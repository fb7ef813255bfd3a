//! Many stories from one beginning, each told by a double of the process that told the beginning.
//!
//! What a fleet is when the storm comes up lies in tasks at whatever they wait for, in timers, locks and a database
//! in memory. To write all that down and to read it again would be a second program, and the agents in it would
//! not be those that began. A process that is doubled (`fork`) has all of it twice, to the last bit, for a
//! millisecond or two. So there is a *narrator* for each [`Beginning`]: it tells that once and then waits for
//! seeds. For each of them it doubles itself, and the double goes on with that seed to the end of the story. It
//! is word for word the story that [`run`] tells of the same seed from its first moment on.
//!
//! A process may be doubled while it has a single thread: another one could hold a lock that nobody gives back in
//! the double. So the control plane's thread is let go before ([`Stage::rest`]), and who helped it is waited for.
//! One story is told at a time, because files are not doubled: what is on the disk is put back afterwards.

use crate::chance::hash;
use crate::scenario::{Beginning, Begun, Outcome, Stage, copy, in_virtual_time, run};
use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A thread that has ended is counted for a moment more.
const THREADS_END_WITHIN: Duration = Duration::from_secs(30);

/// What is said of a story that was told.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Told {
    pub seed: u64,
    /// A promise that was broken.
    pub violation: Option<String>,
    /// Virtual time that passed.
    pub passed_ms: u64,
    /// The same for the same story.
    pub digest: u64,
}

impl Told {
    pub fn of(seed: u64, outcome: &Outcome) -> Self {
        let digest = hash(outcome.story.iter().flat_map(|line| line.bytes().chain([b'\n'])));
        let passed_ms = u64::try_from(outcome.passed.as_millis()).unwrap_or(u64::MAX);
        Self { seed, violation: outcome.violation.clone(), passed_ms, digest }
    }

    /// It could not be told to its end.
    fn broken_off(seed: u64, why: &str) -> Self {
        Self { seed, violation: Some(why.to_owned()), passed_ms: 0, digest: 0 }
    }

    fn say(&self, mut to: impl Write) -> Result<()> {
        let mut line = serde_json::to_string(self)?;
        line.push('\n');
        to.write_all(line.as_bytes()).context("say what was told")
    }
}

/// Reads seeds, a line each, and says of each what was told.
pub fn narrate(stage: &Stage, seeds: impl BufRead, mut told: impl Write) -> Result<()> {
    let mut narrators = BTreeMap::new();
    for line in seeds.lines() {
        let seed = seed_of(&line?)?;
        let beginning = Beginning::of(seed);
        if let Beginning::Own(_) = beginning {
            whole(stage, seed)?.say(&mut told)?;
            continue;
        }
        if !narrators.contains_key(&beginning) {
            let Some(narrator) = Narrator::begin(stage, beginning, &mut narrators)? else {
                // This is the narrator, and it has no more to tell.
                std::process::exit(0);
            };
            narrators.insert(beginning, narrator);
        }
        if let Some(narrator) = narrators.get_mut(&beginning) {
            narrator.ask(seed)?.say(&mut told)?;
        }
    }
    narrators.into_values().try_for_each(Narrator::end)
}

fn seed_of(line: &str) -> Result<u64> {
    line.trim().parse().with_context(|| format!("`{line}` is no seed"))
}

/// Doubles this process. `None`: this is the double.
fn double(stage: &Stage) -> Result<Option<Pid>> {
    stage.rest();
    let begun = Instant::now();
    while fs::read_dir("/proc/self/task").context("count the threads of this process")?.count() > 1 {
        if begun.elapsed() > THREADS_END_WITHIN {
            bail!("a thread has not ended for {} s: this process cannot be doubled", THREADS_END_WITHIN.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: this is the only thread, as was just counted, so no lock is held by another one, and the double may do
    // whatever this process may.
    #[allow(unsafe_code)]
    let number = unsafe { libc::fork() };
    match number {
        ..0 => Err(std::io::Error::last_os_error()).context("double this process"),
        0 => Ok(None),
        number => Ok(Some(Pid::from_raw(number).context("a process has a number")?)),
    }
}

/// Whether it ended as it should.
fn ended_well(double: Pid) -> Result<bool> {
    let ended = waitpid(Some(double), WaitOptions::empty()).context("wait for a double")?;
    Ok(ended.is_some_and(|(_, status)| status.exit_status() == Some(0)))
}

const PANICKED: &str = "the simulation cannot go on: something panicked, see above";
const DIED: &str = "the simulation cannot go on: its process died";

/// Tells a story from its first moment on, in a double: what one leaves behind must not be found by the next.
fn whole(stage: &Stage, seed: u64) -> Result<Told> {
    let (from_double, to_parent) = pipe()?;
    let Some(double) = double(stage)? else {
        drop(from_double);
        let told = match catch_unwind(AssertUnwindSafe(|| run(stage, seed))) {
            Ok(Ok(outcome)) => Told::of(seed, &outcome),
            Ok(Err(error)) => Told::broken_off(seed, &format!("the simulation cannot go on: {error:#}")),
            Err(_) => Told::broken_off(seed, PANICKED),
        };
        end_double(&told, to_parent);
    };
    drop(to_parent);
    let told = read_told(&mut BufReader::new(from_double))?;
    ended_well(double)?;
    Ok(told.unwrap_or_else(|| Told::broken_off(seed, DIED)))
}

/// Says it and ends, without the ends of whatever belongs to the process that was doubled.
fn end_double(told: &Told, to: PipeWriter) -> ! {
    let said = told.say(to);
    std::process::exit(i32::from(said.is_err()))
}

fn read_told(from: &mut impl BufRead) -> Result<Option<Told>> {
    let mut line = String::new();
    let length = from.read_line(&mut line).context("hear what was told")?;
    Ok(if length == 0 { None } else { Some(serde_json::from_str(&line)?) })
}

/// A process that has told a beginning, as the one that asks it sees it.
struct Narrator {
    process: Pid,
    seeds: PipeWriter,
    told: BufReader<PipeReader>,
}

impl Narrator {
    /// `None`: this is the narrator, and nobody asks it any more.
    fn begin(stage: &Stage, beginning: Beginning, others: &mut BTreeMap<Beginning, Self>) -> Result<Option<Self>> {
        let (inbox, seeds) = pipe()?;
        let (told, answers) = pipe()?;
        match double(stage)? {
            Some(process) => Ok(Some(Self { process, seeds, told: BufReader::new(told) })),
            None => {
                drop((seeds, told));
                // As long as anybody could ask them, they wait.
                others.clear();
                narrate_from(stage, beginning, BufReader::new(inbox), &answers)?;
                Ok(None)
            }
        }
    }

    fn ask(&mut self, seed: u64) -> Result<Told> {
        writeln!(self.seeds, "{seed}").context("ask a narrator")?;
        read_told(&mut self.told)?.context("a narrator has ended before its time")
    }

    fn end(self) -> Result<()> {
        drop(self.seeds);
        if ended_well(self.process)? { Ok(()) } else { bail!("a narrator has not ended well") }
    }
}

fn narrate_from(stage: &Stage, beginning: Beginning, seeds: impl BufRead, told: &PipeWriter) -> Result<()> {
    let name = format!("{beginning:?}");
    in_virtual_time(async {
        let mut begun = Begun::tell(stage, beginning, &name).await?;
        let kept = begun.directory().with_extension("kept");
        copy(begun.directory(), &kept)?;
        for line in seeds.lines() {
            let seed = seed_of(&line?)?;
            let Some(double) = double(stage)? else {
                let outcome = AssertUnwindSafe(begun.go_on(seed)).catch_unwind().await;
                let told_of = outcome.map_or_else(|_| Told::broken_off(seed, PANICKED), |o| Told::of(seed, &o));
                end_double(&told_of, told.try_clone()?);
            };
            if !ended_well(double)? {
                Told::broken_off(seed, DIED).say(told)?;
            }
            copy(&kept, begun.directory())?;
        }
        Ok(())
    })
}
