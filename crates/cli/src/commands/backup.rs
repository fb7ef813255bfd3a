//! `mainstay backup`: the control plane in one file, while it works.

use crate::context::{Context, read_cli_token};
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::spinner;
use crate::{running, words};
use api::words::{count, plural};
use client::Client;
use server::ServerOptions;
use server::backup::{self, Backup, Manifest};
use std::path::{Path, PathBuf};

/// Write the control plane to one file, while it goes on working
///
/// The database (SQLite or PostgreSQL), the signing key and the tokens' hashes: everything that
/// `mainstay restore` needs. Run it on the control plane's machine, as the user that it runs as. The file
/// holds secrets; it is made readable by its owner alone and never overwrites another.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// File to write, or a folder [default: mainstay-TIME.backup here]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The control plane's database, if it is not the file in the data directory
    #[arg(long, value_name = "URL", env = "MAINSTAY_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Leave the lines of logs out: they are most of a backup, and the least needed
    #[arg(long)]
    without_logs: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let data_dir = context.data_dir()?;
    refuse_other_database(&data_dir, options.database.as_deref()).await?;
    let file = match options.output {
        Some(path) if path.is_dir() => path.join(backup::file_name()),
        Some(path) => path,
        None => PathBuf::from(backup::file_name()),
    };
    let file = std::path::absolute(&file)
        .map_err(|error| Failure::usage(format!("{} is no usable file: {error}", file.display())))?;
    let settings = ServerOptions { database_url: options.database, ..ServerOptions::new(&data_dir) };
    let bar = spinner(&context.printer);
    let mut progress = |rows: u64| bar.set_message(count(rows, "row"));
    let made = backup::create(&settings, &file, !options.without_logs, &mut progress).await;
    bar.finish_and_clear();
    let made = made?;
    context.printer.either(&made, |made: &Backup, printer| {
        printer.data(&format!("{} ({}, {})", made.file.display(), words::size(made.bytes), contents(&made.manifest)));
        printer
            .hint("It was read again and is whole. It holds secrets: keep it as safe as this machine, and elsewhere.");
        printer.hint("To put it back: mainstay restore FILE");
    });
    Ok(Exit::Ok)
}

/// What a backup holds, for a person.
pub fn contents(manifest: &Manifest) -> String {
    let rows = |table: &str| manifest.rows.get(table).copied().unwrap_or_default();
    let nouns = ["server", "stack", "service", "deployment", "event"];
    let counted: Vec<String> = nouns.iter().map(|noun| count(rows(&plural(noun)), noun)).collect();
    let logs = if manifest.with_logs { "" } else { ", without logs" };
    format!("{}{logs}", counted.join(", "))
}

/// A control plane that works on PostgreSQL may have left a SQLite file behind; that is not what is meant.
async fn refuse_other_database(data_dir: &Path, given: Option<&str>) -> Result<(), Failure> {
    let Some(running) = running::find(data_dir) else { return Ok(()) };
    let Ok(client) = Client::new(&running.address, read_cli_token(data_dir)) else { return Ok(()) };
    let Ok(info) = client.info().await else { return Ok(()) };
    let kind = match given.and_then(|url| url.split_once("://")) {
        Some(("postgres" | "postgresql", _)) => "postgres",
        _ => "sqlite",
    };
    if info.database == kind {
        return Ok(());
    }
    let message = format!(
        "the control plane on {} works on a {} database, not on the {kind} one that would be backed up",
        data_dir.display(),
        info.database
    );
    Err(Failure::general(message)
        .help("name the database that it was started with: --database URL, or MAINSTAY_DATABASE"))
}
