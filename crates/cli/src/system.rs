//! The whole system in one process: control plane and agent, as `mainstay up` runs them.
//!
//! The gateway and the services are processes of their own, started by the agent; they are not
//! touched when this process ends, unless [`System::stop`] is told to take them down.

use crate::config::Config;
use crate::context::{Context, read_cli_token};
use crate::exit::Failure;
use crate::running::Claim;
use agent::drivers::mesh::MeshSettings;
use agent::identity::Identity;
use agent::{Agent, AgentOptions};
use api::desired::SecurityMode;
use api::name::Name;
use api::secret::Secret;
use api::servers::{ServerCondition, ServerView};
use client::Client;
use server::{ListenError, Server, ServerOptions};
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long the agent of this process may take to report for the first time.
const ONLINE_LIMIT: Duration = Duration::from_secs(60);
/// How long the agent may take to put down what it holds.
const AGENT_STOP_LIMIT: Duration = Duration::from_secs(20);
const JOIN_TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// The container engine of this machine.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ContainerOptions {
    /// Socket of the container engine [default: the first of Podman's and Docker's that answers]
    #[arg(long, value_name = "PATH", env = "MAINSTAY_CONTAINER_SOCKET")]
    pub container_socket: Option<PathBuf>,
    /// Name of the containers' network in the engine
    #[arg(long, value_name = "NAME", env = "MAINSTAY_CONTAINER_NETWORK", hide = true)]
    pub container_network: Option<String>,
}

impl ContainerOptions {
    pub fn apply(&self, options: AgentOptions) -> AgentOptions {
        let (container_socket, container_network) = (self.container_socket.clone(), self.container_network.clone());
        AgentOptions { container_socket, container_network, ..options }
    }

    /// The same for another process.
    pub fn arguments(&self) -> Vec<String> {
        let socket = self.container_socket.iter().map(|path| format!("--container-socket={}", path.display()));
        let network = self.container_network.iter().map(|name| format!("--container-network={name}"));
        socket.chain(network).collect()
    }
}

/// What `up` was asked for.
#[derive(Debug, Clone)]
pub struct Wishes {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub database: Option<String>,
    pub public: bool,
    pub gateway_port: Option<u16>,
    pub gateway_https_port: Option<u16>,
    pub name: Option<Name>,
    /// Whether internal names may be hooked into this machine's resolver.
    pub dns_hook: bool,
    /// Free space that new work leaves alone, of the control plane and of the agent.
    pub disk_reserve_bytes: Option<u64>,
    pub containers: ContainerOptions,
    pub mesh: MeshSettings,
}

pub struct System {
    claim: Claim,
    server: Server,
    agent: JoinHandle<anyhow::Result<()>>,
    agent_shutdown: CancellationToken,
    data_dir: PathBuf,
    pub address: String,
}

/// How much is taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Control plane and agent; services and gateway go on.
    ControlOnly,
    /// Services and gateway, too.
    Everything,
}

impl System {
    pub async fn start(wishes: &Wishes) -> Result<Self, Failure> {
        let mut claim = Claim::take(&wishes.data_dir).map_err(|error| Failure::general(error.to_string()))?;
        let options = ServerOptions {
            listen: wishes.listen,
            database_url: wishes.database.clone(),
            allow_local_sources: true,
            security_mode: security_mode(wishes.public),
            gateway_port: wishes.gateway_port,
            gateway_https_port: wishes.gateway_https_port,
            disk_reserve_bytes: wishes.disk_reserve_bytes,
            ..ServerOptions::new(&wishes.data_dir)
        };
        let server = Server::start(options).await.map_err(|error| not_started(error, wishes))?;
        let address = reachable_address(server.address());
        let agent_shutdown = CancellationToken::new();
        let agent = match start_agent(wishes, &server, &address, agent_shutdown.clone()).await {
            Ok(agent) => agent,
            Err(failure) => {
                server.shutdown().await;
                return Err(failure);
            }
        };
        claim
            .publish(&address, "up")
            .map_err(|error| Failure::general(format!("cannot write to {}: {error}", wishes.data_dir.display())))?;
        Ok(Self { claim, server, agent, agent_shutdown, data_dir: wishes.data_dir.clone(), address })
    }

    pub fn initial_password(&self) -> Option<&Secret> {
        self.server.initial_password()
    }

    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.address, read_cli_token(&self.data_dir))?)
    }

    /// Ends when a part ends by itself, with the reason. Safe to cancel: nothing is taken out.
    pub async fn broken(&mut self) -> Failure {
        tokio::select! {
            ended = &mut self.agent => {
                // It must not be asked again: it has ended.
                self.agent = tokio::spawn(std::future::pending());
                match ended {
                    Ok(Ok(())) => Failure::general("the agent ended by itself; look at its log above"),
                    Ok(Err(error)) => error.context("the agent of this machine stopped").into(),
                    Err(error) => Failure::general(format!("the agent of this machine broke down: {error}")),
                }
            }
            () = self.server.stopped() => Failure::general("the control plane ended by itself; look at its log above"),
        }
    }

    /// Puts everything down in order: first who acts, then what runs, at last who knows.
    pub async fn stop(mut self, extent: Extent) -> Result<(), Failure> {
        self.agent_shutdown.cancel();
        if tokio::time::timeout(AGENT_STOP_LIMIT, &mut self.agent).await.is_err() {
            self.agent.abort();
        }
        let stopped = match extent {
            Extent::Everything => stop_everything(&self.data_dir).await.map(|_| ()),
            Extent::ControlOnly => Ok(()),
        };
        self.server.shutdown().await;
        drop(self.claim);
        stopped
    }
}

/// A port in use is the commonest reason, and has a way out of its own.
fn not_started(error: anyhow::Error, wishes: &Wishes) -> Failure {
    let Some(ListenError::InUse { address, holder }) = error.downcast_ref::<ListenError>() else {
        return error.into();
    };
    let by = holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default();
    let other = wishes.listen.port().checked_add(1).unwrap_or(4600);
    Failure::general(format!("cannot listen on {address}: the port is in use{by}")).help(format!(
        "if that is another Mainstay, deploy to it with `mainstay deploy --server http://{address}`; else stop it, or choose another port: --listen {}:{other}",
        wishes.listen.ip()
    ))
}

async fn start_agent(
    wishes: &Wishes,
    server: &Server,
    address: &str,
    shutdown: CancellationToken,
) -> Result<JoinHandle<anyhow::Result<()>>, Failure> {
    let directory = wishes.data_dir.join("agent");
    let identity = Identity::load(&directory.join("identity.json")).map_err(|e| Failure::general(with_causes(&e)))?;
    let token = match identity {
        Some(member) => {
            let known = server.set_security_mode(&member.server_id, security_mode(wishes.public)).await;
            known.map_err(|error| foreign_member(&member, &directory, &error))?;
            None
        }
        None => Some(server.create_join_token("this machine", JOIN_TOKEN_LIFETIME).await?),
    };
    let options = AgentOptions {
        control_plane_url: Some(address.to_owned()),
        token,
        name: wishes.name.clone(),
        dns_hook: wishes.dns_hook,
        disk_reserve_bytes: wishes.disk_reserve_bytes,
        mesh: wishes.mesh.clone(),
        ..AgentOptions::new(directory, own_binary()?)
    };
    Ok(tokio::spawn(Agent::run(wishes.containers.apply(options), shutdown)))
}

/// Joining the control plane of this process would take the machine away from the one it belongs to.
fn foreign_member(member: &Identity, directory: &Path, error: &anyhow::Error) -> Failure {
    tracing::debug!(error = format!("{error:#}"), "the identity of this machine is not known here");
    let identity = directory.join("identity.json");
    let message = format!(
        "this machine is a member of {} as {}, not of the control plane on this data directory",
        member.control_plane_url, member.name
    );
    Failure::general(message).help(format!(
        "run `mainstay agent` to serve that one, or choose another --data-dir; if that control plane is gone for good, remove {}",
        identity.display()
    ))
}

/// Services and gateway below a data directory are ended; nothing else on the machine is touched.
pub async fn stop_everything(data_dir: &Path) -> Result<agent::StoppedAll, Failure> {
    let stopped = Agent::stop_all(&data_dir.join("agent")).await?;
    if stopped.problems.is_empty() {
        return Ok(stopped);
    }
    Err(Failure::general("not everything could be stopped").evidence(stopped.problems))
}

/// An error and all that led to it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// The file that runs now: what shims and gateways are started from.
pub fn own_binary() -> Result<PathBuf, Failure> {
    std::env::current_exe()
        .map_err(|error| Failure::general(format!("cannot find out where the mainstay program lies: {error}")))
}

pub fn security_mode(public: bool) -> SecurityMode {
    if public { SecurityMode::Open } else { SecurityMode::Closed }
}

/// Waits until a machine reports and gives it back.
pub async fn wait_online(client: &Client) -> Result<ServerView, Failure> {
    let deadline = Instant::now() + ONLINE_LIMIT;
    loop {
        let online = client
            .servers()
            .await?
            .into_iter()
            .find(|server| server.condition == ServerCondition::Online && server.observed.is_some());
        if let Some(server) = online {
            return Ok(server);
        }
        if Instant::now() >= deadline {
            let failure = Failure::general(format!(
                "no machine reported to the control plane within {} s",
                ONLINE_LIMIT.as_secs()
            ));
            return Err(failure.help("look at `mainstay servers` and at the agent's log"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The address that a program on this machine uses for a socket that may listen on every interface.
pub fn reachable_address(socket: SocketAddr) -> String {
    let ip = match socket.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, socket.port()))
}

/// Shows the first password, once, and where it is kept. Where nobody looks on (systemd's journal, a
/// log file), only the place is said: a log is read by more people than a password is for.
pub fn tell_password(context: &Context, data_dir: &Path, password: Option<&Secret>) {
    if let Some(password) = password {
        let file = data_dir.join("server/initial-password");
        if !std::io::stderr().is_terminal() {
            context.printer.note(&format!("  sign in as admin; the first password is in {}", file.display()));
            return;
        }
        context.printer.note(&format!("  sign in as admin with the password {}", password.expose()));
        context.printer.note(&format!("  (shown once; it is kept in {})", file.display()));
    }
}

/// Makes this control plane known to the user's other commands; one elsewhere stays the default.
pub fn remember(context: &Context, address: &str, data_dir: &Path) {
    let Some(token) = read_cli_token(data_dir) else { return };
    let saved = Config::load().and_then(|mut config| {
        let foreign = config
            .default
            .as_deref()
            .is_some_and(|default| Client::new(default, None).is_ok_and(|client| !client.is_loopback()));
        config.remember(address, token);
        if !foreign {
            config.default = Some(address.to_owned());
        }
        config.save().map(|_| foreign)
    });
    match saved {
        Ok(true) => context.printer.note("Your other commands still mean the control plane that you signed in to; for this one: --server, or `mainstay login`."),
        Ok(false) => {}
        Err(error) => context.printer.warning(&error.to_string()),
    }
}

/// What asks this process to end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Ctrl-C: a person wants it all gone.
    Interrupt,
    /// A service manager restarts us.
    Terminate,
}

impl Signals {
    pub fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::general(format!("cannot listen for signals: {error}")));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Safe to cancel: a signal that came stays noted.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}

/// `2GB` to bytes; `0` is a size, too.
pub fn parse_size(text: &str) -> Result<u64, String> {
    if text.trim() == "0" {
        return Ok(0);
    }
    manifest::parse_size_bytes(text).map_err(|reason| format!("{reason}; a size is for example 500MB or 2GB"))
}
