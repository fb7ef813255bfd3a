//! What every row gets: where the binaries are, which peers there are, how long to measure.

use crate::machine::Machine;
use crate::peers::Tools;
use anyhow::{Context as _, Result};
use std::path::Path;
use std::time::Duration;

pub struct Context {
    pub tools: Tools,
    pub machine: Machine,
    /// Shorter and fewer runs: to see whether everything works, not for figures to quote.
    pub quick: bool,
    /// For the load and for what is behind the proxies.
    pub load_core: usize,
    /// For what is measured, alone.
    pub subject_core: usize,
}

impl Context {
    pub fn new(root: &Path, quick: bool) -> Result<Self> {
        let program = std::env::current_exe().context("find the own program")?;
        let binaries = program.parent().context("a program lies in a folder")?;
        let machine = Machine::here(root);
        let subject_core = machine.cores.saturating_sub(1).min(1);
        let tools = Tools::find(root, binaries);
        Ok(Self { tools, machine, quick, load_core: 0, subject_core })
    }

    /// How often everything is measured, the subjects in turn.
    pub fn runs(&self) -> usize {
        if self.quick { 2 } else { 5 }
    }

    pub fn load_time(&self) -> Duration {
        if self.quick { Duration::from_millis(300) } else { Duration::from_millis(1000) }
    }

    pub fn warm_up(&self) -> Duration {
        if self.quick { Duration::from_millis(100) } else { Duration::from_millis(200) }
    }
}
