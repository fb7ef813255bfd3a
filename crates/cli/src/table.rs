//! Tables that fit the terminal.
//!
//! A row that wraps is two rows to the eye, so no cell ever wraps. What is too wide gives way in this
//! order, and only as far as it has to:
//!
//! 1. columns of free text ([`Column::shortens`]) end in `…`, the widest first;
//! 2. columns that a reader can do without ([`Column::goes`]) are left out, lowest rank first;
//! 3. at last every column is shortened, the widest first.
//!
//! Where nobody looks on (a pipe, a file) there is no width: every column is there, whole. So scripts
//! that cut columns, and people who send a table to somebody else, get all of it.

use crate::printer::{Paint, Text, Tone};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const GAP: usize = 2;
/// Free text is shortened to this at the least, before columns are left out.
const TEXT_WIDTH_MIN: usize = 16;
/// And at the very end anything to this.
const WIDTH_MIN: usize = 4;

/// One column: its heading, and what may be done to it where there is little room.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    heading: &'static str,
    shortens: bool,
    goes: Option<u8>,
    right: bool,
}

impl Column {
    /// A column that stays, and stays whole as long as anything else can give way.
    pub const fn new(heading: &'static str) -> Self {
        Self { heading, shortens: false, goes: None, right: false }
    }

    /// Free text: its end can be done without.
    pub const fn shortens(self) -> Self {
        Self { shortens: true, ..self }
    }

    /// Left out where there is little room, the lowest rank first.
    pub const fn goes(self, rank: u8) -> Self {
        Self { goes: Some(rank), ..self }
    }

    /// Numbers, which are compared by their last digit.
    pub const fn right(self) -> Self {
        Self { right: true, ..self }
    }
}

/// A table as lines, and the headings of the columns that found no room.
#[derive(Debug)]
pub struct Laid {
    pub lines: Vec<String>,
    pub left_out: Vec<&'static str>,
}

/// Lays a table out for so many columns of a terminal; without a width, whole.
pub fn lay(columns: &[Column], rows: &[Vec<Text>], width: Option<usize>, paint: Paint) -> Laid {
    let natural: Vec<usize> = (0..columns.len())
        .map(|index| {
            let cells = rows.iter().filter_map(|row| row.get(index)).map(|Text(text, _)| text.width());
            cells.chain([columns[index].heading.width()]).max().unwrap_or(0)
        })
        .collect();
    let shown = fitting(columns, &natural, width.unwrap_or(usize::MAX));
    let heading = |index: usize| Text(columns[index].heading.to_uppercase(), Tone::Faint);
    let headings: Vec<Text> = (0..columns.len()).map(heading).collect();
    let line = |row: &Vec<Text>| {
        let mut line = String::new();
        for (place, (index, cell_width)) in shown.iter().enumerate() {
            let Some(Text(text, tone)) = row.get(*index) else { continue };
            let text = shortened(text, *cell_width);
            let padding = " ".repeat(cell_width.saturating_sub(text.width()));
            let last = place + 1 == shown.len();
            let (before, after) = if columns[*index].right { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.push_str(before);
            line.push_str(&paint.tone(*tone, &text));
            if !last {
                line.push_str(after);
                line.push_str(&" ".repeat(GAP));
            }
        }
        line.trim_end().to_owned()
    };
    let lines = std::iter::once(&headings).chain(rows).map(line).collect();
    let left_out = (0..columns.len()).filter(|index| !shown.iter().any(|(shown, _)| shown == index));
    Laid { lines, left_out: left_out.map(|index| columns[index].heading).collect() }
}

/// Which columns are shown, and how wide.
fn fitting(columns: &[Column], natural: &[usize], limit: usize) -> Vec<(usize, usize)> {
    let mut shown: Vec<(usize, usize)> = natural.iter().copied().enumerate().collect();
    loop {
        let mut tried = shown.clone();
        if shrink(&mut tried, limit, |index| columns[index].shortens.then_some(TEXT_WIDTH_MIN)) {
            return tried;
        }
        let next = shown.iter().filter_map(|(index, _)| columns[*index].goes.map(|rank| (rank, *index))).min();
        let Some((_, gone)) = next else { break };
        shown.retain(|(index, _)| *index != gone);
    }
    shrink(&mut shown, limit, |index| columns[index].shortens.then_some(TEXT_WIDTH_MIN));
    shrink(&mut shown, limit, |_| Some(WIDTH_MIN));
    shown
}

/// Takes width from the widest column that may give some, until all fit or nothing is left to take.
fn shrink(shown: &mut [(usize, usize)], limit: usize, least: impl Fn(usize) -> Option<usize>) -> bool {
    loop {
        let total: usize = shown.iter().map(|(_, width)| width).sum::<usize>() + GAP * shown.len().saturating_sub(1);
        if total <= limit {
            return true;
        }
        let can_give = |(index, width): &(usize, usize)| least(*index).is_some_and(|least| *width > least);
        let Some(widest) = shown.iter_mut().filter(|column| can_give(column)).max_by_key(|(_, width)| *width) else {
            return false;
        };
        widest.1 -= 1;
    }
}

/// A text that is at most so wide; what was cut off leaves a `…`.
pub fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for letter in text.chars() {
        let letter_width = letter.width().unwrap_or(0);
        if used + letter_width + 1 > width {
            break;
        }
        used += letter_width;
        out.push(letter);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 5] = [
        Column::new("service"),
        Column::new("revision").goes(2),
        Column::new("changed").goes(1),
        Column::new("restarts").right().goes(3),
        Column::new("last probe").shortens(),
    ];

    fn at(width: Option<usize>) -> Laid {
        let row = |cells: [&str; 5]| cells.into_iter().map(Text::from).collect();
        let rows = [
            row(["web", "3 (0123456789)", "2m ago", "0", "GET http://127.0.0.1:20001/healthz answered 200"]),
            row(["worker", "12 (89abcdef01)", "5d ago", "12", "–"]),
        ];
        lay(&COLUMNS, &rows, width, Paint::plain())
    }

    #[test]
    fn without_a_width_every_column_is_there_and_whole() {
        let expected = [
            "SERVICE  REVISION         CHANGED  RESTARTS  LAST PROBE",
            "web      3 (0123456789)   2m ago          0  GET http://127.0.0.1:20001/healthz answered 200",
            "worker   12 (89abcdef01)  5d ago         12  –",
        ];
        assert_eq!(at(None).lines, expected);
        assert!(at(None).left_out.is_empty());
    }

    #[test]
    fn free_text_is_shortened_first_then_columns_go_by_rank_and_nothing_ever_wraps() {
        let at_80 = at(Some(80));
        assert!(at_80.left_out.is_empty());
        assert!(at_80.lines[1].ends_with("GET http://127.0.0.1:20001/healthz…"), "{:?}", at_80.lines);
        assert_eq!(at(Some(60)).left_out, ["changed"]);
        assert_eq!(at(Some(50)).left_out, ["revision", "changed"]);
        let at_30 = at(Some(30));
        assert_eq!(at_30.left_out, ["revision", "changed", "restarts"]);
        assert_eq!(at_30.lines[1], "web      GET http://127.0.0.1…");
        for width in 10..200 {
            let laid = at(Some(width));
            assert!(laid.lines.iter().all(|line| line.width() <= width), "{width}: {:?}", laid.lines);
        }
    }

    #[test]
    fn a_column_is_no_narrower_than_it_has_to_be() {
        // Leaving a column out makes room again for what was shortened to keep it.
        let columns = [Column::new("a"), Column::new("b").goes(1), Column::new("c").shortens()];
        let long = "y".repeat(40);
        let rows = vec![vec![Text::from("x"), Text::from(long.as_str()), Text::from(long.as_str())]];
        let laid = lay(&columns, &rows, Some(50), Paint::plain());
        assert_eq!((laid.lines[1].as_str(), laid.left_out), (format!("x  {long}").as_str(), vec!["b"]));
    }

    #[test]
    fn wide_letters_count_as_two_and_are_never_cut_in_half() {
        assert_eq!(shortened("東京東京", 8), "東京東京");
        assert_eq!(shortened("東京東京", 6), "東京…");
        assert_eq!(shortened("abc", 1), "…");
    }
}
