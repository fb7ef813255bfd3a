//! When to start again what ended: pure arithmetic over the times of its ends. A supervisor gives lengths of time since
//! some moment, not times of day: a clock that is set says nothing about a process. For containers, whose ends have to
//! survive the agent, they are times of day, and one that lies in the future is forgotten.

use api::services::RestartSpec;
use std::collections::VecDeque;

/// What to do after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub wait_ms: u64,
    pub crash_looping: bool,
}

/// Remembers the ends within the window, no more.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RestartPolicy {
    ends: VecDeque<i64>,
}

/// More ends than this within one window change nothing any more.
const ENDS_LIMIT: usize = 1000;

impl RestartPolicy {
    /// The process ended at `now_ms`. The wait doubles with each end inside the window and begins
    /// anew when a whole window passed without one. `spread` from 0 to 1 lengthens it by up to a
    /// tenth, so that services which fell together do not come back together.
    pub fn ended(&mut self, spec: &RestartSpec, now_ms: i64, spread: f64) -> Verdict {
        self.ends.retain(|end| *end <= now_ms);
        self.ends.push_back(now_ms);
        let window = i64::try_from(spec.crash_loop_window_ms).unwrap_or(i64::MAX);
        let oldest = now_ms.saturating_sub(window);
        while self.ends.front().is_some_and(|end| *end < oldest) || self.ends.len() > ENDS_LIMIT {
            self.ends.pop_front();
        }
        let count = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        let crash_looping = count >= spec.crash_loop_after.max(1);
        let wait = if crash_looping {
            spec.backoff_limit_ms
        } else {
            spec.backoff_ms.saturating_mul(1_u64 << (count - 1).min(32)).min(spec.backoff_limit_ms)
        };
        let wait_ms = wait + (wait as f64 * 0.1 * spread.clamp(0.0, 1.0)) as u64;
        Verdict { wait_ms, crash_looping }
    }

    /// Whether enough time passed since the last end to call it well again.
    pub fn recovered(&self, spec: &RestartSpec, now_ms: i64) -> bool {
        self.recovered_at_ms(spec).is_none_or(|at| now_ms >= at)
    }

    /// When that will be, if nothing ends meanwhile.
    pub fn recovered_at_ms(&self, spec: &RestartSpec) -> Option<i64> {
        let window = i64::try_from(spec.crash_loop_window_ms).unwrap_or(i64::MAX);
        self.ends.back().map(|end| end.saturating_add(window).saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: RestartSpec =
        RestartSpec { backoff_ms: 500, backoff_limit_ms: 60_000, crash_loop_after: 5, crash_loop_window_ms: 300_000 };

    #[test]
    fn the_wait_doubles_and_then_it_is_a_crash_loop_at_the_limit() {
        let mut policy = RestartPolicy::default();
        let waits: Vec<Verdict> = (0..6).map(|i| policy.ended(&SPEC, i * 1000, 0.0)).collect();
        assert_eq!(waits.iter().map(|v| v.wait_ms).collect::<Vec<_>>(), [500, 1000, 2000, 4000, 60_000, 60_000]);
        assert_eq!(waits.iter().map(|v| v.crash_looping).collect::<Vec<_>>(), [false, false, false, false, true, true]);
    }

    #[test]
    fn after_a_quiet_window_it_begins_anew() {
        let mut policy = RestartPolicy::default();
        for i in 0..5 {
            policy.ended(&SPEC, i, 0.0);
        }
        assert!(!policy.recovered(&SPEC, 300_000));
        assert!(policy.recovered(&SPEC, 300_005));
        assert_eq!(policy.ended(&SPEC, 400_000, 0.0), Verdict { wait_ms: 500, crash_looping: false });
    }

    #[test]
    fn nothing_overflows() {
        let mut policy = RestartPolicy::default();
        let spec = RestartSpec {
            backoff_ms: u64::MAX,
            backoff_limit_ms: 1000,
            crash_loop_after: u32::MAX,
            crash_loop_window_ms: u64::MAX,
        };
        for _ in 0..2000 {
            assert!(policy.ended(&spec, i64::MAX, 1.0).wait_ms <= 1100);
        }
    }
}
