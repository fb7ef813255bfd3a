//! `mainstay metrics`: what a service used and answered, over an hour, a day or a week.

use crate::address;
use crate::context::Context;
use crate::exit::{Exit, Outcome};
use crate::printer::{self, NONE, Printer, Text, Tone};
use crate::sparkline::{Span, sparkline};
use crate::table::Column;
use crate::times::{clock, now_ms};
use crate::words;
use api::UnixMillis;
use api::metrics::{MetricsRange, ServerMetrics, ServiceMetrics, ServicePoint};

/// Show what a service used and answered over time: CPU, memory, requests, latency, errors, restarts
///
/// A line per figure, with the newest and the highest value. Mainstay keeps these figures itself; where a line has a
/// gap, nothing is known. The same as charts is on the page of the service.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service, or stack/service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    #[command(flatten)]
    pub range: Range,
}

#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Range {
    /// How far back: 1h, 24h or 7d
    #[arg(long = "range", value_name = "RANGE", default_value = "1h")]
    pub get: MetricsRange,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let service = address::service(&client, &options.service).await?;
    let metrics = client.service_metrics(service.stack_id.as_str(), service.id.as_str(), options.range.get).await?;
    context.printer.either(&metrics, |metrics, printer| {
        lines(printer, &address::full_name(&service), metrics.range, metrics.from_ms, &of_service(metrics));
        let times = metrics
            .deployments
            .iter()
            .map(|mark| format!("revision {} at {}", mark.revision_number, clock(mark.at_ms, metrics.until_ms)));
        let times: Vec<String> = times.collect();
        if !times.is_empty() {
            printer.note(&format!("Deployed: {}.", times.join(", ")));
        }
    });
    Ok(Exit::Ok)
}

/// Of a machine; for `mainstay servers metrics`.
pub fn show_server(name: &str, metrics: &ServerMetrics, printer: &Printer) {
    lines(printer, name, metrics.range, metrics.from_ms, &of_server(metrics));
}

/// One figure over time.
struct Line {
    name: &'static str,
    points: Vec<(UnixMillis, f64)>,
    text: fn(f64) -> String,
    /// Whether anything but zero is bad news.
    bad: bool,
}

fn of_service(metrics: &ServiceMetrics) -> Vec<Line> {
    let line = |name, text, bad, of: &dyn Fn(&ServicePoint) -> Option<f64>| {
        let points = metrics.points.iter().filter_map(|point| Some((point.at_ms, of(point)?))).collect();
        Line { name, points, text, bad }
    };
    vec![
        line("cpu", cores, false, &|p| Some(p.cpu_cores)),
        line("memory", size, false, &|p| Some(p.memory_bytes as f64)),
        line("requests", rate, false, &|p| Some(p.requests_per_second)),
        line("latency p50", ms, false, &|p| p.latency_p50_ms),
        line("latency p99", ms, false, &|p| p.latency_p99_ms),
        line("errors 4xx", rate, false, &|p| Some(p.per_second(p.client_errors))),
        line("errors 5xx", rate, true, &|p| Some(p.per_second(p.server_errors))),
        line("restarts", count, true, &|p| Some(p.restarts as f64)),
    ]
}

fn of_server(metrics: &ServerMetrics) -> Vec<Line> {
    let line = |name, text, of: fn(&api::metrics::ServerPoint) -> Option<f64>| {
        let points = metrics.points.iter().filter_map(|point| Some((point.at_ms, of(point)?))).collect();
        Line { name, points, text, bad: false }
    };
    vec![
        line("cpu", cores, |p| p.cpu_cores),
        line("load", plain, |p| Some(p.load_1m)),
        line("memory used", size, |p| Some(p.memory_used_bytes as f64)),
        line("disk used", size, |p| Some(p.disk_used_bytes as f64)),
    ]
}

fn lines(printer: &Printer, what: &str, range: MetricsRange, from_ms: UnixMillis, lines: &[Line]) {
    if lines.iter().all(|line| line.points.is_empty()) {
        printer.data(&format!("nothing is known of {what} in the last {range}"));
        printer.hint(
            "Figures come with the reports of the servers, every ten seconds; the first appear within half a minute.",
        );
        return;
    }
    let until_ms = from_ms + range.length_ms() + range.step_ms();
    let span = Span { from_ms, until_ms, columns: columns(printer::terminal_width()) };
    let table = [
        Column::new(""),
        Column::new(heading(range)),
        Column::new("now").right(),
        Column::new("highest").right(),
        Column::new("highest at").goes(1),
    ];
    let now_ms = now_ms();
    printer.table(&table, lines.iter().map(|line| row(line, span, now_ms)));
}

fn row(line: &Line, span: Span, now_ms: UnixMillis) -> Vec<Text> {
    let highest = line.points.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a });
    let last = line.points.last().map(|(_, figure)| *figure);
    let figure = |figure: Option<f64>| match figure {
        None => Text(NONE.into(), Tone::Faint),
        Some(figure) => {
            let tone = if line.bad && figure > 0.0 { Tone::Bad } else { Tone::Plain };
            Text((line.text)(figure), tone)
        }
    };
    vec![
        line.name.into(),
        Text(sparkline(&line.points, span), Tone::Busy),
        figure(last),
        figure(highest.map(|(_, figure)| figure)),
        Text(highest.map_or(NONE.into(), |(at_ms, _)| clock(at_ms, now_ms)), Tone::Faint),
    ]
}

/// What the other columns leave of the terminal. The moment of the highest figure goes first.
fn columns(width: Option<usize>) -> usize {
    const OTHERS: usize = 42;
    const MOMENT: usize = 21;
    const WHERE_NOBODY_LOOKS_ON: usize = 60;
    let Some(width) = width else { return WHERE_NOBODY_LOOKS_ON };
    let taken = if width >= 84 { OTHERS + MOMENT } else { OTHERS };
    width.saturating_sub(taken).clamp(8, 120)
}

fn heading(range: MetricsRange) -> &'static str {
    match range {
        MetricsRange::Hour => "the last hour",
        MetricsRange::Day => "the last 24 hours",
        MetricsRange::Week => "the last 7 days",
    }
}

fn cores(figure: f64) -> String {
    format!("{figure:.2} cores")
}

fn size(figure: f64) -> String {
    words::size(figure.max(0.0) as u64)
}

fn rate(figure: f64) -> String {
    match figure {
        0.0 => "0/s".into(),
        figure if figure >= 100.0 => format!("{figure:.0}/s"),
        figure => format!("{figure:.2}/s"),
    }
}

fn ms(figure: f64) -> String {
    if figure >= 1000.0 { format!("{:.1} s", figure / 1000.0) } else { format!("{figure:.1} ms") }
}

fn plain(figure: f64) -> String {
    format!("{figure:.2}")
}

fn count(figure: f64) -> String {
    format!("{figure:.0}")
}
