//! Reading what was used, as people and programs see it: averages, rates and percentiles.

use super::Points;
use super::rings::{self, COARSE, FINE, MIDDLE, Ring};
use super::sums::{ServerFigure, ServiceFigure, Sums};
use crate::clock;
use crate::error::Result;
use crate::state::AppState;
use crate::views;
use api::UnixMillis;
use api::ids::{ServerId, ServiceId};
use api::metrics::{DeploymentMark, MetricsRange, ServerMetrics, ServerPoint, ServiceMetrics, ServicePoint};
use store::Scope;

/// Newest deployments that are looked at for marks.
const DEPLOYMENTS: u32 = 50;

fn ring_of(range: MetricsRange) -> Ring {
    match range {
        MetricsRange::Hour => FINE,
        MetricsRange::Day => MIDDLE,
        MetricsRange::Week => COARSE,
    }
}

/// Of one service, by names or ids.
pub async fn service(
    state: &AppState,
    scope: &Scope,
    (stack, service): (&str, &str),
    range: MetricsRange,
) -> Result<ServiceMetrics> {
    let service_id = views::service(state, scope, stack, service).await?.id;
    service_by_id(state, scope, service_id, range).await
}

/// The same of a service that is known already.
pub async fn service_by_id(
    state: &AppState,
    scope: &Scope,
    service_id: ServiceId,
    range: MetricsRange,
) -> Result<ServiceMetrics> {
    let now_ms = clock::now_ms();
    let from_ms = from_ms(range, now_ms);
    let points = points(state, scope, service_id.as_str(), range, from_ms).await?;
    let mut deployments: Vec<DeploymentMark> = state
        .store()
        .deployment_list(scope, &service_id, DEPLOYMENTS)
        .await?
        .into_iter()
        .filter(|deployment| (from_ms..=now_ms).contains(&deployment.created_at_ms))
        .map(|deployment| DeploymentMark {
            deployment_id: deployment.id,
            revision_number: deployment.revision_number,
            at_ms: deployment.created_at_ms,
        })
        .collect();
    deployments.reverse();
    Ok(ServiceMetrics {
        service_id,
        range,
        from_ms,
        until_ms: now_ms,
        step_ms: range.step_ms(),
        points: points.iter().map(|(at_ms, sums)| service_point(*at_ms, sums)).collect(),
        deployments,
    })
}

/// Of one server, by name or id.
pub async fn server(state: &AppState, scope: &Scope, server: &str, range: MetricsRange) -> Result<ServerMetrics> {
    let server_id = views::server(state, scope, server).await?.id;
    server_by_id(state, scope, server_id, range).await
}

/// The same of a server that is known already.
pub async fn server_by_id(
    state: &AppState,
    scope: &Scope,
    server_id: ServerId,
    range: MetricsRange,
) -> Result<ServerMetrics> {
    let now_ms = clock::now_ms();
    let from_ms = from_ms(range, now_ms);
    let points = points(state, scope, server_id.as_str(), range, from_ms).await?;
    Ok(ServerMetrics {
        server_id,
        range,
        from_ms,
        until_ms: now_ms,
        step_ms: range.step_ms(),
        points: points.iter().map(|(at_ms, sums)| server_point(*at_ms, sums)).collect(),
    })
}

/// Where the first point begins: as many whole ones as the range has, and the one that is not over.
fn from_ms(range: MetricsRange, now_ms: UnixMillis) -> UnixMillis {
    ring_of(range).point_begin(now_ms) - range.length_ms()
}

async fn points(
    state: &AppState,
    scope: &Scope,
    subject: &str,
    range: MetricsRange,
    from_ms: UnixMillis,
) -> Result<Points> {
    // In this order: what is written in between would be missing in the other, and is only shown late in this one.
    let waiting = state.metrics.of(&scope.organization, subject);
    let mut points = rings::history(state.store(), scope, ring_of(range), subject, from_ms, waiting).await?;
    points.retain(|_, sums| sums.covered_ms > 0);
    Ok(points)
}

fn service_point(at_ms: UnixMillis, sums: &Sums) -> ServicePoint {
    let per_ms = |figure| average(sums.get(figure), sums.covered_ms);
    let requests = sums.get(ServiceFigure::Requests);
    ServicePoint {
        at_ms,
        covered_ms: sums.covered_ms,
        cpu_cores: rounded(per_ms(ServiceFigure::CpuMs)),
        memory_bytes: bytes(sums, ServiceFigure::MemoryKibSeconds),
        instances: rounded(per_ms(ServiceFigure::InstanceMs)),
        requests,
        requests_per_second: rounded(per_ms(ServiceFigure::Requests) * 1000.0),
        client_errors: sums.get(ServiceFigure::ClientErrors),
        server_errors: sums.get(ServiceFigure::ServerErrors),
        sent_bytes: sums.get(ServiceFigure::SentBytes),
        latency_p50_ms: sums.latency.quantile_ms(0.5).map(rounded),
        latency_p99_ms: sums.latency.quantile_ms(0.99).map(rounded),
        restarts: sums.get(ServiceFigure::Restarts),
    }
}

fn server_point(at_ms: UnixMillis, sums: &Sums) -> ServerPoint {
    let cpu_count = average(sums.get(ServerFigure::CoreMs), sums.covered_ms);
    let total_ms = sums.get(ServerFigure::CpuTotalMs);
    let busy = (total_ms > 0).then(|| average(sums.get(ServerFigure::CpuBusyMs), total_ms));
    ServerPoint {
        at_ms,
        covered_ms: sums.covered_ms,
        cpu_cores: busy.map(|part| rounded(part * cpu_count)),
        cpu_count: rounded(cpu_count),
        load_1m: rounded(average(sums.get(ServerFigure::LoadMilliSeconds), sums.covered_ms)),
        memory_used_bytes: bytes(sums, ServerFigure::MemoryUsedKibSeconds),
        memory_total_bytes: bytes(sums, ServerFigure::MemoryTotalKibSeconds),
        disk_used_bytes: bytes(sums, ServerFigure::DiskUsedKibSeconds),
        disk_total_bytes: bytes(sums, ServerFigure::DiskTotalKibSeconds),
    }
}

fn average(sum: u64, over: u64) -> f64 {
    sum as f64 / over.max(1) as f64
}

/// From kibibytes times seconds.
fn bytes(sums: &Sums, figure: impl super::sums::Figure) -> u64 {
    let bytes = u128::from(sums.get(figure)) * 1024 * 1000 / u128::from(sums.covered_ms.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// To thousandths: nobody reads more, and answers stay short.
fn rounded(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}
