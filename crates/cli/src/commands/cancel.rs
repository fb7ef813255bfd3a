//! `mainstay cancel`: end a deployment that is in flight; what ran before keeps serving.

use crate::address;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::stage_words;
use api::ids::DeploymentId;

/// Cancel a deployment that is in flight
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service (its newest deployment), or the id of a deployment
    #[arg(value_name = "SERVICE|DEPLOYMENT")]
    pub what: String,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let id: DeploymentId = match options.what.parse() {
        Ok(id) => id,
        Err(_) => {
            let service = address::service(&client, &options.what).await?;
            let deployment = service.deployment.filter(|deployment| deployment.stage.in_flight());
            deployment.ok_or_else(|| Failure::general(format!("no deployment of {} is in flight", service.name)))?.id
        }
    };
    let deployment = client.cancel(&id).await?;
    context.printer.either(&deployment, |deployment, printer| {
        printer.data(&format!(
            "the {} of {} is {}",
            deployment.kind,
            deployment.service,
            stage_words(deployment.stage)
        ));
    });
    Ok(Exit::Ok)
}
