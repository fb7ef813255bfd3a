//! When a container is started again and when it is ended: pure, from what is remembered and what the engine shows.
//!
//! ```text
//!   Starting ──▶ Running ──exit──▶ Waiting ──time──▶ Starting
//!                   │                 │
//!                   └──stop──▶ Stopping ──ended──▶ Stopped
//!                   removed by somebody, the machine was restarted ──▶ Lost
//! ```
//!
//! Restarts are ours and not the engine's, so that they follow the same rule for processes and containers, are counted,
//! and are told. The price: while no agent runs, a container that crashes stays down until it is back. The engine's own
//! policy would not keep the rule (Docker forgets its backoff after ten seconds, Podman has none) and would fight over
//! what was stopped on purpose.

use super::answers::{ContainerState, millis};
use crate::drivers::restart::RestartPolicy;
use api::UnixMillis;
use api::observed::{ExitStatus, InstanceState};
use api::services::RestartSpec;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is being created and started. Next: running, lost (whoever did it was killed).
    #[default]
    Starting,
    /// Next: waiting (it exited), stopping, lost.
    Running,
    /// It exited and is started again at `retry_at_ms`. Next: running, waiting, stopping, lost.
    Waiting,
    /// It was asked to end and is killed at `kill_at_ms`. Next: stopped.
    Stopping,
    /// It ended because it was asked to. Next: running, if somebody starts it.
    Stopped,
    /// There is nothing to start again. The loop above starts it from the beginning.
    Lost,
}

/// Survives the agent, in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub phase: Phase,
    pub container_id: Option<String>,
    /// Of the kernel under which it last ran: after a reboot nothing does.
    pub boot_id: String,
    pub pid: Option<u32>,
    pub started_at_ms: Option<UnixMillis>,
    pub restarts: u32,
    pub policy: RestartPolicy,
    pub crash_looping: bool,
    pub last_exit: Option<ExitStatus>,
    pub retry_at_ms: Option<UnixMillis>,
    pub kill_at_ms: Option<UnixMillis>,
    pub problem: Option<String>,
}

/// What the engine says of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// There is none.
    Gone,
    There {
        id: String,
        state: ContainerState,
    },
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Start,
    Kill,
    Unpause,
}

/// The surroundings of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    pub now_ms: UnixMillis,
    pub boot_id: &'a str,
    /// From 0 to 1.
    pub spread: f64,
}

impl Status {
    /// Take in what is seen, and say what is due.
    pub fn advance(&mut self, restart: &RestartSpec, sight: &Sight, moment: Moment<'_>) -> Option<Due> {
        match sight {
            Sight::Gone => self.gone(),
            Sight::There { id, state } if is_running(state) => return self.running(restart, id, state, moment),
            Sight::There { id, state } => {
                self.container_id = Some(id.clone());
                self.not_running(restart, state, moment);
            }
        }
        let due = self.phase == Phase::Waiting && self.retry_at_ms.is_none_or(|at| at <= moment.now_ms);
        due.then_some(Due::Start)
    }

    fn gone(&mut self) {
        self.pid = None;
        match self.phase {
            Phase::Stopping | Phase::Stopped => self.end(Phase::Stopped, None),
            Phase::Lost => {}
            Phase::Starting => self.end(Phase::Lost, Some("its start was interrupted".into())),
            Phase::Running | Phase::Waiting => {
                let by = "its container was removed by something other than Mainstay";
                self.end(Phase::Lost, Some(by.into()));
            }
        }
    }

    fn running(&mut self, restart: &RestartSpec, id: &str, state: &ContainerState, moment: Moment<'_>) -> Option<Due> {
        let started_at_ms = millis(&state.started_at);
        let pid = Some(state.pid).filter(|pid| *pid != 0);
        let same = self.container_id.as_deref() == Some(id) && self.started_at_ms == started_at_ms;
        if self.phase == Phase::Running && !same && self.started_at_ms.is_some() {
            // It ended and was started again by somebody else between two looks.
            self.restarts = self.restarts.saturating_add(1);
        }
        self.container_id = Some(id.to_owned());
        self.boot_id = moment.boot_id.to_owned();
        self.pid = pid;
        self.started_at_ms = started_at_ms;
        if self.phase == Phase::Stopping {
            let due = self.kill_at_ms.is_none_or(|at| at <= moment.now_ms);
            return due.then_some(Due::Kill);
        }
        self.phase = Phase::Running;
        self.retry_at_ms = None;
        self.kill_at_ms = None;
        self.problem = None;
        if self.crash_looping && self.policy.recovered(restart, moment.now_ms) {
            self.crash_looping = false;
        }
        state.paused.then_some(Due::Unpause)
    }

    fn not_running(&mut self, restart: &RestartSpec, state: &ContainerState, moment: Moment<'_>) {
        self.pid = None;
        let never_ran = millis(&state.started_at).is_none();
        match self.phase {
            Phase::Stopping | Phase::Stopped => {
                let first = self.phase == Phase::Stopping;
                self.end(Phase::Stopped, None);
                if first && !never_ran {
                    self.last_exit = Some(exit_of(state, moment.now_ms));
                }
            }
            Phase::Lost | Phase::Waiting => {}
            Phase::Starting => self.end(Phase::Lost, Some("its start was interrupted".into())),
            Phase::Running if self.boot_id != moment.boot_id => {
                self.end(Phase::Lost, Some("the machine was restarted".into()));
            }
            Phase::Running => {
                self.last_exit = Some(exit_of(state, moment.now_ms));
                self.wait(restart, moment);
            }
        }
        if self.phase == Phase::Waiting && self.boot_id != moment.boot_id {
            self.end(Phase::Lost, Some("the machine was restarted".into()));
        }
    }

    /// It ended by itself, or could not be started: again, later and later.
    pub fn wait(&mut self, restart: &RestartSpec, moment: Moment<'_>) {
        let verdict = self.policy.ended(restart, moment.now_ms, moment.spread);
        self.phase = Phase::Waiting;
        self.crash_looping = verdict.crash_looping;
        self.retry_at_ms = Some(moment.now_ms.saturating_add_unsigned(verdict.wait_ms));
    }

    fn end(&mut self, phase: Phase, problem: Option<String>) {
        self.phase = phase;
        self.pid = None;
        self.crash_looping = false;
        self.retry_at_ms = None;
        self.kill_at_ms = None;
        self.problem = problem;
    }

    /// A start from the beginning. One that takes over from what was lost counts on.
    pub fn begin(&mut self) {
        let before = std::mem::take(self);
        let asked = before.phase == Phase::Stopped;
        self.restarts = if asked || before.container_id.is_none() { 0 } else { before.restarts.saturating_add(1) };
        self.last_exit = before.last_exit.filter(|_| !asked);
    }

    pub fn stop(&mut self, kill_at_ms: UnixMillis) {
        match self.phase {
            Phase::Starting | Phase::Running => {
                self.phase = Phase::Stopping;
                self.kill_at_ms = Some(kill_at_ms);
                self.crash_looping = false;
            }
            // Asked again with less patience.
            Phase::Stopping => self.kill_at_ms = self.kill_at_ms.map(|at| at.min(kill_at_ms)).or(Some(kill_at_ms)),
            Phase::Waiting | Phase::Lost => self.end(Phase::Stopped, None),
            Phase::Stopped => {}
        }
    }

    /// When something is to be done though nothing happened.
    pub fn due_at_ms(&self, restart: &RestartSpec) -> Option<UnixMillis> {
        match self.phase {
            Phase::Waiting => self.retry_at_ms,
            Phase::Stopping => self.kill_at_ms,
            Phase::Running if self.crash_looping => self.policy.recovered_at_ms(restart),
            _ => None,
        }
    }

    pub fn state(&self) -> InstanceState {
        match self.phase {
            Phase::Starting | Phase::Waiting | Phase::Stopping => InstanceState::Transient,
            Phase::Running => InstanceState::Running,
            Phase::Stopped | Phase::Lost => InstanceState::Exited,
        }
    }

    /// Why it is down just now, for a person.
    pub fn why(&self, now_ms: UnixMillis) -> Option<String> {
        if self.phase != Phase::Waiting {
            return self.problem.clone();
        }
        let why = match (&self.problem, &self.last_exit) {
            (Some(problem), _) => problem.clone(),
            (None, Some(exit)) => exit.describe(),
            (None, None) => "it ended".to_owned(),
        };
        let seconds = self.retry_at_ms.map_or(0.0, |at| (at - now_ms).max(0) as f64 / 1000.0);
        let again = if self.crash_looping { "it keeps crashing; starting again" } else { "starting again" };
        Some(format!("{why}; {again} in {seconds:.0} s"))
    }
}

fn is_running(state: &ContainerState) -> bool {
    state.running || state.paused || matches!(state.status.as_str(), "running" | "paused")
}

fn exit_of(state: &ContainerState, now_ms: UnixMillis) -> ExitStatus {
    ExitStatus {
        code: Some(state.exit_code),
        signal: None,
        out_of_memory: state.oom_killed,
        at_ms: millis(&state.finished_at).unwrap_or(now_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTART: RestartSpec =
        RestartSpec { backoff_ms: 500, backoff_limit_ms: 60_000, crash_loop_after: 3, crash_loop_window_ms: 300_000 };

    fn at(now_ms: UnixMillis) -> Moment<'static> {
        Moment { now_ms, boot_id: "boot", spread: 0.0 }
    }

    fn there(status: &str, pid: u32, started: u32, exit_code: i32) -> Sight {
        let state = ContainerState {
            status: status.into(),
            running: status == "running",
            pid,
            exit_code,
            started_at: format!("2026-12-01T00:00:{started:02}Z"),
            finished_at: "2026-12-01T00:01:00Z".into(),
            ..ContainerState::default()
        };
        Sight::There { id: "c1".into(), state }
    }

    fn up() -> Status {
        let mut status = Status::default();
        assert_eq!(status.advance(&RESTART, &there("running", 7, 1, 0), at(1_000)), None);
        assert_eq!((status.phase, status.pid, status.restarts), (Phase::Running, Some(7), 0));
        status
    }

    #[test]
    fn a_container_that_ends_waits_and_is_started_again_and_later_each_time() {
        let mut status = up();
        assert_eq!(status.advance(&RESTART, &there("exited", 0, 1, 3), at(2_000)), None);
        assert_eq!(
            (status.phase, status.retry_at_ms, status.state()),
            (Phase::Waiting, Some(2_500), InstanceState::Transient)
        );
        assert_eq!(status.why(2_000).unwrap(), "exited with code 3; starting again in 0 s");
        assert_eq!(status.advance(&RESTART, &there("exited", 0, 1, 3), at(2_400)), None, "an end counts once");
        assert_eq!(status.advance(&RESTART, &there("exited", 0, 1, 3), at(2_500)), Some(Due::Start));
        status.advance(&RESTART, &there("running", 8, 2, 0), at(2_600));
        assert_eq!(status.advance(&RESTART, &there("exited", 0, 2, 3), at(3_000)), None);
        assert_eq!((status.retry_at_ms, status.crash_looping), (Some(4_000), false));
        status.advance(&RESTART, &there("running", 9, 3, 0), at(4_100));
        status.advance(&RESTART, &there("exited", 0, 3, 3), at(4_200));
        assert_eq!((status.retry_at_ms, status.crash_looping), (Some(64_200), true));
        status.advance(&RESTART, &there("running", 10, 4, 0), at(64_200));
        assert!(status.crash_looping, "alive again for a moment is not well");
        let well = status.due_at_ms(&RESTART).unwrap();
        status.advance(&RESTART, &there("running", 10, 4, 0), at(well));
        assert!(!status.crash_looping);
    }

    #[test]
    fn what_was_asked_to_stop_is_killed_after_its_grace_and_not_started_again() {
        let mut status = up();
        status.stop(5_000);
        assert_eq!(status.advance(&RESTART, &there("running", 7, 1, 0), at(4_999)), None);
        assert_eq!((status.state(), status.phase), (InstanceState::Transient, Phase::Stopping));
        assert_eq!(status.advance(&RESTART, &there("running", 7, 1, 0), at(5_000)), Some(Due::Kill));
        assert_eq!(status.advance(&RESTART, &there("exited", 0, 1, 137), at(5_001)), None);
        assert_eq!((status.phase, status.last_exit.as_ref().unwrap().code), (Phase::Stopped, Some(137)));
        assert_eq!(status.advance(&RESTART, &Sight::Gone, at(9_000)), None);
        assert_eq!((status.phase, status.why(9_000)), (Phase::Stopped, None));
    }

    #[test]
    fn what_somebody_started_after_it_was_stopped_runs_and_is_said_to() {
        let mut status = up();
        status.stop(5_000);
        status.advance(&RESTART, &there("exited", 0, 1, 0), at(2_000));
        status.advance(&RESTART, &there("running", 9, 2, 0), at(6_000));
        assert_eq!(status.state(), InstanceState::Running);
    }

    #[test]
    fn a_removed_container_and_a_restarted_machine_leave_the_start_to_the_loop() {
        let mut status = up();
        assert_eq!(status.advance(&RESTART, &Sight::Gone, at(2_000)), None);
        assert_eq!((status.phase, status.state()), (Phase::Lost, InstanceState::Exited));
        assert!(status.why(0).unwrap().contains("removed by something other than Mainstay"));
        status.begin();
        assert_eq!((status.phase, status.restarts), (Phase::Starting, 1));
        let mut status = up();
        let after = Moment { now_ms: 3_000, boot_id: "another", spread: 0.0 };
        assert_eq!(status.advance(&RESTART, &there("exited", 0, 1, 0), after), None);
        assert_eq!(status.why(0).unwrap(), "the machine was restarted");
        assert_eq!(status.last_exit, None, "a reboot is no crash");
    }

    #[test]
    fn a_start_that_was_cut_short_is_begun_anew_and_a_container_in_created_is_not_stopped() {
        let mut status = Status::default();
        assert_eq!(status.state(), InstanceState::Transient);
        status.advance(&RESTART, &there("created", 0, 1, 0), at(1_000));
        assert_eq!(status.why(0).unwrap(), "its start was interrupted");
    }

    #[test]
    fn a_paused_container_is_resumed() {
        let mut status = up();
        let Sight::There { id, mut state } = there("paused", 7, 1, 0) else { unreachable!() };
        state.paused = true;
        assert_eq!(status.advance(&RESTART, &Sight::There { id, state }, at(2_000)), Some(Due::Unpause));
        assert_eq!(status.state(), InstanceState::Running);
    }

    #[test]
    fn what_was_started_again_behind_our_back_is_counted() {
        let mut status = up();
        status.advance(&RESTART, &there("running", 8, 9, 0), at(2_000));
        assert_eq!((status.restarts, status.pid), (1, Some(8)));
    }
}
