//! Charts: points in, markup out. Drawn here as SVG, so that they need no script, can be read by a screen reader
//! (a title, a sentence that says what is to be seen, a table) and follow the page's colours.
//!
//! A point that is missing is a gap in the line. Axes end at round numbers. Coordinates are whole numbers on a grid
//! twice as fine as the screen's, and lines are drawn by steps from point to point, so that a chart of a day is about
//! a kilobyte.

use super::times;
use api::UnixMillis;
use api::metrics::{DeploymentMark, MetricsRange, ServerMetrics, ServerPoint, ServiceMetrics, ServicePoint};
use maud::{Markup, html};
use std::fmt::Write as _;

/// The grid, in units of half a pixel.
const WIDTH: i64 = 800;
const HEIGHT: i64 = 300;
/// Where lines are drawn.
const LEFT: i64 = 110;
const RIGHT: i64 = 790;
const TOP: i64 = 24;
const BOTTOM: i64 = 250;
/// More points than this are drawn two by two, and so on.
const POINTS_DRAWN: usize = 170;
/// Rows of the table below the charts.
const TABLE_ROWS: usize = 12;
/// Deployments that are listed.
const DEPLOYMENTS_LISTED: usize = 8;

/// What figures of a chart are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Cores,
    Bytes,
    PerSecond,
    Milliseconds,
    Count,
}

impl Unit {
    fn text(self, figure: f64) -> String {
        match self {
            Self::Cores => format!("{} {}", plain(figure), if figure == 1.0 { "core" } else { "cores" }),
            Self::Bytes => times::bytes_text(figure.max(0.0) as u64),
            Self::PerSecond => format!("{}/s", plain(figure)),
            Self::Milliseconds if figure >= 1000.0 => format!("{} s", plain(figure / 1000.0)),
            Self::Milliseconds => format!("{} ms", plain(figure)),
            Self::Count => plain(figure),
        }
    }

    /// The round number at which an axis ends that reaches this figure.
    fn ceiling(self, figure: f64) -> f64 {
        let (base, steps): (f64, &[f64]) = match self {
            Self::Bytes => (1024.0, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]),
            _ => (10.0, &[1.0, 2.0, 5.0, 10.0]),
        };
        let least = match self {
            Self::Bytes => 1024.0 * 1024.0,
            Self::Cores => 0.01,
            Self::Count => 2.0,
            Self::PerSecond | Self::Milliseconds => 1.0,
        };
        let wanted = if figure.is_finite() { figure.max(least) } else { least };
        let power = base.powf(wanted.log(base).floor());
        steps.iter().map(|step| step * power).find(|round| *round >= wanted * 0.999_999).unwrap_or(wanted)
    }
}

/// Three digits that count: `0.25`, `12.5`, `1,250`.
fn plain(figure: f64) -> String {
    let digits = match figure.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{figure:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".into() } else { text.to_owned() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Line,
    /// For what happens now and then.
    Bars,
}

/// One figure over time.
struct Series {
    /// Said in the legend if there are several.
    name: &'static str,
    /// `a`, `b` or `bad`: which colour and which pattern.
    class: &'static str,
    shape: Shape,
    points: Vec<(UnixMillis, f64)>,
}

/// The time that all charts of a page show.
struct Span<'a> {
    from_ms: UnixMillis,
    until_ms: UnixMillis,
    step_ms: i64,
    range: MetricsRange,
    deployments: &'a [DeploymentMark],
}

impl Span<'_> {
    fn x(&self, at_ms: UnixMillis) -> i64 {
        let length_ms = (self.until_ms - self.from_ms).max(1);
        LEFT + (at_ms - self.from_ms).clamp(0, length_ms) * (RIGHT - LEFT) / length_ms
    }

    /// Round moments, and how they are written below the axis.
    fn ticks(&self) -> Vec<(i64, String)> {
        const HOUR_MS: i64 = 3_600_000;
        let (every_ms, form) = match self.range {
            MetricsRange::Hour => (HOUR_MS / 4, "%H:%M"),
            MetricsRange::Day => (HOUR_MS * 6, "%H:%M"),
            MetricsRange::Week => (HOUR_MS * 24, "%b %-d"),
        };
        let first = self.from_ms + (every_ms - self.from_ms.rem_euclid(every_ms)) % every_ms;
        let moments = std::iter::successors(Some(first), |at_ms| Some(at_ms + every_ms));
        let shown = moments.take_while(|at_ms| *at_ms <= self.until_ms);
        // A word that would stick out on the right is left out.
        shown.map(|at_ms| (self.x(at_ms), moment(at_ms, form))).filter(|(x, _)| *x <= RIGHT - 24).collect()
    }
}

fn moment(at_ms: UnixMillis, form: &str) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map(|at| at.strftime(form).to_string()).unwrap_or_default()
}

/// One chart.
struct Chart<'a> {
    id: &'static str,
    title: &'static str,
    unit: Unit,
    series: Vec<Series>,
    /// A line that figures should stay below: how much there is.
    whole: Option<f64>,
    span: &'a Span<'a>,
}

impl Chart<'_> {
    fn top(&self) -> f64 {
        let all = self.series.iter().flat_map(|series| &series.points).map(|(_, figure)| *figure);
        self.unit.ceiling(all.chain(self.whole).fold(0.0, f64::max))
    }

    fn render(&self) -> Markup {
        let top = self.top();
        let y = |figure: f64| BOTTOM - ((figure / top).clamp(0.0, 1.0) * (BOTTOM - TOP) as f64).round() as i64;
        let (title_id, words_id) = (format!("chart-{}", self.id), format!("chart-{}-words", self.id));
        html! {
            figure.chart {
                figcaption {
                    span.chart-title { (self.title) }
                    span.legend {
                        @for series in &self.series {
                            @if self.series.len() > 1 { i.key.(series.class) aria-hidden="true" {} (series.name) " " }
                            @if let Some((_, figure)) = series.points.last() { b { (self.unit.text(*figure)) } } @else { "–" }
                            " "
                        }
                    }
                }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-labelledby={ (title_id) " " (words_id) } {
                    title id=(title_id) { (self.title) }
                    desc id=(words_id) { (self.words()) }
                    path.grid d={ "M" (LEFT) " " (TOP) "H" (RIGHT) "M" (LEFT) " " ((TOP + BOTTOM) / 2) "H" (RIGHT) } {}
                    path.axis d={ "M" (LEFT) " " (BOTTOM) "H" (RIGHT) } {}
                    @for (at, figure) in [(TOP, top), ((TOP + BOTTOM) / 2, top / 2.0), (BOTTOM, 0.0)] {
                        text.tick.end x=(LEFT - 12) y=(at + 8) { (self.unit.text(figure)) }
                    }
                    @for (x, text) in self.span.ticks() { text.tick.mid x=(x) y=(BOTTOM + 38) { (text) } }
                    @if !self.span.deployments.is_empty() { path.mark d=(self.marks()) {} }
                    @if let Some(whole) = self.whole { path.whole d={ "M" (LEFT) " " (y(whole)) "H" (RIGHT) } {} }
                    @for series in &self.series {
                        @match series.shape {
                            Shape::Line => path.line.(series.class) d=(self.line(&series.points, &y)) {},
                            Shape::Bars => path.bars.(series.class) d=(self.bars(&series.points, &y)) {},
                        }
                    }
                }
            }
        }
    }

    fn marks(&self) -> String {
        let mut path = String::new();
        let mut before = None;
        for x in self.span.deployments.iter().map(|mark| self.span.x(mark.at_ms)) {
            if before != Some(x) {
                let _ = write!(path, "M{x} {TOP}V{BOTTOM}");
            }
            before = Some(x);
        }
        path
    }

    /// By steps from point to point; the pen is lifted where a point is missing.
    fn line(&self, points: &[(UnixMillis, f64)], y: &impl Fn(f64) -> i64) -> String {
        let mut path = String::new();
        let mut before: Option<(UnixMillis, i64, i64)> = None;
        for (at_ms, figure) in points {
            // In the middle of its time, as it stands for all of it.
            let (x, y) = (self.span.x((at_ms + self.span.step_ms / 2).min(self.span.until_ms)), y(*figure));
            let _ = match before {
                Some((was_ms, was_x, was_y)) if at_ms - was_ms <= self.span.step_ms * 3 / 2 => {
                    let gap = if y < was_y { "" } else { " " };
                    write!(path, "l{}{gap}{}", x - was_x, y - was_y)
                }
                // A point alone is a dot.
                _ => write!(path, "M{x} {y}h0"),
            };
            before = Some((*at_ms, x, y));
        }
        path
    }

    fn bars(&self, points: &[(UnixMillis, f64)], y: &impl Fn(f64) -> i64) -> String {
        let mut path = String::new();
        for (at_ms, figure) in points.iter().filter(|(_, figure)| *figure > 0.0) {
            let x = self.span.x((at_ms + self.span.step_ms / 2).min(self.span.until_ms));
            let _ = write!(path, "M{x} {BOTTOM}V{}", y(*figure));
        }
        path
    }

    /// What is to be seen, in words.
    fn words(&self) -> String {
        let mut words = String::new();
        for series in &self.series {
            let name = if self.series.len() > 1 { format!("{}: ", series.name) } else { String::new() };
            let highest = series.points.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
            let _ = match (series.points.last(), highest) {
                (Some((_, last)), Some((at_ms, most))) => write!(
                    words,
                    "{name}{} at last, {} at the most, at {}. ",
                    self.unit.text(*last),
                    self.unit.text(most),
                    moment(at_ms, "%b %-d %H:%M UTC")
                ),
                _ => write!(words, "{name}nothing is known. "),
            };
        }
        words.trim_end().to_owned()
    }
}

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
    let span = Span {
        from_ms: metrics.from_ms,
        until_ms: metrics.until_ms,
        step_ms,
        range: metrics.range,
        deployments: &metrics.deployments,
    };
    let per_second = |count: u64, point: &ServicePoint| count as f64 * 1000.0 / point.covered_ms.max(1) as f64;
    let series = |name, class, shape, of: &dyn Fn(&ServicePoint) -> Option<f64>| Series {
        name,
        class,
        shape,
        points: points.iter().filter_map(|point| Some((point.at_ms, of(point)?))).collect(),
    };
    let chart = |id, title, unit, series| Chart { id, title, unit, series, whole: None, span: &span };
    let charts = [
        chart("cpu", "CPU", Unit::Cores, vec![series("CPU", "a", Shape::Line, &|p| Some(p.cpu_cores))]),
        chart(
            "memory",
            "Memory",
            Unit::Bytes,
            vec![series("Memory", "a", Shape::Line, &|p| Some(p.memory_bytes as f64))],
        ),
        chart(
            "requests",
            "Requests",
            Unit::PerSecond,
            vec![series("Requests", "a", Shape::Line, &|p| Some(p.requests_per_second))],
        ),
        chart(
            "latency",
            "Time to the first byte",
            Unit::Milliseconds,
            vec![
                series("p50", "a", Shape::Line, &|p| p.latency_p50_ms),
                series("p99", "b", Shape::Line, &|p| p.latency_p99_ms),
            ],
        ),
        chart(
            "errors",
            "Errors",
            Unit::PerSecond,
            vec![
                series("4xx", "b", Shape::Line, &|p| Some(per_second(p.client_errors, p))),
                series("5xx", "bad", Shape::Line, &|p| Some(per_second(p.server_errors, p))),
            ],
        ),
        chart(
            "restarts",
            "Restarts",
            Unit::Count,
            vec![series("Restarts", "bad", Shape::Bars, &|p| Some(p.restarts as f64))],
        ),
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
    let span =
        Span { from_ms: metrics.from_ms, until_ms: metrics.until_ms, step_ms, range: metrics.range, deployments: &[] };
    let series = |name, of: &dyn Fn(&ServerPoint) -> Option<f64>| {
        vec![Series {
            name,
            class: "a",
            shape: Shape::Line,
            points: points.iter().filter_map(|point| Some((point.at_ms, of(point)?))).collect(),
        }]
    };
    let last = points.last();
    let chart = |id, title, unit, series, whole: Option<f64>| Chart { id, title, unit, series, whole, span: &span };
    let charts = [
        chart("cpu", "CPU", Unit::Cores, series("CPU", &|p| p.cpu_cores), last.map(|p| p.cpu_count)),
        chart(
            "memory",
            "Memory in use",
            Unit::Bytes,
            series("Memory", &|p| Some(p.memory_used_bytes as f64)),
            last.map(|p| p.memory_total_bytes as f64),
        ),
        chart(
            "disk",
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
#[path = "charts_tests.rs"]
mod tests;
