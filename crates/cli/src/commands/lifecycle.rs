//! `mainstay restart`, `stop` and `start`: one service, the same revision, through the same rollout
//! as a deployment. Stop means no instances until asked otherwise; restart replaces them without a gap.

use crate::context::Context;
use crate::exit::Outcome;
use crate::progress::WaitOptions;
use crate::{address, report};

// No doc comment: each command says in `arguments.rs` what it does.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service, or stack/service
    #[arg(value_name = "SERVICE")]
    pub service: String,
    #[command(flatten)]
    pub wait: WaitOptions,
}

#[derive(Debug, Clone, Copy)]
pub enum Action {
    Restart,
    Stop,
    Start,
}

pub async fn run(context: &Context, action: Action, options: Options) -> Outcome {
    let client = context.client()?;
    let service = address::service(&client, &options.service).await?;
    let (stack, id) = (service.stack_id.as_str(), service.id.as_str());
    let deployment = match action {
        Action::Restart => client.restart(stack, id).await?,
        Action::Stop => client.stop(stack, id).await?,
        Action::Start => client.start(stack, id).await?,
    };
    report::finish_one(context, &client, deployment, &options.wait).await
}
