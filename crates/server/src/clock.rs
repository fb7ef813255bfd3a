//! The one place that reads the clock, and a clock that does not jump.
//!
//! The wall clock of a machine may be set, by an hour in either direction. For *when* something happened
//! that is what counts. For *how long ago* it does harm: a release would count as proven, or as failed, an
//! hour early, or a silent server as there an hour longer. Lengths of time that matter for what is decided
//! are therefore taken from a [`Steady`] clock. It begins with the wall clock and goes on with time that
//! passes; where the two differ it comes nearer by an eighth of that time, so that a deadline is off by an
//! eighth at most, a jump of an hour is made up for within eight, and it never runs backwards.

use api::UnixMillis;

/// Now.
pub fn now_ms() -> UnixMillis {
    ambient::now_ms()
}

/// Time of day without jumps, for lengths of time.
#[derive(Debug, Default)]
pub struct Steady(std::sync::Mutex<Option<(tokio::time::Instant, UnixMillis)>>);

impl Steady {
    pub fn now_ms(&self) -> UnixMillis {
        self.at(ambient::instant().into(), now_ms())
    }

    fn at(&self, now: tokio::time::Instant, wall_ms: UnixMillis) -> UnixMillis {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((then, before_ms)) = *last else {
            *last = Some((now, wall_ms));
            return wall_ms;
        };
        let passed_ms = i64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(i64::MAX / 2);
        if passed_ms < SLEW {
            // Too little to share out; what has passed is counted with the next reading.
            return before_ms;
        }
        let straight_ms = before_ms.saturating_add(passed_ms);
        let steady_ms = straight_ms + (wall_ms - straight_ms).clamp(-passed_ms / SLEW, passed_ms / SLEW);
        *last = Some((now, steady_ms));
        steady_ms
    }
}

/// One part of so many is what the steady clock may run faster or slower.
const SLEW: i64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn the_steady_clock_follows_time_that_passes_and_comes_back_to_a_wall_clock_that_jumped() {
        const HOUR_MS: i64 = 3_600_000;
        for jump_ms in [HOUR_MS, -HOUR_MS] {
            let (steady, begin) = (Steady::default(), tokio::time::Instant::now());
            let after = |ms: i64| begin + Duration::from_millis(ms as u64);
            assert_eq!(steady.at(begin, 1_000), 1_000);
            assert_eq!(steady.at(after(60_000), 61_000), 61_000);
            // The jump: a minute later about a minute has passed.
            let minute = steady.at(after(120_000), 121_000 + jump_ms) - 61_000;
            assert!((52_500..=67_500).contains(&minute), "{minute}");
            let (mut last, mut at) = (steady.at(after(120_008), 121_008 + jump_ms), 120_008);
            while at < 10 * HOUR_MS {
                at += 1_000;
                let now = steady.at(after(at), 1_000 + at + jump_ms);
                assert!(now > last, "it ran backwards");
                last = now;
            }
            assert_eq!(last, 1_000 + at + jump_ms, "it has come back to the wall clock");
        }
    }
}
