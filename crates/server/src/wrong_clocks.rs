//! Machines that are refused for nothing but their clock.
//!
//! A request is signed with the time, so that it cannot be sent again later by somebody who recorded it. A
//! machine whose clock is off by more than a minute is therefore refused, and falls silent like one that is
//! switched off. What lies behind is easily mended, if only it is said: so the difference is remembered,
//! provided that the signature is the machine's own.
//!
//! In memory, one entry per known machine at most, and good for some minutes after the last such request.
//! Somebody who repeats a recorded request can bring about a wrong sentence here, and no more: nothing is
//! decided by it.

use api::ids::ServerId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A machine that cannot get through tries again far more often.
const GOOD_FOR: Duration = Duration::from_secs(300);

/// By how much each machine's clock was ahead when it last asked, and when that was.
#[derive(Debug, Default)]
pub struct WrongClocks(Mutex<HashMap<ServerId, (i64, Instant)>>);

impl WrongClocks {
    fn entries(&self) -> MutexGuard<'_, HashMap<ServerId, (i64, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was refused because of the clock alone.
    pub fn note(&self, id: &ServerId, difference_ms: i64) {
        self.entries().insert(id.clone(), (difference_ms, ambient::instant()));
    }

    /// A request came through, or the machine is no longer a member.
    pub fn forget(&self, id: &ServerId) {
        self.entries().remove(id);
    }

    pub fn difference_ms(&self, id: &ServerId) -> Option<i64> {
        let (difference_ms, at) = self.entries().get(id).copied()?;
        (ambient::instant().saturating_duration_since(at) < GOOD_FOR).then_some(difference_ms)
    }
}
