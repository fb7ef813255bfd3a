//! `mainstay up`: the whole system on this machine, with one command.
//!
//! In the foreground, control plane and agent run in this process until Ctrl-C. With `--detach` they
//! run in a process of their own, and this one only waits and deploys. Where a control plane runs on
//! the data directory already, there is nothing to start: what was named is deployed to that one.

use crate::answers::Started;
use crate::background;
use crate::commands::deploy;
use crate::commands::events;
use crate::context::{Context, read_cli_token};
use crate::exit::{Exit, Failure, Outcome};
use crate::gateway_port;
use crate::mesh_options::MeshOptions;
use crate::private_file;
use crate::progress::{self, WaitOptions};
use crate::project;
use crate::report;
use crate::running::{self, Running};
use crate::system::{self, Asked, Extent, Signals, System, Wishes};
use api::desired::SecurityMode;
use api::events::EventLevel;
use api::name::Name;
use api::plans::{DeployAnswer, DeployRequest};
use api::secret::Secret;
use client::{Client, EventQuery};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// How long a process in the background may take until its control plane answers.
const BACKGROUND_LIMIT: Duration = Duration::from_secs(60);
/// Below the data directory.
const PASSWORD_FILE: &str = "server/initial-password";
const LOG_FILE: &str = "up.log";

/// Run the whole of Mainstay on this machine and deploy a project to it
///
/// Starts control plane, agent and gateway, deploys PATH (default: here, if there is something to
/// deploy) and waits until it is healthy. Ctrl-C stops everything again; --detach leaves it running
/// until `mainstay down`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Folder with the project, or a git address
    #[arg(value_name = "PATH|GIT URL")]
    pub target: Option<String>,
    /// Run in the background; return when what is deployed is healthy
    #[arg(long, short)]
    pub detach: bool,
    /// Let services be reached from other machines (the gateway listens on every interface)
    #[arg(long)]
    pub public: bool,
    /// Where the API and the dashboard listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4600", env = "MAINSTAY_LISTEN")]
    pub listen: SocketAddr,
    /// Port where services are reached [default: 80 for root, else 8080 or the next free one]
    #[arg(long, value_name = "PORT", env = "MAINSTAY_GATEWAY_PORT")]
    pub gateway_port: Option<u16>,
    /// Port of the gateway for HTTPS; 0 for none [default: 443 beside 80, 8443 beside 8080, none beside others]
    #[arg(long, value_name = "PORT", env = "MAINSTAY_GATEWAY_HTTPS_PORT")]
    pub gateway_https_port: Option<u16>,
    /// postgres://… or sqlite://… [default: a SQLite file in the data directory]
    #[arg(long, value_name = "URL", env = "MAINSTAY_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
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
    pub containers: system::ContainerOptions,
    #[command(flatten)]
    pub mesh: MeshOptions,
    #[command(flatten)]
    pub wait: WaitOptions,
    /// Run as the process in the background (used by --detach)
    #[arg(long, hide = true)]
    pub background: bool,
}

pub async fn run(context: &Context, options: Options) -> Outcome {
    let data_dir = context.data_dir()?;
    let target = target(&options)?;
    if options.background {
        return background(context, &options, data_dir).await;
    }
    if let Some(running) = running::find(&data_dir) {
        return deploy_to_running(context, &data_dir, &running, target.as_deref(), &options).await;
    }
    // What cannot be deployed is said before anything is started for it.
    if let Some(target) = target.as_deref().filter(|target| !project::looks_like_address(target)) {
        project::check(Path::new(target)).await?;
    }
    if options.detach {
        detached(context, &options, &data_dir, target.as_deref()).await
    } else {
        foreground(context, &options, data_dir, target.as_deref()).await
    }
}

/// What to deploy: what was named, or this folder if something is in it.
fn target(options: &Options) -> Result<Option<String>, Failure> {
    if let Some(target) = &options.target {
        return Ok(Some(target.clone()));
    }
    let here = Path::new(".");
    let has_manifest = here.join(manifest::FILE_NAME).is_file();
    let in_repository =
        here.canonicalize().is_ok_and(|here| here.ancestors().any(|folder| folder.join(".git").exists()));
    Ok((has_manifest || (in_repository && project::is_deployable(here))).then(|| ".".to_owned()))
}

fn wishes(options: &Options, data_dir: &Path) -> Wishes {
    Wishes {
        data_dir: data_dir.to_owned(),
        listen: options.listen,
        database: options.database.clone(),
        public: options.public,
        gateway_port: options.gateway_port,
        gateway_https_port: options.gateway_https_port,
        name: options.name.clone(),
        dns_hook: !options.no_dns,
        disk_reserve_bytes: options.disk_reserve,
        containers: options.containers.clone(),
        mesh: options.mesh.settings(),
    }
}

async fn foreground(context: &Context, options: &Options, data_dir: PathBuf, target: Option<&str>) -> Outcome {
    let mut signals = Signals::new()?;
    let mut wishes = wishes(options, &data_dir);
    wishes.gateway_port = gateway_port::choose(context, &data_dir, options.gateway_port, options.public).await?;
    context.printer.note(&format!("Starting Mainstay {} in {}", env!("CARGO_PKG_VERSION"), data_dir.display()));
    let mut system = System::start(&wishes).await?;
    let client = system.client()?;
    let password = system.initial_password().cloned();
    system::remember(context, &system.address, &data_dir);
    let arrival = Arrival { fresh: true, data_dir: &data_dir, password: password.as_ref(), target };
    // What a script is told in the end: that what it asked for was not deployed, however well the rest ended.
    let mut exit = Exit::Ok;
    let asked = tokio::select! {
        done = introduce(context, &client, arrival, options) => {
            // What runs stays up: the dashboard and the log show why, and the next try is one `deploy` away.
            if let Err(failure) = done {
                failure.print(&context.printer);
                exit = failure.exit;
            }
            None
        }
        asked = signals.next() => Some(asked),
        broken = system.broken() => return end(context, system, Extent::ControlOnly, Some(broken)).await,
    };
    let asked = match asked {
        Some(asked) => asked,
        None => {
            context.printer.hint(
                "Ctrl-C stops Mainstay and all its services. Deploy again with `mainstay deploy` in another terminal.",
            );
            tokio::select! {
                asked = signals.next() => asked,
                broken = system.broken() => return end(context, system, Extent::ControlOnly, Some(broken)).await,
                never = tell_troubles(context, &client) => match never {},
            }
        }
    };
    match asked {
        Asked::Terminate => {
            context.printer.note("stopping; services and gateway keep running");
            end(context, system, Extent::ControlOnly, None).await.map(|_| exit)
        }
        Asked::Interrupt => {
            context.printer.note("\nstopping services and gateway (Ctrl-C again: at once)");
            tokio::select! {
                ended = end(context, system, Extent::Everything, None) => {
                    context.printer.note("stopped");
                    ended.map(|_| exit)
                }
                // What was asked to stop stops by itself: its supervisor sees to it.
                _ = signals.next() => Ok(Exit::Failed),
            }
        }
    }
}

async fn end(context: &Context, system: System, extent: Extent, broken: Option<Failure>) -> Outcome {
    let stopped = system.stop(extent).await;
    if let (Some(_), Err(failure)) = (&broken, &stopped) {
        failure.print(&context.printer);
    }
    match broken {
        Some(failure) => Err(failure),
        None => stopped.map(|()| Exit::Ok),
    }
}

/// What is there to be said once Mainstay runs.
struct Arrival<'a> {
    /// It was started just now, not found running.
    fresh: bool,
    data_dir: &'a Path,
    /// Of the first start ever.
    password: Option<&'a Secret>,
    target: Option<&'a str>,
}

/// Waits for the machine, says what it leaves out, deploys, and says what is where.
async fn introduce(context: &Context, client: &Client, arrival: Arrival<'_>, options: &Options) -> Outcome {
    let Arrival { fresh, data_dir, password, target } = arrival;
    let printer = &context.printer;
    let bar = progress::spinner(printer);
    bar.set_message("waiting for the agent of this machine");
    let machine = system::wait_online(client).await;
    bar.finish_and_clear();
    let machine = machine?;
    if fresh {
        for limitation in &machine.facts.limitations {
            printer.note(&format!("  {} {limitation}", printer.paint_err().yellow("left out:")));
        }
    }
    if !fresh && options.public && machine.security_mode == SecurityMode::Closed {
        printer.warning("--public counts when Mainstay starts: `mainstay down`, then this again");
    }
    let outcome = match target {
        Some(target) => deploy_target(context, client, target, options).await.map(Some),
        None => {
            printer.note("Nothing to deploy here; deploy a project with `mainstay deploy` in its git repository.");
            Ok(None)
        }
    };
    warn_of_gateway(context, client, machine.id.as_str()).await?;
    if printer.json() {
        let answer = Started {
            dashboard: client.address().to_owned(),
            password_file: password.map(|_| data_dir.join(PASSWORD_FILE)),
            deploy: outcome.as_ref().ok().cloned().flatten(),
        };
        printer.data_json(&answer, true);
    } else {
        if let Ok(Some(answer)) = &outcome {
            deploy::show(context, client, answer).await?;
        }
        printer.data(&format!("The dashboard is at {}", client.address()));
        system::tell_password(context, data_dir, password);
    }
    match outcome? {
        Some(answer) if !options.wait.no_wait => report::judge(&answer.deployments),
        _ => Ok(Exit::Ok),
    }
}

/// Once there is something to serve, a gateway that does not serve it is worth a word.
async fn warn_of_gateway(context: &Context, client: &Client, machine: &str) -> Result<(), Failure> {
    let Some(observed) = client.server(machine).await?.observed else { return Ok(()) };
    if let Some(problem) = observed.gateway.problem.filter(|_| !observed.instances.is_empty()) {
        context.printer.warning(&format!("the gateway: {problem}"));
    }
    Ok(())
}

async fn deploy_target(
    context: &Context,
    client: &Client,
    target: &str,
    options: &Options,
) -> Result<DeployAnswer, Failure> {
    let project = project::load(target, client).await?;
    let request = DeployRequest { plan: project.plan_request(), fingerprint: None, services: vec![], force: false };
    let answer = deploy::submit(context, client, &request, Some(&project)).await?;
    deploy::wait(context, client, answer, &options.wait).await
}

async fn deploy_to_running(
    context: &Context,
    data_dir: &Path,
    running: &Running,
    target: Option<&str>,
    options: &Options,
) -> Outcome {
    context.printer.note(&format!(
        "Mainstay already runs here (pid {}, started with `mainstay {}`).",
        running.pid, running.command
    ));
    let client = Client::new(&running.address, read_cli_token(data_dir))?;
    introduce(context, &client, Arrival { fresh: false, data_dir, password: None, target }, options).await
}

/// Starts a process that stays, and speaks to it as to any other control plane.
async fn detached(context: &Context, options: &Options, data_dir: &Path, target: Option<&str>) -> Outcome {
    private_file::create_directory(data_dir)
        .map_err(|error| Failure::general(format!("cannot use {} as data directory: {error}", data_dir.display())))?;
    let had_password = data_dir.join(PASSWORD_FILE).exists();
    let port = gateway_port::choose(context, data_dir, options.gateway_port, options.public).await?;
    let log = data_dir.join(LOG_FILE);
    let mut arguments: Vec<String> =
        vec!["up".into(), "--background".into(), "--data-dir".into(), data_dir.to_string_lossy().into_owned()];
    arguments.extend(["--listen".into(), options.listen.to_string()]);
    arguments.extend(port.iter().flat_map(|port| ["--gateway-port".to_owned(), port.to_string()]));
    let https_port = options.gateway_https_port.iter();
    arguments.extend(https_port.flat_map(|port| ["--gateway-https-port".to_owned(), port.to_string()]));
    arguments.extend(options.name.iter().flat_map(|name| ["--name".to_owned(), name.to_string()]));
    arguments.extend(options.public.then(|| "--public".to_owned()));
    arguments.extend(options.no_dns.then(|| "--no-dns".to_owned()));
    arguments.extend(options.disk_reserve.map(|bytes| format!("--disk-reserve={bytes}B")));
    arguments.extend(options.containers.arguments());
    arguments.extend(options.mesh.arguments());
    let mut child = background::spawn(&system::own_binary()?, &arguments, options.database.as_deref(), &log)?;
    let running = wait_for(&mut child, data_dir, &log).await?;
    system::remember(context, &running.address, data_dir);
    context.printer.note(&format!(
        "Mainstay {} runs in the background (pid {}); its log is {}",
        running.version,
        running.pid,
        log.display()
    ));
    let client = Client::new(&running.address, read_cli_token(data_dir))?;
    let password = if had_password { None } else { read_password(data_dir) };
    let arrival = Arrival { fresh: true, data_dir, password: password.as_ref(), target };
    let outcome = introduce(context, &client, arrival, options).await;
    context.printer.hint("Stop it and all its services with `mainstay down`.");
    outcome
}

/// Until the control plane of the child answers. A child that ends before says why in its log.
async fn wait_for(child: &mut Child, data_dir: &Path, log: &Path) -> Result<Running, Failure> {
    let pid = child.id();
    let deadline = Instant::now() + BACKGROUND_LIMIT;
    loop {
        if let Some(running) = running::find(data_dir).filter(|running| running.pid == pid)
            && Client::new(&running.address, None)?.healthy().await.is_ok()
        {
            return Ok(running);
        }
        let ended = child
            .try_wait()
            .map_err(|error| Failure::general(format!("cannot watch the process in the background: {error}")))?;
        let late = Instant::now() >= deadline;
        if ended.is_some() || late {
            let what = if late {
                format!("it did not answer within {} s", BACKGROUND_LIMIT.as_secs())
            } else {
                "it ended".to_owned()
            };
            let failure = Failure::general(format!("Mainstay did not start in the background: {what}"));
            return Err(failure
                .evidence(background::tail(log, 15))
                .help(format!("the whole log is {}", log.display())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The process behind `--detach`: everything goes to its log.
async fn background(context: &Context, options: &Options, data_dir: PathBuf) -> Outcome {
    let mut signals = Signals::new()?;
    let wishes = wishes(options, &data_dir);
    let mut system = System::start(&wishes).await?;
    tokio::select! {
        _ = signals.next() => end(context, system, Extent::ControlOnly, None).await,
        broken = system.broken() => end(context, system, Extent::ControlOnly, Some(broken)).await,
    }
}

/// Warnings and errors as they happen, for a person who leaves `up` open. Never ends.
async fn tell_troubles(context: &Context, client: &Client) -> std::convert::Infallible {
    let newest = client.events(&EventQuery { limit: Some(1), ..EventQuery::default() }).await.unwrap_or_default();
    let after = newest.last().map_or(0, |record| record.sequence);
    let mut coming = client.follow_events(&EventQuery { after: Some(after), ..EventQuery::default() });
    while let Ok(record) = coming.next().await {
        if record.event.level >= EventLevel::Warning {
            context.printer.note(&events::line(&record, &context.printer));
        }
    }
    std::future::pending().await
}

fn read_password(data_dir: &Path) -> Option<Secret> {
    let text = std::fs::read_to_string(data_dir.join(PASSWORD_FILE)).ok()?;
    Some(Secret::new(text.trim()))
}
