//! Which certificates to order now: what is missing or wears out, no more often than an authority
//! allows, and less often after each failure.
//!
//! Authorities answer too many orders with days of silence, so a mistake in somebody's DNS must not use
//! up what a working host needs. Four bounds, all counted over orders that were begun, whatever became of
//! them: per host in an hour and in a week, over all hosts in an hour, and how many run at once. They lie
//! below those of Let's Encrypt (5 failed validations per host and hour, 5 equal certificates per week,
//! 300 orders in 3 hours).

use api::UnixMillis;
use api::name::HostName;
use std::collections::{BTreeMap, BTreeSet};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const WEEK_MS: i64 = 7 * 24 * HOUR_MS;

/// How many orders there may be.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub host_per_hour: usize,
    /// That succeeded.
    pub host_per_week: usize,
    pub all_per_hour: usize,
    pub at_once: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { host_per_hour: 4, host_per_week: 4, all_per_hour: 60, at_once: 10 }
    }
}

/// From when until when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before_ms: UnixMillis,
    pub not_after_ms: UnixMillis,
}

/// What is known of a host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostOrders {
    /// Of the certificate that was ordered for it.
    pub certificate: Option<Validity>,
    /// Not before this, after a failure.
    pub not_before_ms: UnixMillis,
    /// A person asked for it.
    pub forced: bool,
}

/// An order that was begun.
#[derive(Debug, Clone, Copy)]
pub struct Begun<'a> {
    pub host: &'a HostName,
    pub at_ms: UnixMillis,
    pub failed: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct OrderPlan {
    /// To be ordered now, most urgent first.
    pub now: Vec<HostName>,
    /// When each host's next order is due; for those of now, the present.
    pub due: BTreeMap<HostName, UnixMillis>,
    /// Hosts that would be due and wait for the budget.
    pub held: BTreeSet<HostName>,
}

/// `hosts` are those that need a certificate of ours.
pub fn plan(
    hosts: &BTreeMap<HostName, HostOrders>,
    begun: &[Begun<'_>],
    budget: &Budget,
    now_ms: UnixMillis,
) -> OrderPlan {
    let mut by_host: BTreeMap<&HostName, Vec<&Begun<'_>>> = BTreeMap::new();
    for one in begun {
        by_host.entry(one.host).or_default().push(one);
    }
    let mut plan = OrderPlan::default();
    let mut ready: Vec<(bool, UnixMillis, &HostName)> = Vec::new();
    for (host, orders) in hosts {
        let wished = wished_at(host, orders);
        let own = by_host.get(host).map(Vec::as_slice).unwrap_or_default();
        let due = wished.max(host_allowed_at(own, budget, now_ms));
        plan.due.insert(host.clone(), due.max(now_ms));
        if due <= now_ms {
            ready.push((orders.certificate.is_some(), wished, host));
        } else if wished <= now_ms {
            plan.held.insert(host.clone());
        }
    }
    // Who has none before who has one, then who waits longest.
    ready.sort_unstable();
    let room = budget.at_once.min(room_in(begun.iter(), budget.all_per_hour, HOUR_MS, now_ms));
    let next_ms = allowed_at(begun.iter().map(|one| one.at_ms), budget.all_per_hour, HOUR_MS);
    for (position, (_, _, host)) in ready.into_iter().enumerate() {
        if position < room {
            plan.now.push(host.clone());
        } else if room < budget.at_once {
            plan.held.insert(host.clone());
            plan.due.insert(host.clone(), next_ms.max(now_ms));
        }
    }
    plan
}

/// When it should be ordered, were there no bounds.
fn wished_at(host: &HostName, orders: &HostOrders) -> UnixMillis {
    if orders.forced {
        return 0;
    }
    orders.certificate.map_or(0, |validity| renew_at(host, validity)).max(orders.not_before_ms)
}

/// At two thirds of its life, and up to a fiftieth of it sooner, so that what was ordered together is not renewed
/// together for ever.
pub fn renew_at(host: &HostName, validity: Validity) -> UnixMillis {
    let life = (validity.not_after_ms - validity.not_before_ms).max(0);
    let spread = life / 50;
    // FNV-1a: the same host always at the same place.
    let hash = host
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let sooner = if spread == 0 { 0 } else { i64::try_from(hash % spread.unsigned_abs()).unwrap_or(0) };
    validity.not_before_ms + life * 2 / 3 - sooner
}

fn host_allowed_at(own: &[&Begun<'_>], budget: &Budget, now_ms: UnixMillis) -> UnixMillis {
    let lately = own.iter().map(|one| one.at_ms).filter(|at_ms| *at_ms > now_ms - HOUR_MS);
    let succeeded = own.iter().filter(|one| !one.failed).map(|one| one.at_ms);
    allowed_at(lately, budget.host_per_hour, HOUR_MS).max(allowed_at(succeeded, budget.host_per_week, WEEK_MS))
}

fn room_in<'a>(begun: impl Iterator<Item = &'a Begun<'a>>, limit: usize, window_ms: i64, now_ms: UnixMillis) -> usize {
    limit.saturating_sub(begun.filter(|one| one.at_ms > now_ms - window_ms).count())
}

/// When the window holds fewer than `limit` of these again.
fn allowed_at(times: impl Iterator<Item = UnixMillis>, limit: usize, window_ms: i64) -> UnixMillis {
    let mut times: Vec<UnixMillis> = times.collect();
    times.sort_unstable();
    match times.len().checked_sub(limit) {
        Some(position) if limit > 0 => times[position] + window_ms,
        _ => 0,
    }
}

/// Whose fault a failure is, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Something about the host, mostly its DNS: a person has to act.
    Host,
    /// The authority is away or overloaded: it will pass.
    Authority,
    /// The authority has had enough of us.
    TooMany,
}

/// How long to wait after so many failures in a row; `chance` from 0 to 1 spreads it by a fifth either way.
pub fn pause_ms(blame: Blame, failures: u32, chance: f64) -> i64 {
    const HOST_MINUTES: [i64; 7] = [1, 5, 20, 60, 180, 360, 720];
    const AUTHORITY_MINUTES: [i64; 4] = [1, 2, 5, 15];
    const TOO_MANY_MINUTES: [i64; 4] = [60, 180, 360, 720];
    let steps: &[i64] = match blame {
        Blame::Host => &HOST_MINUTES,
        Blame::Authority => &AUTHORITY_MINUTES,
        Blame::TooMany => &TOO_MANY_MINUTES,
    };
    let position = (failures.max(1) as usize - 1).min(steps.len() - 1);
    let pause = steps[position] * MINUTE_MS;
    pause + ((chance - 0.5) * 0.4 * pause as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UnixMillis = 100 * WEEK_MS;
    const DAY_MS: i64 = 24 * HOUR_MS;

    fn host(number: usize) -> HostName {
        format!("h{number:03}.example.com").parse().unwrap()
    }

    fn none(numbers: impl IntoIterator<Item = usize>) -> BTreeMap<HostName, HostOrders> {
        numbers.into_iter().map(|number| (host(number), HostOrders::default())).collect()
    }

    #[test]
    fn what_is_missing_is_ordered_before_what_wears_out_and_what_is_fresh_waits() {
        let mut hosts = none([2]);
        let aged =
            |days: i64| Some(Validity { not_before_ms: NOW - days * DAY_MS, not_after_ms: NOW + (90 - days) * DAY_MS });
        hosts.insert(host(1), HostOrders { certificate: aged(61), ..HostOrders::default() });
        hosts.insert(host(3), HostOrders { certificate: aged(1), ..HostOrders::default() });
        hosts.insert(host(4), HostOrders { certificate: aged(1), forced: true, ..HostOrders::default() });
        hosts.insert(host(5), HostOrders { not_before_ms: NOW + 5, ..HostOrders::default() });
        let plan = plan(&hosts, &[], &Budget::default(), NOW);
        assert_eq!(plan.now, [host(2), host(4), host(1)]);
        assert_eq!(plan.due[&host(5)], NOW + 5);
        let renewal = (plan.due[&host(3)] - NOW) / DAY_MS;
        assert!((57..=59).contains(&renewal), "renewed at two thirds of its life, in {renewal} days");
    }

    #[test]
    fn a_host_is_ordered_four_times_an_hour_and_four_good_times_a_week_and_no_more() {
        let one = host(1);
        let begun = |ages_ms: &[i64], failed| -> Vec<Begun<'_>> {
            ages_ms.iter().map(|age| Begun { host: &one, at_ms: NOW - age, failed }).collect()
        };
        let hosts = none([1]);
        let budget = Budget::default();
        let minutes = |m: i64| m * MINUTE_MS;
        let failed = begun(&[minutes(50), minutes(40), minutes(30), minutes(20)], true);
        let held = plan(&hosts, &failed, &budget, NOW);
        assert!(held.now.is_empty() && held.held.contains(&one));
        assert_eq!(held.due[&one], NOW + minutes(10));
        assert_eq!(plan(&hosts, &failed[1..], &budget, NOW).now, std::slice::from_ref(&one));
        let good = begun(&[DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 6 * DAY_MS], false);
        let forced = BTreeMap::from([(one.clone(), HostOrders { forced: true, ..HostOrders::default() })]);
        assert_eq!(plan(&forced, &good, &budget, NOW).due[&one], NOW + DAY_MS, "also when a person asks");
        assert_eq!(
            plan(&hosts, &begun(&[DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 6 * DAY_MS], true), &budget, NOW).now,
            std::slice::from_ref(&one)
        );
    }

    #[test]
    fn all_hosts_together_stay_within_the_hour_and_no_more_than_some_run_at_once() {
        let budget = Budget { all_per_hour: 12, ..Budget::default() };
        let hosts = none(0..30);
        assert_eq!(plan(&hosts, &[], &budget, NOW).now.len(), 10);
        let names: Vec<HostName> = (0..10).map(host).collect();
        let begun: Vec<Begun<'_>> =
            names.iter().map(|host| Begun { host, at_ms: NOW - MINUTE_MS, failed: false }).collect();
        let rest = plan(&none(10..30), &begun, &budget, NOW);
        assert_eq!(rest.now, [host(10), host(11)]);
        assert_eq!(rest.held.len(), 18);
    }

    #[test]
    fn each_failure_makes_the_pause_longer_up_to_half_a_day() {
        let pauses: Vec<i64> = (1..10).map(|failures| pause_ms(Blame::Host, failures, 0.5) / MINUTE_MS).collect();
        assert_eq!(pauses, [1, 5, 20, 60, 180, 360, 720, 720, 720]);
        assert_eq!(pause_ms(Blame::Authority, 99, 0.5), 15 * MINUTE_MS);
        assert!(pause_ms(Blame::Host, 1, 0.0) < MINUTE_MS && pause_ms(Blame::Host, 1, 1.0) > MINUTE_MS);
    }

    proptest! {
        /// Whatever happened before, and however often it is asked.
        #[test]
        fn the_budget_is_never_overrun(
            ages in prop::collection::vec((0_usize..6, 0_i64..8 * 24 * 60, any::<bool>()), 0..60),
            forced in prop::collection::vec(any::<bool>(), 6),
        ) {
            let budget = Budget { all_per_hour: 8, at_once: 3, ..Budget::default() };
            let names: Vec<HostName> = (0..6).map(host).collect();
            let begun: Vec<Begun<'_>> = ages
                .iter()
                .map(|(number, age, failed)| Begun { host: &names[*number], at_ms: NOW - age * MINUTE_MS, failed: *failed })
                .collect();
            let hosts: BTreeMap<HostName, HostOrders> = names
                .iter()
                .zip(&forced)
                .map(|(host, forced)| (host.clone(), HostOrders { forced: *forced, ..HostOrders::default() }))
                .collect();
            let plan = plan(&hosts, &begun, &budget, NOW);
            prop_assert!(plan.now.len() <= budget.at_once);
            let lately = begun.iter().filter(|one| one.at_ms > NOW - HOUR_MS).count();
            prop_assert!(plan.now.is_empty() || lately + plan.now.len() <= budget.all_per_hour);
            for host in &plan.now {
                let own = begun.iter().filter(|one| one.host == host);
                prop_assert!(own.clone().filter(|one| one.at_ms > NOW - HOUR_MS).count() < budget.host_per_hour);
                prop_assert!(own.filter(|one| !one.failed && one.at_ms > NOW - WEEK_MS).count() < budget.host_per_week);
            }
            for host in &names {
                prop_assert!(plan.now.contains(host) || plan.due[host] >= NOW, "{} is neither ordered nor due", host);
            }
        }
    }
}
