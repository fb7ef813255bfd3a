//! `mainstay man`: manual pages, made from the definitions of the arguments.

use crate::address::unknown_name;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::installed::Places;
use clap_mangen::Man;
use std::path::{Path, PathBuf};

/// Print a manual page, or install all of them
///
/// `mainstay man deploy | man -l -` shows one. --install writes a page per command where `man` looks (as root for
/// everybody, else for you), after which `man mainstay-deploy` works; --output writes them into a folder, for packages.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Command that the page is about, as in `servers remove` [default: mainstay itself]
    #[arg(value_name = "COMMAND", conflicts_with_all = ["install", "output"])]
    pub command: Vec<String>,
    /// Put all pages where `man` looks for them
    #[arg(long, conflicts_with = "output")]
    pub install: bool,
    /// Write all pages into this folder
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

pub fn run(context: &Context, options: Options) -> Outcome {
    if options.install {
        let places = Places::here()?;
        let folder = places.manual_pages();
        write_all(context, &folder)?;
        if places.of_one_user() {
            context.printer.hint(
                "man finds them if ~/.local/bin is on your PATH; otherwise add the folder above man1 to MANPATH.",
            );
        }
        return Ok(Exit::Ok);
    }
    if let Some(folder) = &options.output {
        write_all(context, folder)?;
        return Ok(Exit::Ok);
    }
    let mut page = Vec::new();
    let written = Man::new(find(&options.command)?).render(&mut page);
    written.map_err(|error| Failure::general(format!("cannot make the page: {error}")))?;
    context.printer.data(String::from_utf8_lossy(&page).trim_end());
    Ok(Exit::Ok)
}

/// A command by its words, with the name that its page has: `mainstay-servers-remove`.
fn find(words: &[String]) -> Result<clap::Command, Failure> {
    let mut command = crate::command().disable_help_subcommand(true);
    command.build();
    for word in words {
        let known: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        command = command.find_subcommand(word).cloned().ok_or_else(|| unknown_name("command", word, &known))?;
    }
    Ok(command)
}

fn write_all(context: &Context, folder: &Path) -> Result<(), Failure> {
    let fail =
        |error: std::io::Error| Failure::general(format!("cannot write manual pages to {}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(fail)?;
    clap_mangen::generate_to(crate::command(), folder).map_err(fail)?;
    context.printer.note(&format!("wrote manual pages to {}", folder.display()));
    Ok(())
}
