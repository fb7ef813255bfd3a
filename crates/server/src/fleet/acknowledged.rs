//! Which gateways know of a change.
//!
//! An instance that can be reached from other servers gets requests from all their gateways. So a rollout may count
//! it as asked only after every one of them has been told, and may stop it only after every one was told to send it
//! nothing more. Each server reports the generation of the fleet state that its gateway works by, and here is kept
//! with which generation what was told of each instance changed last. A server that does not report is not waited for:
//! it is told the newest state before anything else when it comes back.
//!
//! Nothing of it is stored. After a restart everything counts as changed with the newest generation, which is
//! acknowledged as soon as everybody has reported once.

use api::fleet::FleetState;
use api::ids::{InstanceId, ServerId, ServiceId};
use api::name::HostName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Instances of which it is remembered when they went; older ones count as gone with the newest generation.
const GONE_LIMIT: usize = 10_000;

/// What the newest document says, and since when.
#[derive(Debug, Default)]
pub struct Known {
    generation: u64,
    digest: String,
    members: BTreeSet<ServerId>,
    hosts: Arc<BTreeSet<Option<HostName>>>,
    told: BTreeMap<InstanceId, Told>,
    gone: BTreeMap<InstanceId, u64>,
    /// Services whose rollout waits for servers to acknowledge something.
    waiting: BTreeSet<ServiceId>,
}

#[derive(Debug)]
struct Told {
    draining: bool,
    /// The generation that said so first.
    since: u64,
    /// Once all have heard, servers that come later change nothing.
    heard_by_all: bool,
}

/// What another server reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// Of the fleet state that its gateway works by.
    pub generation: u64,
    /// Requests that it has open with the instance in question.
    pub open_requests: u64,
}

impl Known {
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether there is a fleet state at all.
    pub fn is_active(&self) -> bool {
        self.generation > 0
    }

    pub fn members(&self) -> &BTreeSet<ServerId> {
        &self.members
    }

    /// Hosts of the routes that all members serve; `None` is any.
    pub fn hosts(&self) -> Arc<BTreeSet<Option<HostName>>> {
        self.hosts.clone()
    }

    /// Takes in a document that was given out. Answers whether the hosts are others than before.
    pub fn take(&mut self, state: &FleetState, digest: String) -> bool {
        let generation = state.generation;
        let mut before = std::mem::take(&mut self.told);
        for instance in state.services.iter().flat_map(|service| &service.instances) {
            let id = &instance.instance_id;
            let same = before.remove(id).filter(|told| told.draining == instance.draining);
            let fresh = Told { draining: instance.draining, since: generation, heard_by_all: false };
            self.told.insert(id.clone(), same.unwrap_or(fresh));
            self.gone.remove(id);
        }
        self.gone.extend(before.into_keys().map(|id| (id, generation)));
        while self.gone.len() > GONE_LIMIT {
            self.gone.pop_first();
        }
        self.generation = generation;
        self.digest = digest;
        self.members = state.peers.iter().map(|peer| peer.server_id.clone()).collect();
        let routes = state.services.iter().flat_map(|service| &service.routes);
        let hosts: BTreeSet<Option<HostName>> = routes.map(|route| route.host.clone()).collect();
        let others = hosts != *self.hosts;
        if others {
            self.hosts = Arc::new(hosts);
        }
        others
    }

    /// Whether every other server that reports knows that it may send requests to the instance.
    pub fn all_may_send(&mut self, id: &InstanceId, others: &[Word]) -> bool {
        let Some(told) = self.told.get_mut(id).filter(|told| !told.draining) else { return false };
        told.heard_by_all |= others.iter().all(|word| word.generation >= told.since);
        told.heard_by_all
    }

    /// Whether some other server that reports may still send new requests to the instance.
    pub fn some_may_send(&self, id: &InstanceId, others: &[Word]) -> bool {
        let since = match self.told.get(id) {
            Some(told) if told.draining => told.since,
            // What it should not get any more is still told.
            Some(_) => u64::MAX,
            None => self.gone.get(id).copied().unwrap_or(self.generation),
        };
        others.iter().any(|word| word.generation < since)
    }

    pub fn wait(&mut self, service_id: &ServiceId) {
        self.waiting.insert(service_id.clone());
    }

    /// The services to look at again after somebody acknowledged something, leaving none.
    pub fn take_waiting(&mut self) -> BTreeSet<ServiceId> {
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::fleet::{FleetInstance, FleetService};

    fn id<T: std::str::FromStr>(prefix: &str, number: u32) -> T
    where
        T::Err: std::fmt::Debug,
    {
        format!("{prefix}_{number:032x}").parse().unwrap()
    }

    fn state(generation: u64, instances: &[(u32, bool)]) -> FleetState {
        let instances = instances.iter().map(|(number, draining)| FleetInstance {
            instance_id: id("ins", *number),
            server_id: id("srv", 1),
            address: "10.200.1.2:80".parse().unwrap(),
            draining: *draining,
        });
        let service = FleetService {
            service_id: id("svc", 1),
            project_id: id("prj", 1),
            project: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            routes: Vec::new(),
            instances: instances.collect(),
        };
        let (peers, services) = (Vec::new(), vec![service]);
        FleetState { organization_id: id("org", 1), generation, issued_at_ms: 0, peers, services }
    }

    fn words(generations: &[u64]) -> Vec<Word> {
        generations.iter().map(|generation| Word { generation: *generation, open_requests: 0 }).collect()
    }

    #[test]
    fn an_instance_counts_as_asked_once_every_server_has_heard_of_it_and_then_stays_so() {
        let mut known = Known::default();
        known.take(&state(5, &[(1, false)]), String::new());
        assert!(!known.all_may_send(&id("ins", 1), &words(&[5, 4])));
        assert!(known.all_may_send(&id("ins", 1), &words(&[5, 6])));
        assert!(known.all_may_send(&id("ins", 1), &words(&[5, 0])), "a server that comes later changes nothing");
        known.take(&state(7, &[(1, false), (2, false)]), String::new());
        assert!(known.all_may_send(&id("ins", 1), &words(&[5])), "nothing was told anew of it");
        assert!(!known.all_may_send(&id("ins", 2), &words(&[5])));
        assert!(!known.all_may_send(&id("ins", 3), &[]), "nobody was told of it");
    }

    #[test]
    fn an_instance_may_be_stopped_only_after_every_server_has_heard_that_it_gets_nothing_more() {
        let mut known = Known::default();
        known.take(&state(5, &[(1, false), (2, false)]), String::new());
        assert!(known.some_may_send(&id("ins", 1), &words(&[5, 5])), "it is still told to get requests");
        known.take(&state(6, &[(1, true)]), String::new());
        assert!(known.some_may_send(&id("ins", 1), &words(&[6, 5])));
        assert!(!known.some_may_send(&id("ins", 1), &words(&[6, 6])));
        assert!(known.some_may_send(&id("ins", 2), &words(&[5])), "it went with generation 6");
        assert!(!known.some_may_send(&id("ins", 2), &words(&[6])));
        assert!(!known.some_may_send(&id("ins", 1), &[]), "nobody else is there");
    }

    #[test]
    fn after_a_restart_everything_counts_as_told_with_the_newest_generation() {
        let mut known = Known::default();
        known.take(&state(9, &[(1, false)]), String::new());
        assert!(known.some_may_send(&id("ins", 8), &words(&[8])), "when it went is not known any more");
        assert!(!known.some_may_send(&id("ins", 8), &words(&[9])));
    }
}
