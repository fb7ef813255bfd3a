//! `mainstay scale`: more or fewer instances of the current revision.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::{self, WaitOptions};
use crate::{address, report};
use api::services::{REPLICAS_LIMIT, ScaleRequest};

/// Change how many instances of a service run
#[derive(Debug, clap::Args)]
pub struct Options {
    /// As in web=3; several at once
    #[arg(value_name = "SERVICE=N", required = true, value_parser = parse_wish)]
    pub wishes: Vec<Wish>,
    #[command(flatten)]
    pub wait: WaitOptions,
}

#[derive(Debug, Clone)]
pub struct Wish {
    service: String,
    replicas: u32,
}

fn parse_wish(text: &str) -> Result<Wish, String> {
    let (service, number) = text.split_once('=').ok_or("write it as SERVICE=N, as in web=3")?;
    let replicas: u32 = number.parse().map_err(|_| format!("`{number}` is not a number of instances"))?;
    match replicas {
        0 => Err(format!("no instances means stopped: use `mainstay stop {service}`")),
        1..=REPLICAS_LIMIT => Ok(Wish { service: service.to_owned(), replicas }),
        _ => Err(format!("{replicas} instances are more than the limit of {REPLICAS_LIMIT}")),
    }
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let mut services = Vec::new();
    for wish in &options.wishes {
        // All names are checked before anything changes.
        services.push((address::service(&client, &wish.service).await?, wish.replicas));
    }
    let mut deployments = Vec::new();
    for (service, replicas) in services {
        let asked = client.scale(service.stack_id.as_str(), service.id.as_str(), &ScaleRequest { replicas }).await;
        deployments.push(asked.map_err(|error| {
            let done: Vec<String> =
                deployments.iter().map(|d: &api::deployments::Deployment| d.service.to_string()).collect();
            let failure = Failure::from(error);
            if done.is_empty() {
                failure
            } else {
                failure.evidence([format!("already asked for: {}", done.join(", "))])
            }
        })?);
    }
    if options.wait.no_wait {
        context.printer.either(&deployments, |all, printer| {
            all.iter().for_each(|d| printer.data(&format!("{} of {} accepted ({})", d.kind, d.service, d.id)));
        });
        return Ok(Exit::Ok);
    }
    let ended = progress::or_leave(progress::watch(context, &client, deployments, options.wait.timeout)).await?;
    context.printer.either(&ended, |all, printer| {
        all.iter().filter(|d| progress::succeeded(d)).for_each(|d| printer.data(&report::sentence(d)));
    });
    report::judge(&ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_that_is_no_number_nothing_or_too_much_is_refused_with_the_mend() {
        assert_eq!(parse_wish("shop/web=3").unwrap().service, "shop/web");
        assert!(parse_wish("web").unwrap_err().contains("web=3"));
        assert!(parse_wish("web=0").unwrap_err().contains("mainstay stop web"));
        assert!(parse_wish("web=101").is_err() && parse_wish("web=-1").is_err());
    }
}
