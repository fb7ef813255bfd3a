//! One chart: points in, markup out. Drawn here as SVG, so that it needs no script, can be read by a screen reader
//! (its label says what is to be seen) and follows the page's colours.
//!
//! A point that is missing is a gap in the line. Axes end at round numbers. Coordinates are whole numbers on a grid
//! twice as fine as the screen's, and lines are drawn by steps from point to point, so that a chart of a day is about
//! a kilobyte. Which charts a page shows is in [`super::metrics`].

use super::times;
use api::UnixMillis;
use api::metrics::{DeploymentMark, MetricsRange};
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

/// What figures of a chart are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Cores,
    Bytes,
    PerSecond,
    Milliseconds,
    Count,
}

impl Unit {
    pub fn text(self, figure: f64) -> String {
        match self {
            Self::Cores => format!("{} {}", plain(figure), if figure == 1.0 { "core" } else { "cores" }),
            Self::Bytes => times::bytes_text(figure.max(0.0) as u64),
            Self::PerSecond => format!("{}/s", plain(figure)),
            Self::Milliseconds if figure >= 1000.0 => format!("{} s", plain(figure / 1000.0)),
            Self::Milliseconds => format!("{} ms", plain(figure)),
            Self::Count => plain(figure),
        }
    }

    /// Beside the axis, where there is little room and the title says what it is.
    fn tick(self, figure: f64) -> String {
        match self {
            _ if figure == 0.0 => "0".into(),
            Self::Cores => plain(figure),
            Self::Bytes => self.text(figure).replace(".0 ", " "),
            _ => self.text(figure),
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
            Self::PerSecond => 0.1,
            Self::Milliseconds => 1.0,
        };
        let wanted = if figure.is_finite() { figure.max(least) } else { least };
        let power = base.powf(wanted.log(base).floor());
        steps.iter().map(|step| step * power).find(|round| *round >= wanted * 0.999_999).unwrap_or(wanted)
    }
}

/// Three digits that count: `0.25`, `12.5`, `1,250`.
pub fn plain(figure: f64) -> String {
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
pub enum Shape {
    Line,
    /// For what happens now and then.
    Bars,
}

/// One figure over time.
pub struct Series {
    /// Said in the legend if there are several.
    pub name: &'static str,
    /// `a`, `b` or `bad`: which colour and which pattern.
    pub class: &'static str,
    pub shape: Shape,
    pub points: Vec<(UnixMillis, f64)>,
}

/// The time that all charts of a page show.
pub struct Span<'a> {
    pub from_ms: UnixMillis,
    pub range: MetricsRange,
    /// How long a point is that is drawn.
    pub step_ms: i64,
    pub deployments: &'a [DeploymentMark],
}

impl Span<'_> {
    /// The end of the point that is not over yet: a chart moves on once per point and not all the time.
    fn until_ms(&self) -> UnixMillis {
        self.from_ms + self.range.length_ms() + self.range.step_ms()
    }

    fn x(&self, at_ms: UnixMillis) -> i64 {
        let length_ms = self.until_ms() - self.from_ms;
        LEFT + (at_ms - self.from_ms).clamp(0, length_ms) * (RIGHT - LEFT) / length_ms
    }

    /// Round moments, and how they are written below the axis.
    fn ticks(&self) -> Vec<(i64, String)> {
        const HOUR_MS: i64 = 3_600_000;
        let (every_ms, form) = match self.range {
            MetricsRange::Hour => (HOUR_MS / 3, "%H:%M"),
            MetricsRange::Day => (HOUR_MS * 6, "%H:%M"),
            MetricsRange::Week => (HOUR_MS * 24, "%b %-d"),
        };
        let first = self.from_ms + (every_ms - self.from_ms.rem_euclid(every_ms)) % every_ms;
        let moments = std::iter::successors(Some(first), |at_ms| Some(at_ms + every_ms));
        let shown = moments.take_while(|at_ms| *at_ms <= self.until_ms());
        // A word that would stick out on the right is left out.
        shown.map(|at_ms| (self.x(at_ms), moment(at_ms, form))).filter(|(x, _)| *x <= RIGHT - 24).collect()
    }
}

pub fn moment(at_ms: UnixMillis, form: &str) -> String {
    jiff::Timestamp::from_millisecond(at_ms).map(|at| at.strftime(form).to_string()).unwrap_or_default()
}

/// One chart.
pub struct Chart<'a> {
    pub title: &'static str,
    pub unit: Unit,
    pub series: Vec<Series>,
    /// A line that figures should stay below: how much there is.
    pub whole: Option<f64>,
    pub span: &'a Span<'a>,
}

impl Chart<'_> {
    fn top(&self) -> f64 {
        let all = self.series.iter().flat_map(|series| &series.points).map(|(_, figure)| *figure);
        self.unit.ceiling(all.chain(self.whole).fold(0.0, f64::max))
    }

    pub fn render(&self) -> Markup {
        let top = self.top();
        let y = |figure: f64| BOTTOM - ((figure / top).clamp(0.0, 1.0) * (BOTTOM - TOP) as f64).round() as i64;
        html! {
            figure.chart {
                figcaption {
                    span.chart-title { (self.title) }
                    span.legend.one[self.series.len() == 1] {
                        @for series in &self.series {
                            @let last = series.points.last().map_or_else(|| "–".to_owned(), |(_, figure)| self.unit.text(*figure));
                            @if self.series.len() > 1 { i.key.(series.class) aria-hidden="true" {} (series.name) " " b { (last) } " " }
                            @else { (last) }
                        }
                    }
                }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (self.title) ": " (self.words()) } {
                    path.rule d={ @for at in [TOP, (TOP + BOTTOM) / 2, BOTTOM] { "M" (LEFT) " " (at) "H" (RIGHT) } } {}
                    @for (at, figure) in [(TOP, top), (BOTTOM, 0.0)] { text.end x=(LEFT - 12) y=(at + 8) { (self.unit.tick(figure)) } }
                    @for (x, text) in self.span.ticks() { text x=(x) y=(BOTTOM + 38) { (text) } }
                    @if !self.span.deployments.is_empty() { path.deployed d=(self.marks()) {} }
                    @if let Some(whole) = self.whole { path.whole d={ "M" (LEFT) " " (y(whole)) "H" (RIGHT) } {} }
                    @for series in &self.series {
                        @match series.shape {
                            Shape::Line => path.curve.(series.class) d=(self.line(&series.points, &y)) {},
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
            let (x, y) = (self.span.x(at_ms + self.span.step_ms / 2), y(*figure));
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
            let x = self.span.x(at_ms + self.span.step_ms / 2);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_that_reach_the_highest_figure() {
        let cases = [
            (Unit::Cores, 0.0, 0.01),
            (Unit::Cores, 0.13, 0.2),
            (Unit::Cores, 1.0, 1.0),
            (Unit::PerSecond, 230.0, 500.0),
            (Unit::Milliseconds, 51.0, 100.0),
            (Unit::Count, 1.0, 2.0),
            (Unit::Bytes, 100.0 * 1024.0 * 1024.0, 128.0 * 1024.0 * 1024.0),
            (Unit::Bytes, 0.0, 1024.0 * 1024.0),
            (Unit::Bytes, 1025.0 * 1024.0 * 1024.0, 2048.0 * 1024.0 * 1024.0),
        ];
        for (unit, figure, end) in cases {
            assert!((unit.ceiling(figure) - end).abs() <= end / 1e6, "{unit:?} {figure}: {}", unit.ceiling(figure));
        }
        for strange in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(Unit::Cores.ceiling(strange).is_finite());
        }
        assert_eq!([0.25, 12.5, 1250.0, 0.0, 3.0].map(plain), ["0.25", "12.5", "1250", "0", "3"]);
        assert_eq!(Unit::Milliseconds.text(1500.0), "1.5 s");
    }
}
