//! `mainstay open`: a service, or the dashboard, in the browser.

use crate::address;
use crate::answers::Opened;
use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use api::services::ServiceIntent;
use std::process::{Command, Stdio};

/// Open a service (or the dashboard) in the browser; without a display, print its address
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Service, or stack/service [default: the dashboard]
    #[arg(value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only print the address
    #[arg(long)]
    pub print: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let client = context.client()?;
    let url = match &options.service {
        None => {
            client.healthy().await?;
            format!("{}/", client.address())
        }
        Some(text) => {
            let service = address::service(&client, text).await?;
            match service.urls.first() {
                Some(url) => url.clone(),
                None if service.intent == ServiceIntent::Stop => {
                    let failure = Failure::general(format!("{} is stopped, so nothing answers for it", service.name));
                    return Err(failure.help(format!("start it: mainstay start {}", service.name)));
                }
                None if service.current.is_none() => {
                    let failure = Failure::general(format!("{} has no release that was ever healthy", service.name));
                    return Err(failure.help(format!("see why: mainstay status {}", address::full_name(&service))));
                }
                None => {
                    let failure = Failure::general(format!("{} has no address: no route leads to it", service.name));
                    return Err(failure.help("give it one in mainstay.toml: route = \"/\""));
                }
            }
        }
    };
    let opened = !options.print && !context.printer.json() && has_display() && open(&url);
    context.printer.either(&Opened { url: url.clone() }, |_, printer| printer.data(&url));
    if opened {
        context.printer.hint("Opened in the browser.");
    }
    Ok(Exit::Ok)
}

fn has_display() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn open(url: &str) -> bool {
    // Only addresses of the web: nothing that the control plane says may start another program.
    let web = url.starts_with("http://") || url.starts_with("https://");
    web && Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}
