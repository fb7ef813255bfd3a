//! A world script: what is wanted, what is seen, what time it is. See `../worlds/README.md` for the
//! words; one statement is one line.

use crate::samples::{self, id};
use crate::words::Words;
use api::UnixMillis;
use api::cause::Cause;
use api::deployments::{Deployment, DeploymentKind, Stage, StageEntry};
use api::desired::{DesiredState, InstanceIntent, SecurityMode, ServiceDesired, Traffic};
use api::ids::{InstanceId, RevisionId, ServerId, ServiceId};
use api::observed::*;
use api::services::{PortSpec, RolloutSpec, RouteSpec, ServiceIntent, Sole};
use api::tls::{CertificateDesired, CertificateMaterial, ChallengeAnswer, ChallengeKind, TlsMode};
use plan::gateway::RenderContext;
use plan::host::{ConfigKind, ConfigView, Failure, Subject};
use plan::placement::Candidate;
use plan::rollout::{RolloutInput, RolloutInstance, RolloutRevision};

/// Numbers of ids, so far apart that the short form of each names its kind.
const INSTANCE: u64 = 0xa000_0000;
const REVISION: u64 = 0xe000_0000;
const SERVER: u64 = 0x5000_0000;
const SERVICE: u64 = 0xc000_0000;
const DEPLOYMENT: u64 = 0xd000_0000;

pub struct World {
    pub now_ms: UnixMillis,
    pub verified: bool,
    services: Vec<Service>,
    revisions: Vec<Revision>,
    servers: Vec<Server>,
    instances: Vec<Instance>,
    releases: Vec<(u64, PreparationObserved)>,
    deployment: Option<Deployment>,
    pub configs: Vec<ConfigView>,
    pub failures: Vec<Failure>,
    security: SecurityMode,
    pub context: RenderContext,
    https_port: Option<u16>,
    certificates: Vec<CertificateDesired>,
    challenges: Vec<ChallengeAnswer>,
}

struct Service {
    name: String,
    replicas: u32,
    intent: ServiceIntent,
    current: Option<u64>,
    previous: Option<u64>,
    routes: Vec<RouteSpec>,
}

struct Revision {
    number: u64,
    service: usize,
    port: PortSpec,
    rollout: RolloutSpec,
}

struct Server {
    number: u64,
    online: bool,
    exists: bool,
    full: bool,
    gateway_problem: Option<String>,
}

struct Instance {
    number: u64,
    service: usize,
    revision: u64,
    server: u64,
    wanted: bool,
    intent: InstanceIntent,
    traffic: Traffic,
    since_ms: Option<UnixMillis>,
    observed: Option<InstanceObserved>,
    caught_up: bool,
    routed: bool,
    open: u64,
}

fn instance_id(number: u64) -> InstanceId {
    id("ins", INSTANCE + number)
}
fn revision_id(number: u64) -> RevisionId {
    id("rev", REVISION + number)
}
fn server_id(number: u64) -> ServerId {
    id("srv", SERVER + number)
}

/// Puts the names of the script back where the plan holds ids.
pub fn with_names(text: &str) -> String {
    let mut text = text.to_owned();
    for (start, letter) in [(INSTANCE, 'i'), (REVISION, 'r'), (SERVER, 's')] {
        for number in 0..100 {
            let (short, name) = (format!("{:08x}", start + number), format!("{letter}{number}"));
            let long = format!("{}_000000000000000000000000{short}", if letter == 'r' { "rev" } else { "ins" });
            text = text.replace(&long, &name).replace(&short, &name);
        }
    }
    text
}

impl World {
    pub fn parse(file: &str, script: &str) -> Self {
        let mut world = Self {
            now_ms: Words::of(file, 0, "12:00:00").time(),
            verified: true,
            services: Vec::new(),
            revisions: Vec::new(),
            servers: Vec::new(),
            instances: Vec::new(),
            releases: Vec::new(),
            deployment: None,
            configs: Vec::new(),
            failures: Vec::new(),
            security: SecurityMode::Closed,
            context: RenderContext::default(),
            https_port: None,
            certificates: Vec::new(),
            challenges: Vec::new(),
        };
        for (index, line) in script.lines().enumerate() {
            if !line.trim().is_empty() && !line.starts_with('#') {
                world.statement(Words::of(file, index + 1, line));
            }
        }
        world
    }

    fn statement(&mut self, mut words: Words) {
        match words.take("a statement").as_str() {
            "now" => self.now_ms = words.time(),
            "unverified" => self.verified = false,
            "service" => self.service(&mut words),
            "route" => self.route(&mut words),
            "revision" => self.revision(&mut words),
            "server" => self.server(&mut words),
            "instance" => self.instance(&mut words),
            "release" => self.release(&mut words),
            "deployment" => self.deployment(&mut words),
            "routes" => self.config(ConfigKind::Routes, &mut words),
            "names" => self.config(ConfigKind::Dns, &mut words),
            "mesh" => self.config(ConfigKind::Mesh, &mut words),
            "failing" => self.failing(&mut words),
            "security" => {
                self.security = match words.take("a mode").as_str() {
                    "open" => SecurityMode::Open,
                    "closed" => SecurityMode::Closed,
                    other => words.fail(format!("`{other}` is neither open nor closed")),
                }
            }
            "service-port" => {
                let service = self.find_service(&mut words);
                let port = words.parse("a port");
                self.context.service_ports.insert(service_id(service), port);
            }
            "https" => self.https_port = Some(words.parse("a port")),
            "certificate" => self.certificate(&mut words),
            "challenge" => self.challenge(&mut words),
            "responder" => self.context.dns_responder = true,
            other => words.fail(format!("no statement begins with `{other}`")),
        }
        words.end();
    }

    fn find_service(&self, words: &mut Words) -> usize {
        let name = words.take("a service");
        let found = self.services.iter().position(|service| service.name == name);
        found.unwrap_or_else(|| words.fail(format!("there is no `service {name}` above")))
    }

    fn service(&mut self, words: &mut Words) {
        let name = words.take("a name");
        let mut service = Service {
            name,
            replicas: 1,
            intent: ServiceIntent::Run,
            current: None,
            previous: None,
            routes: Vec::new(),
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "replicas" => service.replicas = words.parse("a number"),
                "stopped" => service.intent = ServiceIntent::Stop,
                "current" => service.current = Some(words.name('r', "revision")),
                "previous" => service.previous = Some(words.name('r', "revision")),
                other => words.fail(format!("a service has no `{other}`")),
            }
        }
        self.services.push(service);
    }

    fn route(&mut self, words: &mut Words) {
        let service = self.find_service(words);
        let address = words.take("a route such as shop.example.com/api or */");
        let (host, path) = address.split_at(address.find('/').unwrap_or(address.len()));
        let host = (host != "*").then(|| host.parse().unwrap_or_else(|error| words.fail(error)));
        let path = path.parse().unwrap_or_else(|error| words.fail(error));
        let strip_prefix = words.eat("strip");
        let tls = match words.eat("tls").then(|| words.take("auto, optional or off")).as_deref() {
            None | Some("auto") => TlsMode::Auto,
            Some("optional") => TlsMode::Optional,
            Some("off") => TlsMode::Off,
            Some(other) => words.fail(format!("`{other}` is none of auto, optional, off")),
        };
        self.services[service].routes.push(RouteSpec { host, path, strip_prefix, tls });
    }

    fn certificate(&mut self, words: &mut Words) {
        let names = words.take("names with commas");
        let names = names.split(',').map(|name| name.parse().unwrap_or_else(|error| words.fail(error)));
        self.certificates.push(CertificateDesired {
            digest: format!("c{:0<63}", self.certificates.len() + 1),
            names: names.collect(),
            material: CertificateMaterial { chain: String::new(), private_key: Default::default() },
        });
    }

    fn challenge(&mut self, words: &mut Words) {
        let kind = match words.take("a kind").as_str() {
            "http-01" => ChallengeKind::Http01,
            "tls-alpn-01" => ChallengeKind::TlsAlpn01,
            other => words.fail(format!("`{other}` is neither http-01 nor tls-alpn-01")),
        };
        let host = words.take("a host").parse().unwrap_or_else(|error| words.fail(error));
        let token = words.take("a token");
        let key_authorization = format!("{token}.thumbprint");
        self.challenges.push(ChallengeAnswer { host, kind, token, key_authorization });
    }

    fn revision(&mut self, words: &mut Words) {
        let number = words.name('r', "revision");
        words.expect("of");
        let service = self.find_service(words);
        let mut revision = Revision { number, service, port: PortSpec::Injected, rollout: RolloutSpec::default() };
        while let Some(word) = words.next() {
            match word.as_str() {
                "port" => revision.port = PortSpec::Fixed { port: words.parse("a port") },
                "worker" => revision.port = PortSpec::None,
                "drain" => revision.rollout.drain_ms = words.duration_ms(),
                "bake" => revision.rollout.bake_ms = words.duration_ms(),
                "warm" => revision.rollout.warm_ms = words.duration_ms(),
                "healthy-within" => revision.rollout.healthy_within_ms = words.duration_ms(),
                other => words.fail(format!("a revision has no `{other}`")),
            }
        }
        self.revisions.push(revision);
    }

    fn server(&mut self, words: &mut Words) {
        let number = words.name('s', "server");
        let mut server = Server { number, online: true, exists: true, full: false, gateway_problem: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "offline" => server.online = false,
                "removed" => (server.exists, server.online) = (false, false),
                "full" => server.full = true,
                "gateway-problem" => server.gateway_problem = Some(words.take("what is wrong")),
                other => words.fail(format!("a server has no `{other}`")),
            }
        }
        self.servers.push(server);
    }

    fn instance(&mut self, words: &mut Words) {
        let number = words.name('i', "instance");
        words.expect("of");
        let service = self.find_service(words);
        let revision = words.name('r', "revision");
        let server = if words.eat("on") { words.name('s', "server") } else { 1 };
        let mut instance = Instance {
            number,
            service,
            revision,
            server,
            wanted: true,
            intent: InstanceIntent::Run,
            traffic: Traffic::Active,
            since_ms: None,
            observed: None,
            caught_up: true,
            routed: false,
            open: 0,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "unwanted" => instance.wanted = false,
                "run" => instance.intent = InstanceIntent::Run,
                "stop" => instance.intent = InstanceIntent::Stop,
                "candidate" => instance.traffic = Traffic::Candidate,
                "active" => instance.traffic = Traffic::Active,
                "draining" => instance.traffic = Traffic::Draining,
                "out" => instance.traffic = Traffic::Out,
                "since" => instance.since_ms = Some(words.time()),
                "routed" => instance.routed = true,
                "open" => instance.open = words.parse("a number of requests"),
                // Its server has not yet seen the newest desired state.
                "behind" => instance.caught_up = false,
                // Its server has said nothing of it.
                "unheard" => (instance.observed, instance.caught_up) = (None, false),
                other => Self::seen(&mut instance, other, words),
            }
        }
        self.instances.push(instance);
    }

    /// What the machine says of it. A state comes first, then the rest.
    fn seen(instance: &mut Instance, word: &str, words: &mut Words) {
        let state = match word {
            "absent" => return instance.observed = None,
            "transient" => InstanceState::Transient,
            "running" => InstanceState::Running,
            "healthy" => InstanceState::Healthy,
            "unhealthy" => InstanceState::Unhealthy,
            "exited" => InstanceState::Exited,
            other => return Self::seen_more(instance, other, words),
        };
        let mut observed = samples::seen(instance.number, 0, 0, state);
        observed.instance_id = instance_id(instance.number);
        observed.service_id = service_id(instance.service);
        observed.revision_id = revision_id(instance.revision);
        instance.observed = Some(observed);
    }

    fn seen_more(instance: &mut Instance, word: &str, words: &mut Words) {
        let Some(observed) = &mut instance.observed else {
            words.fail(format!("`{word}` is no word of an instance, or its state (healthy, exited, …) comes before it"))
        };
        let exit = |words: &mut Words, code, signal| {
            words.expect("at");
            Some(ExitStatus { code, signal, out_of_memory: false, at_ms: words.time() })
        };
        match word {
            "stopping" => observed.stopping = true,
            "crash-looping" => observed.crash_looping = true,
            "restarts" => observed.restarts = words.parse("a number"),
            "exit" => {
                let code = Some(words.parse("an exit code"));
                observed.last_exit = exit(words, code, None);
            }
            "killed" => {
                let signal = Some(words.parse("a signal"));
                observed.last_exit = exit(words, None, signal);
            }
            "runs" => observed.revision_id = revision_id(words.name('r', "revision")),
            "problem" => observed.problem = Some(words.take("a problem")),
            "log" => observed.log_tail.push(words.take("a line")),
            "probe" => {
                let message = words.take("what the probe said");
                observed.last_probe = Some(ProbeResult { ok: false, at_ms: 0, duration_ms: 1, message });
            }
            other => words.fail(format!("an instance has no `{other}`")),
        }
    }

    fn release(&mut self, words: &mut Words) {
        let revision = words.name('r', "revision");
        let server = if words.eat("on") { words.name('s', "server") } else { 1 };
        let state = match words.take("a state").as_str() {
            "ready" => PreparationState::Ready,
            "working" => PreparationState::Working,
            "failed" => PreparationState::Failed,
            other => words.fail(format!("`{other}` is none of ready, working, failed")),
        };
        let mut release = samples::prepared(0, 0, state);
        let known = self.revisions.iter().find(|known| known.number == revision);
        release.service_id = service_id(known.map_or(0, |known| known.service));
        release.revision_id = revision_id(revision);
        release.deployment_id = id("dep", DEPLOYMENT + revision);
        while let Some(word) = words.next() {
            match word.as_str() {
                "retryable" => release.retryable = true,
                "attempts" => release.attempts = words.parse("a number"),
                "because" => release.error = Some(words.take("a reason")),
                "log" => release.log_tail.push(words.take("a line")),
                other => words.fail(format!("a release has no `{other}`")),
            }
        }
        self.releases.push((server, release));
    }

    fn deployment(&mut self, words: &mut Words) {
        let kind: DeploymentKind = words.parse("a kind");
        let revision = words.name('r', "revision");
        let mut deployment = Deployment {
            id: id("dep", DEPLOYMENT),
            stack_id: id("stk", 1),
            service_id: service_id(0),
            service: self.services.first().map_or("web", |service| &service.name).parse().unwrap(),
            kind,
            revision_id: revision_id(revision),
            revision_number: revision,
            source_version: "0".repeat(40).parse().unwrap(),
            source_subject: String::new(),
            previous_revision_id: None,
            replicas: self.services.first().map_or(1, |service| service.replicas),
            stage: Stage::Pending,
            stages: Vec::new(),
            cause: Cause::system("test", "deploy"),
            failure: None,
            created_at_ms: self.now_ms,
            ended_at_ms: None,
            bake_until_ms: None,
            warm_until_ms: None,
            waits_for: Vec::new(),
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "from" => deployment.previous_revision_id = Some(revision_id(words.name('r', "revision"))),
                "replicas" => deployment.replicas = words.parse("a number"),
                "begun" => deployment.created_at_ms = words.time(),
                "bakes-until" => deployment.bake_until_ms = Some(words.time()),
                "warm-until" => deployment.warm_until_ms = Some(words.time()),
                stage => {
                    let stage = stage.parse().unwrap_or_else(|error: String| words.fail(error));
                    let at_ms = if words.eat("since") { words.time() } else { self.now_ms };
                    deployment.stage = stage;
                    deployment.stages.push(StageEntry { stage, at_ms });
                }
            }
        }
        self.deployment = Some(deployment);
    }

    fn config(&mut self, kind: ConfigKind, words: &mut Words) {
        let live_digest = match words.take("a state").as_str() {
            "live" => Some("new".to_owned()),
            "outdated" => Some("old".to_owned()),
            "missing" => None,
            other => words.fail(format!("`{other}` is none of live, outdated, missing")),
        };
        self.configs.push(ConfigView { kind, desired_digest: "new".into(), live_digest });
    }

    fn failing(&mut self, words: &mut Words) {
        let subject = match words.take("what is failing").as_str() {
            "instance" => Subject::Instance(instance_id(words.name('i', "instance"))),
            "release" => Subject::Preparation(revision_id(words.name('r', "revision"))),
            "routes" => Subject::Config(ConfigKind::Routes),
            "names" => Subject::Config(ConfigKind::Dns),
            "mesh" => Subject::Config(ConfigKind::Mesh),
            other => words.fail(format!("`{other}` is none of instance, release, routes, names, mesh")),
        };
        let attempts = words.parse("a number");
        words.expect("times");
        words.expect("until");
        let retry_at_ms = words.time();
        self.failures.push(Failure { subject, attempts, message: words.take("a message"), retry_at_ms });
    }

    /// The document for the machine: what is wanted, apart from what nothing wants.
    pub fn desired(&self) -> DesiredState {
        let mut services = Vec::new();
        for (index, service) in self.services.iter().enumerate() {
            let mut wanted: ServiceDesired = samples::service(SERVICE + index as u64, &service.name);
            wanted.routes = service.routes.clone();
            wanted.revisions = self
                .revisions
                .iter()
                .filter(|revision| revision.service == index)
                .map(|revision| {
                    let mut desired = samples::revision(REVISION + revision.number, revision.port.clone());
                    desired.number = revision.number;
                    desired
                })
                .collect();
            let own = self.instances.iter().filter(|instance| instance.service == index && instance.wanted);
            wanted.instances = own
                .map(|instance| {
                    samples::wanted(
                        INSTANCE + instance.number,
                        REVISION + instance.revision,
                        instance.intent,
                        instance.traffic,
                    )
                })
                .collect();
            services.push(wanted);
        }
        let mut desired = samples::desired(7, services);
        desired.security_mode = self.security;
        desired.gateway.https_port = self.https_port;
        desired.certificates = self.certificates.clone();
        desired.challenges = self.challenges.clone();
        desired
    }

    pub fn observed(&self) -> Vec<InstanceObserved> {
        let seen = self.instances.iter().filter_map(|instance| {
            let mut observed = instance.observed.clone()?;
            observed.port = Some(20_000 + instance.number as u16);
            Some(observed)
        });
        seen.collect()
    }

    pub fn preparations(&self) -> Vec<PreparationObserved> {
        self.releases.iter().map(|(_, release)| release.clone()).collect()
    }

    pub fn gateway_active(&self) -> Vec<InstanceId> {
        self.instances.iter().filter(|i| i.routed).map(|i| instance_id(i.number)).collect()
    }

    pub fn rollout(&self) -> RolloutInput {
        let service = self.services.first().expect("a rollout is about a service");
        let reports = |number: u64| self.servers.iter().find(|server| server.number == number);
        let servers: Vec<u64> =
            if self.servers.is_empty() { vec![1] } else { self.servers.iter().map(|s| s.number).collect() };
        let takes = |number: &u64| reports(*number).is_none_or(|server| server.online && server.exists && !server.full);
        RolloutInput {
            service: service.name.parse().unwrap(),
            intent: service.intent,
            replicas: service.replicas,
            current_revision_id: service.current.map(revision_id),
            previous_revision_id: service.previous.map(revision_id),
            deployment: self.deployment.clone(),
            revisions: self
                .revisions
                .iter()
                .map(|revision| RolloutRevision {
                    id: revision_id(revision.number),
                    number: revision.number,
                    port: revision.port.clone(),
                    sole: match revision.port {
                        PortSpec::Fixed { port } => Some(Sole::Port(port)),
                        _ => None,
                    },
                    is_image: false,
                    rollout: revision.rollout.clone(),
                })
                .collect(),
            instances: self.instances.iter().map(|instance| self.row(instance)).collect(),
            preparations: self.releases.iter().map(|(server, release)| (server_id(*server), release.clone())).collect(),
            candidates: servers
                .iter()
                .filter(|number| takes(number))
                .map(|&number| {
                    let here = self.instances.iter().filter(|i| i.server == number).count() as u32;
                    Candidate { server_id: server_id(number), index: number as _, of_service: here, of_all: here }
                })
                .collect(),
            now_ms: self.now_ms,
        }
    }

    fn row(&self, instance: &Instance) -> RolloutInstance {
        let server = self.servers.iter().find(|server| server.number == instance.server);
        let online = server.is_none_or(|server| server.online);
        let before = self
            .instances
            .iter()
            .take_while(|other| other.number != instance.number)
            .filter(|other| other.revision == instance.revision);
        RolloutInstance {
            id: instance_id(instance.number),
            revision_id: revision_id(instance.revision),
            deployment_id: id("dep", DEPLOYMENT + instance.revision),
            server_id: server_id(instance.server),
            ordinal: before.count() as u32,
            intent: instance.intent,
            traffic: instance.traffic,
            traffic_changed_at_ms: instance.since_ms.unwrap_or(self.now_ms),
            observed: instance.observed.clone().filter(|_| online),
            caught_up: instance.caught_up && online,
            server_exists: server.is_none_or(|server| server.exists),
            server_online: online,
            routed: instance.routed && online,
            open_requests: instance.open,
            gateway_problem: server.and_then(|server| server.gateway_problem.clone()),
        }
    }
}

fn service_id(index: usize) -> ServiceId {
    id("svc", SERVICE + index as u64)
}
