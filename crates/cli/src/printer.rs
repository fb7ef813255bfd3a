//! Where output goes: data to stdout, everything else to stderr.
//!
//! So `mainstay status --json | jq` and `mainstay env list web > file` get exactly the data, while a
//! person still sees progress and notes. Colour follows `--color`, `NO_COLOR` and whether the stream
//! is a terminal, and never carries a meaning alone: each coloured word is a word.

use crate::answers::Answer;
use crate::table::{self, Column};
use crate::wrap::wrapped;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// Where the output is a terminal that has colours, and NO_COLOR is not set.
    #[default]
    Auto,
    Always,
    Never,
}

/// Colours on or off; every method gives the text back, marked or plain.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    enabled: bool,
}

impl Paint {
    pub fn plain() -> Self {
        Self { enabled: false }
    }

    fn mark(self, code: &str, text: &str) -> String {
        if self.enabled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.mark("1", text)
    }
    pub fn dim(self, text: &str) -> String {
        self.mark("2", text)
    }
    pub fn green(self, text: &str) -> String {
        self.mark("32", text)
    }
    pub fn yellow(self, text: &str) -> String {
        self.mark("33", text)
    }
    pub fn red(self, text: &str) -> String {
        self.mark("31", text)
    }
    pub fn red_bold(self, text: &str) -> String {
        self.mark("1;31", text)
    }
    pub fn cyan(self, text: &str) -> String {
        self.mark("36", text)
    }

    /// What was searched for.
    pub fn found(self, text: &str) -> String {
        self.mark("1;7", text)
    }

    /// One of several things that are told apart by colour, beside their names.
    pub fn of_many(self, index: usize, text: &str) -> String {
        const CODES: [&str; 8] = ["36", "35", "32", "34", "33", "96", "95", "94"];
        self.mark(CODES[index % CODES.len()], text)
    }

    pub fn tone(self, tone: Tone, text: &str) -> String {
        match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => self.green(text),
            Tone::Busy => self.cyan(text),
            Tone::Warning => self.yellow(text),
            Tone::Bad => self.red(text),
            Tone::Faint => self.dim(text),
        }
    }
}

/// Stands in a table where there is no value, or where it is not known.
pub const NONE: &str = "–";

/// What a word says about how things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Busy,
    Warning,
    Bad,
    Faint,
}

/// One cell of a table.
#[derive(Debug, Clone)]
pub struct Text(pub String, pub Tone);

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(text, Tone::Plain)
    }
}
impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.to_owned(), Tone::Plain)
    }
}

#[derive(Debug, Clone)]
pub struct Printer {
    json: bool,
    quiet: bool,
    verbosity: u8,
    out_colored: bool,
    err_colored: bool,
}

impl Printer {
    pub fn new(json: bool, quiet: bool, verbosity: u8, color: ColorChoice) -> Self {
        let colored = |terminal: bool| match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                terminal && !refused && understands_sequences()
            }
        };
        Self {
            json,
            quiet,
            verbosity,
            out_colored: colored(std::io::stdout().is_terminal()),
            err_colored: colored(std::io::stderr().is_terminal()),
        }
    }

    pub fn json(&self) -> bool {
        self.json
    }

    pub fn quiet(&self) -> bool {
        self.quiet
    }

    pub fn verbosity(&self) -> u8 {
        self.verbosity
    }

    pub fn paint(&self) -> Paint {
        Paint { enabled: self.out_colored }
    }

    pub fn paint_err(&self) -> Paint {
        Paint { enabled: self.err_colored }
    }

    /// Whether a person looks at the data as it comes, where it can be drawn over.
    pub fn to_terminal(&self) -> bool {
        understands_sequences() && std::io::stdout().is_terminal()
    }

    /// Whether progress may redraw lines: stderr is a terminal and a person reads it.
    pub fn live(&self) -> bool {
        !self.json && !self.quiet && understands_sequences() && std::io::stderr().is_terminal()
    }

    /// Sentences for a person that are data: what does not fit a line of the terminal goes on so many columns further in.
    pub fn sentence(&self, text: &str, indent: usize) {
        self.data(&wrapped(text, terminal_width(), indent));
    }

    /// A line of data.
    pub fn data(&self, text: &str) {
        write_or_leave(&mut std::io::stdout().lock(), text);
    }

    /// Control sequences for the terminal that stdout is, and what is drawn with them.
    pub fn control(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // Who closes the terminal ends the command by that.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Data for programs: one JSON document, or one line of a stream.
    pub fn data_json<T: Answer>(&self, value: &T, pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        self.data(&text.expect("nouns of the api serialize to JSON"));
    }

    /// Either the JSON of a value or what `text` makes of it.
    pub fn either<T: Answer>(&self, value: &T, text: impl FnOnce(&T, &Self)) {
        if self.json { self.data_json(value, true) } else { text(value, self) }
    }

    /// Progress and other things good to know.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            write_or_ignore(&wrapped(text, error_width(), indented(text)));
        }
    }

    pub fn warning(&self, text: &str) {
        if !self.quiet {
            let text = format!("{} {text}", self.paint_err().yellow("warning:"));
            write_or_ignore(&wrapped(&text, error_width(), 0));
        }
    }

    /// The next step, for a person.
    pub fn hint(&self, text: &str) {
        if !self.quiet && !self.json {
            write_or_ignore(&self.paint_err().dim(text));
        }
    }

    pub fn error_text(&self, text: &str) {
        write_or_ignore(text);
    }

    /// A table; on a terminal no wider than that.
    pub fn table<R: IntoIterator<Item = Vec<Text>>>(&self, columns: &[Column], rows: R) {
        let rows: Vec<Vec<Text>> = rows.into_iter().collect();
        let laid = table::lay(columns, &rows, terminal_width(), self.paint());
        self.data(&laid.lines.join("\n"));
        if !laid.left_out.is_empty() {
            self.hint(&format!("Left out for want of room: {}.", laid.left_out.join(", ")));
        }
    }
}

/// Whether colours and redrawn lines mean anything to the terminal. One that does not say what it is (a serial line, a
/// command of `env -i`) gets plain lines: whoever redraws leaves them out there altogether.
fn understands_sequences() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// How wide the terminal is that stdout goes to; without one, tables have no width.
pub fn terminal_width() -> Option<usize> {
    std::io::stdout().is_terminal().then(|| terminal_size().0)
}

/// The same for stderr, where errors and notes go.
pub fn error_width() -> Option<usize> {
    std::io::stderr().is_terminal().then(|| size_of(std::io::stderr()).0)
}

/// How far in a text begins.
fn indented(text: &str) -> usize {
    text.len() - text.trim_start_matches(' ').len()
}

/// Columns and lines. A terminal that does not know its size (a serial line) is taken for the usual one.
pub fn terminal_size() -> (usize, usize) {
    size_of(std::io::stdout())
}

fn size_of(terminal: impl AsFd) -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(terminal).ok();
    let or_usual = |size: Option<u16>, usual: usize| size.map(usize::from).filter(|size| *size > 0).unwrap_or(usual);
    (or_usual(size.map(|s| s.ws_col), 80), or_usual(size.map(|s| s.ws_row), 24))
}

/// Who reads stdout may stop reading (`mainstay logs | head`): that is the end of the command, not a failure.
fn write_or_leave(out: &mut impl Write, text: &str) {
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

fn write_or_ignore(text: &str) {
    // Nowhere is left to say that stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
