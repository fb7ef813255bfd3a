//! `kill -9` at every step: the agent is stopped before and after each act on the machine in turn,
//! and another one has to bring the machine to the same end.

use crate::world::{Service, World, document, live, rendered};
use agent::drivers::fake::{FakeDriver, FakeGateway};
use agent::drivers::{
    CheckOutcome, Config, DriverError, Keep, LogState, PrepareError, PrepareRequest, StartRequest, StartedInstance,
    Workloads, WorkloadsFacts,
};
use agent::reconcile::Gateway;
use api::gateway::{GatewayConfig, GatewayObserved};
use api::ids::InstanceId;
use api::logs::{LogBatch, LogSource};
use api::observed::{InstanceObserved, InstanceState, PreparationObserved};
use api::tls::CertificateDesired;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// Lets so many steps pass; then nothing returns any more, as if the agent were frozen and then killed.
#[derive(Clone)]
struct Fuse {
    left: Arc<AtomicI64>,
    burnt: Arc<Notify>,
}

impl Fuse {
    fn new(steps: i64) -> Self {
        Self { left: Arc::new(AtomicI64::new(steps)), burnt: Arc::default() }
    }

    async fn step(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.burnt.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

struct Fused<T> {
    inner: T,
    fuse: Fuse,
}

impl<T> Fused<T> {
    async fn guard<R>(&self, work: impl Future<Output = R>) -> R {
        self.fuse.step().await;
        let result = work.await;
        self.fuse.step().await;
        result
    }
}

impl Workloads for Fused<FakeDriver> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
    async fn probe(&self) -> WorkloadsFacts {
        self.inner.probe().await
    }
    async fn list(&self) -> Result<Vec<InstanceObserved>, DriverError> {
        self.inner.list().await
    }
    async fn preparations(&self) -> Vec<PreparationObserved> {
        self.inner.preparations().await
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }
    async fn prepare(&self, request: PrepareRequest, cancel: CancellationToken) -> Result<(), PrepareError> {
        self.guard(self.inner.prepare(request, cancel)).await
    }
    async fn start(&self, request: StartRequest) -> Result<StartedInstance, DriverError> {
        self.guard(self.inner.start(request)).await
    }
    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), DriverError> {
        self.guard(self.inner.stop(instance, grace)).await
    }
    async fn remove(&self, instance: &InstanceId) -> Result<(), DriverError> {
        self.guard(self.inner.remove(instance)).await
    }
    async fn read_log(
        &self,
        source: &LogSource,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<LogBatch>, DriverError> {
        self.inner.read_log(source, offset, max_bytes).await
    }
    async fn log_tail(&self, source: &LogSource, lines: usize) -> Vec<String> {
        self.inner.log_tail(source, lines).await
    }
    async fn logs(&self) -> Vec<LogState> {
        self.inner.logs().await
    }
    async fn collect_garbage(&self, keep: &Keep) -> Result<u64, DriverError> {
        self.inner.collect_garbage(keep).await
    }
    async fn check(
        &self,
        instance: &InstanceId,
        command: &str,
        timeout: Duration,
    ) -> Result<CheckOutcome, DriverError> {
        self.inner.check(instance, command, timeout).await
    }
    async fn listening(&self, instance: &InstanceId) -> Vec<SocketAddr> {
        self.inner.listening(instance).await
    }
}

impl Config for Fused<FakeGateway> {
    type Desired = GatewayConfig;
    fn name(&self) -> &'static str {
        "routes"
    }
    async fn live_digest(&self) -> Option<String> {
        self.inner.live_digest().await
    }
    async fn apply(&self, desired: &GatewayConfig) -> Result<String, DriverError> {
        self.guard(self.inner.apply(desired)).await
    }
    async fn remove(&self) -> Result<(), DriverError> {
        self.inner.remove().await
    }
}

impl Gateway for Fused<FakeGateway> {
    async fn observe(&self) -> GatewayObserved {
        self.inner.observe().await
    }
    fn changes(&self) -> watch::Receiver<u64> {
        Gateway::changes(&self.inner)
    }
    async fn ensure_running(&self) -> Result<(), DriverError> {
        self.inner.ensure_running().await
    }
    async fn bring(&self, certificates: &[CertificateDesired]) -> Result<(), DriverError> {
        self.inner.bring(certificates).await
    }

    fn is_current(&self, observed: &GatewayObserved) -> bool {
        self.inner.is_current(observed)
    }
    fn access_log(&self) -> Option<PathBuf> {
        None
    }

    fn settled(&self) {}
}

/// Two services become others: one replaced, one removed, one new.
fn documents() -> (Vec<Service>, Vec<Service>) {
    let two = vec![(1, "run", "active"), (2, "run", "active")];
    let before = vec![Service { instances: two, ..Service::new("web", 1) }, Service::new("old", 2)];
    let after = vec![
        Service { revision: 2, instances: vec![(3, "run", "active")], ..Service::new("web", 1) },
        Service::new("new", 3),
    ];
    (before, after)
}

/// Answers whether the fuse burnt, that is, whether the agent was killed on the way.
async fn killed_at(steps: i64) -> bool {
    let world = World::new().await;
    let (before, after) = documents();
    let agent = world.agent().await;
    world.apply(&document(1, &before)).await;
    agent.stop().await;

    let fuse = Fuse::new(steps);
    let driver = Fused { inner: FakeDriver::new(world.machine.clone()), fuse: fuse.clone() };
    let gateway = Fused { inner: world.gateway.clone(), fuse: fuse.clone() };
    let doomed = world.agent_on(driver, gateway).await;
    let desired = document(2, &after);
    world.control_plane.publish(&desired);
    let burnt = tokio::select! {
        () = fuse.burnt.notified() => true,
        _ = world.applied(&desired) => false,
    };
    doomed.kill().await;

    let agent = world.agent().await;
    world.applied(&desired).await;
    check_end(&world, &after, &desired).await;
    agent.stop().await;
    burnt
}

async fn check_end(world: &World, services: &[Service], desired: &api::desired::DesiredState) {
    let instances = FakeDriver::new(world.machine.clone()).list().await.unwrap();
    let mut ids: Vec<String> = instances.iter().map(|i| i.instance_id.to_string()).collect();
    let mut wanted: Vec<String> =
        services.iter().flat_map(|s| s.instances.iter().map(|(id, _, _)| s.instance_id(*id))).collect();
    ids.sort();
    wanted.sort();
    assert_eq!(ids, wanted, "exactly what is wanted is there");
    assert!(instances.iter().all(|i| i.state == InstanceState::Running), "{instances:?}");
    assert_eq!(live(&world.gateway).await, Some(wire::digest_of(&rendered(world, desired).await)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_before_or_after_any_act_the_next_agent_converges() {
    // More steps than any run needs: the first that is not reached ends the search.
    let runs: Vec<_> = (0..40).map(|steps| tokio::spawn(killed_at(steps))).collect();
    let mut burnt = 0;
    for run in runs {
        burnt += u32::from(run.await.unwrap());
    }
    println!("killed at {burnt} different steps");
    assert!((12..40).contains(&burnt), "the scenario has {burnt} steps");
}

#[tokio::test]
async fn an_agent_that_starts_on_a_converged_machine_touches_nothing() {
    let world = World::new().await;
    let (before, _) = documents();
    let agent = world.agent().await;
    let desired = document(1, &before);
    let first = world.apply(&desired).await;
    agent.kill().await;
    let (starts, applied) = (world.machine.starts(), world.gateway.applied());
    let agent = world.agent().await;
    world
        .seen("a report of the second agent", |o| {
            o.agent.started_at_ms > first.agent.started_at_ms && crate::world::is_applied(o, 1)
        })
        .await;
    assert_eq!((world.machine.starts(), world.gateway.applied()), (starts, applied));
    agent.stop().await;
}
