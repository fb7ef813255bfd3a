//! `mainstay restore`: a control plane from the file that `mainstay backup` wrote.

use crate::commands::backup::contents;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::spinner;
use crate::running::Claim;
use crate::times::{ago, now_ms};
use api::words::count;
use server::ServerOptions;
use server::backup::{self, Manifest, Restored};
use std::path::PathBuf;

/// Put a control plane back from a backup
///
/// Checks every byte of the file first, and changes nothing if one is wrong. Goes into an empty data
/// directory, or with --replace in the place of the control plane that is there, which is set aside and
/// never deleted. Agents find it again by its address; those that were told something newer go on with
/// that and say so: see `mainstay servers`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What `mainstay backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Set the control plane aside that is in the data directory now
    #[arg(long)]
    replace: bool,
    /// An empty database to restore into, postgres://… [default: a SQLite file in the data directory]
    #[arg(long, value_name = "URL", env = "MAINSTAY_DATABASE", hide_env_values = true)]
    database: Option<String>,
    /// Only look: is the file whole, and what is in it?
    #[arg(long, conflicts_with = "replace")]
    check: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    if options.check {
        let manifest = backup::check(&options.file)?;
        context.printer.either(&manifest, |manifest: &Manifest, printer| {
            printer.data(&format!("{} is whole: {}", options.file.display(), described(manifest)));
        });
        return Ok(Exit::Ok);
    }
    let data_dir = context.data_dir()?;
    // Checked before the data directory is made or claimed: a bad file changes nothing at all.
    backup::check(&options.file)?;
    let claim = Claim::take(&data_dir).map_err(|error| {
        Failure::general(error.to_string())
            .help("stop it first (`mainstay down`, or systemctl stop mainstay-server); its services go on")
    })?;
    let settings = ServerOptions { database_url: options.database.clone(), ..ServerOptions::new(&data_dir) };
    let bar = spinner(&context.printer);
    let mut progress = |rows: u64| bar.set_message(count(rows, "row"));
    let restored = backup::restore(&options.file, &settings, options.replace, &mut progress).await;
    bar.finish_and_clear();
    let restored = restored?;
    drop(claim);
    context.printer.either(&restored, |restored: &Restored, printer| {
        printer.data(&format!("restored {}", restored.directory.display()));
        printer.note(&format!("  {}", described(&restored.manifest)));
        if let Some(aside) = &restored.set_aside {
            printer.note(&format!("  what was there before is in {}", aside.display()));
        }
        let database = options.database.as_ref().map_or("", |_| " with the same --database");
        printer.hint(&format!("Start it as before: mainstay server{database}, or mainstay up"));
        printer.hint("Servers that were told something newer than the backup go on with that, until you say otherwise: mainstay servers");
    });
    Ok(Exit::Ok)
}

fn described(manifest: &Manifest) -> String {
    format!(
        "of {} ({}), by Mainstay {}; {}",
        manifest.created_at,
        ago(manifest.created_at_ms, now_ms()),
        manifest.version,
        contents(manifest)
    )
}
