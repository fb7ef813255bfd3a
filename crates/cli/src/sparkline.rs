//! A figure over time in one line of a terminal: `▁▂▃▅▇`, a space where nothing is known.

use api::UnixMillis;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The time that a line shows, in so many columns.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub from_ms: UnixMillis,
    pub until_ms: UnixMillis,
    pub columns: usize,
}

/// The highest figure of each column, against the highest of all: a peak is not lost in an average. What is known and
/// nothing is the lowest level.
pub fn sparkline(points: &[(UnixMillis, f64)], span: Span) -> String {
    let mut highest_in: Vec<Option<f64>> = vec![None; span.columns.max(1)];
    let length_ms = (span.until_ms - span.from_ms).max(1);
    let last = highest_in.len() - 1;
    for (at_ms, figure) in points {
        let passed_ms = (at_ms - span.from_ms).clamp(0, length_ms);
        let column = usize::try_from(i128::from(passed_ms) * highest_in.len() as i128 / i128::from(length_ms));
        let place = &mut highest_in[column.unwrap_or(last).min(last)];
        *place = Some(place.map_or(*figure, |known: f64| known.max(*figure)));
    }
    let highest = highest_in.iter().flatten().copied().fold(0.0, f64::max);
    let level = |figure: f64| {
        let part = if highest > 0.0 { figure / highest } else { 0.0 };
        LEVELS[(part * (LEVELS.len() - 1) as f64).round().clamp(0.0, 7.0) as usize]
    };
    fill_between(&highest_in, points.len()).into_iter().map(|figure| figure.map_or(' ', level)).collect()
}

/// With more columns than points, each point stands for the columns until the next one, as far as they are as many as
/// usual: only a longer pause is a gap.
fn fill_between(columns: &[Option<f64>], points: usize) -> Vec<Option<f64>> {
    let known: Vec<usize> = (0..columns.len()).filter(|column| columns[*column].is_some()).collect();
    let usual = known.windows(2).map(|pair| pair[1] - pair[0]).min().filter(|_| points < columns.len()).unwrap_or(1);
    let mut filled = columns.to_vec();
    for pair in known.windows(2) {
        if pair[1] - pair[0] <= usual + 1 {
            filled[pair[0]..pair[1]].fill(columns[pair[0]]);
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(figures: &[(i64, f64)], columns: usize) -> String {
        sparkline(figures, Span { from_ms: 0, until_ms: 100, columns })
    }

    #[test]
    fn a_line_has_a_level_for_each_column_and_a_space_where_nothing_is_known() {
        let rising: Vec<(i64, f64)> = (0..10).map(|n| (n * 10, n as f64)).collect();
        assert_eq!(drawn(&rising, 10), "▁▂▃▃▄▅▆▆▇█");
        let broken: Vec<(i64, f64)> = rising.into_iter().filter(|(at, _)| !(30..60).contains(at)).collect();
        assert_eq!(drawn(&broken, 10), "▁▂▃   ▆▆▇█");
        assert_eq!(drawn(&[(0, 0.0), (50, 0.0)], 2), "▁▁");
        assert_eq!(drawn(&[], 4), "    ");
    }

    #[test]
    fn a_short_peak_is_seen_in_a_narrow_line_and_points_far_apart_make_no_gaps_in_a_wide_one() {
        let mut quiet: Vec<(i64, f64)> = (0..100).map(|n| (n, 1.0)).collect();
        quiet[55].1 = 8.0;
        assert_eq!(drawn(&quiet, 5), "▂▂█▂▂");
        let few: Vec<(i64, f64)> = (0..5).map(|n| (n * 20, 1.0)).collect();
        assert_eq!(drawn(&few, 16).trim_end().chars().filter(|c| *c == ' ').count(), 0);
    }

    #[test]
    fn a_clock_that_was_set_and_strange_figures_do_no_harm() {
        assert_eq!(drawn(&[(-50, 1.0), (500, f64::INFINITY), (20, f64::NAN)], 3).chars().count(), 3);
        assert_eq!(sparkline(&[(5, 1.0)], Span { from_ms: 9, until_ms: 3, columns: 0 }).chars().count(), 1);
    }
}
