//! What was used between two reports of one machine. Pure.
//!
//! A report says sums since a start: of an instance, of the gateway, of the machine. A sum that fell began anew, and
//! what it says now came since then; a sum without a predecessor counts only if what it is of began in between. So
//! no restart makes a negative rate, and no sum of a week is taken for one of ten seconds.

use super::sums::{ServerFigure, ServiceFigure, Sums};
use api::UnixMillis;
use api::gateway::{GatewayObserved, ServiceTraffic};
use api::ids::ServiceId;
use api::observed::{InstanceObserved, InstanceState, ObservedState, Resources};
use std::collections::{BTreeMap, HashMap};

/// The time between two reports, by the control plane's clock.
///
/// Its length is the machine's own measure, which is exact; its end is when the second report came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    from_ms: UnixMillis,
    until_ms: UnixMillis,
}

/// The part of an interval that lies in one point, as moments counted from the interval's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub point_at_ms: UnixMillis,
    pub from: u64,
    pub to: u64,
    pub whole: u64,
}

impl Interval {
    /// `None` if no time passed, the machine's clock was set, or so much passed that an average says nothing.
    pub fn of(before: &ObservedState, after: &ObservedState, now_ms: UnixMillis, longest_ms: i64) -> Option<Self> {
        let length_ms = after.observed_at_ms.checked_sub(before.observed_at_ms)?;
        (length_ms > 0 && length_ms <= longest_ms).then(|| Self { from_ms: now_ms - length_ms, until_ms: now_ms })
    }

    pub fn length_ms(self) -> u64 {
        (self.until_ms - self.from_ms).unsigned_abs()
    }

    /// Cut where points of this length begin.
    pub fn pieces(self, step_ms: i64) -> impl Iterator<Item = Piece> {
        let first = self.from_ms - self.from_ms.rem_euclid(step_ms);
        let starts = std::iter::successors(Some(first), move |at_ms| Some(at_ms + step_ms));
        starts.take_while(move |at_ms| *at_ms < self.until_ms).map(move |point_at_ms| Piece {
            point_at_ms,
            from: (point_at_ms.max(self.from_ms) - self.from_ms).unsigned_abs(),
            to: ((point_at_ms + step_ms).min(self.until_ms) - self.from_ms).unsigned_abs(),
            whole: self.length_ms(),
        })
    }
}

/// By a machine, and on it by each service.
#[derive(Debug, Default, PartialEq)]
pub struct Used {
    pub server: Sums,
    pub services: BTreeMap<ServiceId, Sums>,
}

pub fn used(before: &ObservedState, after: &ObservedState, length_ms: u64) -> Used {
    let mut services: BTreeMap<ServiceId, Sums> = BTreeMap::new();
    let known: HashMap<_, _> = before.instances.iter().map(|was| (&was.instance_id, was)).collect();
    for instance in &after.instances {
        let was = known.get(&instance.instance_id).copied();
        let sums = services.entry(instance.service_id.clone()).or_default();
        add_instance(sums, was, instance, (before, after), length_ms);
    }
    for (service_id, traffic) in answered(&before.gateway, &after.gateway) {
        services.entry(service_id).or_default().add(&traffic);
    }
    Used { server: machine(&before.resources, &after.resources, length_ms), services }
}

/// By how much a sum grew; one that fell began anew.
pub fn increase(was: u64, now: u64) -> u64 {
    now.checked_sub(was).unwrap_or(now)
}

fn add_instance(
    sums: &mut Sums,
    was: Option<&InstanceObserved>,
    now: &InstanceObserved,
    (before, after): (&ObservedState, &ObservedState),
    length_ms: u64,
) {
    // Of one that was there all the time and is told of for the first time, nothing is known.
    let began = now.started_at_ms.is_some_and(|at_ms| at_ms >= before.observed_at_ms);
    let grew = |was: Option<u64>, now: u64| match was {
        Some(was) => increase(was, now),
        None if began => now,
        None => 0,
    };
    sums.increase(ServiceFigure::Restarts, grew(was.map(|was| was.restarts.into()), now.restarts.into()));
    if !matches!(now.state, InstanceState::Running | InstanceState::Healthy | InstanceState::Unhealthy) {
        return;
    }
    let since_start_ms = now.started_at_ms.map_or(length_ms, |at| (after.observed_at_ms - at).max(0).unsigned_abs());
    let ran_ms = since_start_ms.min(length_ms);
    sums.increase(ServiceFigure::InstanceMs, ran_ms);
    sums.increase(ServiceFigure::MemoryKibSeconds, kib_seconds(now.memory_bytes.unwrap_or(0), ran_ms));
    if let Some(cpu_ms) = now.cpu_ms {
        // No more than the machine has: a sum may have been read before and after it began anew.
        let most_ms = length_ms.saturating_mul(after.resources.cpu_count.max(1).into());
        sums.increase(ServiceFigure::CpuMs, grew(was.and_then(|was| was.cpu_ms), cpu_ms).min(most_ms));
    }
}

/// What the gateway answered, per service.
fn answered(before: &GatewayObserved, after: &GatewayObserved) -> Vec<(ServiceId, Sums)> {
    // A gateway that was not seen before may have counted for days.
    let Some(pid) = before.pid else { return Vec::new() };
    let same = after.pid == Some(pid);
    let known: HashMap<_, _> = before.services.iter().map(|was| (&was.service_id, was)).collect();
    let all = after.services.iter().map(|now| {
        let was = known.get(&now.service_id).copied().filter(|was| same && was.requests <= now.requests);
        (now.service_id.clone(), traffic(was, now))
    });
    all.collect()
}

fn traffic(was: Option<&ServiceTraffic>, now: &ServiceTraffic) -> Sums {
    let grew = |of: fn(&ServiceTraffic) -> u64| increase(was.map_or(0, of), of(now));
    let mut sums = Sums::default();
    sums.increase(ServiceFigure::Requests, grew(|traffic| traffic.requests));
    sums.increase(ServiceFigure::ClientErrors, grew(|traffic| traffic.client_errors));
    sums.increase(ServiceFigure::ServerErrors, grew(|traffic| traffic.errors));
    sums.increase(ServiceFigure::SentBytes, grew(|traffic| traffic.sent_bytes));
    for (cell, count) in now.latency.cells() {
        sums.latency.count(cell, increase(was.map_or(0, |was| was.latency.of_cell(cell)), count));
    }
    sums
}

fn machine(before: &Resources, after: &Resources, length_ms: u64) -> Sums {
    let mut sums = Sums::covering(length_ms);
    if let (Some(was), Some(now)) = (before.cpu, after.cpu)
        && now.total_ms > was.total_ms
        && now.busy_ms >= was.busy_ms
    {
        sums.increase(ServerFigure::CpuBusyMs, now.busy_ms - was.busy_ms);
        sums.increase(ServerFigure::CpuTotalMs, now.total_ms - was.total_ms);
    }
    let load_milli = if after.load_1m.is_finite() { (after.load_1m.clamp(0.0, 1e6) * 1000.0) as u64 } else { 0 };
    sums.increase(ServerFigure::CoreMs, length_ms.saturating_mul(after.cpu_count.into()));
    sums.increase(ServerFigure::LoadMilliSeconds, load_milli.saturating_mul(length_ms) / 1000);
    for (figure, bytes) in [
        (ServerFigure::MemoryUsedKibSeconds, after.memory_total_bytes.saturating_sub(after.memory_available_bytes)),
        (ServerFigure::MemoryTotalKibSeconds, after.memory_total_bytes),
        (ServerFigure::DiskUsedKibSeconds, after.disk_total_bytes.saturating_sub(after.disk_available_bytes)),
        (ServerFigure::DiskTotalKibSeconds, after.disk_total_bytes),
    ] {
        sums.increase(figure, kib_seconds(bytes, length_ms));
    }
    sums
}

fn kib_seconds(bytes: u64, ms: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(ms) / 1024 / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use api::latency::LatencyHistogram;
    use api::observed::CpuTime;
    use proptest::prelude::*;

    const BEGIN_MS: i64 = 1_700_000_000_000;

    fn report(at_ms: i64, instances: Vec<InstanceObserved>, services: Vec<ServiceTraffic>) -> ObservedState {
        let mut report = samples::observed_nothing();
        report.observed_at_ms = BEGIN_MS + at_ms;
        report.instances = instances;
        report.gateway.pid = Some(7);
        report.gateway.services = services;
        report.resources.cpu_count = 4;
        report
    }

    fn instance(number: u128, started_at_ms: i64, cpu_ms: u64) -> InstanceObserved {
        let mut instance = samples::observed_instance(number);
        instance.started_at_ms = Some(BEGIN_MS + started_at_ms);
        instance.cpu_ms = Some(cpu_ms);
        instance.memory_bytes = Some(100 << 20);
        instance
    }

    fn served(requests: u64, cells: &[(u8, u64)]) -> ServiceTraffic {
        ServiceTraffic {
            service_id: samples::observed_instance(1).service_id,
            requests,
            errors: requests / 10,
            latency_sum_micros: 0,
            client_errors: requests / 5,
            sent_bytes: requests * 100,
            latency: LatencyHistogram::from(cells.to_vec()),
        }
    }

    fn of_service(before: &ObservedState, after: &ObservedState) -> Sums {
        let used = used(before, after, 10_000);
        used.services.into_values().next().unwrap_or_default()
    }

    #[test]
    fn of_sums_what_they_grew_by_is_what_was_used() {
        let before = report(0, vec![instance(1, -60_000, 5_000)], vec![served(100, &[(3, 90), (9, 10)])]);
        let after =
            report(10_000, vec![instance(1, -60_000, 7_500)], vec![served(150, &[(3, 120), (9, 10), (11, 20)])]);
        let sums = of_service(&before, &after);
        assert_eq!(sums.get(ServiceFigure::CpuMs), 2_500);
        assert_eq!(sums.get(ServiceFigure::InstanceMs), 10_000);
        assert_eq!(sums.get(ServiceFigure::MemoryKibSeconds), 100 * 1024 * 10);
        assert_eq!((sums.get(ServiceFigure::Requests), sums.get(ServiceFigure::SentBytes)), (50, 5_000));
        assert_eq!((sums.get(ServiceFigure::ClientErrors), sums.get(ServiceFigure::ServerErrors)), (10, 5));
        assert_eq!(sums.latency, LatencyHistogram::from(vec![(3, 30), (11, 20)]));
    }

    #[test]
    fn a_sum_that_began_anew_counts_from_zero() {
        let mut before = report(0, vec![instance(1, -60_000, 5_000)], vec![served(100, &[(3, 100)])]);
        let mut crashed = instance(1, 9_000, 40);
        crashed.restarts = 1;
        let mut after = report(10_000, vec![crashed], vec![served(3, &[(3, 1), (4, 2)])]);
        let sums = of_service(&before, &after);
        assert_eq!((sums.get(ServiceFigure::CpuMs), sums.get(ServiceFigure::Restarts)), (40, 1));
        assert_eq!((sums.get(ServiceFigure::Requests), sums.get(ServiceFigure::InstanceMs)), (3, 1_000));
        assert_eq!(sums.latency, LatencyHistogram::from(vec![(3, 1), (4, 2)]));
        // A gateway of another process has counted more already than the one before it.
        after.gateway.pid = Some(8);
        before.gateway.services = vec![served(2, &[(3, 2)])];
        assert_eq!(of_service(&before, &after).get(ServiceFigure::Requests), 3);
    }

    #[test]
    fn what_was_there_before_and_is_told_of_for_the_first_time_counts_nothing() {
        let mut before = report(0, vec![], vec![]);
        let old = report(10_000, vec![instance(1, -3_600_000, 900_000)], vec![]);
        assert_eq!(of_service(&before, &old).get(ServiceFigure::CpuMs), 0);
        let fresh = report(10_000, vec![instance(1, 4_000, 90)], vec![]);
        let sums = of_service(&before, &fresh);
        assert_eq!((sums.get(ServiceFigure::CpuMs), sums.get(ServiceFigure::InstanceMs)), (90, 6_000));
        before.gateway.pid = None;
        let after = report(10_000, vec![], vec![served(1_000_000, &[])]);
        assert!(used(&before, &after, 10_000).services.is_empty());
    }

    #[test]
    fn an_instance_uses_no_more_than_the_machine_has_and_one_that_ended_nothing() {
        let before = report(0, vec![instance(1, -60_000, 0)], vec![]);
        let after = report(10_000, vec![instance(1, -60_000, 9_000_000)], vec![]);
        assert_eq!(of_service(&before, &after).get(ServiceFigure::CpuMs), 40_000);
        let mut ended = instance(1, -60_000, 500);
        ended.state = InstanceState::Exited;
        let after = report(10_000, vec![ended], vec![]);
        assert_eq!(of_service(&before, &after), Sums::default());
    }

    #[test]
    fn a_machine_is_busy_for_what_its_sums_grew_by_and_after_a_reboot_nothing_is_known() {
        let (mut before, mut after) = (report(0, vec![], vec![]), report(10_000, vec![], vec![]));
        before.resources.cpu = Some(CpuTime { busy_ms: 1_000, total_ms: 50_000 });
        after.resources.cpu = Some(CpuTime { busy_ms: 11_000, total_ms: 90_000 });
        after.resources.load_1m = 1.5;
        after.resources.memory_total_bytes = 4 << 30;
        after.resources.memory_available_bytes = 3 << 30;
        let sums = used(&before, &after, 10_000).server;
        assert_eq!((sums.get(ServerFigure::CpuBusyMs), sums.get(ServerFigure::CpuTotalMs)), (10_000, 40_000));
        assert_eq!((sums.covered_ms, sums.get(ServerFigure::LoadMilliSeconds)), (10_000, 15_000));
        assert_eq!(sums.get(ServerFigure::MemoryUsedKibSeconds), (1 << 20) * 10);
        after.resources.cpu = Some(CpuTime { busy_ms: 10, total_ms: 40 });
        assert_eq!(used(&before, &after, 10_000).server.get(ServerFigure::CpuTotalMs), 0);
    }

    #[test]
    fn no_time_a_clock_that_was_set_and_too_long_a_silence_are_no_interval() {
        let at = |at_ms| report(at_ms, vec![], vec![]);
        let interval = |before: i64, after: i64| Interval::of(&at(before), &at(after), BEGIN_MS, 60_000);
        assert_eq!(interval(0, 0), None);
        assert_eq!(interval(10_000, 0), None);
        assert_eq!(interval(0, 60_001), None);
        assert_eq!(interval(0, 60_000).map(Interval::length_ms), Some(60_000));
    }

    proptest! {
        #[test]
        fn pieces_lie_in_their_points_and_are_the_interval(from in 0..200_000_i64, length in 1..200_000_i64) {
            let interval = Interval { from_ms: from, until_ms: from + length };
            let pieces: Vec<Piece> = interval.pieces(30_000).collect();
            prop_assert_eq!((pieces[0].from, pieces[pieces.len() - 1].to), (0, length as u64));
            for piece in &pieces {
                prop_assert!(piece.from < piece.to && piece.point_at_ms % 30_000 == 0);
                prop_assert!(from + piece.from as i64 >= piece.point_at_ms);
                prop_assert!(from + piece.to as i64 <= piece.point_at_ms + 30_000);
            }
            for pair in pieces.windows(2) {
                prop_assert_eq!(pair[0].to, pair[1].from);
            }
        }

        /// Whatever starts, ends and begins anew: over many reports no more is counted than was told of.
        #[test]
        fn over_restarts_no_rate_is_negative_and_no_sum_is_counted_twice(
            steps in prop::collection::vec((0..2_000_u64, any::<bool>()), 1..40),
        ) {
            let (mut sum, mut told, mut counted) = (0_u64, 0_u64, 0_u64);
            let mut before = report(0, vec![instance(1, -10_000, 0)], vec![served(0, &[])]);
            for (number, (grew, restarted)) in (1_i64..).zip(steps) {
                sum = if restarted { grew } else { sum + grew };
                told += grew;
                let after = report(number * 10_000, vec![instance(1, -10_000, sum)], vec![served(sum, &[(5, sum)])]);
                let used = of_service(&before, &after);
                prop_assert!(used.get(ServiceFigure::CpuMs) <= sum);
                prop_assert_eq!(used.get(ServiceFigure::CpuMs), used.get(ServiceFigure::Requests));
                prop_assert_eq!(used.latency.of_cell(5), used.get(ServiceFigure::Requests));
                counted += used.get(ServiceFigure::CpuMs);
                before = after;
            }
            prop_assert!(counted <= told);
        }
    }
}
