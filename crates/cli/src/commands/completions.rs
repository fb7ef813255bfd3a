//! `mainstay completions`: for the shell's tab key.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::installed::{self, Places};
use clap_complete::Shell;

/// Print completions for a shell, or install them
///
/// `mainstay completions bash --install` puts them where bash looks (as root for everybody, else for you); without
/// --install they are printed.
#[derive(Debug, clap::Args)]
pub struct Options {
    pub shell: Shell,
    /// Put them where the shell looks for them
    #[arg(long)]
    pub install: bool,
}

pub fn run(context: &Context, options: Options) -> Outcome {
    let mut text = Vec::new();
    clap_complete::generate(options.shell, &mut crate::command(), "mainstay", &mut text);
    if !options.install {
        context.printer.data(String::from_utf8_lossy(&text).trim_end());
        return Ok(Exit::Ok);
    }
    let places = Places::here()?;
    let path = match options.shell {
        Shell::Bash => places.bash(),
        Shell::Zsh => places.zsh(),
        Shell::Fish => places.fish(),
        other => {
            let failure = Failure::usage(format!("{other} has no folder for completions that it looks into by itself"));
            return Err(failure
                .help(format!("print them, and name the file in its configuration: mainstay completions {other}")));
        }
    };
    installed::write(&path, &text)?;
    context.printer.note(&format!("wrote {}", path.display()));
    if options.shell == Shell::Zsh && places.of_one_user() {
        let folder = path.parent().unwrap_or(&path).display();
        context.printer.hint(&format!("Add to ~/.zshrc, before compinit: fpath+=({folder})"));
    }
    context.printer.hint("They count in shells that are started from now on.");
    Ok(Exit::Ok)
}
