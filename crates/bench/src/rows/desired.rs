//! The desired state of one server out of many: when something of it has changed, and when nothing has.
//!
//! Measured at the functions of the control plane, on a database in a file that was filled through the store:
//! there is no address that answers a desired state without a signed request, whose checks cost more than what is
//! measured here. *Cold* is everything from a changed row to the signed document in hand: its rows are
//! read, it is put together, compared, signed, kept and read back. *Cached* is a machine
//! that asks anew for what is kept.

use super::planning::{commit, usual_service};
use crate::context::Context;
use crate::figure::{Better, Figure, MAINSTAY};
use crate::samples::Samples;
use anyhow::{Context as _, Result, ensure};
use api::cause::Cause;
use api::deployments::{Deployment, DeploymentKind};
use api::desired::{InstanceIntent, SecurityMode, Traffic};
use api::ids::{DeploymentId, InstanceId, ProjectId, RevisionId, ServerId, ServiceId, StackId, TokenId};
use api::name::Name;
use api::secret::Secret;
use api::services::ServiceSpec;
use api::tokens::TokenPurpose;
use server::state::fresh;
use server::{AppState, Edges, ServerOptions, desired};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use store::{
    Instance, InstanceChange, RevisionCreate, RolloutWrite, Scope, ServerJoin, ServiceDeploy, StackDeploy, TokenCreate,
};

const SERVERS: [usize; 3] = [10, 100, 1_000];
/// One instance each. A stack holds so many, too, and they lie on as many servers.
const SERVICES_PER_SERVER: usize = 10;
const COLD_GOAL_MS: f64 = 5.0;
const CACHED_GOAL_MS: f64 = 0.1;

pub fn state(context: &Context) -> Result<Vec<Figure>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let mut figures = Vec::new();
    // To fill the largest takes a minute.
    let sizes = if context.quick { &SERVERS[..2] } else { &SERVERS[..] };
    for servers in sizes.iter().copied() {
        figures.extend(runtime.block_on(of_one_among(context, servers))?);
    }
    // Cold beside cold, for the plot.
    figures.sort_by_key(|figure| figure.what.starts_with("cached"));
    Ok(figures)
}

async fn of_one_among(context: &Context, servers: usize) -> Result<[Figure; 2]> {
    let services = servers * SERVICES_PER_SERVER;
    let figure = |name: &str, goal| {
        let what = format!("{name} desired state of one server, {servers} servers and {services} services");
        Figure::new("desired-state", what, "ms", Better::Less).goal(goal).size(services as u64)
    };
    let (mut cold, mut cached) = (figure("cold", COLD_GOAL_MS), figure("cached", CACHED_GOAL_MS));
    let fleet = Fleet::create(servers).await?;
    let times = if context.quick { 5 } else { 50 };
    for _ in 0..context.runs() {
        let (mut cold_times, mut cached_times) = (Samples::default(), Samples::default());
        for number in 0..times {
            let running = &fleet.running[number * 7919 % fleet.running.len()];
            cold_times.push(fleet.cold(running).await?);
            cached_times.push(fleet.cached(&running.server).await?);
        }
        cold.add(MAINSTAY, cold_times.median().context("nothing was measured")?);
        cached.add(MAINSTAY, cached_times.median().context("nothing was measured")?);
    }
    Ok([cold, cached])
}

/// A control plane without its tasks and its port, with servers that were given services.
struct Fleet {
    state: AppState,
    scope: Scope,
    running: Vec<Running>,
    _folder: tempfile::TempDir,
}

struct Running {
    service: ServiceId,
    deployment: DeploymentId,
    instance: InstanceId,
    server: ServerId,
}

impl Fleet {
    async fn create(servers: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mainstay-bench-").tempdir().context("make a folder")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 4600));
        let begun = server::prepare(ServerOptions::new(folder.path()), address, Edges::default()).await?;
        let scope = begun.state.system_scope("bench");
        let mut fleet = Self { state: begun.state, scope, running: Vec::new(), _folder: folder };
        let projects = fleet.state.store().project_list(&fleet.scope).await?;
        let project = projects.first().context("there is a project")?.id.clone();
        let mut joined = Vec::new();
        for number in 0..servers {
            joined.push(fleet.join(number).await?);
        }
        for number in 0..servers {
            let on = joined.iter().cycle().skip(number).take(SERVICES_PER_SERVER);
            let on: Vec<ServerId> = on.cloned().collect();
            fleet.deploy(&project, number, &on).await?;
        }
        desired::refresh_all(&fleet.state, &fleet.scope).await.map_err(in_words)?;
        Ok(fleet)
    }

    async fn join(&self, number: usize) -> Result<ServerId> {
        let (hash, store) = (format!("{number}"), self.state.store());
        let token = TokenCreate {
            id: fresh(TokenId::from_uuid),
            hash: hash.clone(),
            name: "bench".into(),
            purpose: TokenPurpose::Join { project: None, stack: None },
            expires_at_ms: None,
        };
        store.token_create(&self.scope, &token, &[], now_ms()).await?;
        let join = ServerJoin {
            id: fresh(ServerId::from_uuid),
            name: name("server", number)?,
            public_key: String::new(),
            secret: Secret::new("a secret"),
            facts: Default::default(),
            agent_version: "0".into(),
            security_mode: SecurityMode::Closed,
        };
        let (_, server) = store.server_join(&hash, &join, |_| Vec::new(), now_ms()).await?;
        Ok(server.id)
    }

    /// A stack with one service for each of these servers, all of which serve.
    async fn deploy(&mut self, project: &ProjectId, number: usize, on: &[ServerId]) -> Result<()> {
        let services: Result<Vec<ServiceDeploy>> =
            (0..on.len()).map(|service| to_deploy(number * SERVICES_PER_SERVER + service)).collect();
        let deploy = StackDeploy {
            stack_id: fresh(StackId::from_uuid),
            project_id: project.clone(),
            name: name("stack", number)?,
            expected_version: 0,
            manifest: String::new(),
            services: services?,
            removals: Vec::new(),
            cause: Cause::system("bench", "deploy"),
            tell: |_| Vec::new(),
            events: Vec::new(),
        };
        let deployed = self.state.store().stack_deploy(&self.scope, &deploy, now_ms()).await?;
        ensure!(deployed.deployments.len() == on.len(), "not every service was deployed");
        for (deployment, server) in deployed.deployments.iter().zip(on) {
            self.place(deployment, server).await?;
        }
        Ok(())
    }

    async fn place(&mut self, deployment: &Deployment, server: &ServerId) -> Result<()> {
        let instance = Instance {
            id: fresh(InstanceId::from_uuid),
            service_id: deployment.service_id.clone(),
            revision_id: deployment.revision_id.clone(),
            deployment_id: deployment.id.clone(),
            server_id: server.clone(),
            ordinal: 0,
            intent: InstanceIntent::Run,
            traffic: Traffic::Active,
            traffic_changed_at_ms: now_ms(),
            address: None,
        };
        let running = Running {
            service: deployment.service_id.clone(),
            deployment: deployment.id.clone(),
            instance: instance.id.clone(),
            server: server.clone(),
        };
        let current = Some((Some(deployment.revision_id.clone()), None));
        self.write(&running, InstanceChange::Create(instance), current).await?;
        self.running.push(running);
        Ok(())
    }

    async fn write(
        &self,
        running: &Running,
        change: InstanceChange,
        current: Option<(Option<RevisionId>, Option<RevisionId>)>,
    ) -> Result<()> {
        let write = RolloutWrite {
            service_id: running.service.clone(),
            deployment: None,
            newest: Some(running.deployment.clone()),
            instances: vec![change],
            current,
        };
        Ok(self.state.store().rollout_apply(&self.scope, &write, now_ms()).await?)
    }

    /// Changes an instance, and then: milliseconds until the new document is in hand.
    async fn cold(&self, running: &Running) -> Result<f64> {
        let (before, _) = self.head(&running.server).await?;
        let now = self.state.store().instance_list_of_service(&self.scope, &running.service).await?;
        let traffic = match now.first().context("the service has an instance")?.traffic {
            Traffic::Active => Traffic::Draining,
            _ => Traffic::Active,
        };
        self.write(running, InstanceChange::SetTraffic { id: running.instance.clone(), traffic }, None).await?;
        let begun = Instant::now();
        desired::refresh(&self.state, &self.scope, &running.server).await.map_err(in_words)?;
        self.newer_than(&running.server, before).await?.context("there is no new document")?;
        Ok(begun.elapsed().as_secs_f64() * 1000.0)
    }

    /// Milliseconds until the document that is kept is in hand, for a machine that has none.
    async fn cached(&self, server: &ServerId) -> Result<f64> {
        let begun = Instant::now();
        self.newer_than(server, 0).await?.context("there is no document")?;
        Ok(begun.elapsed().as_secs_f64() * 1000.0)
    }

    async fn head(&self, server: &ServerId) -> Result<(u64, String)> {
        let head = self.state.store().desired_state_head(&self.scope, server).await?;
        head.context("the server has a document")
    }

    async fn newer_than(&self, server: &ServerId, after: u64) -> Result<Option<api::desired::SignedDesiredState>> {
        desired::newer_than(&self.state, &self.scope, server, after, Duration::ZERO).await.map_err(in_words)
    }
}

fn to_deploy(number: usize) -> Result<ServiceDeploy> {
    let name = name("service", number)?;
    let spec = ServiceSpec { name: name.clone(), ..usual_service()? };
    let revision = RevisionCreate {
        id: fresh(RevisionId::from_uuid),
        source_version: commit()?.into(),
        source_subject: "As it is".into(),
        spec,
        hash: format!("{number}"),
    };
    Ok(ServiceDeploy {
        service_id: fresh(ServiceId::from_uuid),
        name,
        replicas: 1,
        change: Some((fresh(DeploymentId::from_uuid), DeploymentKind::Deploy, Some(revision))),
    })
}

fn name(noun: &str, number: usize) -> Result<Name> {
    format!("{noun}-{number}").parse().context("a name")
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn in_words(error: server::error::HttpError) -> anyhow::Error {
    anyhow::anyhow!("{error:#?}")
}
