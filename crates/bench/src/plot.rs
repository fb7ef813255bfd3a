//! How cost grows: the figures of one row that differ in size alone, both axes logarithmic, as SVG. A straight
//! line that rises by one decade for each decade is linear growth; a flat one is no growth.

use crate::figure::Figure;
use crate::report::number;
use std::collections::BTreeMap;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;
/// The legend is to the right of the lines.
const LEGEND: f64 = 110.0;
const COLOURS: [&str; 7] = ["#0b6e4f", "#888888", "#c2410c", "#7c3aed", "#1d4ed8", "#b91c1c", "#a16207"];

type Lines<'f> = BTreeMap<&'f str, Vec<(f64, f64)>>;

/// Name of the file and its text, for each group of figures that has three sizes or more.
pub fn plots(figures: &[Figure]) -> Vec<(String, String)> {
    let mut groups: BTreeMap<(&str, String, &str), Vec<&Figure>> = BTreeMap::new();
    for figure in figures.iter().filter(|figure| figure.size.is_some()) {
        // `p99, 1 KB, 64 connections` and `p99, 1 KB, 512 connections` belong together.
        let kind = figure.what.split(',').next().unwrap_or_default().to_owned();
        groups.entry((&figure.row, kind, &figure.unit)).or_default().push(figure);
    }
    groups
        .into_iter()
        .filter(|(_, figures)| figures.len() >= 3)
        .map(|((row, kind, unit), figures)| {
            let name = format!("{row}-{}.svg", kind.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
            (name, draw(&format!("{row}: {kind} ({unit})"), &lines_of(&figures)))
        })
        .collect()
}

fn lines_of<'f>(figures: &[&'f Figure]) -> Lines<'f> {
    let mut lines = Lines::new();
    for figure in figures {
        for series in &figure.series {
            let point = figure.size.map(|size| size as f64).zip(series.values.median());
            // Nothing has a logarithm only if it is more than nothing.
            if let Some(point) = point.filter(|(size, value)| *size > 0.0 && *value > 0.0) {
                lines.entry(&series.subject).or_default().push(point);
            }
        }
    }
    lines
}

fn draw(title: &str, lines: &Lines<'_>) -> String {
    let all = || lines.values().flatten();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (least, most) = all().map(of).fold((f64::INFINITY, 0.0f64), |(l, m), v| (l.min(v), m.max(v)));
        (10f64.powf(least.log10().floor()), 10f64.powf(most.log10().ceil().max(least.log10().floor() + 1.0)))
    };
    if lines.is_empty() {
        return String::new();
    }
    let (sizes, values) = (range(|point| point.0), range(|point| point.1));
    let along = |(least, most): (f64, f64), value: f64| (value / least).log10() / (most / least).log10();
    let x = |size: f64| MARGIN + along(sizes, size) * (WIDTH - 2.0 * MARGIN - LEGEND);
    let y = |value: f64| HEIGHT - MARGIN - along(values, value) * (HEIGHT - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"28\" font-size=\"15\">{title}</text>\n"
    );
    for size in decades(sizes) {
        let (x, bottom) = (x(size), HEIGHT - MARGIN);
        let _ = writeln!(svg, "<path d=\"M{x:.1} {MARGIN}V{bottom}\" stroke=\"#ddd\"/>");
        let _ =
            writeln!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", bottom + 18.0, plain(size));
    }
    for value in decades(values) {
        let (y, right) = (y(value), WIDTH - MARGIN - LEGEND);
        let _ = writeln!(svg, "<path d=\"M{MARGIN} {y:.1}H{right}\" stroke=\"#ddd\"/>");
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            MARGIN - 6.0,
            y + 4.0,
            plain(value)
        );
    }
    for ((subject, points), (index, colour)) in lines.iter().zip(COLOURS.iter().cycle().enumerate()) {
        let path: Vec<String> =
            points.iter().map(|(size, value)| format!("{:.1},{:.1}", x(*size), y(*value))).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        );
        for (size, value) in points {
            let (x, y) = (x(*size), y(*value));
            let _ = writeln!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"><title>{subject}, {}: {}</title></circle>",
                plain(*size),
                number(*value)
            );
        }
        let (x, y) = (WIDTH - MARGIN - LEGEND + 20.0, MARGIN + 10.0 + 20.0 * index as f64);
        let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{subject}</text>");
    }
    svg + "</svg>\n"
}

fn decades((least, most): (f64, f64)) -> Vec<f64> {
    (least.log10().round() as i32..=most.log10().round() as i32).map(|power| 10f64.powi(power)).collect()
}

/// `0.01`, `1,000`: a mark on an axis needs no digits behind it.
fn plain(value: f64) -> String {
    if value >= 1.0 { number(value).split('.').next().unwrap_or_default().to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Better, MAINSTAY};

    #[test]
    fn three_sizes_make_a_plot_with_a_line_for_each_subject_and_two_sizes_make_none() {
        let figures: Vec<Figure> = [100u64, 1_000, 10_000]
            .into_iter()
            .map(|size| {
                let mut figure = Figure::new("plan", format!("plan, {size} services"), "ms", Better::Less).size(size);
                figure.add(MAINSTAY, size as f64 / 1000.0);
                figure.add("other", size as f64);
                figure
            })
            .collect();
        let plots = plots(&figures);
        let [(name, svg)] = plots.as_slice() else { panic!("{} plots", plots.len()) };
        assert_eq!(name, "plan-plan.svg");
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 6));
        // Linear growth by the same factor: two parallel lines, at the same places along the axis.
        assert!(svg.contains(">10,000</text>") && svg.contains(">0.1</text>"), "{svg}");
        assert!(super::plots(&figures[..2]).is_empty());
    }
}
