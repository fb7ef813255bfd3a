//! `…/services/{service}/metrics` and `/servers/{server}/metrics`: from what machines report to what people read.

use crate::fake_agent::{FakeAgent, Script, now_ms, pretend};
use crate::harness::World;
use api::gateway::ServiceTraffic;
use api::metrics::{ServerMetrics, ServiceMetrics};
use api::observed::{CpuTime, ObservedState};

const WEB: &str = "/api/v1/stacks/shop/services/web/metrics";
const MEMORY_BYTES: u64 = 256 << 20;
/// Memory is added up as kibibytes times seconds: the point of five seconds or more is right to so many bytes.
const ROUNDING_BYTES: u64 = 1 << 10;

/// What the machine says ten seconds apart: half a core and five requests a second.
fn reports(agent: &FakeAgent) -> [ObservedState; 2] {
    let desired = agent.desired();
    let now_ms = now_ms();
    [(0_u64, now_ms - 10_000), (10, now_ms)].map(|(seconds, at_ms)| {
        let mut observed = pretend(&desired, &Script::default());
        observed.observed_at_ms = at_ms;
        observed.resources.cpu_count = 4;
        observed.resources.cpu = Some(CpuTime { busy_ms: seconds * 1_000, total_ms: seconds * 4_000 });
        observed.resources.memory_total_bytes = 4 << 30;
        observed.resources.memory_available_bytes = 1 << 30;
        observed.gateway.pid = Some(7);
        for instance in &mut observed.instances {
            instance.started_at_ms = Some(now_ms - 3_600_000);
            instance.cpu_ms = Some(90_000 + seconds * 500);
            instance.memory_bytes = Some(MEMORY_BYTES);
        }
        let mut traffic = ServiceTraffic {
            service_id: observed.instances[0].service_id.clone(),
            requests: 1_000 + seconds * 5,
            errors: 3 + seconds / 5,
            client_errors: 0,
            latency_sum_micros: 0,
            sent_bytes: seconds * 100,
            latency: Default::default(),
        };
        traffic.latency.count(api::latency::latency_cell(20_000), 1_000 + seconds * 5);
        observed.gateway.services = vec![traffic];
        observed
    })
}

async fn measured() -> (World, FakeAgent) {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("")).await;
    agent.behave(|script| script.silent = true);
    // One that was on its way when the machine fell silent would come between the two.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    for report in reports(&agent) {
        agent.identity.report(report, vec![]).await;
    }
    (world, agent)
}

fn requests(metrics: &ServiceMetrics) -> (u64, u64, u64) {
    let sum = |of: fn(&api::metrics::ServicePoint) -> u64| metrics.points.iter().map(of).sum::<u64>();
    (sum(|p| p.requests), sum(|p| p.server_errors), sum(|p| p.sent_bytes))
}

#[tokio::test]
async fn what_a_service_used_is_told_for_each_range() {
    let (world, _agent) = measured().await;
    for range in ["1h", "24h", "7d"] {
        let metrics: ServiceMetrics = world.get(&format!("{WEB}?range={range}")).await.json();
        assert_eq!(metrics.range.as_str(), range);
        assert_eq!(requests(&metrics), (50, 2, 1_000), "{range}: {:?}", metrics.points);
        // The end of a point may come between the two reports: the one that has most of it.
        let point = metrics.points.iter().max_by_key(|point| point.covered_ms).unwrap();
        // The machine told of some seconds before, in which nothing was measured.
        assert!(point.cpu_cores > 0.2 && point.cpu_cores <= 0.5, "{point:?}");
        assert!(point.memory_bytes > MEMORY_BYTES / 2, "{point:?}");
        assert!(point.memory_bytes <= MEMORY_BYTES + ROUNDING_BYTES, "{point:?}");
        let p99_ms = point.latency_p99_ms.unwrap();
        assert!((17.0..24.0).contains(&p99_ms), "{p99_ms} ms");
        assert_eq!(metrics.deployments.iter().map(|mark| mark.revision_number).collect::<Vec<_>>(), [1]);
        assert!(metrics.points.iter().all(|p| p.at_ms >= metrics.from_ms && p.at_ms <= metrics.until_ms));
    }
    let unasked: ServiceMetrics = world.get(WEB).await.json();
    assert_eq!(unasked.range.as_str(), "1h");
}

#[tokio::test]
async fn what_a_server_used_is_told_by_its_name() {
    let (world, _agent) = measured().await;
    let metrics: ServerMetrics = world.get("/api/v1/servers/fake/metrics?range=24h").await.json();
    let point = metrics.points.iter().max_by_key(|point| point.covered_ms).unwrap();
    assert_eq!(point.cpu_cores.map(|cores| cores > 0.9 && cores <= 4.0), Some(true), "{point:?}");
    assert!(point.memory_used_bytes > 1 << 30, "{point:?}");
    assert!(point.memory_used_bytes <= (3 << 30) + ROUNDING_BYTES, "{point:?}");
}

#[tokio::test]
async fn what_was_used_is_still_told_after_a_restart_and_counted_once() {
    let (world, _agent) = measured().await;
    let before: ServiceMetrics = world.get(&format!("{WEB}?range=24h")).await.json();
    let world = world.restart().await;
    for range in ["1h", "24h", "7d"] {
        let after: ServiceMetrics = world.get(&format!("{WEB}?range={range}")).await.json();
        assert_eq!(requests(&after), requests(&before), "{range}");
    }
}

#[tokio::test]
async fn another_range_and_an_unknown_service_are_refused_in_words() {
    let world = World::new().await;
    let wrong = world.get("/api/v1/servers/any/metrics?range=2h").await.error(400);
    assert!(wrong.message.contains("1h, 24h and 7d"), "{wrong:?}");
    world.get(WEB).await.error(404);
    world.get("/api/v1/servers/any/metrics").await.error(404);
}
