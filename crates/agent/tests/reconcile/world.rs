//! A machine that outlives the agents on it, and documents for it.

use crate::control_plane::FakeControlPlane;
use agent::drivers::dns::{DnsDriver, DnsPaths};
use agent::drivers::fake::{FakeDriver, FakeGateway, FakeMachine};
use agent::drivers::mesh::MeshDriver;
use agent::drivers::{Config, Workloads};
use agent::facts;
use agent::health::Health;
use agent::identity::Identity;
use agent::ledger::Ledger;
use agent::reconcile::{Gateway, Machine};
use api::desired::DesiredState;
use api::gateway::GatewayConfig;
use api::observed::{ObservedState, StackCondition};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub const SERVER: &str = "srv_00000000000000000000000000000001";

pub struct World {
    pub directory: tempfile::TempDir,
    pub machine: FakeMachine,
    pub gateway: FakeGateway,
    pub control_plane: FakeControlPlane,
    pub identity: Identity,
}

/// An agent at work. Dropping it is `kill -9`.
pub struct RunningAgent {
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
}

impl World {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("root/etc")).unwrap();
        std::fs::write(directory.path().join("root/etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        let control_plane = FakeControlPlane::start().await;
        let identity = control_plane.identity();
        let (machine, gateway) = (FakeMachine::default(), FakeGateway::default());
        Self { directory, machine, gateway, control_plane, identity }
    }

    pub fn ledger_path(&self) -> PathBuf {
        self.directory.path().join("ledger.db")
    }

    pub fn hosts(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("root/etc/hosts")).unwrap()
    }

    pub async fn agent(&self) -> RunningAgent {
        self.agent_on(FakeDriver::new(self.machine.clone()), self.gateway.clone()).await
    }

    pub async fn agent_on<W: Workloads, G: Gateway>(&self, workloads: W, gateway: G) -> RunningAgent {
        let ledger = Ledger::open(&self.ledger_path()).await.unwrap().ledger;
        let shutdown = CancellationToken::new();
        let workloads = Arc::new(workloads);
        let paths = DnsPaths::under(self.directory.path().join("root"));
        let machine = Machine {
            health: Arc::new(Health::new(workloads.clone())),
            workloads,
            gateway: Arc::new(gateway),
            dns: Arc::new(DnsDriver::new(paths, self.directory.path(), true)),
            mesh: Arc::new(MeshDriver::off(self.identity.server_id.clone(), Default::default(), "a test", None)),
            proc: "/proc".into(),
            data: self.directory.path().to_owned(),
            resolv_conf: "/nonexistent".into(),
            disk_reserve_bytes: Some(0),
        };
        let host = facts::Machine { root: self.directory.path().to_owned(), effective_user: 0 };
        let tasks = agent::assemble(&self.identity, ledger, machine, &host, &shutdown).await.unwrap();
        RunningAgent { tasks, shutdown }
    }

    /// Publishes and waits until the machine is as it should be.
    pub async fn apply(&self, desired: &DesiredState) -> ObservedState {
        self.control_plane.publish(desired);
        self.applied(desired).await
    }

    pub async fn applied(&self, desired: &DesiredState) -> ObservedState {
        let generation = desired.generation;
        self.seen(&format!("generation {generation} applied"), |o| is_applied(o, generation)).await
    }

    /// The first report that fits, from those that are still to come or the newest one.
    pub async fn seen(&self, what: &str, fits: impl Fn(&ObservedState) -> bool) -> ObservedState {
        let begun = Instant::now();
        loop {
            if let Some(observed) = self.control_plane.last_report().filter(|o| fits(o)) {
                return observed;
            }
            if begun.elapsed() > Duration::from_secs(20) {
                panic!(
                    "{what} was not reported within 20 s; the last report is {:#?}",
                    self.control_plane.last_report()
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub fn is_applied(observed: &ObservedState, generation: u64) -> bool {
    observed.generation == generation
        && observed.blocked.is_empty()
        && observed.stacks.iter().all(|s| s.condition == StackCondition::Applied)
}

impl RunningAgent {
    /// Ends it as a signal would.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Ends it in the middle of whatever it does.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }
}

/// What the gateway should do for the present state of the machine.
pub async fn rendered(world: &World, desired: &DesiredState) -> GatewayConfig {
    let driver = FakeDriver::new(world.machine.clone());
    let instances = driver.list().await.unwrap();
    let preparations = driver.preparations().await;
    plan::gateway::render(desired, &instances, &preparations, &Default::default())
}

pub async fn live(gateway: &FakeGateway) -> Option<String> {
    gateway.live_digest().await
}

/// A service of a document, in short.
#[derive(Clone)]
pub struct Service {
    pub name: &'static str,
    pub number: u32,
    pub revision: u32,
    pub build: Option<&'static str>,
    pub run: &'static str,
    pub check: &'static str,
    pub instances: Vec<(u32, &'static str, &'static str)>,
    pub routed: bool,
}

impl Service {
    /// One active instance of revision 1 that is well at once.
    pub fn new(name: &'static str, number: u32) -> Self {
        Self {
            name,
            number,
            revision: 1,
            build: Some("make"),
            run: "serve",
            check: "true",
            instances: vec![(1, "run", "active")],
            routed: true,
        }
    }

    pub fn instance_id(&self, instance: u32) -> String {
        format!("ins_{:08x}{instance:024x}", self.number)
    }

    pub fn revision_id(&self) -> String {
        format!("rev_{:08x}{:024x}", self.number, self.revision)
    }

    fn deployment_id(&self) -> String {
        format!("dep_{:08x}{:024x}", self.number, self.revision)
    }

    fn document(&self) -> Value {
        let instances: Vec<Value> = self
            .instances
            .iter()
            .enumerate()
            .map(|(ordinal, (id, intent, traffic))| {
                json!({ "instance_id": self.instance_id(*id), "revision_id": self.revision_id(),
                    "deployment_id": self.deployment_id(), "ordinal": ordinal, "intent": intent, "traffic": traffic })
            })
            .collect();
        let build = self.build.map(|command| json!({ "command": command, "timeout_ms": 60_000 }));
        let routes = if self.routed { vec![json!({ "host": format!("{}.example.com", self.name) })] } else { vec![] };
        json!({ "service_id": format!("svc_{:032x}", self.number), "name": self.name, "routes": routes,
            "instances": instances,
            "revisions": [{ "revision_id": self.revision_id(), "number": self.revision,
                "deployment_id": self.deployment_id(),
                "source": { "git": "file:///repository", "commit": "0".repeat(40), "directory": "" },
                "build": build, "build_key": format!("{:08x}{:08x}", self.number, self.revision),
                "run": { "kind": "command", "command": self.run }, "env": {}, "port": { "kind": "injected" },
                "health": { "check": { "kind": "command", "command": self.check }, "interval_ms": 200, "timeout_ms": 500,
                    "healthy_after": 1, "unhealthy_after": 1, "start_grace_ms": 0 },
                "restart": { "backoff_ms": 50, "backoff_limit_ms": 200, "crash_loop_after": 3, "crash_loop_window_ms": 60_000 },
                "stop": { "grace_ms": 200 } }] })
    }
}

pub fn document(generation: u64, services: &[Service]) -> DesiredState {
    let services: Vec<Value> = services.iter().map(Service::document).collect();
    serde_json::from_value(json!({
        "server_id": SERVER, "server_name": "local", "generation": generation, "issued_at_ms": 0,
        "poll_interval_ms": 1_000, "security_mode": "closed",
        "gateway": { "port": 8080, "internal_port": 8081, "response_timeout_ms": 1_000, "connect_timeout_ms": 1_000, "idle_timeout_ms": 1_000 },
        "dns": { "enabled": true, "domain": "svc.internal", "port": 5353 },
        "stacks": [{ "stack_id": format!("stk_{:032x}", 1), "project_id": format!("prj_{:032x}", 1), "name": "shop",
            "version": generation, "hash": "h", "services": services }],
    }))
    .unwrap()
}

/// The same for a machine that looks only once in ten minutes by itself: what it does sooner, something told it.
pub fn rarely_polled(document: DesiredState) -> DesiredState {
    DesiredState { poll_interval_ms: 600_000, ..document }
}
