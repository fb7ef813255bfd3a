//! Plans as text: the one renderer of the command line, of events, of the golden worlds in this
//! crate's tests and of the stories that the simulation tells.
//!
//! The first character of a line carries its meaning (`+` create or start, `~` change, `-` remove or
//! stop, `=` keep, `!` held back), so colour can be added but never has to be. A [`Text`] is lines of
//! toned pieces: whoever prints decides what a tone looks like, and nobody else words a plan.
//!
//! Absent on purpose: names of servers and instances. A plan holds ids only, and the last eight
//! digits of one tell it apart.

mod gateway;
mod host;
mod rollout;
mod stack;

pub use gateway::gateway_config;
pub use host::host_plan;
pub use rollout::rollout_plan;
pub use stack::{headline, stack_plan, sum};

use api::UnixMillis;
use api::observed::Blocked;

/// What a piece of text means for a person, whatever it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Strong,
    Good,
    Warning,
    Bad,
    Faint,
}

/// Lines of toned pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text {
    lines: Vec<Vec<(Tone, String)>>,
}

impl Text {
    /// With every piece as `paint` makes it look; no line break at the end.
    pub fn painted(&self, paint: impl Fn(Tone, &str) -> String) -> String {
        let line =
            |pieces: &Vec<(Tone, String)>| pieces.iter().map(|(tone, text)| paint(*tone, text)).collect::<String>();
        self.lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    pub fn plain(&self) -> String {
        self.painted(|_, text| text.to_owned())
    }

    fn line(&mut self, text: impl Into<String>) {
        self.lines.push(vec![(Tone::Plain, text.into())]);
    }

    fn pieces(&mut self, pieces: Vec<(Tone, String)>) {
        self.lines.push(pieces);
    }

    /// `+ start instance 00000002 of web`
    fn marked(&mut self, mark: Mark, text: impl Into<String>) {
        let (sign, tone) = mark.sign();
        self.lines.push(vec![(tone, sign.into()), (Tone::Plain, format!(" {}", text.into()))]);
    }

    /// `! service web: its release is being prepared (again in 30s)`
    fn held_back(&mut self, blocked: &[Blocked], now_ms: UnixMillis) {
        for Blocked { subject, reason, retry_at_ms } in blocked {
            let again = retry_at_ms.map(|at_ms| format!(" (again {})", moment(at_ms, now_ms))).unwrap_or_default();
            self.marked(Mark::HeldBack, format!("{subject}: {}{again}", shown(reason)));
        }
    }
}

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Create,
    Change,
    Remove,
    Keep,
    HeldBack,
}

impl Mark {
    fn sign(self) -> (&'static str, Tone) {
        match self {
            Self::Create => ("+", Tone::Good),
            Self::Change => ("~", Tone::Warning),
            Self::Remove => ("-", Tone::Bad),
            Self::Keep => ("=", Tone::Faint),
            Self::HeldBack => ("!", Tone::Warning),
        }
    }
}

/// `in 30s`, `now`: relative, because a plan is read at the moment at which it is made.
fn moment(at_ms: UnixMillis, now_ms: UnixMillis) -> String {
    match u64::try_from(at_ms.saturating_sub(now_ms)) {
        Ok(ms) if ms > 0 => format!("in {}", crate::stack::duration(ms)),
        _ => "now".into(),
    }
}

/// One line, and not a very long one.
fn shown(value: &str) -> String {
    const LIMIT: usize = 200;
    let one_line: String = value.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if one_line.chars().count() > LIMIT {
        format!("{}…", one_line.chars().take(LIMIT).collect::<String>())
    } else {
        one_line
    }
}

/// `Plan: 2 changes, 1 held back`
fn changes_and_held_back(changes: usize, held_back: usize) -> String {
    let changes = api::words::count(changes, "change");
    match held_back {
        0 => format!("Plan: {changes}"),
        _ => format!("Plan: {changes}, {held_back} held back"),
    }
}
