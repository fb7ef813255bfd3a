//! Log lines in a page: a bounded tail that a stream goes on from.
//!
//! The tail is cut by lines and by bytes, because a page should stay small whatever a program
//! writes. Without a script the filter is a form that asks for the page again; with one it works as
//! one types, and new lines arrive at the end.

use super::{ansi, times};
use crate::log_file::Words;
use api::logs::{LogRecord, LogSource, LogStream};
use maud::{Markup, html};

/// Most lines that a page of a build is made with, which is about them.
pub const TAIL_LINES: usize = 120;
/// Most lines beside much else: three times what is seen of them at once. All are on a page of their own.
pub const TAIL_LINES_BESIDE: usize = 60;
/// Most bytes of markup in them, and fewest where the rest of a page takes much.
const TAIL_BYTES: usize = 22 * 1024;
const TAIL_BYTES_LEAST: usize = 6 * 1024;
/// What a page may have with them; its frame and the head of the panel come on top, and all has to stay below 50 KB.
const WITH_TAIL_BYTES: usize = 45 * 1024;
/// Most bytes of markup of lines on a page that is of lines alone.
const PAGE_BYTES: usize = 40 * 1024;

/// What a log panel shows.
pub struct LogPanel<'a> {
    /// Heading of the panel.
    pub title: &'a str,
    pub records: &'a [LogRecord],
    /// Text that a line has to hold; empty: all.
    pub filter: &'a str,
    /// Said when there is no line.
    pub empty: &'a str,
    /// Whether lines still come.
    pub live: bool,
    pub shape: LineShape,
    /// How much markup the rest of the page is.
    pub beside_bytes: usize,
    /// Page that has the whole log, if there is one.
    pub whole: Option<&'a str>,
    /// Address of the whole log as a file.
    pub file: &'a str,
}

impl LogPanel<'_> {
    fn room_bytes(&self) -> usize {
        WITH_TAIL_BYTES.saturating_sub(self.beside_bytes).clamp(TAIL_BYTES_LEAST, TAIL_BYTES)
    }
}

/// What stands beside the text of a line.
#[derive(Debug, Clone, Default)]
pub struct LineShape {
    /// Whether to say which instance wrote it.
    pub show_instance: bool,
    /// Page that shows a line among others, as a page of this log links to it; empty: this one.
    pub link: String,
}

/// One line. The stream sends exactly this.
pub fn line(record: &LogRecord, shape: &LineShape) -> Markup {
    let (class, name) = match record.line.stream {
        LogStream::Stdout => ("out", None),
        LogStream::Stderr => ("err", Some("stderr")),
        LogStream::Mainstay => ("own", Some("mainstay")),
    };
    let sequence = record.sequence;
    html! {
        div.line.(class) data-seq=(sequence) id={ "l" (sequence) } {
            a title=(times::exact_text(record.line.at_ms)) href={ @if !shape.link.is_empty() { (shape.link) "?at=" (sequence) } "#l" (sequence) } { (times::clock_text(record.line.at_ms)) }
            @if shape.show_instance && let LogSource::Run { instance_id } = &record.source {
                span.from title=(instance_id) { (instance_id.short()) }
            }
            @if let Some(name) = name { span.stream { (name) } }
            span.text { (ansi::line(&record.line.text)) }
        }
    }
}

/// The newest lines that fit, oldest first.
fn tail(records: &[LogRecord], filter: &str, shape: &LineShape, room: usize) -> Vec<Markup> {
    let mut bytes = 0;
    // As the script decides it, too.
    let words = Words::new(filter);
    let mut kept: Vec<_> = records
        .iter()
        .rev()
        .filter(|record| words.are_in(&record.line.text))
        .take(TAIL_LINES)
        .map(|record| line(record, shape))
        .take_while(|line| {
            bytes += line.0.len();
            bytes <= room
        })
        .collect();
    kept.reverse();
    kept
}

/// Where a page of lines begins so that it stays small, and those that are on it.
pub fn newest_that_fit<'a>(records: &'a [LogRecord], shape: &LineShape) -> &'a [LogRecord] {
    let mut bytes = 0;
    let kept = records.iter().rev().take_while(|record| {
        bytes += line(record, shape).0.len();
        bytes <= PAGE_BYTES
    });
    &records[records.len() - kept.count()..]
}

pub fn panel(panel: &LogPanel<'_>) -> Markup {
    let shown = tail(panel.records, panel.filter, &panel.shape, panel.room_bytes());
    html! {
        section.card.logs #logs aria-labelledby="logs-title" {
            div.card-head {
                h2 #logs-title { (panel.title) }
                form.log-tools method="get" role="search" {
                    label.hidden-label for="log-filter" { "Show only lines that hold" }
                    input #log-filter type="search" name="filter" value=(panel.filter) placeholder="Filter lines" autocomplete="off" maxlength="200";
                    noscript { button.quiet type="submit" { "Filter" } }
                    @if panel.live {
                        label.check.script-only hidden { input #log-follow type="checkbox" checked; " Follow" }
                    }
                    @if let Some(whole) = panel.whole { a href=(whole) { "All lines" } }
                    a href=(panel.file) download { "Download" }
                }
            }
            div.log #log-lines tabindex="0" role="log" aria-live="off" aria-labelledby="logs-title" {
                @for line in &shown { (line) }
            }
            p.log-empty #log-empty hidden[!shown.is_empty()] {
                @if panel.filter.is_empty() { (panel.empty) } @else { "No line holds “" (panel.filter) "”." }
            }
        }
    }
}

/// Lines kept with a failure or an instance: no times, no stream.
pub fn plain_tail(lines: &[String]) -> Markup {
    let skipped = lines.len().saturating_sub(30);
    html! {
        div.log.tail tabindex="0" role="log" aria-live="off" aria-label="Last log lines" {
            div { @for text in lines.iter().skip(skipped) { div.line { span.text { (ansi::line(text)) } } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn page(records: &[LogRecord], filter: &str) -> String {
        panel(&LogPanel {
            title: "Logs",
            records,
            filter,
            empty: "Nothing yet.",
            live: true,
            shape: LineShape { show_instance: true, link: String::new() },
            beside_bytes: 0,
            whole: None,
            file: "log.txt",
        })
        .into_string()
    }

    #[test]
    fn a_script_in_a_log_line_is_text() {
        let page = page(&[samples::log(1, "<script>alert(1)</script>")], "");
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !page.contains("<script>"), "{page}");
    }

    #[test]
    fn only_lines_that_hold_the_filter_are_shown() {
        let page = page(&[samples::log(1, "GET /cart"), samples::log(2, "ERROR no stock")], "error");
        assert!(page.contains("no stock") && !page.contains("/cart"), "{page}");
    }

    #[test]
    fn a_filter_without_a_line_says_so() {
        let page = page(&[samples::log(1, "GET /cart")], "<b>");
        assert!(page.contains("No line holds “&lt;b&gt;”."), "{page}");
    }

    #[test]
    fn the_tail_is_the_newest_lines_and_stays_small_whatever_was_written() {
        let records: Vec<_> =
            (0..500).map(|n| samples::log(n, &format!("number {n}. {}", "<".repeat(3_000)))).collect();
        let page = page(&records, "");
        assert!(page.contains("number 499") && !page.contains("number 100."));
        assert!(page.len() < 30_000, "{} bytes", page.len());
        let short: Vec<_> = (0..500).map(|n| samples::log(n, &format!("number {n}."))).collect();
        assert_eq!(tail(&short, "", &LineShape::default(), TAIL_BYTES).len(), TAIL_LINES);
    }
}
