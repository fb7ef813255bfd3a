//! What was wanted a short while ago, so that it is not thrown away at once.
//!
//! A service that is stopped is gone from the desired state, and a second later somebody starts it
//! again. Its source and build should still be there; and a clean-up that runs beside the loop must
//! never take away what the next desired state is about to use. So what a document named stays for a
//! while after another has replaced it.

use crate::drivers::Keep;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

const STAYS: Duration = Duration::from_secs(1800);
/// Documents remembered; with more changes than this in half an hour the oldest count no longer.
const LIMIT: usize = 200;

#[derive(Debug, Default)]
pub struct Lately {
    replaced: VecDeque<(Instant, Keep)>,
}

impl Lately {
    /// A document that named these things was replaced now.
    pub fn replaced(&mut self, now: Instant, keep: Keep) {
        if self.replaced.len() >= LIMIT {
            self.replaced.pop_front();
        }
        self.replaced.push_back((now, keep));
    }

    /// All that was wanted lately, beside what is wanted.
    pub fn add_to(&mut self, now: Instant, wanted: &mut Keep) {
        self.replaced.retain(|(at, _)| now.duration_since(*at) < STAYS);
        for (_, keep) in &self.replaced {
            wanted.services.extend(keep.services.iter().cloned());
            wanted.revisions.extend(keep.revisions.iter().cloned());
            wanted.build_keys.extend(keep.build_keys.iter().cloned());
            wanted.deployments.extend(keep.deployments.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(build_key: &str) -> Keep {
        Keep { build_keys: [build_key.to_owned()].into(), ..Keep::default() }
    }

    #[test]
    fn what_is_no_longer_wanted_stays_for_half_an_hour() {
        let begin = Instant::now();
        let mut lately = Lately::default();
        lately.replaced(begin, keep("old"));
        let mut wanted = keep("new");
        lately.add_to(begin + STAYS - Duration::from_secs(1), &mut wanted);
        assert_eq!(wanted.build_keys, ["new".to_owned(), "old".to_owned()].into());
        let mut wanted = keep("new");
        lately.add_to(begin + STAYS, &mut wanted);
        assert_eq!(wanted.build_keys, ["new".to_owned()].into());
    }

    #[test]
    fn the_memory_of_what_was_wanted_is_bounded() {
        let mut lately = Lately::default();
        for number in 0..LIMIT + 50 {
            lately.replaced(Instant::now(), keep(&number.to_string()));
        }
        assert_eq!(lately.replaced.len(), LIMIT);
    }
}
