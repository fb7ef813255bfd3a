//! Where output goes: data to stdout, everything else to stderr.
//!
//! So `mainstay status --json | jq` and `mainstay env list web > file` get exactly the data, while a
//! person still sees progress and notes. Colour follows `--color`, `NO_COLOR` and whether the stream
//! is a terminal, and never carries a meaning alone: each coloured word is a word.

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{IsTerminal, Write};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// Where the output is a terminal and NO_COLOR is not set.
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
                terminal && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
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

    /// Whether progress may redraw lines: stderr is a terminal and a person reads it.
    pub fn live(&self) -> bool {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        !self.json && !self.quiet && !dumb && std::io::stderr().is_terminal()
    }

    /// A line of data.
    pub fn data(&self, text: &str) {
        write_or_leave(&mut std::io::stdout().lock(), text);
    }

    /// Data for programs: one JSON document, or one line of a stream.
    pub fn data_json<T: Serialize>(&self, value: &T, pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        self.data(&text.expect("nouns of the api serialize to JSON"));
    }

    /// Either the JSON of a value or what `text` makes of it.
    pub fn either<T: Serialize>(&self, value: &T, text: impl FnOnce(&T, &Self)) {
        if self.json { self.data_json(value, true) } else { text(value, self) }
    }

    /// Progress and other things good to know.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            write_or_ignore(text);
        }
    }

    pub fn warning(&self, text: &str) {
        if !self.quiet {
            write_or_ignore(&format!("{} {text}", self.paint_err().yellow("warning:")));
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

    /// A table without lines, as wide as the terminal at most.
    pub fn table<R: IntoIterator<Item = Vec<Text>>>(&self, headers: &[&str], rows: R) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if std::io::stdout().is_terminal() {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        }
        if self.out_colored {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(headers.iter().map(|header| Cell::new(header.to_uppercase()).add_attribute(Attribute::Dim)));
        for row in rows {
            table.add_row(row.into_iter().map(cell));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        self.data(&lines.join("\n"));
    }
}

fn cell(Text(text, tone): Text) -> Cell {
    use comfy_table::Color;
    let cell = Cell::new(text);
    match tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::DarkGreen),
        Tone::Busy => cell.fg(Color::DarkCyan),
        Tone::Warning => cell.fg(Color::DarkYellow),
        Tone::Bad => cell.fg(Color::DarkRed),
        Tone::Faint => cell.add_attribute(Attribute::Dim),
    }
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
