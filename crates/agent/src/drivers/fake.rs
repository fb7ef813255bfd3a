//! A driver without a machine: everything in memory, and what goes wrong is written in the request.
//!
//! It passes the same conformance suite as the real ones, so what the loop learns from it is true of
//! them too. Tests of the loop use it to have a hundred instances in a millisecond and a failure on
//! demand. Like a machine, the state ([`FakeMachine`]) outlives the driver object: dropping a
//! [`FakeDriver`] and making another on the same machine is a restart of the agent.
//!
//! Commands are words, not shell:
//!
//! | build command | | run command | |
//! |---|---|---|---|
//! | `fail` | exits with 1 | `serve` | runs until it is stopped |
//! | `hang` | runs until it times out | `exit` | ends at once, again and again |
//! | anything else | succeeds | `stubborn` | runs, and ends only when its grace is over |
//!
//! [`FakeMachine::fail_next`] makes the next call of a verb fail.

mod gateway;
mod machine;

pub use gateway::FakeGateway;
pub use machine::{FakeMachine, Verb};

use super::{
    CheckOutcome, DriverError, Keep, LogState, PrepareError, PrepareRequest, StartRequest, StartedInstance, Workloads,
    WorkloadsFacts,
};
use crate::clock::now_ms;
use api::ids::{InstanceId, RevisionId};
use api::logs::{LogBatch, LogSource, LogStream};
use api::observed::{InstanceObserved, PreparationObserved, PreparationState, PreparationStep};
use api::services::PortSpec;
use machine::{Instance, Run, State, width, word};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub struct FakeDriver {
    machine: FakeMachine,
    changes: watch::Sender<u64>,
    /// One preparation per revision at a time.
    turns: Mutex<BTreeMap<RevisionId, Arc<tokio::sync::Mutex<()>>>>,
}

impl FakeDriver {
    /// A preparation that was in work when the driver before was dropped ended with it, unfinished.
    pub fn new(machine: FakeMachine) -> Self {
        machine.state().preparations.retain(|_, (_, seen)| seen.state != PreparationState::Working);
        Self { machine, changes: watch::Sender::new(0), turns: Mutex::default() }
    }

    pub fn machine(&self) -> &FakeMachine {
        &self.machine
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.machine.state()
    }

    fn changed(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    fn record(&self, request: &PrepareRequest, state: PreparationState, error: Option<&PrepareError>) {
        let revision = &request.revision;
        let mut machine = self.state();
        let attempts = machine.preparations.get(&revision.revision_id).map_or(0, |(_, seen)| seen.attempts);
        let observed = PreparationObserved {
            service_id: request.service_id.clone(),
            revision_id: revision.revision_id.clone(),
            deployment_id: revision.deployment_id.clone(),
            state,
            step: error.map_or(PreparationStep::Build, |error| error.step),
            started_at_ms: Some(now_ms()),
            ended_at_ms: (state != PreparationState::Working).then(now_ms),
            error: error.map(|error| error.message.clone()),
            retryable: error.is_some_and(|error| error.retryable),
            attempts: attempts + u32::from(state == PreparationState::Working),
            log_tail: error.map(|error| error.log_tail.clone()).unwrap_or_default(),
        };
        machine.preparations.insert(revision.revision_id.clone(), (revision.build_key.clone(), observed));
        drop(machine);
        self.changed();
    }

    /// What the word in the build command asks for.
    async fn build(&self, request: &PrepareRequest, cancel: &CancellationToken) -> Result<(), PrepareError> {
        let revision = &request.revision;
        let failed = |message: String, retryable| PrepareError {
            step: PreparationStep::Build,
            message,
            retryable,
            cancelled: false,
            log_tail: vec!["building".into()],
        };
        let source = LogSource::Build { deployment_id: revision.deployment_id.clone() };
        self.state().log(source, request.service_id.clone(), LogStream::Mainstay, "building");
        if let Some(message) = self.state().failure(Verb::Prepare) {
            return Err(PrepareError { step: PreparationStep::Sync, ..failed(message, true) });
        }
        let Some(build) = &revision.build else { return Ok(()) };
        match build.command.as_str() {
            "fail" => Err(failed("the build command `fail` exited with code 1".into(), false)),
            "hang" => {
                let timeout = Duration::from_millis(build.timeout_ms);
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(timeout) => Err(failed(format!("build timed out after {timeout:?}"), false)),
                    () = cancel.cancelled() => Err(PrepareError { cancelled: true, ..failed("cancelled".into(), true) }),
                }
            }
            _ => Ok(()),
        }
    }
}

impl Workloads for FakeDriver {
    fn kind(&self) -> &'static str {
        "fake"
    }

    async fn probe(&self) -> WorkloadsFacts {
        WorkloadsFacts {
            cgroups: "none".into(),
            limitations: vec!["Nothing here is real.".into()],
            ..WorkloadsFacts::default()
        }
    }

    async fn list(&self) -> Result<Vec<InstanceObserved>, DriverError> {
        let mut state = self.state();
        state.check(Verb::List)?;
        state.advance();
        Ok(state.instances.values().map(Instance::observe).collect())
    }

    async fn preparations(&self) -> Vec<PreparationObserved> {
        self.state().preparations.values().map(|(_, observed)| observed.clone()).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn prepare(&self, request: PrepareRequest, cancel: CancellationToken) -> Result<(), PrepareError> {
        let revision = request.revision.revision_id.clone();
        let turn =
            self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(revision.clone()).or_default().clone();
        let _turn = turn.lock().await;
        self.record(&request, PreparationState::Working, None);
        if self.state().builds.contains(&request.revision.build_key) {
            self.record(&request, PreparationState::Ready, None);
            return Ok(());
        }
        match self.build(&request, &cancel).await {
            Ok(()) => {
                self.state().builds.insert(request.revision.build_key.clone());
                self.record(&request, PreparationState::Ready, None);
                Ok(())
            }
            Err(error) if error.cancelled => {
                self.state().preparations.remove(&revision);
                self.changed();
                Err(error)
            }
            Err(error) => {
                self.record(&request, PreparationState::Failed, Some(&error));
                Err(error)
            }
        }
    }

    async fn start(&self, request: StartRequest) -> Result<StartedInstance, DriverError> {
        let mut state = self.state();
        state.check(Verb::Start)?;
        if !state.builds.contains(&request.revision.build_key) {
            return Err(DriverError::NotPrepared(request.revision.revision_id));
        }
        let id = request.instance.instance_id.clone();
        let before = state.instances.get(&id).map(|instance| (instance.port, instance.run, instance.restarts));
        if let Some((port, run, _)) = before {
            match run {
                Run::Running | Run::Waiting(_) => return Ok(StartedInstance { port, already_running: true }),
                Run::Stopping(_) => return Err(DriverError::temporary("it is still stopping")),
                Run::Exited | Run::Lost => {}
            }
        }
        let port = match request.revision.port {
            PortSpec::None => None,
            PortSpec::Fixed { port } => {
                let other = state
                    .instances
                    .iter()
                    .find(|(other, i)| **other != id && i.port == Some(port) && i.run == Run::Running);
                if let Some((other, _)) = other {
                    return Err(DriverError::PortInUse { port, owner: format!("instance {other}") });
                }
                Some(port)
            }
            PortSpec::Injected => Some(before.and_then(|(port, _, _)| port).unwrap_or_else(|| state.free_port())),
        };
        state.started += 1;
        let pid = state.started;
        let restarts = before.filter(|(_, run, _)| *run == Run::Lost).map_or(0, |(_, _, restarts)| restarts + 1);
        let source = LogSource::Run { instance_id: id.clone() };
        state.log(source, request.service_id.clone(), LogStream::Mainstay, &format!("started with pid {pid}"));
        let started_at_ms = now_ms();
        let instance =
            Instance { request, port, run: Run::Running, started_at_ms, restarts, ends: 0, last_exit: None, pid };
        state.instances.insert(id, instance);
        drop(state);
        self.changed();
        Ok(StartedInstance { port, already_running: false })
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), DriverError> {
        let mut state = self.state();
        state.check(Verb::Stop)?;
        let Some(instance) = state.instances.get_mut(instance) else { return Ok(()) };
        let takes =
            if word(&instance.request.revision) == "stubborn" { grace } else { Duration::from_millis(5).min(grace) };
        instance.run = match instance.run {
            Run::Running | Run::Waiting(_) => Run::Stopping(Instant::now() + takes),
            Run::Stopping(at) => Run::Stopping(at.min(Instant::now() + grace)),
            Run::Exited | Run::Lost => Run::Exited,
        };
        let when = match instance.run {
            Run::Stopping(at) => Some(at),
            _ => None,
        };
        drop(state);
        self.changed();
        if let Some(at) = when {
            let changes = self.changes.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                changes.send_modify(|number| *number = number.wrapping_add(1));
            });
        }
        Ok(())
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), DriverError> {
        let mut state = self.state();
        state.check(Verb::Remove)?;
        state.advance();
        match state.instances.get(instance).map(|instance| instance.run) {
            None => return Ok(()),
            Some(Run::Exited | Run::Lost) => {}
            Some(_) => return Err(DriverError::StillRunning(instance.clone())),
        }
        state.instances.remove(instance);
        state.logs.remove(&LogSource::Run { instance_id: instance.clone() });
        Ok(())
    }

    async fn read_log(
        &self,
        source: &LogSource,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<LogBatch>, DriverError> {
        let state = self.state();
        let Some(log) = state.logs.get(source) else { return Ok(None) };
        let Some(service_id) = log.service_id.clone() else { return Ok(None) };
        let begin = offset.max(log.first);
        let (mut at, mut next, mut lines) = (log.first, begin, Vec::new());
        for line in &log.lines {
            if at >= begin {
                if !lines.is_empty() && next - begin + width(line) > max_bytes as u64 {
                    break;
                }
                lines.push(line.clone());
                next = at + width(line);
            }
            at += width(line);
        }
        let offset = if lines.is_empty() { next.min(at) } else { begin };
        Ok(Some(LogBatch { source: source.clone(), service_id, offset, next_offset: next.min(at), lines }))
    }

    async fn log_tail(&self, source: &LogSource, lines: usize) -> Vec<String> {
        let state = self.state();
        let Some(log) = state.logs.get(source) else { return Vec::new() };
        log.lines[log.lines.len().saturating_sub(lines)..].iter().map(|line| line.text.clone()).collect()
    }

    async fn logs(&self) -> Vec<LogState> {
        let state = self.state();
        let states = state.logs.iter().filter_map(|(source, log)| {
            let end_offset = log.first + log.lines.iter().map(width).sum::<u64>();
            Some(LogState {
                source: source.clone(),
                service_id: log.service_id.clone()?,
                first_offset: log.first,
                end_offset,
            })
        });
        states.collect()
    }

    async fn collect_garbage(&self, keep: &Keep) -> Result<u64, DriverError> {
        let mut state = self.state();
        let used: BTreeSet<String> = state.instances.values().map(|i| i.request.revision.build_key.clone()).collect();
        let before = state.builds.len();
        state.builds.retain(|key| keep.build_keys.contains(key) || used.contains(key));
        let freed = (before - state.builds.len()) as u64;
        let State { builds, preparations, .. } = &mut *state;
        preparations.retain(|revision, (key, _)| keep.revisions.contains(revision) || builds.contains(key));
        Ok(freed)
    }

    async fn check(
        &self,
        instance: &InstanceId,
        command: &str,
        _timeout: Duration,
    ) -> Result<CheckOutcome, DriverError> {
        if !self.state().instances.contains_key(instance) {
            return Err(DriverError::NoSuchInstance(instance.clone()));
        }
        let ok = command != "fail";
        Ok(CheckOutcome { ok, message: format!("`{command}` exited with code {}", i32::from(!ok)) })
    }

    async fn listening(&self, instance: &InstanceId) -> Vec<SocketAddr> {
        let state = self.state();
        let port = state.instances.get(instance).filter(|i| i.run == Run::Running).and_then(|i| i.port);
        port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).into_iter().collect()
    }
}
