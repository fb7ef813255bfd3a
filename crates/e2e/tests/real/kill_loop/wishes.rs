//! What is asked of the service in turn, and what must then be there.

use super::coverage::Moment;
use super::world::World;
use crate::get;
use anyhow::{Context, Result, bail, ensure};
use api::deployments::{Deployment, RollbackRequest, Stage};
use api::desired::{InstanceIntent, Traffic};
use api::ids::{DeploymentId, RevisionId};
use api::observed::InstanceState;
use api::plans::{DefaultSource, DeployRequest, PlanRequest};
use api::secret::Secret;
use api::services::{EnvPatch, Revision, ScaleRequest, ServiceView};
use client::{Client, ClientError};
use e2e::{Answered, instances_of, parent_of};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub const STACK: &str = "shop";
pub const SERVICE: &str = "web";

/// How long a control plane may be away before a wish is given up.
const PATIENCE: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    Deploy,
    Rollback,
    Restart,
    Scale,
    Env,
}

impl Wish {
    pub const ALL: [Self; 5] = [Self::Deploy, Self::Rollback, Self::Restart, Self::Scale, Self::Env];
    /// Those that pass through a build.
    const BUILDING: [Self; 2] = [Self::Deploy, Self::Env];
    /// Those after which something old stops.
    const REPLACING: [Self; 4] = [Self::Deploy, Self::Rollback, Self::Restart, Self::Env];

    /// The wish of a turn, of those that pass through the moment.
    pub fn of(turn: usize, moment: Moment) -> Self {
        match moment {
            Moment::Building => Self::BUILDING[turn % Self::BUILDING.len()],
            Moment::StoppingOld => Self::REPLACING[turn % Self::REPLACING.len()],
            _ => Self::ALL[turn % Self::ALL.len()],
        }
    }
}

/// A wish in the form in which it is sent, and sent again when nobody can say whether it was heard.
#[derive(Clone)]
pub enum Request {
    Deploy(Box<DeployRequest>),
    Rollback,
    Restart,
    Scale(u32),
    Env(String),
}

/// What was asked for so far.
pub struct Wishes {
    version: u32,
    pub replicas: u32,
    mark: String,
    marked: u32,
    /// The mark that a revision was made with.
    marks: BTreeMap<RevisionId, String>,
    /// Every deployment that the control plane has acknowledged.
    pub acknowledged: Vec<DeploymentId>,
}

impl Wishes {
    pub fn new() -> Self {
        let (marks, acknowledged) = (BTreeMap::new(), Vec::new());
        Self { version: 0, replicas: 2, mark: "m0".into(), marked: 0, marks, acknowledged }
    }

    pub fn request(&mut self, world: &World, wish: Wish) -> Result<Request> {
        Ok(match wish {
            Wish::Deploy => {
                self.version += 1;
                Request::Deploy(Box::new(deploy_request(world, self.version, self.replicas)?))
            }
            Wish::Rollback => Request::Rollback,
            Wish::Restart => Request::Restart,
            Wish::Scale => {
                self.replicas = 5 - self.replicas;
                Request::Scale(self.replicas)
            }
            Wish::Env => {
                self.marked += 1;
                self.mark = format!("m{}", self.marked);
                Request::Env(self.mark.clone())
            }
        })
    }

    /// Remembers a deployment that was acknowledged.
    pub fn heard(&mut self, deployment: &Deployment) {
        self.acknowledged.push(deployment.id.clone());
        self.marks.entry(deployment.revision_id.clone()).or_insert_with(|| self.mark.clone());
    }
}

fn deploy_request(world: &World, version: u32, replicas: u32) -> Result<DeployRequest> {
    let rollout = format!(
        "build = \"sleep 0.4\"\nreplicas = {replicas}\nenv = {{ START_DELAY_MS = \"300\", LOG_EVERY_MS = \"50\" }}\n\
         [services.web.rollout]\nbake = \"0s\"\nwarm = \"500ms\""
    );
    world.repository.write_app(&format!("v{version}"), &rollout)?;
    let commit = world.repository.commit(&format!("version {version}"))?;
    let source = DefaultSource {
        git: format!("file://{}", world.repository.path.display()).parse()?,
        reference: Some(commit.parse()?),
        directory: String::new(),
    };
    let manifest = std::fs::read_to_string(world.repository.path.join("mainstay.toml"))?;
    let plan = PlanRequest { manifest, manifest_path: None, default_source: Some(source) };
    Ok(DeployRequest { plan, fingerprint: None, services: vec![], force: false })
}

async fn send(client: &Client, request: &Request) -> Result<Option<Deployment>, ClientError> {
    match request {
        Request::Deploy(request) => Ok(client.deploy(request).await?.deployments.into_iter().next()),
        Request::Rollback => client.rollback(STACK, SERVICE, &RollbackRequest::default()).await.map(Some),
        Request::Restart => client.restart(STACK, SERVICE).await.map(Some),
        Request::Scale(replicas) => client.scale(STACK, SERVICE, &ScaleRequest { replicas: *replicas }).await.map(Some),
        Request::Env(mark) => {
            let variables = BTreeMap::from([("MARK".to_owned(), Some(Secret::new(mark.as_str())))]);
            client.env_patch(STACK, SERVICE, &EnvPatch { variables, deploy: true }).await
        }
    }
}

/// The newest deployment, however long it takes until the control plane says it.
pub async fn newest(client: &Client) -> Result<Option<DeploymentId>> {
    let begun = Instant::now();
    loop {
        match client.deployments(STACK, SERVICE, 1).await {
            Ok(list) => return Ok(list.into_iter().next().map(|deployment| deployment.id)),
            Err(ClientError::Api { status: 404, .. }) => return Ok(None),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error).context("list deployments"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Sends until it was heard. As a person would who got no answer: look first, then ask again.
pub async fn submit(client: Client, request: Request, before: Option<DeploymentId>) -> Result<Deployment> {
    let begun = Instant::now();
    loop {
        match send(&client, &request).await {
            Ok(Some(deployment)) => return Ok(deployment),
            // Nothing to do: it had been heard.
            Ok(None) => {}
            Err(ClientError::Api { status, error }) if status < 500 => bail!("refused with {status}: {error}"),
            Err(error) if begun.elapsed() > PATIENCE => return Err(error).context("nobody heard the wish"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        if let Some(id) = newest(&client).await?.filter(|id| Some(id) != before.as_ref()) {
            return client.deployment(&id).await.context("show the deployment");
        }
    }
}

/// What a look at the world says.
pub enum Look {
    Reached(Box<Deployment>),
    NotYet(String),
    /// It will never be reached.
    Wrong(String),
}

/// Whether everything is as the last wish wants it: the control plane's view, the processes of the
/// machine, and what visitors get.
pub async fn look(world: &World, wishes: &Wishes, id: &DeploymentId, may_roll_back: bool) -> Look {
    match look_closely(world, wishes, id, may_roll_back).await {
        Ok(look) => look,
        Err(error) => Look::NotYet(format!("{error:#}")),
    }
}

async fn look_closely(world: &World, wishes: &Wishes, id: &DeploymentId, may_roll_back: bool) -> Result<Look> {
    let deployment = world.client.deployment(id).await?;
    let revision = match deployment.stage {
        stage if stage.in_flight() => bail!("the deployment is {stage}"),
        Stage::Running => deployment.revision_id.clone(),
        Stage::RolledBack if may_roll_back => deployment.previous_revision_id.clone().context("nothing before")?,
        stage => return Ok(Look::Wrong(format!("the deployment ended as {stage}: {:?}", deployment.failure))),
    };
    let view = world.client.service(STACK, SERVICE).await?;
    let expected = instances_as_wished(&view, &revision, wishes.replicas)?;
    processes_as_wished(world, &expected)?;
    let version = version_of(&world.client, &revision).await?;
    for _ in 0..4 {
        let body = get(&world.machine.gateway_url()).await.context("the gateway does not answer")?;
        let answered = Answered::parse(&body).with_context(|| body.clone())?;
        ensure!(answered.version == version, "version {} answers instead of {version}", answered.version);
        ensure!(expected.contains_key(&answered.instance), "another instance answers: {body}");
    }
    if let Some(mark) = wishes.marks.get(&revision).filter(|mark| *mark != "m0") {
        let there = get(&format!("{}/env/MARK", world.machine.gateway_url())).await.context("no answer")?;
        ensure!(there == *mark, "MARK is {there:?} instead of {mark:?}");
    }
    Ok(Look::Reached(Box::new(deployment)))
}

/// Instance and pid of what should run, if the control plane says that it does, healthy, and nothing else.
fn instances_as_wished(view: &ServiceView, revision: &RevisionId, replicas: u32) -> Result<BTreeMap<String, u32>> {
    let current = view.current.as_ref().map(|current| &current.id);
    ensure!(current == Some(revision), "current is {current:?} instead of {revision}");
    let mut expected = BTreeMap::new();
    for instance in &view.instances {
        let wanted = instance.intent == InstanceIntent::Run && instance.traffic == Traffic::Active;
        ensure!(wanted, "{} is still there: {:?} {:?}", instance.id, instance.intent, instance.traffic);
        ensure!(&instance.revision_id == revision, "{} is of another revision", instance.id);
        let observed = instance.observed.as_ref().context("an instance was not reported yet")?;
        ensure!(observed.state == InstanceState::Healthy, "{} is {:?}", instance.id, observed.state);
        let pid = observed.pid.context("a healthy instance has no pid")?;
        expected.insert(instance.id.to_string(), pid);
    }
    ensure!(expected.len() as u32 == replicas, "{} instances instead of {replicas}", expected.len());
    Ok(expected)
}

/// The parts, one gateway, one shim and one process per instance, and nothing else.
fn processes_as_wished(world: &World, expected: &BTreeMap<String, u32>) -> Result<()> {
    let instances: BTreeMap<String, Vec<u32>> = instances_of(world.machine.folder());
    let wished: BTreeMap<String, Vec<u32>> = expected.iter().map(|(id, pid)| (id.clone(), vec![*pid])).collect();
    ensure!(instances == wished, "instances have the processes {instances:?} instead of {wished:?}");
    let parts = world.parts();
    let (mut gateways, mut shims, mut others) = (0, Vec::new(), Vec::new());
    for (pid, line) in world.machine.processes() {
        if line.contains("gateway --directory") {
            gateways += 1;
        } else if line.contains("mainstay shim ") {
            shims.push(pid);
        } else if !parts.contains(&pid) && !expected.values().any(|app| *app == pid) {
            others.push((pid, line));
        }
    }
    ensure!(others.is_empty(), "orphans are left: {others:?}");
    ensure!(gateways == 1, "{gateways} gateways run");
    let mut parents: Vec<u32> = expected.values().filter_map(|pid| parent_of(*pid)).collect();
    parents.sort_unstable();
    shims.sort_unstable();
    ensure!(parents == shims, "the shims {shims:?} are not the parents {parents:?} of the instances");
    Ok(())
}

async fn version_of(client: &Client, revision: &RevisionId) -> Result<String> {
    let revisions = client.revisions(STACK, SERVICE, 200).await?;
    let found: &Revision = revisions.iter().find(|r| &r.id == revision).context("the revision is not listed")?;
    let text = serde_json::to_string(&found.spec.run)?;
    let (_, rest) = text.split_once("e2e-app ").context("the revision runs something else")?;
    Ok(rest.chars().take_while(|c| c.is_ascii_alphanumeric()).collect())
}
