//! Which service is looked at next: those with news in the order in which they had it, those whose time has
//! come, and everything now and then.
//!
//! Pure: time and chance are arguments, and what a look is it does not know. One service is looked at once
//! at a time; news that comes meanwhile may be about what was read before it, so it leads to another look.
//! One that failed waits for its turn, whoever asks, and a sweep goes on however much news there is.

use api::ids::ServiceId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Services that are looked at side by side: less than the store has connections, for people read as well.
pub const AT_ONCE: usize = 6;
/// Services with news that are looked at before one of a sweep gets its turn.
const NEWS_PER_SWEPT: u32 = 8;
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_LIMIT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Schedule {
    ready: Line,
    due: Due,
    /// Everything, still to be looked at.
    sweep: VecDeque<ServiceId>,
    news_since_swept: u32,
    /// How often in a row a look has failed.
    failures: BTreeMap<ServiceId, u32>,
    /// Whom a look is at, and whether there was news since it began.
    looked_at: BTreeMap<ServiceId, bool>,
}

impl Schedule {
    /// Somebody asks for a look.
    pub fn has_news(&mut self, service_id: ServiceId) {
        if let Some(news) = self.looked_at.get_mut(&service_id) {
            *news = true;
        } else if !self.failures.contains_key(&service_id) {
            self.ready.push(service_id);
        }
    }

    /// Everything is to be looked at.
    pub fn sweep(&mut self, services: impl IntoIterator<Item = ServiceId>) {
        self.sweep.extend(services);
    }

    /// Whether everything has been looked at since it was asked for.
    pub fn is_swept(&self) -> bool {
        self.sweep.is_empty()
    }

    /// Whom to begin a look at, if there is room for one and somebody waits for it.
    pub fn next(&mut self, now: Instant) -> Option<ServiceId> {
        if self.looked_at.len() >= AT_ONCE {
            return None;
        }
        while let Some(service_id) = self.due.take(now) {
            self.ready.push(service_id);
        }
        let service_id = self.choose()?;
        self.due.remove(&service_id);
        self.looked_at.insert(service_id.clone(), false);
        Some(service_id)
    }

    fn choose(&mut self) -> Option<ServiceId> {
        if self.news_since_swept < NEWS_PER_SWEPT
            && let Some(service_id) = self.ready.pop()
        {
            self.news_since_swept += 1;
            return Some(service_id);
        }
        self.news_since_swept = 0;
        self.swept().or_else(|| self.ready.pop())
    }

    /// The next of the sweep whom nobody looks at or is about to.
    fn swept(&mut self) -> Option<ServiceId> {
        while let Some(service_id) = self.sweep.pop_front() {
            let is_known = self.looked_at.contains_key(&service_id) || self.ready.has(&service_id);
            if !is_known && !self.failures.contains_key(&service_id) {
                return Some(service_id);
            }
        }
        None
    }

    /// A look has ended, and after `wait` (if that is known) time alone changes what it would find.
    pub fn looked(&mut self, service_id: ServiceId, wait: Option<Duration>, now: Instant) {
        self.failures.remove(&service_id);
        let news = self.looked_at.remove(&service_id).unwrap_or_default();
        if let Some(wait) = wait {
            self.due.set(service_id.clone(), now + wait);
        }
        if news {
            self.ready.push(service_id);
        }
    }

    /// A look has failed; `jitter` keeps those apart that failed for the same reason.
    pub fn failed(&mut self, service_id: ServiceId, now: Instant, jitter: Duration) {
        self.looked_at.remove(&service_id);
        let failures = self.failures.entry(service_id.clone()).or_default();
        *failures = failures.saturating_add(1);
        let backoff = (BACKOFF * 2u32.saturating_pow((*failures).min(8))).min(BACKOFF_LIMIT);
        self.due.set(service_id, now + backoff + jitter);
    }

    /// When the next one is due whom nobody has to ask for.
    pub fn wake_at(&self) -> Option<Instant> {
        self.due.first()
    }
}

/// Who waits, in the order in which they came, each once.
#[derive(Default)]
struct Line {
    order: VecDeque<ServiceId>,
    members: BTreeSet<ServiceId>,
}

impl Line {
    fn push(&mut self, service_id: ServiceId) {
        if self.members.insert(service_id.clone()) {
            self.order.push_back(service_id);
        }
    }

    fn pop(&mut self) -> Option<ServiceId> {
        let service_id = self.order.pop_front()?;
        self.members.remove(&service_id);
        Some(service_id)
    }

    fn has(&self, service_id: &ServiceId) -> bool {
        self.members.contains(service_id)
    }
}

/// Whose time comes when: with a thousand of them nobody looks through all to find the next.
#[derive(Default)]
struct Due {
    at: BTreeMap<ServiceId, Instant>,
    order: BTreeSet<(Instant, ServiceId)>,
}

impl Due {
    /// Instead of any time before.
    fn set(&mut self, service_id: ServiceId, at: Instant) {
        self.remove(&service_id);
        self.at.insert(service_id.clone(), at);
        self.order.insert((at, service_id));
    }

    fn remove(&mut self, service_id: &ServiceId) {
        if let Some((service_id, at)) = self.at.remove_entry(service_id) {
            self.order.remove(&(at, service_id));
        }
    }

    /// The next whose time has come.
    fn take(&mut self, now: Instant) -> Option<ServiceId> {
        if self.first()? > now {
            return None;
        }
        let (_, service_id) = self.order.pop_first()?;
        self.at.remove(&service_id);
        Some(service_id)
    }

    fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(1);

    fn service(number: usize) -> ServiceId {
        ServiceId::from_uuid(uuid::Uuid::from_u128(number as u128))
    }

    /// All that are begun before one of them ends.
    fn begun(schedule: &mut Schedule, now: Instant) -> Vec<ServiceId> {
        std::iter::from_fn(|| schedule.next(now)).collect()
    }

    #[test]
    fn those_with_news_are_looked_at_once_in_order_and_so_many_beside_each_other() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let order: Vec<ServiceId> = (0..AT_ONCE + 2).rev().map(service).collect();
        order.iter().chain(&order).cloned().for_each(|id| schedule.has_news(id));
        assert_eq!(begun(&mut schedule, now), order[..AT_ONCE]);
        schedule.looked(order[3].clone(), None, now);
        assert_eq!(begun(&mut schedule, now), order[AT_ONCE..=AT_ONCE]);
        order.iter().for_each(|id| schedule.looked(id.clone(), None, now));
        assert_eq!(begun(&mut schedule, now), order[AT_ONCE + 1..]);
    }

    #[test]
    fn news_during_a_look_leads_to_another_one_after_it() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.has_news(service(1));
        assert_eq!(begun(&mut schedule, now), [service(1)]);
        schedule.has_news(service(1));
        schedule.sweep([service(1)]);
        assert_eq!(begun(&mut schedule, now), []);
        schedule.looked(service(1), None, now);
        assert_eq!(begun(&mut schedule, now), [service(1)]);
        schedule.looked(service(1), None, now);
        assert_eq!(begun(&mut schedule, now), []);
    }

    #[test]
    fn one_whose_time_has_come_is_looked_at_without_news_and_a_look_before_that_takes_its_place() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.has_news(service(1));
        schedule.next(now);
        schedule.looked(service(1), Some(LATER), now);
        assert_eq!((schedule.wake_at(), begun(&mut schedule, now)), (Some(now + LATER), vec![]));
        schedule.has_news(service(1));
        assert_eq!(begun(&mut schedule, now), [service(1)]);
        schedule.looked(service(1), Some(2 * LATER), now);
        assert_eq!((schedule.wake_at(), begun(&mut schedule, now + LATER)), (Some(now + 2 * LATER), vec![]));
        assert_eq!(begun(&mut schedule, now + 2 * LATER), [service(1)]);
    }

    #[test]
    fn one_that_failed_waits_longer_each_time_whoever_asks_and_nobody_waits_for_it() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        let mut waits = Vec::new();
        let mut at = now;
        for _ in 0..3 {
            schedule.has_news(service(1));
            schedule.next(at);
            schedule.failed(service(1), at, Duration::ZERO);
            schedule.has_news(service(1));
            schedule.sweep([service(1), service(2)]);
            assert_eq!(begun(&mut schedule, at), [service(2)]);
            schedule.looked(service(2), None, at);
            let wake_at = schedule.wake_at().unwrap();
            waits.push(wake_at - at);
            at = wake_at;
        }
        assert_eq!(waits, [BACKOFF * 2, BACKOFF * 4, BACKOFF * 8]);
        assert_eq!(begun(&mut schedule, at), [service(1)]);
        schedule.looked(service(1), None, at);
        schedule.has_news(service(1));
        assert_eq!(begun(&mut schedule, at), [service(1)], "what came right is not held back any more");
    }

    #[test]
    fn a_sweep_goes_on_however_much_news_there_is_and_takes_all_room_when_there_is_none() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.sweep((100..104).map(service));
        let mut looked = Vec::new();
        for number in 0..40 {
            schedule.has_news(service(number));
            let next = schedule.next(now).unwrap();
            schedule.looked(next.clone(), None, now);
            looked.push(next);
        }
        let swept = looked.iter().filter(|id| **id >= service(100)).count();
        assert_eq!(swept, 4, "one for every eight with news");
        assert!(schedule.is_swept());
        schedule.sweep((100..110).map(service));
        assert!(begun(&mut schedule, now).len() == AT_ONCE && !schedule.is_swept());
    }
}
