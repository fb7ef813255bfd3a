//! Processes and containers of one machine as one driver.
//!
//! What is to be begun is told apart by what it runs; what is there, by whose it is. Lists are the two lists together. An
//! engine that is away makes nothing of the other kind wait or disappear.

use super::container::ContainerDriver;
use super::process::ProcessDriver;
use super::{
    CheckOutcome, ContainerNetwork, DriverError, Keep, LogActivity, LogState, PrepareError, PrepareRequest,
    StartRequest, StartedInstance, Workloads, WorkloadsFacts,
};
use api::ids::InstanceId;
use api::logs::{LogBatch, LogSource};
use api::observed::{InstanceObserved, PreparationObserved};
use api::services::RunSpec;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

pub struct Both {
    processes: ProcessDriver,
    containers: ContainerDriver,
    changes: watch::Sender<u64>,
    forwarding: AbortHandle,
}

impl Both {
    pub fn new(processes: ProcessDriver, containers: ContainerDriver) -> Self {
        let changes = watch::Sender::new(0_u64);
        let forwarding = {
            let (mut one, mut other, changes) = (processes.changes(), containers.changes(), changes.clone());
            tokio::spawn(async move {
                loop {
                    // Either of them ends only with the driver, and this task with it.
                    let changed = tokio::select! {
                        changed = one.changed() => changed,
                        changed = other.changed() => changed,
                    };
                    if changed.is_err() {
                        return;
                    }
                    changes.send_modify(|number| *number = number.wrapping_add(1));
                }
            })
        };
        Self { processes, containers, changes, forwarding: forwarding.abort_handle() }
    }

    pub fn processes(&self) -> &ProcessDriver {
        &self.processes
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

fn is_container(run: &RunSpec) -> bool {
    matches!(run, RunSpec::Container(_))
}

impl Workloads for Both {
    fn kind(&self) -> &'static str {
        "process and container"
    }

    async fn probe(&self) -> WorkloadsFacts {
        let (processes, containers) = tokio::join!(self.processes.probe(), self.containers.probe());
        let limitations = [processes.limitations, containers.limitations].concat();
        WorkloadsFacts {
            limitations,
            engine: containers.engine,
            engine_version: containers.engine_version,
            runtimes: containers.runtimes,
            ..processes
        }
    }

    async fn list(&self) -> Result<Vec<InstanceObserved>, DriverError> {
        let (processes, containers) = tokio::join!(self.processes.list(), self.containers.list());
        Ok([processes?, containers?].concat())
    }

    async fn preparations(&self) -> Vec<PreparationObserved> {
        [self.processes.preparations().await, self.containers.preparations().await].concat()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn prepare(&self, request: PrepareRequest, cancel: CancellationToken) -> Result<(), PrepareError> {
        if is_container(&request.revision.run) {
            self.containers.prepare(request, cancel).await
        } else {
            self.processes.prepare(request, cancel).await
        }
    }

    async fn start(&self, request: StartRequest) -> Result<StartedInstance, DriverError> {
        if is_container(&request.revision.run) {
            self.containers.start(request).await
        } else {
            self.processes.start(request).await
        }
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), DriverError> {
        if self.containers.owns(instance) {
            self.containers.stop(instance, grace).await
        } else {
            self.processes.stop(instance, grace).await
        }
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), DriverError> {
        if self.containers.owns(instance) {
            self.containers.remove(instance).await
        } else {
            self.processes.remove(instance).await
        }
    }

    async fn read_log(
        &self,
        source: &LogSource,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Option<LogBatch>, DriverError> {
        match self.processes.read_log(source, offset, max_bytes).await? {
            None => self.containers.read_log(source, offset, max_bytes).await,
            found => Ok(found),
        }
    }

    async fn log_tail(&self, source: &LogSource, lines: usize) -> Vec<String> {
        let found = self.processes.log_tail(source, lines).await;
        if found.is_empty() { self.containers.log_tail(source, lines).await } else { found }
    }

    async fn logs(&self) -> Vec<LogState> {
        [self.processes.logs().await, self.containers.logs().await].concat()
    }

    fn log_activity(&self) -> Option<watch::Receiver<LogActivity>> {
        let (mut one, mut other) = (self.processes.log_activity()?, self.containers.log_activity()?);
        let together = |one: LogActivity, other: LogActivity| LogActivity {
            count: one.count.wrapping_add(other.count),
            complete: one.complete && other.complete,
        };
        let sender = watch::Sender::new(together(*one.borrow(), *other.borrow()));
        let receiver = sender.subscribe();
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    changed = one.changed() => changed,
                    changed = other.changed() => changed,
                    () = sender.closed() => return,
                };
                if changed.is_err() {
                    return;
                }
                sender.send_replace(together(*one.borrow_and_update(), *other.borrow_and_update()));
            }
        });
        Some(receiver)
    }

    async fn collect_garbage(&self, keep: &Keep) -> Result<u64, DriverError> {
        let (processes, containers) =
            tokio::join!(self.processes.collect_garbage(keep), self.containers.collect_garbage(keep));
        Ok(processes? + containers?)
    }

    async fn check(
        &self,
        instance: &InstanceId,
        command: &str,
        timeout: Duration,
    ) -> Result<CheckOutcome, DriverError> {
        if self.containers.owns(instance) {
            self.containers.check(instance, command, timeout).await
        } else {
            self.processes.check(instance, command, timeout).await
        }
    }

    async fn check_of_image(&self, instance: &InstanceId, timeout: Duration) -> Result<CheckOutcome, DriverError> {
        self.containers.check_of_image(instance, timeout).await
    }

    fn container_network(&self) -> Option<ContainerNetwork> {
        self.containers.container_network()
    }

    async fn listening(&self, instance: &InstanceId) -> Vec<SocketAddr> {
        if self.containers.owns(instance) {
            self.containers.listening(instance).await
        } else {
            self.processes.listening(instance).await
        }
    }
}
