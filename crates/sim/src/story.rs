//! What happened, a line each: virtual time, who, what. It is the only output of a simulation, so two
//! runs of one seed are compared by it, and a person finds the fault in it.

use crate::time::{Time, locked};
use std::fmt::Display;
use std::sync::Mutex;

pub struct Story {
    time: Time,
    lines: Mutex<Vec<String>>,
    violation: Mutex<Option<String>>,
}

impl Story {
    pub fn begin(time: Time) -> Self {
        Self { time, lines: Mutex::default(), violation: Mutex::default() }
    }

    pub fn tell(&self, who: impl Display, what: impl Display) {
        let passed_ms = self.time.passed_ms();
        locked(&self.lines).push(format!("{:>9}.{:03} {who:<9} {what}", passed_ms / 1000, passed_ms % 1000));
    }

    /// Something that must never be. The first one ends the simulation.
    pub fn never(&self, what: impl Display) {
        let mut violation = locked(&self.violation);
        if violation.is_none() {
            self.tell("REFEREE", format_args!("must never be: {what}"));
            *violation = Some(what.to_string());
        }
    }

    pub fn violation(&self) -> Option<String> {
        locked(&self.violation).clone()
    }

    pub fn lines(&self) -> Vec<String> {
        locked(&self.lines).clone()
    }
}
