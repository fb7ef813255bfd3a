//! Chance, from the seed: one generator per entity and purpose, so that one more draw in one place
//! does not reshuffle everything everywhere else.

use std::ops::Range;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Chance(fastrand::Rng);

impl Chance {
    pub fn of(seed: u64, purpose: &str) -> Self {
        // FNV-1a: stable between versions of the compiler, which the standard hasher is not.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in seed.to_le_bytes().into_iter().chain(purpose.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self(fastrand::Rng::with_seed(hash))
    }

    pub fn any(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// True in `per_thousand` of a thousand cases.
    pub fn happens(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.0.u32(0..1000) < per_thousand
    }

    pub fn number(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.0.u64(range) }
    }

    pub fn ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }

    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.0.usize(0..of.len())]
    }
}
