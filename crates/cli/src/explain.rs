//! What a failure means for this person: facts that only the command line has.
//!
//! The control plane can say that a token is not good, and not where it came from; a client can say that an answer
//! makes no sense, and not that the other side is of another version. Both are looked up here, after
//! something failed and never before, so that nothing is slower for it.

use crate::config::Config;
use crate::context::Context;
use crate::exit::{Exit, Failure, Kind};
use client::Client;
use std::time::Duration;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const ASK_LIMIT: Duration = Duration::from_secs(3);

/// The failure of a command, with what is known here.
pub async fn explain(context: &Context, failure: Failure) -> Failure {
    let Ok(client) = context.client() else { return failure };
    match failure.kind() {
        Kind::Unauthenticated => sign_in(context, &client, failure),
        Kind::Foreign => other_version(&client, failure).await,
        Kind::Other => failure,
    }
}

fn sign_in(context: &Context, client: &Client, failure: Failure) -> Failure {
    let address = client.address();
    let login = format!("mainstay login --server {address}");
    let Some(origin) = token_origin(context, client) else {
        let not_signed_in = Failure::new(Exit::Refused, format!("you are not signed in to {address}"));
        return not_signed_in.code_of(&failure).help(format!("{login}; in a script, set MAINSTAY_TOKEN"));
    };
    let message = format!("{address} does not take the token {origin}: {}", failure.message);
    Failure::new(Exit::Refused, message).code_of(&failure).help(format!(
        "sign in again with `{login}`; who is signed in makes a token with `mainstay tokens create --api`"
    ))
}

/// Where the token came from that was sent.
fn token_origin(context: &Context, client: &Client) -> Option<&'static str> {
    if let Some(token) = &context.global.token {
        let from_environment = std::env::var("MAINSTAY_TOKEN").is_ok_and(|value| value == *token);
        return Some(if from_environment { "in MAINSTAY_TOKEN" } else { "that --token gives" });
    }
    let stored = Config::load().is_ok_and(|config| config.token(client.address()).is_some());
    client.has_token().then_some(if stored { "of your last sign-in" } else { "in its data directory" })
}

async fn other_version(client: &Client, failure: Failure) -> Failure {
    let asked = tokio::time::timeout(ASK_LIMIT, client.info()).await;
    let Ok(Ok(info)) = asked else { return failure };
    let (Some(there), Some(here)) = (numbers(&info.version), numbers(VERSION)) else { return failure };
    let (word, next) = match there.cmp(&here) {
        std::cmp::Ordering::Less => {
            ("older", "upgrade the control plane: replace its binary and start it again; what runs goes on meanwhile")
        }
        std::cmp::Ordering::Greater => ("newer", "upgrade this command to the same version"),
        std::cmp::Ordering::Equal => return failure,
    };
    let message = format!(
        "the control plane at {} is of version {}, {word} than this command ({VERSION}), and they do not understand each other here",
        client.address(),
        info.version
    );
    Failure::new(failure.exit, message).code_of(&failure).evidence([failure.message]).help(next)
}

fn numbers(version: &str) -> Option<Vec<u64>> {
    version.split(['.', '-', '+']).take(3).map(|part| part.parse().ok()).collect()
}
