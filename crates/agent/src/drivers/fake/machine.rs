//! What the fake driver runs on: the state that outlives it, and what time does to it.

use super::super::{DriverError, StartRequest};
use crate::clock::now_ms;
use api::desired::RevisionDesired;
use api::ids::{InstanceId, RevisionId, ServiceId};
use api::logs::{LogLine, LogSource, LogStream};
use api::observed::{ExitStatus, InstanceObserved, InstanceState, PreparationObserved, PreparationState};
use api::services::{HealthCheck, RunSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const FIRST_PORT: u16 = 20_000;
/// What an instance that runs uses.
const MEMORY_BYTES: u64 = 64 * 1024 * 1024;
/// Lines kept per log, so that rotation happens in tests too.
const LOG_LINES_LIMIT: usize = 200;

/// Calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    List,
    Prepare,
    Start,
    Stop,
    Remove,
}

/// What lives on when the driver object does not.
#[derive(Clone, Default)]
pub struct FakeMachine {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    pub(super) builds: BTreeSet<String>,
    pub(super) preparations: BTreeMap<RevisionId, (String, PreparationObserved)>,
    pub(super) logs: BTreeMap<LogSource, Log>,
    pub(super) failures: BTreeMap<Verb, Vec<String>>,
    pub(super) started: u32,
}

pub(super) struct Instance {
    pub(super) request: StartRequest,
    pub(super) port: Option<u16>,
    pub(super) run: Run,
    pub(super) started_at_ms: i64,
    pub(super) restarts: u32,
    pub(super) ends: u32,
    pub(super) last_exit: Option<ExitStatus>,
    pub(super) pid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Run {
    Running,
    /// It ended; the supervisor starts it again then.
    Waiting(Instant),
    /// It was asked to stop and is gone then.
    Stopping(Instant),
    Exited,
    /// The supervisor itself is gone.
    Lost,
}

#[derive(Default)]
pub(super) struct Log {
    pub(super) service_id: Option<ServiceId>,
    pub(super) first: u64,
    pub(super) lines: Vec<LogLine>,
}

impl FakeMachine {
    /// The next call of `verb` fails with this message.
    pub fn fail_next(&self, verb: Verb, message: &str) {
        self.state().failures.entry(verb).or_default().push(message.into());
    }

    /// As `kill -9` of the supervisor: the instance is down and nobody starts it again.
    pub fn kill_supervisor(&self, instance: &InstanceId) {
        if let Some(instance) = self.state().instances.get_mut(instance) {
            instance.run = Run::Lost;
        }
    }

    /// The process prints a line.
    pub fn print(&self, instance: &InstanceId, text: &str) {
        let mut state = self.state();
        let Some(service) = state.instances.get(instance).map(|i| i.request.service_id.clone()) else { return };
        state.log(LogSource::Run { instance_id: instance.clone() }, service, LogStream::Stdout, text);
    }

    /// The machine was switched off and on: no process is left, nobody starts any again, and what was
    /// being built is not finished.
    pub fn reboot(&self) {
        let mut state = self.state();
        for instance in state.instances.values_mut() {
            instance.run = Run::Lost;
        }
        state.preparations.retain(|_, (_, seen)| seen.state != PreparationState::Working);
    }

    /// Every instance, as a look at the machine itself would show it now.
    pub fn instances(&self) -> Vec<InstanceObserved> {
        let mut state = self.state();
        state.advance();
        state.instances.values().map(Instance::observe).collect()
    }

    /// The words that an instance was started with: to run, and to check its health by.
    pub fn commands(&self, instance: &InstanceId) -> Option<(String, Option<String>)> {
        let state = self.state();
        let revision = &state.instances.get(instance)?.request.revision;
        let check = match &revision.health.check {
            HealthCheck::Command { command } => Some(command.clone()),
            _ => None,
        };
        Some((word(revision).to_owned(), check))
    }

    /// All lines of a log that are still kept.
    pub fn log_lines(&self, source: &LogSource) -> Vec<String> {
        let state = self.state();
        let log = state.logs.get(source);
        log.map(|log| log.lines.iter().map(|line| line.text.clone()).collect()).unwrap_or_default()
    }

    /// How often anything was started, restarts by the supervisor not counted.
    pub fn starts(&self) -> u32 {
        self.state().started
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn failure(&mut self, verb: Verb) -> Option<String> {
        let queue = self.failures.get_mut(&verb)?;
        (!queue.is_empty()).then(|| queue.remove(0))
    }

    pub(super) fn check(&mut self, verb: Verb) -> Result<(), DriverError> {
        self.failure(verb).map_or(Ok(()), |message| Err(DriverError::temporary(message)))
    }

    pub(super) fn log(&mut self, source: LogSource, service: ServiceId, stream: LogStream, text: &str) {
        let log = self.logs.entry(source).or_default();
        log.service_id = Some(service);
        log.lines.push(LogLine { at_ms: now_ms(), stream, text: text.into() });
        while log.lines.len() > LOG_LINES_LIMIT {
            let gone = log.lines.remove(0);
            log.first += width(&gone);
        }
    }

    /// Let time do what supervisors would have done by now.
    pub(super) fn advance(&mut self) {
        let now = Instant::now();
        for instance in self.instances.values_mut() {
            match instance.run {
                Run::Running if instance.ends_at_once() => instance.end(now),
                Run::Waiting(at) if now >= at => {
                    instance.restarts += 1;
                    instance.started_at_ms = now_ms();
                    instance.end(now);
                }
                Run::Stopping(at) if now >= at => {
                    instance.run = Run::Exited;
                    instance.last_exit = Some(exit(None, Some(15)));
                }
                _ => {}
            }
        }
    }

    pub(super) fn free_port(&self) -> u16 {
        let taken: BTreeSet<u16> = self.instances.values().filter_map(|instance| instance.port).collect();
        (FIRST_PORT..).find(|port| !taken.contains(port)).unwrap_or(FIRST_PORT)
    }
}

fn exit(code: Option<i32>, signal: Option<i32>) -> ExitStatus {
    ExitStatus { code, signal, out_of_memory: false, at_ms: now_ms() }
}

/// Bytes that a line takes in the fake's log.
pub(super) fn width(line: &LogLine) -> u64 {
    line.text.len() as u64 + 1
}

pub(super) fn word(revision: &RevisionDesired) -> &str {
    match &revision.run {
        RunSpec::Command { command } => command,
        RunSpec::Static { .. } | RunSpec::Container(_) => "serve",
    }
}

impl Instance {
    fn ends_at_once(&self) -> bool {
        word(&self.request.revision) == "exit"
    }

    pub(super) fn end(&mut self, now: Instant) {
        let restart = &self.request.revision.restart;
        self.ends += 1;
        self.last_exit = Some(exit(Some(1), None));
        let wait = if self.crash_looping() {
            restart.backoff_limit_ms
        } else {
            restart.backoff_ms.saturating_mul(1 << (self.ends - 1).min(32)).min(restart.backoff_limit_ms)
        };
        self.run = Run::Waiting(now + Duration::from_millis(wait));
    }

    /// A twentieth of a core since it was started.
    fn cpu_ms(&self) -> u64 {
        u64::try_from(now_ms() - self.started_at_ms).unwrap_or(0) / 20
    }

    pub(super) fn crash_looping(&self) -> bool {
        self.ends >= self.request.revision.restart.crash_loop_after.max(1)
    }

    pub(super) fn observe(&self) -> InstanceObserved {
        let state = match self.run {
            Run::Running => InstanceState::Running,
            Run::Waiting(_) | Run::Stopping(_) => InstanceState::Transient,
            Run::Exited | Run::Lost => InstanceState::Exited,
        };
        let problem = match self.run {
            Run::Waiting(_) => self.last_exit.as_ref().map(ExitStatus::describe),
            Run::Lost => Some("its supervisor was killed".into()),
            _ => None,
        };
        InstanceObserved {
            instance_id: self.request.instance.instance_id.clone(),
            service_id: self.request.service_id.clone(),
            revision_id: self.request.revision.revision_id.clone(),
            state,
            stopping: matches!(self.run, Run::Stopping(_)),
            pid: (state == InstanceState::Running).then_some(self.pid),
            port: self.port,
            address: None,
            started_at_ms: Some(self.started_at_ms),
            restarts: self.restarts,
            crash_looping: matches!(self.run, Run::Waiting(_)) && self.crash_looping(),
            last_exit: self.last_exit.clone(),
            last_probe: None,
            problem,
            log_tail: Vec::new(),
            memory_bytes: (state == InstanceState::Running).then_some(MEMORY_BYTES),
            cpu_ms: (state == InstanceState::Running).then(|| self.cpu_ms()),
        }
    }
}
