//! What a bench leaves behind: a table for people, a file for programs, and plots.

use crate::figure::{Better, Figure, Goal, MAINSTAY};
use crate::machine::Machine;
use crate::peers::Tool;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub machine: Machine,
    pub tools: Vec<Tool>,
    pub missing: Vec<String>,
    pub quick: bool,
    pub figures: Vec<Figure>,
}

impl Report {
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a report of this bench", path.display()))
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let text = serde_json::to_string_pretty(self).context("write a report")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))
    }

    /// Takes over the rows of an earlier part of the same bench that were not measured anew.
    pub fn add_other_rows_of(&mut self, earlier: Report) {
        let measured: Vec<String> = self.figures.iter().map(|figure| figure.row.clone()).collect();
        let mut all: Vec<Figure> =
            earlier.figures.into_iter().filter(|figure| !measured.contains(&figure.row)).collect();
        all.append(&mut self.figures);
        let place = |row: &str| crate::rows::ROWS.iter().position(|known| known.name == row);
        all.sort_by_key(|figure| place(&figure.row));
        self.figures = all;
    }

    pub fn table(&self, earlier: Option<&Report>) -> String {
        let mut text = String::new();
        let mut row = "";
        for figure in &self.figures {
            if figure.row != row {
                row = &figure.row;
                let about = crate::rows::ROWS.iter().find(|known| known.name == row).map_or("", |known| known.about);
                let _ = write!(text, "\n{row}: {about}\n");
            }
            let before = earlier.and_then(|report| report.figures.iter().find(|f| f.what == figure.what));
            lines(&mut text, figure, before);
        }
        text
    }
}

fn lines(text: &mut String, figure: &Figure, before: Option<&Figure>) {
    let verdict = match figure.is_reached() {
        Some(true) => "reached",
        Some(false) => "MISSED",
        None => "",
    };
    let goal = figure.goal.as_ref().map(|goal| goal_text(goal, figure)).unwrap_or_default();
    let _ = writeln!(text, "  {} ({})  {goal} {verdict}", figure.what, figure.unit);
    for series in &figure.series {
        let (Some(median), Some((least, most))) = (series.values.median(), series.values.range()) else { continue };
        let compared = match figure.advantage_over(&series.subject) {
            Some(ratio) if series.subject != MAINSTAY => format!("mainstay is {ratio:.2} × as good"),
            _ => String::new(),
        };
        let compared = match before.and_then(|before| before.median_of(&series.subject)) {
            Some(old) if old != 0.0 => {
                format!("{compared}  before {} ({:+.1} %)", number(old), (median / old - 1.0) * 100.0)
            }
            _ => compared,
        };
        let spread = format!("[{} – {}]", number(least), number(most));
        let _ = writeln!(text, "    {:<9} {:>11}  {spread:<25} {compared}", series.subject, number(median));
    }
    for note in &figure.notes {
        let _ = writeln!(text, "    note: {note}");
    }
}

fn goal_text(goal: &Goal, figure: &Figure) -> String {
    let sign = if figure.better == Better::More { "at least" } else { "at most" };
    match goal {
        Goal::Value(value) => format!("to reach: {sign} {} {}", number(*value), figure.unit),
        Goal::Peers(factors) => {
            let there = factors.iter().filter(|(peer, _)| figure.median_of(peer).is_some());
            let words: Vec<String> = there.map(|(peer, factor)| format!("{factor} × {peer}")).collect();
            format!("to reach: {sign} {}", words.join(", "))
        }
    }
}

/// Three digits that mean something, and no more.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 0.1 || small == 0.0 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), String::new()), |(w, r)| (w, format!(".{r}")));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let cases = [
            (60_232.4, "60,232"),
            (1_234_567.0, "1,234,567"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.01234, "0.0123"),
            (0.0, "0.00"),
            (-1500.0, "-1,500"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn the_table_says_medians_ratios_and_what_was_missed() {
        let mut figure = Figure::new("binary", "start", "ms", Better::Less).goal(5.0);
        [9.0, 8.0, 10.0].into_iter().for_each(|value| figure.add(MAINSTAY, value));
        figure.add("nginx", 3.0);
        let machine = Machine::default();
        let mut report = Report { machine, tools: vec![], missing: vec![], quick: false, figures: vec![figure] };
        let table = report.table(None);
        assert!(table.contains("MISSED") && table.contains("9.00") && table.contains("[8.00 – 10.0]"), "{table}");
        assert!(table.contains("mainstay is 0.33 × as good"), "{table}");
        let mut earlier = report.clone();
        earlier.figures[0].series[0].values = [18.0].into_iter().collect();
        assert!(report.table(Some(&earlier)).contains("before 18.0 (-50.0 %)"));
        earlier.figures[0].row = "plan-stack".into();
        report.add_other_rows_of(earlier);
        assert_eq!(report.figures.iter().map(|f| f.row.as_str()).collect::<Vec<_>>(), ["binary", "plan-stack"]);
    }
}
