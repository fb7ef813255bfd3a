//! `mainstay stacks`: manifests that are live.

use crate::address;
use crate::answers::Removed;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::Text;
use crate::progress::{self, WaitOptions};
use crate::table::Column;
use crate::times::{ago, now_ms};
use crate::{question, words};
use api::stacks::StackView;
use api::words::{count, count_of};
use client::Client;
use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// List stacks, remove one
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List all (what is done without a word, too)
    List,
    /// Stop all services of a stack and forget it
    Remove {
        stack: String,
        /// Do it without being asked back
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        wait: WaitOptions,
    },
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    match options.action.unwrap_or(Action::List) {
        Action::List => {
            let stacks = client.stacks().await?;
            context.printer.either(&stacks, |stacks, printer| {
                let rows = stacks.iter().map(|stack| {
                    let (word, tone) = words::stack_condition(stack.condition);
                    vec![
                        stack.name.as_str().into(),
                        Text(word.into(), tone),
                        stack.version.to_string().into(),
                        stack.services.len().to_string().into(),
                        ago(stack.updated_at_ms, now_ms()).into(),
                    ]
                });
                printer.table(
                    &[
                        Column::new("stack"),
                        Column::new("condition"),
                        Column::new("version").right().goes(2),
                        Column::new("services").right().goes(3),
                        Column::new("changed").goes(1),
                    ],
                    rows,
                );
            });
        }
        Action::Remove { stack, yes, wait } => {
            let stack = address::stack(&client, &stack).await?;
            let names: Vec<&str> = stack.services.iter().map(|service| service.name.as_str()).collect();
            if !yes {
                let question = format!("Stop and forget {} ({})?", stack.name, names.join(", "));
                question::agreed(&context.printer, &question, "removing a stack stops its services")?;
            }
            client.stack_remove(stack.id.as_str()).await?;
            if !wait.no_wait {
                progress::or_leave(gone(context, &client, &stack, wait.timeout)).await?;
            }
            context.printer.either(&Removed { removed: stack.id.to_string() }, |_, printer| {
                let how = if wait.no_wait { "is being removed" } else { "is removed" };
                printer.data(&format!("{} {how}", stack.name))
            });
        }
    }
    Ok(Exit::Ok)
}

/// Until the last instance has stopped and the stack is forgotten.
async fn gone(context: &Context, client: &Client, stack: &StackView, timeout_ms: u64) -> Result<(), Failure> {
    let bar = progress::spinner(&context.printer);
    bar.set_message(format!("stopping {}", count_of(&stack.services, "service")));
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    loop {
        let left = client.stacks().await?.into_iter().find(|left| left.id == stack.id);
        let Some(left) = left else {
            bar.finish_and_clear();
            return Ok(());
        };
        if Instant::now() >= deadline {
            bar.finish_and_clear();
            let time = manifest::duration_text(timeout_ms);
            let still = count(left.services.iter().map(|service| service.instances.len()).sum::<usize>(), "instance");
            let failure =
                Failure::new(Exit::TimedOut, format!("{} is not gone after {time}: {still} left", stack.name));
            return Err(failure.help("it goes on by itself; look with `mainstay status`, and at `mainstay servers`"));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
