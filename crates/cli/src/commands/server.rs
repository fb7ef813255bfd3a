//! `mainstay server`: the control plane alone, for a machine that others join.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::running::Claim;
use crate::system;
use server::{Server, ServerOptions};
use std::net::SocketAddr;

/// Run the control plane: API, dashboard and everything that decides
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where the API and the dashboard listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4600", env = "MAINSTAY_LISTEN")]
    pub listen: SocketAddr,
    /// postgres://… or sqlite://… [default: a SQLite file in the data directory]
    #[arg(long, value_name = "URL", env = "MAINSTAY_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Address under which people and agents reach it, if a proxy is in front
    #[arg(long, value_name = "URL", env = "MAINSTAY_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// Let gateways of machines that join listen on every interface, not only on loopback
    #[arg(long)]
    pub public: bool,
    /// Port of the gateways [default: 80 where the agent is root, else 8080]
    #[arg(long, value_name = "PORT", env = "MAINSTAY_GATEWAY_PORT")]
    pub gateway_port: Option<u16>,
    /// Port of the gateways for HTTPS; 0 for none [default: 443 beside 80, 8443 beside 8080, none beside others]
    #[arg(long, value_name = "PORT", env = "MAINSTAY_GATEWAY_HTTPS_PORT")]
    pub gateway_https_port: Option<u16>,
    /// How often agents report; one that missed three reports is shown as offline
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = poll_interval)]
    pub poll_interval: u64,
    /// Free space that new work leaves alone, such as 2GB [default: 5 % of the disk, 256MB to 2GB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_DISK_RESERVE", value_parser = system::parse_size)]
    pub disk_reserve: Option<u64>,
    /// Allow file:// repositories of this machine as source
    #[arg(long)]
    pub allow_local_sources: bool,
    /// Ask this registry of images without TLS; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let data_dir = context.data_dir()?;
    let mut claim = Claim::take(&data_dir).map_err(|error| Failure::general(error.to_string()))?;
    let settings = ServerOptions {
        listen: options.listen,
        database_url: options.database,
        public_url: options.public_url,
        gateway_port: options.gateway_port,
        gateway_https_port: options.gateway_https_port,
        allow_local_sources: options.allow_local_sources,
        insecure_registries: options.insecure_registry,
        security_mode: system::security_mode(options.public),
        poll_interval_ms: options.poll_interval,
        disk_reserve_bytes: options.disk_reserve,
        ..ServerOptions::new(&data_dir)
    };
    let server = Server::start(settings).await?;
    let address = system::reachable_address(server.address());
    claim
        .publish(&address, "server")
        .map_err(|error| Failure::general(format!("cannot write to {}: {error}", data_dir.display())))?;
    context.printer.note(&format!("The control plane answers at {address}"));
    system::tell_password(context, &data_dir, server.initial_password());
    let mut stop = system::Signals::new()?;
    tokio::select! {
        _ = stop.next() => {}
        () = server.stopped() => {}
    }
    context.printer.note("stopping; services on all machines keep running");
    server.shutdown().await;
    drop(claim);
    Ok(Exit::Ok)
}

/// What agents accept, too.
fn poll_interval(text: &str) -> Result<u64, String> {
    let interval_ms = crate::times::parse_length(text)?;
    if (500..=600_000).contains(&interval_ms) {
        return Ok(interval_ms);
    }
    Err("it has to be from 500ms to 10m".into())
}
