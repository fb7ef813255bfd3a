//! What a run of the fleet found out.

use api::deployments::Deployment;
use api::ids::{DeploymentId, ServiceId};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Errors that are kept word for word; the rest is counted.
const ERRORS_KEPT: usize = 20;

#[derive(Debug, Default)]
pub struct Measure {
    measuring: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    created: BTreeMap<DeploymentId, Created>,
    received: BTreeMap<DeploymentId, Instant>,
    reports: Vec<Duration>,
    errors: Vec<String>,
    errors_count: u64,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Created {
    service: ServiceId,
    /// When the API had answered.
    answered: Instant,
    /// How long that had taken.
    took: Duration,
}

/// The control plane at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub memory_bytes: u64,
    /// Processor time since its start.
    pub cpu: Duration,
    pub database_bytes: u64,
    /// While services were being changed.
    pub measuring: bool,
    /// Of the whole machine, one minute.
    pub machine_load: f64,
}

/// A distribution of durations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Times {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct FleetReport {
    pub agents: usize,
    pub lasted: Duration,
    /// From the API's answer to the document in the machine's hands.
    pub delivery: Times,
    /// From the command to the document in the machine's hands: the API's answer and the delivery.
    pub whole: Times,
    /// Deployments whose document never came, nor a later one of the same service, which supersedes it.
    pub undelivered: usize,
    /// How long the API took to answer a change.
    pub change: Times,
    pub report: Times,
    pub errors_count: u64,
    /// The first of them.
    pub errors: Vec<String>,
    /// Deployments that did not come to a good end, in words.
    pub unfinished: Vec<String>,
    pub samples: Vec<Sample>,
}

impl Measure {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self) {
        self.found().reports.clear();
        self.measuring.store(true, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.measuring.store(false, Ordering::Relaxed);
    }

    /// The API has just answered a request that was begun at `asked`.
    pub fn deployment_created(&self, deployment: &Deployment, asked: Instant) {
        let answered = Instant::now();
        let created = Created { service: deployment.service_id.clone(), answered, took: answered - asked };
        self.found().created.insert(deployment.id.clone(), created);
    }

    pub fn deployment_received(&self, id: &DeploymentId, at: Instant) {
        self.found().received.entry(id.clone()).or_insert(at);
    }

    pub fn report_took(&self, took: Duration) {
        self.found().reports.push(took);
    }

    pub fn error(&self, what: &str, error: String) {
        let mut found = self.found();
        found.errors_count += 1;
        if found.errors.len() < ERRORS_KEPT {
            found.errors.push(format!("{what}: {error}"));
        }
    }

    pub fn report(&self, agents: usize, lasted: Duration, unfinished: Vec<String>) -> FleetReport {
        let found = self.found();
        let (mut delivery, mut whole) = (Vec::new(), Vec::new());
        let mut undelivered = 0;
        let overtaken = |service: &ServiceId, answered: Instant| {
            let later = |(id, other): (&DeploymentId, &Created)| {
                &other.service == service && other.answered > answered && found.received.contains_key(id)
            };
            found.created.iter().any(later)
        };
        for (id, Created { service, answered, took }) in &found.created {
            match found.received.get(id) {
                // The document may be there before the answer is.
                Some(received) => {
                    delivery.push(received.saturating_duration_since(*answered));
                    whole.push(received.saturating_duration_since(*answered - *took));
                }
                None if overtaken(service, *answered) => {}
                None => undelivered += 1,
            }
        }
        FleetReport {
            agents,
            lasted,
            delivery: Times::of(delivery),
            whole: Times::of(whole),
            undelivered,
            change: Times::of(found.created.values().map(|created| created.took).collect()),
            report: Times::of(found.reports.clone()),
            errors_count: found.errors_count,
            errors: found.errors.clone(),
            unfinished,
            samples: found.samples.clone(),
        }
    }
}

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |share: f64| all.get(((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1)));
        let at = |share: f64| at(share).copied().unwrap_or_default();
        Self { count: all.len(), p50: at(0.50), p99: at(0.99), max: at(1.0) }
    }
}

impl FleetReport {
    fn memory(&self) -> Vec<u64> {
        self.samples.iter().filter(|sample| sample.measuring).map(|sample| sample.memory_bytes).collect()
    }

    pub fn memory_by_minute(&self) -> impl Iterator<Item = u64> {
        self.memory().chunks(60).map(median).collect::<Vec<u64>>().into_iter()
    }

    /// Median memory of the second minute (or the second fifth of a shorter run) and of the last.
    pub fn memory_early_and_late(&self) -> (u64, u64) {
        let during = self.memory();
        let part = (during.len() / 5).clamp(1, 60);
        let early = during.get(part..(2 * part).min(during.len())).unwrap_or_default();
        (median(early), median(&during[during.len().saturating_sub(part)..]))
    }

    /// Processor time per second of the run: 1.0 is one core.
    pub fn cores(&self) -> f64 {
        let during: Vec<&Sample> = self.samples.iter().filter(|s| s.measuring).collect();
        match (during.first(), during.last()) {
            (Some(first), Some(last)) if during.len() > 1 => {
                (last.cpu - first.cpu).as_secs_f64() / (during.len() - 1) as f64
            }
            _ => 0.0,
        }
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let Self { count, p50, p99, max } = self;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({count} of them)", ms(*p50), ms(*p99), ms(*max))
    }
}

impl fmt::Display for FleetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (early, late) = self.memory_early_and_late();
        let load = self.samples.iter().map(|s| s.machine_load).fold(0.0, f64::max);
        writeln!(f, "{} machines, changes for {:.0} s", self.agents, self.lasted.as_secs_f64())?;
        writeln!(f, "  delivery of a change  {}", self.delivery)?;
        writeln!(f, "  answer to a change    {}", self.change)?;
        writeln!(f, "  both together         {}", self.whole)?;
        writeln!(f, "  report of a machine   {}", self.report)?;
        writeln!(f, "  memory                {:.1} MB early, {:.1} MB at the end", mb(early), mb(late))?;
        let minutes: Vec<String> = self.memory_by_minute().map(|bytes| format!("{:.1}", mb(bytes))).collect();
        writeln!(f, "    median of a minute  {} MB", minutes.join(", "))?;
        writeln!(f, "  processor             {:.2} cores", self.cores())?;
        writeln!(f, "  database              {:.1} MB", mb(self.samples.last().map_or(0, |s| s.database_bytes)))?;
        writeln!(f, "  load of this machine  up to {load:.1}")?;
        writeln!(f, "  undelivered           {}", self.undelivered)?;
        writeln!(f, "  not well ended        {}", self.unfinished.len())?;
        self.unfinished.iter().take(10).try_for_each(|line| writeln!(f, "    {line}"))?;
        writeln!(f, "  errors                {}", self.errors_count)?;
        self.errors.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// Looks at the control plane once a second until it is told to stop.
pub fn watch(pid: u32, database: PathBuf, measure: Arc<Measure>, talkative: bool) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut due = tokio::time::interval(Duration::from_secs(1));
        for second in 0u64.. {
            due.tick().await;
            let Some(sample) = look(pid, &database, measure.measuring.load(Ordering::Relaxed)) else { return };
            measure.found().samples.push(sample);
            if talkative && second > 0 && second.is_multiple_of(30) {
                println!("{}", measure.report(0, Duration::from_secs(second), vec![]));
            }
        }
    })
}

/// `None` when the process is gone.
fn look(pid: u32, database: &Path, measuring: bool) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything; user and system time are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let sizes = ["mainstay.db", "mainstay.db-wal"].map(|name| database.join(name).metadata().map_or(0, |m| m.len()));
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    Some(Sample {
        memory_bytes: kilobytes * 1024,
        // A tick of /proc is a hundredth of a second on every Linux that there is a Mainstay for.
        cpu: Duration::from_millis(ticks * 10),
        database_bytes: sizes.iter().sum(),
        measuring,
        machine_load: load.split(' ').next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_leaves_one_in_a_hundred_above_it() {
        let times = Times::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((times.p50, times.p99), (Duration::from_millis(101), Duration::from_millis(199)));
        assert_eq!((times.count, times.max), (200, Duration::from_millis(200)));
        assert_eq!(Times::of(vec![]), Times::default());
    }
}
