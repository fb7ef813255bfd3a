//! `mainstay agent`: what runs on every machine.

use crate::context::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::mesh_options::MeshOptions;
use crate::system::{self, Signals};
use agent::identity::RegisterError;
use agent::install::{InstallError, InstallOptions, UninstallOptions};
use agent::{Agent, AgentOptions};
use api::name::Name;
use api::secret::Secret;
use tokio_util::sync::CancellationToken;

/// Run this machine's agent; join a control plane the first time
///
/// With --join URL and --token T (or MAINSTAY_TOKEN) the machine joins, once. After that it knows
/// where it belongs.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Address of the control plane to join
    #[arg(long, value_name = "URL")]
    pub join: Option<String>,
    /// Name of this machine [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<Name>,
    /// Leave this machine's name resolution alone (`<service>.svc.internal` then works only through the gateway)
    #[arg(long, env = "MAINSTAY_NO_DNS", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_dns: bool,
    /// Free space that new work leaves alone, such as 2GB [default: 5 % of the disk, 256MB to 2GB]
    #[arg(long, value_name = "SIZE", env = "MAINSTAY_DISK_RESERVE", value_parser = system::parse_size)]
    pub disk_reserve: Option<u64>,
    #[command(flatten)]
    pub containers: crate::system::ContainerOptions,
    #[command(flatten)]
    pub mesh: MeshOptions,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Have systemd run the agent from now on, also after a crash or reboot (needs root)
    Install {
        /// Address of the control plane to join
        #[arg(long, value_name = "URL")]
        join: Option<String>,
        /// Name of this machine [default: its host name]
        #[arg(long, value_name = "NAME")]
        name: Option<Name>,
        /// Leave this machine's name resolution alone, as the option of `agent` itself
        #[arg(long, env = "MAINSTAY_NO_DNS", value_parser = clap::builder::FalseyValueParser::new())]
        no_dns: bool,
        #[command(flatten)]
        mesh: MeshOptions,
    },
    /// Undo `install`: stop the agent, its services and gateway, take the names out of DNS again
    Uninstall {
        /// Leave services and gateway running
        #[arg(long)]
        keep_services: bool,
    },
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    match options.action {
        None => {
            let agent_options = agent_options(context, options.join, options.name)?;
            let (dns_hook, disk_reserve_bytes) = (!options.no_dns, options.disk_reserve);
            let (containers, mesh) = (options.containers.clone(), options.mesh.settings());
            let agent_options = AgentOptions { dns_hook, disk_reserve_bytes, mesh, ..agent_options };
            work(context, containers.apply(agent_options)).await
        }
        Some(Action::Install { join, name, no_dns, mesh }) => install(context, join, name, !no_dns, &mesh).await,
        Some(Action::Uninstall { keep_services }) => uninstall(context, keep_services).await,
    }
}

fn agent_options(context: &Context, join: Option<String>, name: Option<Name>) -> Result<AgentOptions, Failure> {
    let directory = context.data_dir()?.join("agent");
    let member = directory.join("identity.json").exists();
    let token = context.global.token.clone().map(Secret::new);
    if !member && (join.is_none() || token.is_none()) {
        let failure = Failure::usage(format!(
            "this machine has not joined a control plane yet (there is no identity in {})",
            directory.display()
        ));
        return Err(failure.help("make a token with `mainstay tokens create` and run the line that it prints here"));
    }
    let control_plane_url =
        join.map(|join| client::Client::new(&join, None).map(|client| client.address().to_owned())).transpose()?;
    Ok(AgentOptions { control_plane_url, token, name, ..AgentOptions::new(directory, system::own_binary()?) })
}

async fn work(context: &Context, options: AgentOptions) -> Outcome {
    let mut signals = Signals::new()?;
    let shutdown = CancellationToken::new();
    let mut agent = tokio::spawn(Agent::run(options, shutdown.clone()));
    tokio::select! {
        ended = &mut agent => return finished(ended),
        _ = signals.next() => {}
    }
    context.printer.note("stopping; services and gateway keep running");
    shutdown.cancel();
    tokio::select! {
        ended = &mut agent => finished(ended),
        _ = signals.next() => Ok(Exit::Failed),
    }
}

fn finished(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> Outcome {
    match ended {
        Ok(Ok(())) => Ok(Exit::Ok),
        Ok(Err(error)) => {
            let exit = error.downcast_ref().map_or(Exit::Failed, exit_of);
            Err(Failure::from(error).exits(exit))
        }
        Err(error) => Err(Failure::general(format!("the agent broke down: {error}"))),
    }
}

/// Why joining did not work, for a script.
fn exit_of(error: &RegisterError) -> Exit {
    match error {
        RegisterError::TokenUsed | RegisterError::TokenExpired | RegisterError::TokenUnknown { .. } => Exit::Refused,
        RegisterError::Unreachable { .. } => Exit::Unreachable,
        RegisterError::Url { .. } => Exit::Usage,
        _ => Exit::Failed,
    }
}

async fn install(
    context: &Context,
    join: Option<String>,
    name: Option<Name>,
    dns_hook: bool,
    mesh: &MeshOptions,
) -> Outcome {
    let token = context.global.token.clone().map(Secret::new);
    let options = InstallOptions {
        root: "/".into(),
        binary: system::own_binary()?,
        data_dir: context.data_dir()?.join("agent"),
        join: join.zip(token),
        name,
        dns_hook,
        mesh_arguments: mesh.arguments(),
    };
    agent::install::install(options, &mut |step| context.printer.note(step)).await.map_err(|error| explain(&error))?;
    Ok(Exit::Ok)
}

async fn uninstall(context: &Context, keep_services: bool) -> Outcome {
    let options = UninstallOptions { root: "/".into(), data_dir: context.data_dir()?.join("agent"), keep_services };
    agent::install::uninstall(options, &mut |step| context.printer.note(step))
        .await
        .map_err(|error| explain(&error))?;
    Ok(Exit::Ok)
}

fn explain(error: &InstallError) -> Failure {
    let failure = Failure::general(system::with_causes(error));
    match error {
        InstallError::Register(error) => failure.exits(exit_of(error)),
        InstallError::NotJoined => failure.help("make a token with `mainstay tokens create` on the control plane"),
        _ => failure,
    }
}
