//! Looking at the machine: everything that planning and reporting need, read anew each time.

use super::Reconciler;
use crate::clock::now_ms;
use crate::drivers::dns::DnsDesired;
use crate::drivers::routes::GatewayDriver;
use crate::drivers::{Config, DriverError, Workloads};
use crate::observe;
use crate::resources;
use api::UnixMillis;
use api::desired::DesiredState;
use api::gateway::{DnsObserved, GatewayConfig, GatewayObserved};
use api::ids::InstanceId;
use api::logs::LogSource;
use api::mesh::{MeshDesired, MeshObserved};
use api::observed::{
    InstanceObserved, InstanceState, PreparationObserved, PreparationState, PreparationStep, Resources,
};
use api::services::HealthSpec;
use api::tls::CertificateDesired;
use plan::gateway::{ContainersContext, RenderContext};
use plan::host::{ConfigKind, ConfigView, Subject};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const LOG_TAIL_LINES: usize = 20;
/// How long the removal of an ended instance waits for its last log lines to be sent.
const LOG_PATIENCE_MS: i64 = 30_000;
/// Use of the machine is read at most this often.
const RESOURCES_EVERY: Duration = Duration::from_secs(5);

/// The gateway as the loop sees it.
pub trait Gateway: Config<Desired = GatewayConfig> {
    fn observe(&self) -> impl Future<Output = GatewayObserved> + Send;
    fn changes(&self) -> watch::Receiver<u64>;
    /// Starts it, or replaces one of another version.
    fn ensure_running(&self) -> impl Future<Output = Result<(), DriverError>> + Send;
    /// Gives it those of these certificates that it does not hold yet.
    fn bring(&self, certificates: &[CertificateDesired]) -> impl Future<Output = Result<(), DriverError>> + Send;
    /// Whether what was observed is of the version that this agent brings.
    fn is_current(&self, observed: &GatewayObserved) -> bool;
    fn access_log(&self) -> Option<PathBuf>;
    /// What is live is what is desired: whatever was refused before no longer matters.
    fn settled(&self);
}

impl Gateway for GatewayDriver {
    async fn observe(&self) -> GatewayObserved {
        Self::observe(self).await
    }
    fn changes(&self) -> watch::Receiver<u64> {
        Self::changes(self)
    }
    async fn ensure_running(&self) -> Result<(), DriverError> {
        Self::ensure_running(self).await
    }
    async fn bring(&self, certificates: &[CertificateDesired]) -> Result<(), DriverError> {
        Self::bring(self, certificates).await
    }
    fn is_current(&self, observed: &GatewayObserved) -> bool {
        self.is_wanted(observed.version.as_deref())
    }
    fn access_log(&self) -> Option<PathBuf> {
        Some(Self::access_log(self))
    }
    fn settled(&self) {
        Self::settled(self);
    }
}

/// One look.
pub struct Look {
    pub at_ms: UnixMillis,
    pub instances: Vec<InstanceObserved>,
    pub preparations: Vec<PreparationObserved>,
    pub gateway: GatewayObserved,
    pub dns: DnsObserved,
    pub mesh: MeshObserved,
    pub configs: Vec<ConfigView>,
    /// What the gateway should do; `None` without a desired state.
    pub gateway_config: Option<GatewayConfig>,
    pub dns_desired: DnsDesired,
    /// `None`: nothing is said about the mesh, or this machine has no part in it.
    pub mesh_desired: Option<MeshDesired>,
}

impl<W: Workloads, G: Gateway> Reconciler<W, G> {
    pub(super) async fn look(&mut self) -> Look {
        let at_ms = now_ms();
        self.disk.look();
        let desired = self.desired.clone();
        let mut instances = match self.machine.workloads.list().await {
            Ok(instances) => instances,
            Err(error) => {
                // Nothing is guessed: what was seen last stands until it can be seen again.
                tracing::error!(error = %error.describe(), "the instances on this machine cannot be listed");
                self.last.as_ref().map(|l| l.instances.clone()).unwrap_or_default()
            }
        };
        self.machine.health.sync(&instances, &health_specs(desired.as_deref(), &instances));
        self.machine.health.merge(&mut instances);
        for instance in &mut instances {
            if is_unwell(instance) && instance.log_tail.is_empty() {
                let source = LogSource::Run { instance_id: instance.instance_id.clone() };
                instance.log_tail = self.machine.workloads.log_tail(&source, LOG_TAIL_LINES).await;
            }
        }
        let preparations = self.preparations_seen(desired.as_deref()).await;
        let gateway = self.machine.gateway.observe().await;
        let dns_desired = desired.as_deref().map(observe::dns_desired).unwrap_or_default();
        let dns = self.machine.dns.observe(&dns_desired).await;
        self.want_peers(desired.as_deref());
        let mesh_desired = self.machine.mesh.desired();
        let mesh = self.machine.mesh.observe().await;
        let mut look = Look {
            at_ms,
            instances,
            preparations,
            gateway,
            dns,
            mesh,
            configs: Vec::new(),
            gateway_config: None,
            dns_desired,
            mesh_desired,
        };
        if let Some(desired) = desired.as_deref() {
            self.add_configs(desired, &mut look).await;
        }
        let routes = look.configs.iter().find(|c| c.kind == ConfigKind::Routes);
        if look.gateway.problem.is_some() && routes.is_some_and(|c| c.live_digest.as_ref() == Some(&c.desired_digest)) {
            self.machine.gateway.settled();
            look.gateway = self.machine.gateway.observe().await;
        }
        look
    }

    /// The mesh is what the fleet says. A machine that is told to be in it and has not heard of the others yet (it has
    /// just joined, or its ledger was lost) leaves its tunnel as it is.
    fn want_peers(&mut self, desired: Option<&DesiredState>) {
        let Some(desired) = desired else { return };
        if !desired.in_fleet {
            return self.machine.mesh.want(Some(&[]));
        }
        if let Some(fleet) = self.fleet.borrow_and_update().clone() {
            self.machine.mesh.want(Some(&fleet.peers));
        }
    }

    async fn add_configs(&mut self, desired: &DesiredState, look: &mut Look) {
        let context = RenderContext {
            service_ports: self.service_ports.clone(),
            dns_responder: self.machine.dns.needs_responder(),
            dns_forward_to: Vec::new(),
            containers: self.containers(),
            access_log: self.machine.gateway.access_log().map(|path| path.display().to_string()),
            fleet: desired.in_fleet.then(|| self.fleet.borrow_and_update().clone()).flatten(),
        };
        let fleet_generation = context.fleet.as_ref().map_or(0, |fleet| fleet.generation);
        let config = plan::gateway::render(desired, &look.instances, &look.preparations, &context);
        // A gateway of another version is not what is desired, whatever it serves.
        // So is one that has lost a certificate: bringing it again is part of applying the config.
        let complete = look.gateway.certificates >= config.tls.certificates.len() as u64;
        let current = self.machine.gateway.is_current(&look.gateway);
        let live = look.gateway.digest.clone().filter(|_| current && complete);
        look.configs = vec![
            ConfigView {
                kind: ConfigKind::Dns,
                desired_digest: self.machine.dns.desired_digest(&look.dns_desired),
                live_digest: self.machine.dns.live_digest().await,
            },
            ConfigView { kind: ConfigKind::Routes, desired_digest: wire::digest_of(&config), live_digest: live },
        ];
        let routes = &look.configs[1];
        if routes.live_digest.as_ref() == Some(&routes.desired_digest) {
            self.fleet_routed = fleet_generation;
        }
        look.gateway_config = Some(config);
        if let Some(desired) = &look.mesh_desired {
            look.configs.push(ConfigView {
                kind: ConfigKind::Mesh,
                desired_digest: self.machine.mesh.desired_digest(desired),
                live_digest: self.machine.mesh.live_digest().await,
            });
        }
    }

    /// How containers are to reach services by name; nothing while there is no container.
    fn containers(&self) -> Option<ContainersContext> {
        let network = self.machine.workloads.container_network()?;
        // Port 53 is root's, and only root's agent has containers that can be reached.
        let forward_to = rustix::process::geteuid().is_root().then(|| resolvers(&self.machine.resolv_conf));
        Some(ContainersContext { gateway: network.gateway, subnet: network.subnet, dns_forward_to: forward_to })
    }

    /// What the driver says, and what this loop began or gave up that the driver does not show yet.
    async fn preparations_seen(&self, desired: Option<&DesiredState>) -> Vec<PreparationObserved> {
        let mut seen = self.machine.workloads.preparations().await;
        let Some(desired) = desired else { return seen };
        for (_, service) in desired.services() {
            for revision in &service.revisions {
                let id = &revision.revision_id;
                let position = seen.iter().position(|p| &p.revision_id == id);
                let ready = position.is_some_and(|p| seen[p].state == PreparationState::Ready);
                let working = position.is_some_and(|p| seen[p].state == PreparationState::Working);
                let begun = self.preparations.contains(id) && !working && !ready;
                if begun {
                    let entry = PreparationObserved {
                        service_id: service.service_id.clone(),
                        revision_id: id.clone(),
                        deployment_id: revision.deployment_id.clone(),
                        state: PreparationState::Working,
                        step: PreparationStep::Sync,
                        started_at_ms: self.preparations.began_at_ms(id),
                        ended_at_ms: None,
                        error: None,
                        retryable: false,
                        attempts: self.failures.attempts(&Subject::Preparation(id.clone())) + 1,
                        log_tail: Vec::new(),
                    };
                    match position {
                        Some(position) => seen[position] = entry,
                        None => seen.push(entry),
                    }
                }
            }
        }
        seen
    }

    /// Instances that are wanted, are not there, and could not be started: with the reason.
    pub(super) fn with_start_problems(&self, look: &Look) -> Vec<InstanceObserved> {
        let mut instances = look.instances.clone();
        let Some(desired) = self.desired.as_deref() else { return instances };
        for failure in self.failures.list() {
            let Subject::Instance(id) = &failure.subject else { continue };
            match instances.iter_mut().find(|i| &i.instance_id == id) {
                Some(instance) if matches!(instance.state, InstanceState::Absent | InstanceState::Exited) => {
                    instance.problem.get_or_insert(failure.message);
                }
                Some(_) => {}
                None => instances.extend(observe::absent_with_problem(desired, id, failure.message)),
            }
        }
        instances
    }

    /// Whether an ended instance has lines that the control plane lacks, and it is worth waiting for them.
    pub(super) async fn log_is_on_its_way(&self, look: &Look, id: &InstanceId) -> bool {
        let source = LogSource::Run { instance_id: id.clone() };
        let instance = look.instances.iter().find(|i| &i.instance_id == id);
        let ended_at_ms = instance.and_then(|i| i.last_exit.as_ref()).map(|exit| exit.at_ms);
        let recent = ended_at_ms.is_some_and(|at| (0..LOG_PATIENCE_MS).contains(&(now_ms() - at)));
        if !recent {
            return false;
        }
        let logs = self.machine.workloads.logs().await;
        logs.iter()
            .find(|log| log.source == source)
            .is_some_and(|log| self.shipped.offset(&source).unwrap_or(0) < log.end_offset)
    }

    pub(super) fn resources(&mut self) -> Resources {
        let known = self.resources_at.take().filter(|(at, _)| at.elapsed() < RESOURCES_EVERY);
        let (at, mut resources) =
            known.unwrap_or_else(|| (Instant::now(), resources::read(&self.machine.proc, &self.machine.data)));
        self.disk.add_to(&mut resources);
        self.resources_at = Some((at, resources.clone()));
        resources
    }
}

/// Whom this machine asks for names.
fn resolvers(path: &Path) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|ip| SocketAddr::new(ip, 53)).take(3).collect()
}

/// Only instances of a wanted service are checked; one that stops is left in peace.
fn health_specs(desired: Option<&DesiredState>, instances: &[InstanceObserved]) -> BTreeMap<InstanceId, HealthSpec> {
    let Some(desired) = desired else { return BTreeMap::new() };
    let spec_of = |instance: &InstanceObserved| {
        let (_, service) = desired.services().find(|(_, s)| s.service_id == instance.service_id)?;
        service.revision(&instance.revision_id).map(|revision| revision.health.clone())
    };
    instances
        .iter()
        .filter(|instance| !instance.stopping)
        .filter_map(|instance| Some((instance.instance_id.clone(), spec_of(instance)?)))
        .collect()
}

fn is_unwell(instance: &InstanceObserved) -> bool {
    let ended = instance.state == InstanceState::Exited && !instance.stopping;
    // Alive again for a moment, after it ended by itself, is no sign of being well: a deployment may
    // be given up at exactly this look, and needs the last words.
    let unproven = matches!(instance.state, InstanceState::Transient | InstanceState::Running);
    let restarting = unproven && instance.restarts > 0;
    instance.state == InstanceState::Unhealthy || instance.crash_looping || ended || restarting
}
