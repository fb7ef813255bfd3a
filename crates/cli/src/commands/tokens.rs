//! `mainstay tokens`: one-time tokens that let a machine join, and tokens for programs.

use crate::address::{self, unknown_name};
use crate::answers::Revoked;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Printer, Text, Tone};
use crate::table::Column;
use crate::times::{ago, now_ms};
use api::name::Name;
use api::tokens::{TokenCreated, TokenPurpose, TokenRequest, TokenState, TokenView};
use client::Client;

const COLUMNS: [Column; 6] = [
    Column::new("id"),
    Column::new("name").shortens(),
    Column::new("for").goes(2),
    Column::new("state"),
    Column::new("created").goes(1),
    Column::new("expires").goes(3),
];

/// Make, list and revoke tokens
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token with which one machine may join, once
    Create {
        /// What it is for, as the list shows it
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// The same as an option
        #[arg(long = "name", value_name = "NAME", conflicts_with = "name", hide = true)]
        called: Option<String>,
        /// The machine takes only services of this stack
        #[arg(long, conflicts_with = "project")]
        stack: Option<String>,
        /// The machine takes only services of this project [default: default]
        #[arg(long)]
        project: Option<Name>,
        /// A token for the API instead
        #[arg(long, conflicts_with_all = ["stack", "project"])]
        api: bool,
        /// How long it is good for [default: 24h to join, no end for the API]
        #[arg(long, value_name = "TIME", value_parser = crate::times::parse_length)]
        expires: Option<u64>,
    },
    /// List tokens (what is done without a word, too); what they are is never shown again
    List,
    /// Make a token useless at once
    Revoke {
        /// Id (or its end) or name
        #[arg(value_name = "TOKEN")]
        which: String,
    },
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    match options.action.unwrap_or(Action::List) {
        Action::Create { name, called, stack, project, api, expires } => {
            let name = name.or(called).unwrap_or_else(|| if api { "api".into() } else { "new server".into() });
            let stack = match stack {
                Some(text) => Some(address::stack(&client, &text).await?.id),
                None => None,
            };
            let purpose = if api { TokenPurpose::Api } else { TokenPurpose::Join { project, stack } };
            let created = client.token_create(&TokenRequest { name, purpose, lifetime_ms: expires }).await?;
            context.printer.either(&created, |created, printer| match created.view.purpose {
                TokenPurpose::Api => {
                    printer.data(created.token.expose());
                    printer.hint("It is shown only now. Use it as MAINSTAY_TOKEN or with --token.");
                }
                TokenPurpose::Join { .. } => show_join(&client, created, printer),
            });
        }
        Action::List => {
            let tokens = client.tokens().await?;
            context.printer.either(&tokens, |tokens, printer| {
                printer.table(&COLUMNS, tokens.iter().map(row));
            });
        }
        Action::Revoke { which } => {
            let found = find(client.tokens().await?, &which)?;
            client.token_revoke(&found.id).await?;
            context.printer.either(&Revoked { revoked: found.id.to_string() }, |_, printer| {
                printer.data(&format!("revoked {}", found.name))
            });
        }
    }
    Ok(Exit::Ok)
}

/// The line to run; on a terminal also what makes it last.
fn show_join(client: &Client, created: &TokenCreated, printer: &Printer) {
    let left_ms = created.view.expires_at_ms.map(|at| u64::try_from(at - now_ms() + 500).unwrap_or(0) / 1000 * 1000);
    let within = left_ms.map(|left| format!(" within {}", manifest::duration_text(left))).unwrap_or_default();
    let arguments = format!("--join {} --token {}", client.address(), created.token.expose());
    printer.note(&format!("Run this on the new machine, once,{within}:"));
    printer.data(&format!("mainstay agent {arguments}"));
    printer.hint(&format!(
        "That runs the agent in the terminal. To have systemd keep it running: sudo mainstay agent install {arguments}"
    ));
    if client.is_loopback() {
        printer.warning(
            "this address is only reachable from this machine; name one that others reach with --server, and let the \
             control plane listen there",
        );
    }
    printer.hint("The token is shown only now.");
}

fn find(tokens: Vec<TokenView>, text: &str) -> Result<TokenView, Failure> {
    let usable = |token: &&TokenView| token.state == TokenState::Usable;
    let fits = |token: &&TokenView| token.id.as_str() == text || token.id.short() == text || token.name == text;
    let found: Vec<&TokenView> = tokens.iter().filter(fits).filter(usable).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(unknown_name(
            "usable token",
            text,
            &tokens.iter().filter(usable).map(|token| token.name.clone()).collect::<Vec<_>>(),
        )),
        several => {
            let ids: Vec<&str> = several.iter().map(|token| token.id.short()).collect();
            Err(Failure::general(format!("{} tokens are called `{text}`", several.len()))
                .help(format!("say which by id: {}", ids.join(", "))))
        }
    }
}

fn row(token: &TokenView) -> Vec<Text> {
    let purpose = match &token.purpose {
        TokenPurpose::Api => "api".to_owned(),
        TokenPurpose::Join { stack: Some(stack), .. } => format!("join, stack {}", stack.short()),
        TokenPurpose::Join { project: Some(project), .. } => format!("join, project {project}"),
        TokenPurpose::Join { .. } => "join".to_owned(),
    };
    let state = match token.state {
        TokenState::Usable => Text("usable".into(), Tone::Good),
        TokenState::Used => Text("used".into(), Tone::Faint),
        TokenState::Expired => Text("expired".into(), Tone::Faint),
        TokenState::Revoked => Text("revoked".into(), Tone::Faint),
    };
    let expires = token.expires_at_ms.map_or("never".to_owned(), |at| match at - now_ms() {
        left if left > 0 => format!("in {}", crate::times::length(left)),
        _ => ago(at, now_ms()),
    });
    vec![
        token.id.short().into(),
        token.name.as_str().into(),
        purpose.into(),
        state,
        ago(token.created_at_ms, now_ms()).into(),
        expires.into(),
    ]
}
