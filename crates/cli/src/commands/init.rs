//! `mainstay init`: write down how a project is built and run.

use crate::answers::Written;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use manifest::detect::Folder;
use std::io::Write;
use std::path::PathBuf;

/// Work out what kind of project this is and write mainstay.toml
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Folder with the project
    #[arg(default_value = ".", value_name = "PATH")]
    pub path: PathBuf,
    /// Replace a mainstay.toml that is there
    #[arg(long)]
    pub force: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let folder = options
        .path
        .canonicalize()
        .map_err(|error| Failure::usage(format!("cannot open `{}`: {error}", options.path.display())))?;
    let file = folder.join(manifest::FILE_NAME);
    if file.exists() && !options.force {
        return Err(Failure::general(format!("{} is there already", file.display()))
            .help("edit it, or replace it with --force"));
    }
    let detection = manifest::detect(&Folder::new(&folder))
        .map_err(|error| Failure::general(error.to_string()).help(error.help()))?;
    let mut open = std::fs::OpenOptions::new();
    // Without --force a file that appeared meanwhile is not touched either.
    if options.force {
        open.create(true).truncate(true)
    } else {
        open.create_new(true)
    };
    let written = open.write(true).open(&file).and_then(|mut file| file.write_all(detection.manifest.as_bytes()));
    written.map_err(|error| Failure::general(format!("cannot write {}: {error}", file.display())))?;
    if context.printer.json() {
        let answer =
            Written { path: file, what: detection.what, reasons: detection.reasons, manifest: detection.manifest };
        context.printer.data_json(&answer, true);
        return Ok(Exit::Ok);
    }
    context.printer.note(&detection.what);
    for reason in &detection.reasons {
        context.printer.note(&format!("  - {reason}"));
    }
    context.printer.data(&format!("wrote {}", file.display()));
    context.printer.hint("Look at it, commit it, then: mainstay deploy");
    Ok(Exit::Ok)
}
