//! Slows guessing of passwords: per user and address, and per address alone.
//!
//! The first tries are free; from then on each failure doubles the wait, up to five minutes. A
//! success forgets the user's failures from that address. The table is bounded: when it is full the
//! entry that failed longest ago makes room, which an attacker can bring about only by spending
//! thousands of addresses. It lives in memory on purpose; a restart forgives.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const ENTRIES_LIMIT: usize = 10_000;
const FREE_TRIES_OF_A_USER: u32 = 5;
const FREE_TRIES_OF_AN_ADDRESS: u32 = 20;
const WAIT_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    UserFrom(String, IpAddr),
    Address(IpAddr),
}

impl Key {
    fn free_tries(&self) -> u32 {
        match self {
            Self::UserFrom(..) => FREE_TRIES_OF_A_USER,
            Self::Address(_) => FREE_TRIES_OF_AN_ADDRESS,
        }
    }
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

/// All failures that still count.
#[derive(Debug, Default)]
pub struct SignInLimiter {
    entries: Mutex<HashMap<Key, Failures>>,
}

fn keys(user: &str, address: IpAddr) -> [Key; 2] {
    [Key::UserFrom(user.chars().take(80).collect(), address), Key::Address(address)]
}

fn wait_after(count: u32, free: u32) -> Duration {
    match count.checked_sub(free) {
        None => Duration::ZERO,
        Some(over) => Duration::from_secs(1 << over.min(9)).min(WAIT_LIMIT),
    }
}

impl SignInLimiter {
    /// Takes one try, counted as failed until [`Self::succeeded`]; `Err` is the time to wait first.
    /// Counting before the password is looked at keeps tries that run side by side from all passing.
    pub fn take(&self, user: &str, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = keys(user, address);
        for key in &keys {
            if let Some(failures) = entries.get(key) {
                let wait = wait_after(failures.count, key.free_tries());
                let waited = now.saturating_duration_since(failures.last);
                if waited < wait {
                    return Err(wait - waited);
                }
            }
        }
        for key in keys {
            make_room(&mut entries, &key);
            let failures = entries.entry(key).or_insert(Failures { count: 0, last: now });
            if now.saturating_duration_since(failures.last) > 2 * WAIT_LIMIT {
                failures.count = 0;
            }
            failures.count = failures.count.saturating_add(1);
            failures.last = now;
        }
        Ok(())
    }

    pub fn succeeded(&self, user: &str, address: IpAddr) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let [user_key, address_key] = keys(user, address);
        entries.remove(&user_key);
        if let Some(failures) = entries.get_mut(&address_key) {
            failures.count = failures.count.saturating_sub(1);
        }
    }
}

fn make_room(entries: &mut HashMap<Key, Failures>, key: &Key) {
    if entries.len() >= ENTRIES_LIMIT && !entries.contains_key(key) {
        let oldest = entries.iter().min_by_key(|(_, failures)| failures.last).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn guessing_gets_slower_and_slower_and_another_address_is_not_punished_for_it() {
        let limiter = SignInLimiter::default();
        let start = Instant::now();
        for _ in 0..FREE_TRIES_OF_A_USER {
            assert_eq!(limiter.take("admin", ADDRESS, start), Ok(()));
        }
        let wait = limiter.take("admin", ADDRESS, start).unwrap_err();
        assert_eq!(limiter.take("admin", ADDRESS, start + wait), Ok(()));
        let next = limiter.take("admin", ADDRESS, start + wait).unwrap_err();
        assert!(next > wait);
        let other = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(limiter.take("admin", other, start), Ok(()));
    }

    #[test]
    fn a_success_forgets_the_failures_and_guessing_many_names_from_one_address_is_slowed_too() {
        let limiter = SignInLimiter::default();
        let start = Instant::now();
        for _ in 0..FREE_TRIES_OF_A_USER {
            limiter.take("admin", ADDRESS, start).unwrap();
        }
        limiter.succeeded("admin", ADDRESS);
        assert_eq!(limiter.take("admin", ADDRESS, start), Ok(()));
        let refused = (0..100).any(|n| limiter.take(&format!("user{n}"), ADDRESS, start).is_err());
        assert!(refused);
    }
}
