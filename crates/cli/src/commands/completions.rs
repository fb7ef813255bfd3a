//! `mainstay completions`: for the shell's tab key.

use crate::exit::{Exit, Outcome};
use clap_complete::Shell;

/// Print completions for a shell
///
/// As in `mainstay completions bash > ~/.local/share/bash-completion/completions/mainstay`
#[derive(Debug, clap::Args)]
pub struct Options {
    pub shell: Shell,
}

pub fn run(options: Options) -> Outcome {
    clap_complete::generate(options.shell, &mut crate::command(), "mainstay", &mut std::io::stdout());
    Ok(Exit::Ok)
}
