//! Whether an instance is well: asked over its own local port, the same way for every driver.
//!
//! One task per running process asks again and again. While the process is starting it asks often
//! (after 50 ms, then up to every 250 ms), because a deployment waits for the first good answer; once
//! it is well, at its interval, a little spread so that checks of many services do not fall together.
//! A process that ends takes its task with it, and its successor begins as unknown.
//!
//! An answer that is bad says why in words that lead to the mend. Above all: when nothing listens on
//! the port, it is looked up where the process really listens.
//!
//! ```text
//!   driver.list() ──▶ sync ──▶ one prober per running process ──▶ verdicts ──▶ merge ──▶ report, plan
//! ```
//!
//! Deliberately absent: what follows. Whether a bad answer stops a rollout is decided in `plan`.

mod diagnose;
mod probe;

use crate::drivers::Workloads;
use api::UnixMillis;
use api::ids::InstanceId;
use api::observed::{InstanceObserved, InstanceState, ProbeResult};
use api::services::{HealthCheck, HealthSpec};
use probe::{Outcome, Target};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Asks after the health of everything it is told of with [`sync`](Self::sync).
pub struct Health<W> {
    driver: Arc<W>,
    entries: Mutex<BTreeMap<InstanceId, Entry>>,
    synced_at: Mutex<Option<Instant>>,
    changes: watch::Sender<u64>,
}

struct Entry {
    /// What is being probed now; `None` while the process is down.
    prober: Option<(Subject, Age, AbortHandle)>,
    judge: Arc<Mutex<Judge>>,
}

/// How long a process runs. The time of its start says so when it is first seen, and the former look at the
/// machine says how long at most; from then on it is counted. So a clock that is set does not make it a
/// newborn, or old, in the middle of its life.
#[derive(Debug, Clone, Copy)]
struct Age {
    before: Duration,
    seen: Instant,
}

impl Age {
    fn since(started_at_ms: Option<UnixMillis>, at_most: Duration) -> Self {
        let before_ms = started_at_ms.map_or(0, |at| u64::try_from(now_ms() - at).unwrap_or(0));
        Self { before: Duration::from_millis(before_ms).min(at_most), seen: Instant::now() }
    }

    fn now(&self) -> Duration {
        self.before + self.seen.elapsed()
    }
}

/// A prober belongs to one run of one process with one spec.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    pid: Option<u32>,
    started_at_ms: Option<UnixMillis>,
    socket: Option<SocketAddr>,
    spec: HealthSpec,
}

impl Subject {
    fn is_process(&self, pid: Option<u32>, started_at_ms: Option<UnixMillis>) -> bool {
        self.pid == pid && self.started_at_ms == started_at_ms
    }
}

impl<W: Workloads> Health<W> {
    pub fn new(driver: Arc<W>) -> Self {
        Self { driver, entries: Mutex::default(), synced_at: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// A number that changes whenever [`merge`](Self::merge) may say something else.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Probe exactly these: instances as the driver lists them, and how each is to be checked.
    /// Instances without a spec (nobody wants them any more) are left alone. Call it after each look.
    pub fn sync(&self, instances: &[InstanceObserved], specs: &BTreeMap<InstanceId, HealthSpec>) {
        let before = self.synced_at.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        // What did not run at the look before has begun since.
        let at_most = before.map_or(Duration::MAX, |before| before.elapsed());
        let mut entries = self.entries();
        entries.retain(|id, entry| {
            let stays = specs.contains_key(id) && instances.iter().any(|instance| &instance.instance_id == id);
            if !stays {
                entry.stop();
            }
            stays
        });
        for instance in instances {
            let Some(spec) = specs.get(&instance.instance_id) else { continue };
            let subject = Subject {
                pid: instance.pid,
                started_at_ms: instance.started_at_ms,
                socket: instance.socket(),
                spec: spec.clone(),
            };
            let running = instance.state == InstanceState::Running;
            let entry = entries.entry(instance.instance_id.clone()).or_insert_with(Entry::new);
            if running && entry.prober.as_ref().is_none_or(|(now, ..)| now != &subject) {
                let age = entry.age_of(&subject).unwrap_or_else(|| Age::since(subject.started_at_ms, at_most));
                entry.stop();
                let handle = self.spawn(&instance.instance_id, &subject, age, entry.judge.clone());
                entry.prober = Some((subject, age, handle));
            } else if !running {
                entry.stop();
            }
        }
    }

    /// Turn `running` into healthy or unhealthy where that is known, and add the last answer.
    pub fn merge(&self, instances: &mut [InstanceObserved]) {
        let entries = self.entries();
        for instance in instances {
            let Some(entry) = entries.get(&instance.instance_id) else { continue };
            let judge = entry.judge.lock().unwrap_or_else(PoisonError::into_inner);
            instance.last_probe = judge.last.clone();
            let current = entry
                .prober
                .as_ref()
                .is_some_and(|(subject, ..)| subject.is_process(instance.pid, instance.started_at_ms));
            if instance.state != InstanceState::Running || !current {
                continue;
            }
            match judge.verdict {
                Verdict::Unknown => {}
                Verdict::Healthy => instance.state = InstanceState::Healthy,
                Verdict::Unhealthy => instance.state = InstanceState::Unhealthy,
            }
            if let Some(bad) = judge.last.as_ref().filter(|last| !last.ok)
                && instance.problem.is_none()
            {
                instance.problem = Some(bad.message.clone());
            }
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, instance: &InstanceId, subject: &Subject, age: Age, judge: Arc<Mutex<Judge>>) -> AbortHandle {
        judge.lock().unwrap_or_else(PoisonError::into_inner).reset();
        let target = Target { instance_id: instance.clone(), socket: subject.socket, age };
        let prober = probe::Prober::new(self.driver.clone(), target, subject.spec.clone());
        let spec = subject.spec.clone();
        let changes = self.changes.clone();
        tokio::spawn(ambient::inherit(ask_forever(prober, spec, age, judge, changes))).abort_handle()
    }
}

impl<W> Drop for Health<W> {
    fn drop(&mut self) {
        for entry in self.entries.get_mut().unwrap_or_else(PoisonError::into_inner).values_mut() {
            entry.stop();
        }
    }
}

impl Entry {
    fn new() -> Self {
        Self { prober: None, judge: Arc::default() }
    }

    /// If it is this process that is probed, with whatever spec.
    fn age_of(&self, subject: &Subject) -> Option<Age> {
        let probed = self.prober.as_ref().filter(|(now, ..)| now.is_process(subject.pid, subject.started_at_ms));
        probed.map(|(_, age, _)| *age)
    }

    /// The last answer stays: it is what a failed deployment shows.
    fn stop(&mut self) {
        if let Some((.., handle)) = self.prober.take() {
            handle.abort();
        }
    }
}

async fn ask_forever<W: Workloads>(
    mut prober: probe::Prober<W>,
    spec: HealthSpec,
    age: Age,
    judge: Arc<Mutex<Judge>>,
    changes: watch::Sender<u64>,
) {
    let mut asked = 0;
    loop {
        let asked_at = age.now();
        let Outcome { result, pause } = prober.ask().await;
        let (changed, settled) = {
            let mut judge = judge.lock().unwrap_or_else(PoisonError::into_inner);
            (judge.hear(&spec, asked_at, result), judge.verdict != Verdict::Unknown)
        };
        if changed {
            changes.send_modify(|number| *number = number.wrapping_add(1));
        }
        asked += 1;
        let wait = pause.unwrap_or_else(|| if settled { usual_pause(&spec) } else { starting_pause(&spec, asked) });
        tokio::time::sleep(wait).await;
    }
}

/// At the interval, up to a tenth sooner or later.
fn usual_pause(spec: &HealthSpec) -> Duration {
    let spread = 0.9 + 0.2 * ambient::random_fraction();
    Duration::from_millis(spec.interval_ms.max(50)).mul_f64(spread)
}

/// Half as long again each time, from 5 ms to 250 ms: somebody waits for the new release, and most begin to answer
/// within some tens of milliseconds. A command is run after 250 ms at first and 1.25 s after a while.
fn starting_pause(spec: &HealthSpec, asked: u32) -> Duration {
    let step = if matches!(spec.check, HealthCheck::Command { .. } | HealthCheck::Image) {
        Duration::from_millis(250) + Duration::from_millis(50) * asked.min(20)
    } else {
        Duration::from_millis(5).mul_f64(1.5_f64.powi(asked.min(10).cast_signed())).min(Duration::from_millis(250))
    };
    step.min(Duration::from_millis(spec.interval_ms.max(50)))
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Verdict {
    #[default]
    Unknown,
    Healthy,
    Unhealthy,
}

/// Makes a verdict of answers. Pure.
#[derive(Debug, Default)]
struct Judge {
    verdict: Verdict,
    good_in_a_row: u32,
    bad_in_a_row: u32,
    last: Option<ProbeResult>,
}

impl Judge {
    /// A new process: what is known of the old one does not count.
    fn reset(&mut self) {
        *self = Self { last: self.last.take(), ..Self::default() };
    }

    /// Answers whether anything that a person would see changed.
    fn hear(&mut self, spec: &HealthSpec, age: Duration, result: ProbeResult) -> bool {
        let before = (self.verdict, self.last.as_ref().map(|last| (last.ok, last.message.clone())));
        // The grace time is for starting: it is over with the first good verdict.
        let in_grace = self.verdict == Verdict::Unknown && age < Duration::from_millis(spec.start_grace_ms);
        if result.ok {
            self.bad_in_a_row = 0;
            self.good_in_a_row = self.good_in_a_row.saturating_add(1);
            if self.good_in_a_row >= spec.healthy_after.max(1) {
                self.verdict = Verdict::Healthy;
            }
        } else {
            self.good_in_a_row = 0;
            if !in_grace {
                self.bad_in_a_row = self.bad_in_a_row.saturating_add(1);
                if self.bad_in_a_row >= spec.unhealthy_after.max(1) {
                    self.verdict = Verdict::Unhealthy;
                }
            }
        }
        let after = (result.ok, result.message.clone());
        self.last = Some(result);
        before != (self.verdict, Some(after))
    }
}

pub(crate) fn now_ms() -> UnixMillis {
    crate::clock::now_ms()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> HealthSpec {
        HealthSpec {
            check: HealthCheck::Tcp,
            interval_ms: 1000,
            timeout_ms: 100,
            healthy_after: 2,
            unhealthy_after: 3,
            start_grace_ms: 10_000,
        }
    }

    fn answers(judge: &mut Judge, text: &str, age_ms: u64) -> Verdict {
        for ok in text.chars() {
            let message = String::new();
            let result = ProbeResult { ok: ok == '+', at_ms: 0, duration_ms: 1, message };
            judge.hear(&spec(), Duration::from_millis(age_ms), result);
        }
        judge.verdict
    }

    #[test]
    fn a_process_that_was_not_there_at_the_former_look_is_no_older_than_that_whatever_the_clock_says() {
        let an_hour_ago = Some(now_ms() - 3_600_000);
        assert!(Age::since(an_hour_ago, Duration::MAX).now() >= Duration::from_secs(3_600), "adopted, it is old");
        let begun_since = Age::since(an_hour_ago, Duration::from_secs(2)).now();
        assert!(begun_since < Duration::from_secs(60), "{begun_since:?}");
    }

    #[test]
    fn thresholds_count_answers_in_a_row() {
        let mut judge = Judge::default();
        assert_eq!(answers(&mut judge, "+-+", 0), Verdict::Unknown);
        assert_eq!(answers(&mut judge, "+", 0), Verdict::Healthy);
        assert_eq!(answers(&mut judge, "--+--", 0), Verdict::Healthy);
        assert_eq!(answers(&mut judge, "-", 0), Verdict::Unhealthy);
        assert_eq!(answers(&mut judge, "+", 0), Verdict::Unhealthy);
        assert_eq!(answers(&mut judge, "+", 0), Verdict::Healthy);
    }

    #[test]
    fn bad_answers_in_the_grace_time_do_not_count_until_the_first_good_verdict() {
        let mut judge = Judge::default();
        assert_eq!(answers(&mut judge, "------", 9_999), Verdict::Unknown);
        assert_eq!(answers(&mut judge, "--", 10_000), Verdict::Unknown);
        assert_eq!(answers(&mut judge, "-", 10_000), Verdict::Unhealthy);
        let mut judge = Judge::default();
        assert_eq!(answers(&mut judge, "++---", 500), Verdict::Unhealthy, "well once, then broken");
    }

    #[test]
    fn only_what_a_person_would_see_counts_as_a_change() {
        let mut judge = Judge::default();
        let result = |at_ms| ProbeResult { ok: true, at_ms, duration_ms: 1, message: "fine".into() };
        assert!(judge.hear(&spec(), Duration::ZERO, result(1)));
        assert!(judge.hear(&spec(), Duration::ZERO, result(2)), "healthy now");
        assert!(!judge.hear(&spec(), Duration::ZERO, result(3)));
    }
}
