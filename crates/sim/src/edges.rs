//! The edges of a simulated agent: the fake driver and the fake gateway, with everything that goes
//! wrong on a machine. The referee looks after each change.

use crate::chance::Chance;
use crate::machine::{End, Machine, Switching};
use crate::time::locked;
use crate::world::World;
use agent::drivers::fake::{FakeDriver, FakeGateway};
use agent::drivers::{
    CheckOutcome, Config, DriverError, Keep, LogState, PrepareError, PrepareRequest, StartRequest, StartedInstance,
    Workloads, WorkloadsFacts,
};
use agent::ledger::Disk;
use agent::reconcile::Gateway;
use api::gateway::{GatewayConfig, GatewayObserved};
use api::ids::InstanceId;
use api::logs::{LogBatch, LogSource};
use api::observed::{InstanceObserved, PreparationObserved, PreparationStep};
use api::tls::CertificateDesired;
use futures_util::future::BoxFuture;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What stands between one agent and its machine.
pub struct Gates {
    pub world: Arc<World>,
    pub machine: Arc<Machine>,
    pub alive: Arc<AtomicBool>,
    pub chance: Mutex<Chance>,
}

impl Gates {
    fn happens(&self, per_thousand: u32) -> bool {
        locked(&self.chance).happens(per_thousand)
    }

    fn ms(&self, range: std::ops::Range<u64>) -> Duration {
        locked(&self.chance).ms(range)
    }

    fn tell(&self, what: impl std::fmt::Display) {
        self.world.story.tell(self.machine.name, what);
    }

    /// Here an agent may die, or its machine lose power; a dead one gets no further.
    async fn pass(&self, moment: &str, what: &str) {
        if self.alive.load(Ordering::SeqCst) {
            let weather = self.world.weather();
            if self.happens(weather.agent_dies_at_gate) {
                self.tell(format_args!("the agent is killed {moment} {what}"));
                self.die(End::Agent);
            } else if self.happens(weather.power_fails_at_gate) {
                self.tell(format_args!("the power fails {moment} {what}"));
                self.die(End::Power);
            }
        }
        if !self.alive.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn die(&self, end: End) {
        self.alive.store(false, Ordering::SeqCst);
        self.machine.end(end);
    }

    /// A call to the machine: it takes its time, may hang for a while, and may fail.
    async fn call<R>(&self, what: &str, work: impl Future<Output = Result<R, DriverError>>) -> Result<R, DriverError> {
        self.pass("before", what).await;
        let weather = self.world.weather();
        tokio::time::sleep(self.ms(1..60)).await;
        if self.happens(weather.driver_hangs) {
            self.tell(format_args!("{what} hangs"));
            tokio::time::sleep(self.ms(2_000..20_000)).await;
        }
        self.pass("in the middle of", what).await;
        if self.happens(weather.driver_fails) {
            self.tell(format_args!("{what} fails"));
            return Err(DriverError::temporary("the machine is not in the mood"));
        }
        let result = work.await;
        self.world.referee.look(&self.world, &format!("{} {what}", self.machine.name));
        self.pass("after", what).await;
        result
    }
}

impl Disk for Gates {
    fn before_write(&self, operation: &'static str) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.pass("before", operation).await;
            let full = self.machine.disk_full.load(Ordering::SeqCst);
            if full || self.happens(self.world.weather().ledger_fails) {
                self.tell(format_args!("{operation} fails: no space left"));
                if operation == "keeping a desired state" {
                    self.machine.kept_in_vain.store(true, Ordering::SeqCst);
                }
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            Ok(())
        })
    }

    fn after_write(&self, operation: &'static str) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if operation == "keeping a desired state" {
                self.machine.has_accepted();
            }
            if operation == "keeping events" {
                self.world.referee.promises.events_kept(self.machine.disk.waiting_events());
            }
            self.machine.referee_looks_at_ledger(&self.world);
            self.pass("after", operation).await;
        })
    }

    fn syncs(&self, _: &'static str) -> bool {
        true
    }
}

pub struct Edge<T> {
    pub inner: T,
    pub gates: Arc<Gates>,
}

impl Workloads for Edge<FakeDriver> {
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
        let what = format!("building {} {}", request.service, request.revision.number);
        self.gates.pass("before", &what).await;
        let takes = self.gates.ms(50..3_000);
        let failed = |message: &str, cancelled| PrepareError {
            step: PreparationStep::Sync,
            message: message.into(),
            retryable: true,
            cancelled,
            log_tail: Vec::new(),
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(failed("cancelled", true)),
            () = tokio::time::sleep(takes) => {}
        }
        self.gates.pass("in the middle of", &what).await;
        if self.gates.happens(self.gates.world.weather().driver_fails) {
            self.gates.tell(format_args!("{what} fails"));
            return Err(failed("the network is down", false));
        }
        let result = self.inner.prepare(request, cancel).await;
        self.gates.tell(format_args!("{what}: {}", if result.is_ok() { "done" } else { "no" }));
        self.gates.pass("after", &what).await;
        result
    }

    async fn start(&self, request: StartRequest) -> Result<StartedInstance, DriverError> {
        let id = &request.instance.instance_id;
        let what = format!("starting {} {} ({})", request.service, request.revision.number, id.short());
        self.gates.world.referee.about_to_start(&self.gates.world, &self.gates.machine, &request);
        let result = self.gates.call(&what, self.inner.start(request)).await;
        if result.is_ok() {
            self.gates.tell(&what);
        }
        result
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), DriverError> {
        let what = format!("stopping {}", self.gates.world.referee.name_of(instance));
        let stop = async {
            self.gates.world.referee.about_to_stop(&self.gates.world, &self.gates.machine, instance);
            self.gates.tell(&what);
            self.inner.stop(instance, grace).await
        };
        self.gates.call(&what, stop).await
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), DriverError> {
        let what = format!("removing {}", self.gates.world.referee.name_of(instance));
        let remove = async {
            self.gates.world.referee.about_to_remove(&self.gates.world, &self.gates.machine, instance);
            self.inner.remove(instance).await
        };
        self.gates.call(&what, remove).await
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
        self.gates.call("collecting garbage", self.inner.collect_garbage(keep)).await
    }

    async fn check(
        &self,
        instance: &InstanceId,
        command: &str,
        timeout: Duration,
    ) -> Result<CheckOutcome, DriverError> {
        let bad = |message: &str| Ok(CheckOutcome { ok: false, message: message.into() });
        let world = &self.gates.world;
        if command == "hang" {
            tokio::time::sleep(timeout).await;
            return bad("`hang` took too long");
        }
        if self.gates.happens(world.weather().checks_fail) {
            world.referee.casts_doubt_on(instance);
            tokio::time::sleep(timeout).await;
            return bad("the check took too long");
        }
        world.referee.checked(instance);
        match world.referee.is_well(world, &self.gates.machine, instance) {
            true => Ok(CheckOutcome { ok: true, message: "well".into() }),
            false => bad("not well"),
        }
    }

    async fn listening(&self, instance: &InstanceId) -> Vec<SocketAddr> {
        self.inner.listening(instance).await
    }
}

impl Config for Edge<FakeGateway> {
    type Desired = GatewayConfig;

    fn name(&self) -> &'static str {
        "routes"
    }

    async fn live_digest(&self) -> Option<String> {
        self.inner.live_digest().await
    }

    async fn apply(&self, desired: &GatewayConfig) -> Result<String, DriverError> {
        let machine = &self.gates.machine;
        if self.gates.happens(self.gates.world.weather().gateway_refuses) {
            self.gates.tell("the gateway refuses its routes");
            self.gates.world.referee.routes_refused(machine);
            return Err(DriverError::temporary("port 80 is in use"));
        }
        let switching = Switching::begin(machine);
        let apply = async {
            let digest = self.inner.apply(desired).await;
            drop(switching);
            let shown: Vec<String> = desired
                .services
                .iter()
                .map(|s| {
                    let to: Vec<&str> =
                        s.upstreams.iter().filter(|u| !u.draining).map(|u| u.instance_id.short()).collect();
                    format!("{} → {}", s.name, if to.is_empty() { "nobody".into() } else { to.join(" ") })
                })
                .collect();
            self.gates.tell(format_args!("routes: {}", shown.join(", ")));
            digest
        };
        let result = self.gates.call("switching routes", apply).await;
        match &result {
            Ok(_) => self.gates.world.referee.routes_applied(machine),
            Err(_) => self.gates.world.referee.routes_refused(machine),
        }
        result
    }

    async fn remove(&self) -> Result<(), DriverError> {
        self.inner.remove().await
    }
}

impl Gateway for Edge<FakeGateway> {
    async fn observe(&self) -> GatewayObserved {
        self.inner.observe().await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
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

    fn settled(&self) {
        self.inner.settled();
    }
}
