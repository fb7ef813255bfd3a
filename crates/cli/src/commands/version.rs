//! `mainstay version`: of this command, and of the control plane if one answers.

use crate::answers::Versions;
use crate::context::Context;
use crate::exit::{Exit, Outcome};
use std::time::Duration;

/// Show the version of this command and of the control plane
#[derive(Debug, clap::Args)]
pub struct Options {}

pub async fn run(context: &Context, _: Options) -> Outcome {
    let here = env!("CARGO_PKG_VERSION");
    let there = match context.client() {
        Ok(client) => tokio::time::timeout(Duration::from_secs(3), client.info()).await.ok().and_then(Result::ok),
        Err(_) => None,
    };
    let answer = Versions { version: here.to_owned(), control_plane: there };
    context.printer.either(&answer, |answer, printer| {
        printer.data(&format!("mainstay {here}"));
        if let Some(info) = &answer.control_plane {
            printer.data(&format!("control plane {} on {}", info.version, info.database));
            if info.version != here {
                printer.warning("the two differ; versions one apart work together, others may not");
            }
        }
    });
    Ok(Exit::Ok)
}
