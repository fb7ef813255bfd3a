//! The smallest rows of every noun, so that a test says only what it is about.

use api::cause::Cause;
use api::deployments::{Deployment, DeploymentKind};
use api::desired::{InstanceIntent, SecurityMode, SignedDesiredState, Traffic};
use api::events::{Event, EventKind, EventLevel};
use api::gateway::{DnsObserved, GatewayObserved};
use api::ids::*;
use api::logs::{LogBatch, LogLine, LogSource, LogStream};
use api::name::Name;
use api::observed::{AgentObserved, ObservedState, Resources};
use api::secret::Secret;
use api::servers::ServerFacts;
use api::services::*;
use api::tokens::TokenPurpose;
use std::collections::BTreeMap;
use store::*;
use uuid::Uuid;

/// When everything happens, unless a test says otherwise.
pub const NOW: i64 = 1_700_000_000_000;

macro_rules! fresh {
    ($($name:ident: $id:ident),+) => {$(
        pub fn $name() -> $id {
            $id::from_uuid(Uuid::now_v7())
        }
    )+};
}
fresh!(stack_id: StackId, service_id: ServiceId, revision_id: RevisionId, deployment_id: DeploymentId,
       instance_id: InstanceId, server_id: ServerId, event_id: EventId, user_id: UserId, token_id: TokenId,
       request_id: RequestId);

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn cause() -> Cause {
    Cause::system("test", "deploy")
}

/// An organization with a project.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub scope: Scope,
    pub project: ProjectId,
}

pub async fn tenant(store: &Store, called: &str) -> Tenant {
    let id = OrganizationId::from_uuid(Uuid::now_v7());
    let organization = store.organization_ensure(&id, called, NOW).await.unwrap();
    let scope = Scope::system(organization, "test");
    let project = ProjectId::from_uuid(Uuid::now_v7());
    let project = store.project_ensure(&scope, &project, &name("default"), NOW).await.unwrap().id;
    Tenant { scope, project }
}

pub fn token(hash: &str, expires_at_ms: Option<i64>) -> TokenCreate {
    let purpose = TokenPurpose::Join { project: None, stack: None };
    TokenCreate { id: token_id(), hash: hash.into(), name: "join".into(), purpose, expires_at_ms }
}

pub fn machine(called: &str) -> ServerJoin {
    ServerJoin {
        id: server_id(),
        name: name(called),
        public_key: "key".into(),
        secret: Secret::new("secret"),
        facts: ServerFacts { hostname: called.into(), ..ServerFacts::default() },
        agent_version: "0.1.0".into(),
        security_mode: SecurityMode::Closed,
    }
}

/// A machine that joins without a word about it.
pub fn silently(_: &Server) -> Vec<Event> {
    Vec::new()
}

pub async fn joined(store: &Store, scope: &Scope, called: &str) -> Server {
    let hash = Uuid::now_v7().simple().to_string();
    store.token_create(scope, &token(&hash, None), &[], NOW).await.unwrap();
    store.server_join(&hash, &machine(called), silently, NOW).await.unwrap().1
}

pub fn spec(called: &str) -> ServiceSpec {
    ServiceSpec {
        name: name(called),
        source: SourceSpec::Git(GitSource {
            git: "https://example.com/shop.git".parse().unwrap(),
            reference: None,
            directory: String::new(),
            credential: None,
            submodules: false,
        }),
        build: None,
        run: RunSpec::Command { command: "serve".into() },
        env: BTreeMap::from([("KEY".into(), Secret::new("value"))]),
        port: PortSpec::Injected,
        replicas: None,
        routes: Vec::new(),
        health: HealthSpec::with(HealthCheck::Tcp),
        limits: Limits::default(),
        restart: RestartSpec::default(),
        stop: StopSpec::default(),
        rollout: RolloutSpec::default(),
    }
}

pub fn revision(called: &str) -> RevisionCreate {
    RevisionCreate {
        id: revision_id(),
        source_version: "a".repeat(40).parse().unwrap(),
        source_subject: "Sell more".into(),
        spec: spec(called),
        hash: "hash".into(),
    }
}

/// A service of a manifest, to be deployed with a new revision.
pub fn deployed(called: &str) -> ServiceDeploy {
    ServiceDeploy {
        service_id: service_id(),
        name: name(called),
        replicas: 1,
        change: Some((deployment_id(), DeploymentKind::Deploy, Some(revision(called)))),
    }
}

pub fn stack_deploy(tenant: &Tenant, called: &str, expected_version: u64, services: Vec<ServiceDeploy>) -> StackDeploy {
    StackDeploy {
        stack_id: stack_id(),
        project_id: tenant.project.clone(),
        name: name(called),
        expected_version,
        manifest: format!("# {called}"),
        services,
        removals: Vec::new(),
        cause: cause(),
        tell: |_| Vec::new(),
        events: Vec::new(),
    }
}

pub fn stack_remove(stack: &StackId, removals: Vec<ServiceRemoval>) -> StackRemove {
    StackRemove { stack_id: stack.clone(), removals, cause: cause(), tell: |_| Vec::new(), events: Vec::new() }
}

/// A stack with one service, and the deployment that made it.
pub async fn shop(store: &Store, tenant: &Tenant) -> (Stack, Deployment) {
    let deploy = stack_deploy(tenant, "shop", 0, vec![deployed("web")]);
    let mut made = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap();
    (made.stack, made.deployments.remove(0))
}

/// Another deployment of the same service.
pub fn again(of: &Deployment, kind: DeploymentKind) -> DeploymentCreate {
    DeploymentCreate {
        id: deployment_id(),
        service_id: of.service_id.clone(),
        kind,
        revision_id: of.revision_id.clone(),
        cause: cause(),
        replicas: None,
        intent: None,
        revision: None,
        tell: |_| Vec::new(),
        events: Vec::new(),
    }
}

pub fn instance(of: &Deployment, server: &Server) -> Instance {
    Instance {
        id: instance_id(),
        service_id: of.service_id.clone(),
        revision_id: of.revision_id.clone(),
        deployment_id: of.id.clone(),
        server_id: server.id.clone(),
        ordinal: 0,
        intent: InstanceIntent::Run,
        traffic: Traffic::Candidate,
        traffic_changed_at_ms: NOW,
        address: None,
    }
}

/// A tick that changes only these instances.
pub fn tick(of: &Deployment, instances: Vec<InstanceChange>) -> RolloutWrite {
    RolloutWrite {
        service_id: of.service_id.clone(),
        deployment: None,
        newest: Some(of.id.clone()),
        instances,
        current: None,
    }
}

pub fn desired(generation: u64) -> DesiredRow {
    DesiredRow {
        generation,
        digest: format!("digest {generation}"),
        signed: SignedDesiredState {
            generation,
            document: "{}".into(),
            sha256: String::new(),
            signature: String::new(),
            key_id: String::new(),
        },
    }
}

pub fn observed(server: &ServerId, generation: u64) -> ObservedState {
    ObservedState {
        server_id: server.clone(),
        generation,
        observed_at_ms: NOW,
        fleet_generation: 0,
        agent: AgentObserved::default(),
        stacks: Vec::new(),
        instances: Vec::new(),
        preparations: Vec::new(),
        gateway: GatewayObserved::default(),
        dns: DnsObserved::default(),
        mesh: Default::default(),
        blocked: Vec::new(),
        resources: Resources::default(),
    }
}

/// A report that tells only what was seen.
pub fn saw(observed: &ObservedState) -> ReportWrite<'_> {
    ReportWrite { observed: Some(observed), ..ReportWrite::default() }
}

/// A report that tells only that an agent of this version is there.
pub fn seen(agent_version: &str) -> ReportWrite<'_> {
    ReportWrite { seen: Some((agent_version, None)), ..ReportWrite::default() }
}

pub fn event(message: &str) -> Event {
    Event {
        id: event_id(),
        at_ms: NOW,
        kind: EventKind::StackChanged,
        level: EventLevel::Info,
        message: message.into(),
        cause: cause(),
        stack_id: None,
        service_id: None,
        deployment_id: None,
        instance_id: None,
        server_id: None,
    }
}

pub fn lines(texts: &[&str]) -> Vec<LogLine> {
    texts.iter().map(|text| LogLine { at_ms: NOW, stream: LogStream::Stdout, text: (*text).into() }).collect()
}

pub fn batch(source: &LogSource, service: &ServiceId, offset: u64, next_offset: u64, texts: &[&str]) -> LogBatch {
    LogBatch { source: source.clone(), service_id: service.clone(), offset, next_offset, lines: lines(texts) }
}

pub fn run_of(instance: &Instance) -> LogSource {
    LogSource::Run { instance_id: instance.id.clone() }
}

pub fn build_of(deployment: &Deployment) -> LogSource {
    LogSource::Build { deployment_id: deployment.id.clone() }
}

pub fn certificate(host: &str) -> store::Certificate {
    store::Certificate {
        host: host.parse().unwrap(),
        source: api::domains::CertificateSource::Acme,
        names: vec![host.parse().unwrap()],
        issuer: "Authority".into(),
        digest: "1".into(),
        chain: "-----BEGIN CERTIFICATE-----\n".into(),
        sealed_key: "sealed:1:x".into(),
        not_before_ms: NOW,
        not_after_ms: NOW + 1,
        created_at_ms: NOW,
    }
}

pub fn challenge(host: &str, token: &str) -> api::tls::ChallengeAnswer {
    api::tls::ChallengeAnswer {
        host: host.parse().unwrap(),
        kind: api::tls::ChallengeKind::TlsAlpn01,
        token: token.into(),
        key_authorization: format!("{token}.thumbprint"),
    }
}
