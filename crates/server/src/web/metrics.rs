//! How much a service or a server used, as charts with the same figures as a table: one section that the pages of
//! both show.

use super::charts::{Chart, Series, Shape, Span, Unit, moment, plain};
use super::times;
use api::metrics::{DeploymentMark, MetricsRange, ServerMetrics, ServerPoint, ServiceMetrics, ServicePoint};
use maud::{Markup, html};

/// More points than this are drawn two by two, and so on.
const POINTS_DRAWN: usize = 170;
/// Rows of the table below the charts.
const TABLE_ROWS: usize = 12;
/// Deployments that are listed.
const DEPLOYMENTS_LISTED: usize = 8;

/// Fewer points, each the sum or the average of some; what `merge` makes of them.
fn thinned<P: Clone>(
    points: &[P],
    at_most: usize,
    at_ms: impl Fn(&P) -> i64,
    step_ms: i64,
    merge: impl Fn(&[P]) -> P,
) -> (Vec<P>, i64) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return (Vec::new(), step_ms) };
    let steps = usize::try_from((at_ms(last) - at_ms(first)) / step_ms.max(1) + 1).unwrap_or(1);
    let times = i64::try_from(steps.div_ceil(at_most.max(1)).max(1)).unwrap_or(1);
    let long_ms = step_ms * times;
    let merged = points.chunk_by(|a, b| at_ms(a).div_euclid(long_ms) == at_ms(b).div_euclid(long_ms)).map(merge);
    (merged.collect(), long_ms)
}

fn average(weights: impl Iterator<Item = (f64, u64)>) -> f64 {
    let (sum, weight) =
        weights.fold((0.0, 0.0), |(sum, all), (figure, weight)| (sum + figure * weight as f64, all + weight as f64));
    if weight > 0.0 { sum / weight } else { 0.0 }
}

/// Of several points one. The percentile of all of them is not known any more; the slowest of them is told.
fn merged_service(points: &[ServicePoint]) -> ServicePoint {
    let sum = |of: fn(&ServicePoint) -> u64| points.iter().map(of).fold(0_u64, u64::saturating_add);
    let mean = |of: fn(&ServicePoint) -> f64| average(points.iter().map(|point| (of(point), point.covered_ms)));
    let slowest = |of: fn(&ServicePoint) -> Option<f64>| points.iter().filter_map(of).reduce(f64::max);
    ServicePoint {
        at_ms: points.first().map_or(0, |point| point.at_ms),
        covered_ms: sum(|point| point.covered_ms),
        cpu_cores: mean(|point| point.cpu_cores),
        memory_bytes: mean(|point| point.memory_bytes as f64) as u64,
        instances: mean(|point| point.instances),
        requests: sum(|point| point.requests),
        requests_per_second: mean(|point| point.requests_per_second),
        client_errors: sum(|point| point.client_errors),
        server_errors: sum(|point| point.server_errors),
        sent_bytes: sum(|point| point.sent_bytes),
        latency_p50_ms: slowest(|point| point.latency_p50_ms),
        latency_p99_ms: slowest(|point| point.latency_p99_ms),
        restarts: sum(|point| point.restarts),
    }
}

fn merged_server(points: &[ServerPoint]) -> ServerPoint {
    let mean = |of: fn(&ServerPoint) -> f64| average(points.iter().map(|point| (of(point), point.covered_ms)));
    let known = points.iter().filter_map(|point| point.cpu_cores.map(|cores| (cores, point.covered_ms)));
    ServerPoint {
        at_ms: points.first().map_or(0, |point| point.at_ms),
        covered_ms: points.iter().map(|point| point.covered_ms).fold(0, u64::saturating_add),
        cpu_cores: known.clone().next().map(|_| average(known)),
        cpu_count: mean(|point| point.cpu_count),
        load_1m: mean(|point| point.load_1m),
        memory_used_bytes: mean(|point| point.memory_used_bytes as f64) as u64,
        memory_total_bytes: mean(|point| point.memory_total_bytes as f64) as u64,
        disk_used_bytes: mean(|point| point.disk_used_bytes as f64) as u64,
        disk_total_bytes: mean(|point| point.disk_total_bytes as f64) as u64,
    }
}

/// Everything about one service over time; `path` is its page.
pub fn service(metrics: &ServiceMetrics, path: &str) -> Markup {
    let at = |point: &ServicePoint| point.at_ms;
    let (points, step_ms) = thinned(&metrics.points, POINTS_DRAWN, at, metrics.step_ms, merged_service);
    let span = Span { from_ms: metrics.from_ms, range: metrics.range, step_ms, deployments: &metrics.deployments };
    let series = |name, class, shape, of: &dyn Fn(&ServicePoint) -> Option<f64>| Series {
        name,
        class,
        shape,
        points: points.iter().filter_map(|point| Some((point.at_ms, of(point)?))).collect(),
    };
    let chart = |title, unit, series| Chart { title, unit, series, whole: None, span: &span };
    let charts = [
        chart("CPU, in cores", Unit::Cores, vec![series("CPU", "a", Shape::Line, &|p| Some(p.cpu_cores))]),
        chart("Memory", Unit::Bytes, vec![series("Memory", "a", Shape::Line, &|p| Some(p.memory_bytes as f64))]),
        chart(
            "Requests",
            Unit::PerSecond,
            vec![series("Requests", "a", Shape::Line, &|p| Some(p.requests_per_second))],
        ),
        chart(
            "Latency",
            Unit::Milliseconds,
            vec![
                series("p50", "a", Shape::Line, &|p| p.latency_p50_ms),
                series("p99", "b", Shape::Line, &|p| p.latency_p99_ms),
            ],
        ),
        chart(
            "Errors",
            Unit::PerSecond,
            vec![
                series("4xx", "b", Shape::Line, &|p| Some(p.per_second(p.client_errors))),
                series("5xx", "bad", Shape::Line, &|p| Some(p.per_second(p.server_errors))),
            ],
        ),
        chart("Restarts", Unit::Count, vec![series("Restarts", "bad", Shape::Bars, &|p| Some(p.restarts as f64))]),
    ];
    let known = !metrics.points.is_empty();
    section(
        path,
        metrics.range,
        known,
        html! {
            div.charts { @for chart in &charts { (chart.render()) } }
            (deployments(&metrics.deployments))
            (service_table(metrics))
        },
    )
}

/// Everything about one server over time; `path` is its page.
pub fn server(metrics: &ServerMetrics, path: &str) -> Markup {
    let at = |point: &ServerPoint| point.at_ms;
    let (points, step_ms) = thinned(&metrics.points, POINTS_DRAWN, at, metrics.step_ms, merged_server);
    let span = Span { from_ms: metrics.from_ms, range: metrics.range, step_ms, deployments: &[] };
    let series = |name, of: &dyn Fn(&ServerPoint) -> Option<f64>| {
        vec![Series {
            name,
            class: "a",
            shape: Shape::Line,
            points: points.iter().filter_map(|point| Some((point.at_ms, of(point)?))).collect(),
        }]
    };
    let last = points.last();
    let chart = |title, unit, series, whole: Option<f64>| Chart { title, unit, series, whole, span: &span };
    let charts = [
        chart("CPU, in cores", Unit::Cores, series("CPU", &|p| p.cpu_cores), last.map(|p| p.cpu_count)),
        chart(
            "Memory in use",
            Unit::Bytes,
            series("Memory", &|p| Some(p.memory_used_bytes as f64)),
            last.map(|p| p.memory_total_bytes as f64),
        ),
        chart(
            "Disk in use",
            Unit::Bytes,
            series("Disk", &|p| Some(p.disk_used_bytes as f64)),
            last.map(|p| p.disk_total_bytes as f64),
        ),
    ];
    section(
        path,
        metrics.range,
        !metrics.points.is_empty(),
        html! {
            div.charts { @for chart in &charts { (chart.render()) } }
            p.soft { "The dashed line is how much there is." }
            (server_table(metrics))
        },
    )
}

fn section(path: &str, range: MetricsRange, known: bool, inside: Markup) -> Markup {
    html! {
        section.card.metrics #metrics aria-labelledby="metrics-title" {
            div.card-head {
                h2 #metrics-title { "Metrics" }
                nav.ranges aria-label="Range of the charts" {
                    @for one in MetricsRange::ALL {
                        a href={ (path) "?range=" (one) "#metrics" } aria-current=[(one == range).then_some("true")] { (one) }
                    }
                }
            }
            @if known { (inside) } @else {
                p.empty { "Nothing is known of this time yet. Figures come with the reports of the servers; the first appear within half a minute." }
            }
        }
    }
}

fn deployments(marks: &[DeploymentMark]) -> Markup {
    html! {
        @if !marks.is_empty() {
            p.soft {
                "Upright lines are deployments: "
                @for (position, mark) in marks.iter().rev().take(DEPLOYMENTS_LISTED).enumerate() {
                    @if position > 0 { ", " }
                    a href={ "/deployments/" (mark.deployment_id) } { "revision " (mark.revision_number) " at " (moment(mark.at_ms, "%b %-d %H:%M")) }
                }
                @if marks.len() > DEPLOYMENTS_LISTED { ", and " (marks.len() - DEPLOYMENTS_LISTED) " before" }
                ". Times are UTC."
            }
        } @else { p.soft { "Times are UTC." } }
    }
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> Markup {
    html! {
        details {
            summary { "The same as a table" }
            div.scroll {
                table.plain {
                    thead { tr { @for word in head { th scope="col" { (word) } } } }
                    tbody {
                        @for row in rows.iter().rev() {
                            tr { @for (position, cell) in row.iter().enumerate() { @if position == 0 { th scope="row" { (cell) } } @else { td { (cell) } } } }
                        }
                    }
                }
            }
        }
    }
}

fn service_table(metrics: &ServiceMetrics) -> Markup {
    let at = |point: &ServicePoint| point.at_ms;
    let (points, _) = thinned(&metrics.points, TABLE_ROWS, at, metrics.step_ms, merged_service);
    let ms = |figure: Option<f64>| figure.map_or("–".to_owned(), |ms| Unit::Milliseconds.text(ms));
    let rows = points.iter().map(|p| {
        vec![
            moment(p.at_ms, "%b %-d %H:%M"),
            Unit::Cores.text(p.cpu_cores),
            Unit::Bytes.text(p.memory_bytes as f64),
            p.requests.to_string(),
            ms(p.latency_p50_ms),
            ms(p.latency_p99_ms),
            p.client_errors.to_string(),
            p.server_errors.to_string(),
            p.restarts.to_string(),
        ]
    });
    table(&["From", "CPU", "Memory", "Requests", "p50", "p99", "4xx", "5xx", "Restarts"], rows.collect())
}

fn server_table(metrics: &ServerMetrics) -> Markup {
    let at = |point: &ServerPoint| point.at_ms;
    let (points, _) = thinned(&metrics.points, TABLE_ROWS, at, metrics.step_ms, merged_server);
    let of = |part: u64, whole: u64| format!("{} of {}", times::bytes_text(part), times::bytes_text(whole));
    let rows = points.iter().map(|p| {
        vec![
            moment(p.at_ms, "%b %-d %H:%M"),
            p.cpu_cores.map_or("–".to_owned(), |cores| format!("{} of {}", plain(cores), plain(p.cpu_count))),
            plain(p.load_1m),
            of(p.memory_used_bytes, p.memory_total_bytes),
            of(p.disk_used_bytes, p.disk_total_bytes),
        ]
    });
    table(&["From", "CPU cores", "Load", "Memory", "Disk"], rows.collect())
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
