//! Chance, from the seed: one generator per entity and purpose, so that one more draw in one place
//! does not reshuffle everything everywhere else.
//!
//! Stories that begin alike part at one moment, in the middle of many lives that have drawn lots before.
//! So a [`Seed`] can be changed, and whoever draws by it goes on by the new one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a story is told by. Clones change together.
#[derive(Debug, Clone)]
pub struct Seed(Arc<AtomicU64>);

impl Seed {
    pub fn new(number: u64) -> Self {
        Self(Arc::new(AtomicU64::new(number)))
    }

    /// From here on everything is decided by another number.
    pub fn change(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn chance(&self, purpose: &str) -> Chance {
        let number = self.number();
        Chance { lots: lots(number, purpose), seed: self.clone(), drawn_by: number }
    }
}

#[derive(Debug, Clone)]
pub struct Chance {
    lots: fastrand::Rng,
    seed: Seed,
    drawn_by: u64,
}

fn lots(number: u64, purpose: &str) -> fastrand::Rng {
    fastrand::Rng::with_seed(hash(number.to_le_bytes().into_iter().chain(purpose.bytes())))
}

/// FNV-1a: stable between versions of the compiler, which the standard hasher is not.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

impl Chance {
    /// Of a number that never changes.
    pub fn of(number: u64, purpose: &str) -> Self {
        Seed::new(number).chance(purpose)
    }

    /// Of somebody who begins to live here.
    pub fn child(&mut self, purpose: &str) -> Self {
        let number = self.any();
        Self { lots: lots(number, purpose), seed: self.seed.clone(), drawn_by: self.drawn_by }
    }

    fn lots(&mut self) -> &mut fastrand::Rng {
        let number = self.seed.number();
        if number != self.drawn_by {
            self.drawn_by = number;
            self.lots = fastrand::Rng::with_seed(self.lots.u64(..) ^ lots(number, "another story").u64(..));
        }
        &mut self.lots
    }

    pub fn any(&mut self) -> u64 {
        self.lots().u64(..)
    }

    /// True in `per_thousand` of a thousand cases.
    pub fn happens(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.lots().u32(0..1000) < per_thousand
    }

    pub fn number(&mut self, range: Range<u64>) -> u64 {
        if range.is_empty() { range.start } else { self.lots().u64(range) }
    }

    pub fn ms(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }

    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.lots().usize(0..of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(chance: &mut Chance) -> Vec<u64> {
        (0..8).map(|_| chance.any()).collect()
    }

    #[test]
    fn who_has_drawn_before_goes_on_by_the_seed_that_holds_now() {
        let lives = |first: u64, then: u64| {
            let seed = Seed::new(first);
            let mut parent = seed.chance("a life");
            let mut child = parent.child("its heart");
            let before = [draws(&mut parent), draws(&mut child)];
            seed.change(then);
            (before, [draws(&mut parent), draws(&mut child)])
        };
        let (begun, one) = lives(1, 2);
        let (begun_alike, other) = lives(1, 3);
        assert_eq!(begun, begun_alike);
        assert_eq!(lives(1, 2), (begun, one.clone()), "one seed is one life");
        for (one, other) in one.iter().zip(&other) {
            assert!(one.iter().zip(other).all(|(one, other)| one != other), "{one:?} {other:?}");
        }
        assert_ne!(one[0], one[1], "nor is one life another one");
    }
}
