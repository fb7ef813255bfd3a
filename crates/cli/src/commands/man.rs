//! `mainstay man`: manual pages, for packages.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use std::path::PathBuf;

/// Write a manual page per command into a folder
#[derive(Debug, clap::Args)]
pub struct Options {
    pub folder: PathBuf,
}

pub fn run(context: &Context, options: Options) -> Outcome {
    let fail = |error: std::io::Error| {
        Failure::general(format!("cannot write manual pages to {}: {error}", options.folder.display()))
    };
    std::fs::create_dir_all(&options.folder).map_err(fail)?;
    clap_mangen::generate_to(crate::command(), &options.folder).map_err(fail)?;
    context.printer.note(&format!("wrote manual pages to {}", options.folder.display()));
    Ok(Exit::Ok)
}
