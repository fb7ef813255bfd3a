//! `mainstay stacks`: manifests that are live.

use crate::address;
use crate::answers::Removed;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::Text;
use crate::table::Column;
use crate::times::{ago, now_ms};
use crate::words;

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
        Action::Remove { stack, yes } => {
            let stack = address::stack(&client, &stack).await?;
            let names: Vec<&str> = stack.services.iter().map(|service| service.name.as_str()).collect();
            if !yes && !confirmed(&format!("Stop and forget {} ({})?", stack.name, names.join(", ")))? {
                return Err(Failure::general("nothing was removed"));
            }
            client.stack_remove(stack.id.as_str()).await?;
            context.printer.either(&Removed { removed: stack.id.to_string() }, |_, printer| {
                printer.data(&format!("removed {}", stack.name))
            });
        }
    }
    Ok(Exit::Ok)
}

/// Asks a person; without one, the flag is required.
fn confirmed(question: &str) -> Result<bool, Failure> {
    use std::io::{BufRead, IsTerminal, Write};
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("removing a stack stops its services, and nobody is here to be asked")
            .help("say that it is meant: --yes"));
    }
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "{question} [y/N] ").and_then(|()| err.flush());
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::general(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
