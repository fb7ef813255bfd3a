//! `mainstay static`: serves a folder of files. What `static = "…"` in a manifest runs.

use crate::exit::{Exit, Outcome};
use std::path::PathBuf;

/// Serve a folder of files on loopback (started by the agent)
#[derive(Debug, clap::Args)]
pub struct Options {
    #[arg(long)]
    pub directory: PathBuf,
    #[arg(long, env = "PORT")]
    pub port: u16,
}

pub async fn run(options: Options) -> Outcome {
    gateway::static_files::run(options.directory, options.port).await?;
    Ok(Exit::Ok)
}
