//! `mainstay gateway`: the data path of this machine, a process of its own. Started by the agent.

use crate::exit::{Exit, Outcome};
use gateway::GatewayOptions;
use std::path::PathBuf;

/// Run the gateway of this machine (started by the agent)
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Holds its control socket and its last config
    #[arg(long, value_name = "DIR")]
    pub directory: PathBuf,
    /// Take the listening sockets over from the gateway that runs there, without dropping a request
    #[arg(long)]
    pub take_over: bool,
}

pub async fn run(options: Options) -> Outcome {
    gateway::run(GatewayOptions { directory: options.directory, take_over: options.take_over }).await?;
    Ok(Exit::Ok)
}
