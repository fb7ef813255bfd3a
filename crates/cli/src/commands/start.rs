//! `mainstay start`: run again after a stop.

use crate::context::Context;
use crate::exit::Outcome;
use crate::progress::WaitOptions;
use crate::{address, report};

/// Start a service that was stopped
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service, or stack/service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    #[command(flatten)]
    pub wait: WaitOptions,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let service = address::service(&client, &options.service).await?;
    let deployment = client.start(service.stack_id.as_str(), service.id.as_str()).await?;
    report::finish_one(context, &client, deployment, &options.wait).await
}
