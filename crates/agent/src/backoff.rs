//! How long to wait before the next try: doubling, capped, and spread by jitter so that a hundred
//! agents that lost the same control plane do not come back in the same millisecond.
//!
//! The random part is an argument. The shell draws it ([`jitter`]); tests choose it.

use std::time::Duration;

/// An exponential backoff that resets on success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub first_ms: u64,
    pub limit_ms: u64,
}

impl Backoff {
    /// For calls to the control plane.
    pub const CONTROL_PLANE: Self = Self { first_ms: 250, limit_ms: 30_000 };
    /// For a change that failed.
    pub const CHANGE: Self = Self { first_ms: 1_000, limit_ms: 120_000 };
    /// For starting the gateway again.
    pub const GATEWAY: Self = Self { first_ms: 200, limit_ms: 30_000 };

    /// The wait after `attempts` failures in a row (1 for the first), between half and the whole of
    /// the doubled time. `jitter` lies in 0.0..1.0.
    pub fn delay_ms(self, attempts: u32, jitter: f64) -> u64 {
        let doublings = attempts.saturating_sub(1).min(20);
        let whole = self.first_ms.saturating_mul(1 << doublings).min(self.limit_ms);
        let half = whole / 2;
        half + ((whole - half) as f64 * jitter.clamp(0.0, 1.0)) as u64
    }

    pub fn delay(self, attempts: u32) -> Duration {
        Duration::from_millis(self.delay_ms(attempts, jitter()))
    }
}

/// A random number in 0.0..1.0.
pub fn jitter() -> f64 {
    ambient::random_fraction()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_the_limit_and_jitter_only_shortens_it() {
        let backoff = Backoff { first_ms: 1_000, limit_ms: 10_000 };
        assert_eq!(backoff.delay_ms(1, 1.0), 1_000);
        assert_eq!(backoff.delay_ms(2, 1.0), 2_000);
        assert_eq!(backoff.delay_ms(4, 1.0), 8_000);
        assert_eq!(backoff.delay_ms(5, 1.0), 10_000);
        assert_eq!(backoff.delay_ms(u32::MAX, 1.0), 10_000);
        assert_eq!(backoff.delay_ms(4, 0.0), 4_000);
    }
}
