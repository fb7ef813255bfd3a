//! `mainstay env`: environment variables that are set beside the manifest, where secrets belong.

use crate::answers::Changed;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::WaitOptions;
use crate::table::Column;
use crate::{address, report};
use api::secret::Secret;
use api::services::{EnvOrigin, EnvPatch, ServiceView};
use client::Client;
use std::collections::BTreeMap;
use std::io::Read;

/// List, set and unset environment variables of a service
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List names, and values only when asked for
    List {
        /// Service, or stack/service
        service: String,
        /// Show the values too
        #[arg(long)]
        reveal: bool,
    },
    /// Set variables; they win over the manifest
    Set {
        /// Service, or stack/service
        service: String,
        /// K=V; `K=-` reads the value from stdin, which keeps it out of the shell's history
        #[arg(required = true, value_name = "K=V")]
        variables: Vec<String>,
        #[command(flatten)]
        then: Then,
    },
    /// Remove variables that were set
    Unset {
        /// Service, or stack/service
        service: String,
        #[arg(required = true, value_name = "K")]
        names: Vec<String>,
        #[command(flatten)]
        then: Then,
    },
}

#[derive(Debug, clap::Args)]
struct Then {
    /// Only store it: it counts from the next deployment on
    #[arg(long)]
    no_deploy: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

const VALUE_LIMIT_BYTES: u64 = 256 * 1024;

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    match options.action {
        Action::List { service, reveal } => {
            let service = address::service(&client, &service).await?;
            list(context, &client, &service, reveal).await
        }
        Action::Set { service, variables, then } => {
            let service = address::service(&client, &service).await?;
            patch(context, &client, &service, read_variables(&variables)?, then).await
        }
        Action::Unset { service, names, then } => {
            let service = address::service(&client, &service).await?;
            let known = client.env(service.stack_id.as_str(), service.id.as_str(), false).await?;
            for name in &names {
                if !known.iter().any(|variable| &variable.name == name && variable.origin == EnvOrigin::Set) {
                    let set: Vec<String> =
                        known.iter().filter(|v| v.origin == EnvOrigin::Set).map(|v| v.name.clone()).collect();
                    return Err(address::unknown_name("variable that was set, called", name, &set));
                }
            }
            patch(context, &client, &service, names.into_iter().map(|name| (name, None)).collect(), then).await
        }
    }
}

async fn list(context: &Context, client: &Client, service: &ServiceView, reveal: bool) -> Outcome {
    let variables = client.env(service.stack_id.as_str(), service.id.as_str(), reveal).await?;
    context.printer.either(&variables, |variables, printer| {
        let rows = variables.iter().map(|variable| {
            let origin = match variable.origin {
                EnvOrigin::Manifest => "manifest",
                EnvOrigin::Set => "set",
                EnvOrigin::Injected => "injected",
            };
            let value = variable.value.as_ref().map_or("(hidden)", |value| value.expose());
            vec![variable.name.as_str().into(), origin.into(), value.into()]
        });
        printer.table(&[Column::new("name"), Column::new("origin").goes(1), Column::new("value").shortens()], rows);
        if !reveal {
            printer.hint("Values are shown with --reveal.");
        }
    });
    Ok(Exit::Ok)
}

async fn patch(
    context: &Context,
    client: &Client,
    service: &ServiceView,
    variables: BTreeMap<String, Option<Secret>>,
    then: Then,
) -> Outcome {
    let names: Vec<String> = variables.keys().cloned().collect();
    // A service that never ran or is stopped takes the values when it starts.
    let patch = EnvPatch { variables, deploy: !then.no_deploy };
    let deployment = client.env_patch(service.stack_id.as_str(), service.id.as_str(), &patch).await?;
    match deployment {
        Some(deployment) => report::finish_one(context, client, deployment, &then.wait).await,
        None => {
            context.printer.either(&Changed { changed: names.clone(), deployment: None }, |_, printer| {
                printer.data(&format!(
                    "changed {} of {}; it counts from the next deployment on",
                    names.join(", "),
                    service.name
                ));
                printer.hint(&format!("Deploy it now with: mainstay restart {}", service.name));
            });
            Ok(Exit::Ok)
        }
    }
}

fn read_variables(texts: &[String]) -> Result<BTreeMap<String, Option<Secret>>, Failure> {
    let mut variables = BTreeMap::new();
    let mut stdin_used = false;
    for text in texts {
        let Some((name, value)) = text.split_once('=') else {
            // Never repeated whole: it may be the secret itself.
            return Err(Failure::usage("a variable is written as K=V; one has no `=`")
                .help("to be asked for nothing on the command line: K=- reads stdin"));
        };
        let good = name.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !good {
            return Err(Failure::usage(format!(
                "`{name}` is not a variable name: use letters, digits and underscores, not beginning with a digit"
            )));
        }
        let value = match value {
            "-" if stdin_used => return Err(Failure::usage("only one value can come from stdin")),
            "-" => {
                stdin_used = true;
                read_stdin()?
            }
            value => value.to_owned(),
        };
        if variables.insert(name.to_owned(), Some(Secret::new(value))).is_some() {
            return Err(Failure::usage(format!("`{name}` is given twice")));
        }
    }
    Ok(variables)
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().take(VALUE_LIMIT_BYTES + 1).read_to_string(&mut text);
    let length = read.map_err(|error| Failure::general(format!("cannot read the value from stdin: {error}")))?;
    if length as u64 > VALUE_LIMIT_BYTES {
        return Err(Failure::usage(format!("the value on stdin is larger than {VALUE_LIMIT_BYTES} bytes")));
    }
    // The newline is of `echo`, not of the value.
    Ok(text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_an_equals_sign_is_refused_without_repeating_it() {
        let error = read_variables(&["hunter2".into()]).unwrap_err();
        assert!(!error.message.contains("hunter2"));
        assert!(read_variables(&["1A=x".into()]).is_err() && read_variables(&["A=1".into(), "A=2".into()]).is_err());
        assert_eq!(read_variables(&["A=b=c".into()]).unwrap()["A"], Some(Secret::new("b=c")));
    }
}
