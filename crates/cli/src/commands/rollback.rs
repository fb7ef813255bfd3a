//! `mainstay rollback`: back to an earlier revision; while it is still warm, only routes switch.

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::progress::WaitOptions;
use crate::{address, report};
use api::deployments::RollbackRequest;

/// Go back to an earlier revision
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service, or stack/service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    /// Revision number to go back to [default: the one before the current]
    #[arg(long, value_name = "N")]
    pub to: Option<u64>,
    #[command(flatten)]
    pub wait: WaitOptions,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let service = address::service(&client, &options.service).await?;
    let (stack, id) = (service.stack_id.as_str(), service.id.as_str());
    if let Some(number) = options.to {
        let revisions = client.revisions(stack, id, 50).await?;
        if !revisions.iter().any(|revision| revision.number == number) {
            let known: Vec<String> =
                revisions.iter().take(10).map(|r| format!("{} ({})", r.number, r.source_version.short())).collect();
            return Err(Failure::general(format!("{} has no revision {number}", service.name))
                .help(format!("newest first: {}", known.join(", "))));
        }
        let history = client.deployments(stack, id, 200).await?;
        if !history.iter().any(|deployment| deployment.revision_number == number && deployment.ran()) {
            context.printer.note(&format!(
                "No release of revision {number} was ever healthy here; if it is not this time either, what serves now goes on."
            ));
        }
    }
    let deployment = client.rollback(stack, id, &RollbackRequest { revision: options.to }).await?;
    report::finish_one(context, &client, deployment, &options.wait).await
}
