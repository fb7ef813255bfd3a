//! Mainstay as its users run it: the released program, a data directory and ports of its own, on all cores
//! together with whatever visits it.
//!
//! What is asked for goes through the API, as the command line does it; what is deployed is this program
//! itself as a [service](crate::service). When the bench is ended before its time, so is `mainstay up` with all
//! that it started; an agent that runs alone leaves its services, as it is meant to.

use crate::context::Context;
use crate::http::visitor::Visitor;
use crate::peers::free_address;
use crate::process::Running;
use anyhow::{Context as _, Result, bail, ensure};
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::plans::{DefaultSource, DeployRequest, PlanRequest};
use api::secret::Secret;
use api::servers::ServerCondition;
use api::tokens::{TokenPurpose, TokenRequest};
use client::{Client, ClientError};
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// For anything that takes a moment on a machine that has much else to do.
pub const LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of the stack, and of its service when there is one.
pub const STACK: &str = "bench";
pub const SERVICE: &str = "web";

pub struct System {
    /// The newest part first: an agent ends before its control plane does.
    parts: Vec<Running>,
    program: PathBuf,
    control: SocketAddr,
    pub gateway: SocketAddr,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl System {
    /// Nothing runs yet.
    pub fn new(context: &Context) -> Result<Self> {
        let program = context.tools.path(crate::figure::MAINSTAY).context("mainstay is missing")?.to_owned();
        let folder = tempfile::Builder::new().prefix("mainstay-bench-").tempdir().context("make a folder")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
        Ok(Self { parts: Vec::new(), program, control: free_address()?, gateway: free_address()?, runtime, folder })
    }

    /// `mainstay up`, with nothing deployed yet and its machine online.
    pub fn up(context: &Context) -> Result<(Self, Client)> {
        let mut system = Self::new(context)?;
        system.start_up(None)?;
        let client = system.connect()?;
        system.wait_online(&client)?;
        Ok((system, client))
    }

    /// A control plane and an agent, each a process of its own; answers their pids.
    pub fn apart(context: &Context) -> Result<(Self, Client, [u32; 2])> {
        let mut system = Self::new(context)?;
        let (listen, port) = (system.control.to_string(), system.gateway.port().to_string());
        let arguments = ["server", "--listen", &listen, "--gateway-port", &port, "--allow-local-sources"];
        let server = system.start("server", &arguments)?;
        let client = system.connect()?;
        let purpose = TokenPurpose::Join { project: None, stack: None };
        let request = TokenRequest { name: "bench".into(), purpose, lifetime_ms: None };
        let token = system.wait(client.token_create(&request))?.token;
        let url = format!("http://{}", system.control);
        let agent = system.start("agent", &["agent", "--join", &url, "--token", token.expose()])?;
        system.wait_online(&client)?;
        Ok((system, client, [server, agent]))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// What makes a command of `mainstay` one for this system.
    pub fn prepare(&self, command: &mut Command) {
        command.envs(self.environment().iter().map(|(name, path)| (name, path)));
        command.env("MAINSTAY_SERVER", format!("http://{}", self.control)).env_remove("MAINSTAY_TOKEN");
    }

    fn environment(&self) -> [(&'static str, PathBuf); 3] {
        let inside = |name: &str| self.folder().join(name);
        [
            ("MAINSTAY_DATA_DIR", inside("data")),
            ("XDG_CONFIG_HOME", inside("config")),
            ("XDG_STATE_HOME", inside("state")),
        ]
    }

    /// Starts `mainstay up` and does not wait for anything.
    pub fn start_up(&mut self, target: Option<&Path>) -> Result<()> {
        let (listen, port) = (self.control.to_string(), self.gateway.port().to_string());
        let target = target.map(|target| target.display().to_string());
        let mut arguments = vec!["up", "--listen", &listen, "--gateway-port", &port];
        arguments.extend(target.as_deref());
        self.start("up", &arguments).map(drop)
    }

    /// Ends all parts, with gateway and services.
    pub fn stop(&mut self) {
        self.parts.clear();
    }

    fn start(&mut self, name: &str, arguments: &[&str]) -> Result<u32> {
        let environment = self.environment();
        let environment: Vec<(&str, &Path)> = environment.iter().map(|(name, path)| (*name, path.as_path())).collect();
        let part = Running::start_part(name, &self.program, arguments, &environment, self.folder.path())?;
        let pid = part.pid();
        self.parts.insert(0, part);
        Ok(pid)
    }

    /// Runs something of the client to its end.
    pub fn wait<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T> {
        Ok(self.runtime.block_on(work)?)
    }

    /// The same, for something that gives up by itself for other reasons, too.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Looks again and again until there is something.
    pub fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            for part in &mut self.parts {
                part.check(self.folder.path())?;
            }
            ensure!(begun.elapsed() < LIMIT, "not within {} s: {what}", LIMIT.as_secs());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// A client with the token that a control plane leaves for the command line of its machine.
    pub fn connect(&mut self) -> Result<Client> {
        let (file, url) = (self.folder().join("data/server/cli-token"), format!("http://{}", self.control));
        self.until("the control plane answers", |system| {
            let Ok(token) = std::fs::read_to_string(&file) else { return Ok(None) };
            let client = Client::new(&url, Some(Secret::new(token.trim())))?;
            Ok(system.block_on(client.info()).is_ok().then_some(client))
        })
    }

    fn wait_online(&mut self, client: &Client) -> Result<()> {
        self.until("the machine is online", |system| {
            let servers = system.wait(client.servers())?;
            Ok(servers.iter().any(|server| server.condition == ServerCondition::Online).then_some(()))
        })
    }

    /// Waits until a deployment runs, and answers what became of it.
    pub fn wait_running(&mut self, client: &Client, deployment: &Deployment) -> Result<Deployment> {
        self.until("a deployment runs", |system| {
            let now = system.wait(client.deployment(&deployment.id))?;
            if !now.stage.in_flight() && now.stage != Stage::Running {
                let why = now.failure.as_ref().map_or("", |failure| &failure.message);
                bail!("a deployment is {}: {why}", now.stage);
            }
            Ok((now.stage == Stage::Running).then_some(now))
        })
    }
}

/// What is deployed: a commit with nothing in it, because what runs is this program.
pub struct Project {
    source: DefaultSource,
    program: String,
}

impl Project {
    pub fn create(system: &System) -> Result<Self> {
        let folder = system.folder().join("project");
        std::fs::create_dir(&folder).context("make a folder")?;
        std::fs::write(folder.join("README"), "nothing is built here\n").context("write a file")?;
        let commit = commit_all(&folder)?;
        let git = format!("file://{}", folder.display()).parse().context("an address of a repository")?;
        let reference = Some(commit.parse().context("a commit")?);
        let program = std::env::current_exe().context("find the own program")?.display().to_string();
        Ok(Self { source: DefaultSource { git, reference, directory: String::new() }, program })
    }

    /// The command of one release.
    pub fn command(&self, release: &str) -> String {
        format!("exec '{}' service {release}", self.program)
    }

    /// A stack of the one service, reached at any host.
    pub fn manifest(&self, release: &str, extra: &str) -> String {
        format!("name = \"{STACK}\"\n\n{}route = \"/\"\n{extra}\n", self.service(SERVICE, release))
    }

    /// One service of a manifest.
    pub fn service(&self, name: &str, release: &str) -> String {
        format!("[services.{name}]\nrun = \"{}\"\nhealth = \"/healthz\"\n", self.command(release))
    }

    pub fn request(&self, manifest: String) -> DeployRequest {
        let plan = PlanRequest { manifest, manifest_path: None, default_source: Some(self.source.clone()) };
        DeployRequest { plan, fingerprint: None, services: Vec::new(), force: false }
    }
}

/// Makes a folder a repository if it is none, commits all that is in it, and answers the commit.
pub fn commit_all(folder: &Path) -> Result<String> {
    let git = |arguments: &[&str]| -> Result<String> {
        let identity = ["-c", "user.name=Bench", "-c", "user.email=bench@example.com"];
        let output = Command::new("git").arg("-C").arg(folder).args(identity).args(arguments).output();
        let output = output.context("run git")?;
        ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    git(&["init", "--quiet", "--initial-branch=main"])?;
    git(&["add", "--all"])?;
    git(&["commit", "--quiet", "--message", "As it is"])?;
    git(&["rev-parse", "HEAD"])
}

/// A system with one service whose releases differ in nothing but their name.
pub struct Releases {
    pub system: System,
    pub client: Client,
    pub project: Project,
    extra: &'static str,
    count: u32,
}

impl Releases {
    /// The first release runs. `extra` are further lines of the manifest about the service.
    pub fn begin(context: &Context, extra: &'static str) -> Result<Self> {
        let (system, client) = System::up(context)?;
        let project = Project::create(&system)?;
        let mut releases = Self { system, client, project, extra, count: 0 };
        let (_, deployment) = releases.deploy()?;
        releases.system.wait_running(&releases.client, &deployment)?;
        Visitor::new(releases.system.gateway).wait_for(&releases.release(), Instant::now(), LIMIT)?;
        Ok(releases)
    }

    /// Name of the newest release, which is in all that it answers.
    pub fn release(&self) -> String {
        format!("v{}", self.count)
    }

    /// Asks for the next release; answers when that was, too.
    pub fn deploy(&mut self) -> Result<(Instant, Deployment)> {
        self.count += 1;
        let request = self.project.request(self.project.manifest(&self.release(), self.extra));
        let begun = Instant::now();
        let answer = self.system.wait(self.client.deploy(&request))?;
        let mut deployments = answer.deployments.into_iter();
        let deployment = deployments.next().filter(|deployment| deployment.kind == DeploymentKind::Deploy);
        Ok((begun, deployment.context("nothing was deployed")?))
    }

    /// Asks for the release before; answers when that was, too.
    pub fn roll_back(&self) -> Result<(Instant, Deployment)> {
        let request = Default::default();
        let begun = Instant::now();
        let deployment = self.system.wait(self.client.rollback(STACK, SERVICE, &request))?;
        Ok((begun, deployment))
    }
}
