//! Who is there: the newest report of every server, in memory, over the durable copy in the store.
//!
//! Reports come every few seconds from every machine and mostly say what the last one said. Only
//! one that says something else is written down (and wakes the rollout); the rest costs one
//! comparison. What is left out of that comparison is named in [`essence`]. A restart of the control
//! plane loses at most the last half minute of "last seen" and of resource numbers.

use api::UnixMillis;
use api::ids::ServerId;
use api::observed::{ObservedState, Resources};
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};

/// How old the durable copy may get while nothing of essence changes.
pub const STORED_AGE_LIMIT_MS: i64 = 30_000;

/// The newest word of one server.
#[derive(Debug, Clone)]
pub struct Heard {
    /// From when on its silence counts, by the steady clock.
    pub at_ms: UnixMillis,
    /// When the report below came, by the time of day.
    pub reported_at_ms: UnixMillis,
    /// `None` before the first report.
    pub observed: Option<Arc<ObservedState>>,
    /// Of the report's essence.
    pub digest: String,
    /// When it was last written to the store.
    pub stored_at_ms: UnixMillis,
}

impl crate::state::Shared {
    fn heard_all(&self) -> MutexGuard<'_, HashMap<ServerId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest report of a server.
    pub fn heard(&self, id: &ServerId) -> Option<Heard> {
        self.heard_all().get(id).cloned()
    }

    /// The newest reports of all servers that have reported.
    pub fn heard_from(&self) -> Vec<(ServerId, Arc<ObservedState>)> {
        let heard = self.heard_all();
        heard.iter().filter_map(|(id, heard)| Some((id.clone(), heard.observed.clone()?))).collect()
    }

    /// Takes a newer report in; answers what was known before.
    pub fn hear(&self, id: &ServerId, heard: Heard) -> Option<Heard> {
        self.heard_all().insert(id.clone(), heard)
    }

    /// Whoever was last heard before that moment.
    pub fn silent_since(&self, at_ms: UnixMillis) -> Vec<(ServerId, UnixMillis)> {
        let heard = self.heard_all();
        let silent = heard.iter().filter(|(_, heard)| heard.at_ms < at_ms);
        let mut found: Vec<_> = silent.map(|(id, heard)| (id.clone(), heard.at_ms)).collect();
        found.sort_unstable();
        found
    }

    /// A server joined, or joined before this start: its silence counts from now on.
    pub fn expect(&self, id: &ServerId, now_ms: UnixMillis) {
        let heard = Heard { at_ms: now_ms, reported_at_ms: 0, observed: None, digest: String::new(), stored_at_ms: 0 };
        self.heard_all().entry(id.clone()).or_insert(heard);
    }

    /// A server asked, and what it asked could not be written down.
    pub fn excuse(&self, id: &ServerId, now_ms: UnixMillis) {
        if let Some(heard) = self.heard_all().get_mut(id) {
            heard.at_ms = heard.at_ms.max(now_ms);
        }
    }

    /// Nothing could be written down, so nobody could report: everybody's silence counts from now on.
    pub fn pardon(&self, now_ms: UnixMillis) {
        for heard in self.heard_all().values_mut() {
            heard.at_ms = heard.at_ms.max(now_ms);
        }
    }

    pub fn forget(&self, id: &ServerId) {
        self.heard_all().remove(id);
    }
}

/// A digest of what others act on in a report: not the time, not use of memory, processor and disk,
/// not counters of requests, not how long a probe took.
pub fn essence(observed: &ObservedState) -> String {
    let mut bare = observed.clone();
    bare.observed_at_ms = 0;
    bare.resources = Resources::default();
    bare.gateway.services.clear();
    bare.mesh.clear_gauges();
    for instance in &mut bare.instances {
        instance.memory_bytes = None;
        instance.cpu_ms = None;
        if let Some(probe) = &mut instance.last_probe {
            probe.at_ms = 0;
            probe.duration_ms = 0;
        }
    }
    wire::digest_of(&bare)
}
