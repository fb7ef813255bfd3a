//! Doing one change. What came of it is not believed from here: the next look says.

use super::look::{Gateway, Look};
use super::preparations::Ended;
use super::{Reconciler, subject_of, target_of};
use crate::drivers::{Config, DriverError, PrepareRequest, StartRequest, Workloads};
use crate::ledger::LOOPBACK_PORTS;
use crate::observe;
use api::desired::{DesiredState, ServiceDesired, StackDesired};
use api::gateway::GatewayConfig;
use api::ids::{InstanceId, RevisionId, ServerId, ServiceId};
use api::services::{RunSpec, StopSpec};
use plan::host::{Change, ConfigKind, Subject};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

impl<W: Workloads, G: Gateway> Reconciler<W, G> {
    /// The change, if it was done, for the next look to verify.
    pub(super) async fn apply(&mut self, look: &Look, change: Change) -> Option<Change> {
        tracing::debug!(?change, "applying");
        let desired = self.desired.clone()?;
        let result = match &change {
            Change::Prepare { service_id, revision_id, .. } => self.prepare(&desired, service_id, revision_id),
            Change::StopInstance { instance_id, .. } => {
                let grace = self.grace(&desired, look, instance_id);
                self.machine.workloads.stop(instance_id, grace).await
            }
            Change::RemoveInstance { instance_id } => self.machine.workloads.remove(instance_id).await,
            Change::StartInstance { service_id, instance_id, revision_id } => {
                self.start(&desired, service_id, instance_id, revision_id).await
            }
            Change::ApplyConfig { kind: ConfigKind::Dns, .. } => {
                self.machine.dns.apply(&look.dns_desired).await.map(|_| ())
            }
            Change::ApplyConfig { kind: ConfigKind::Routes, .. } => match &look.gateway_config {
                Some(config) => self.apply_routes(&desired, config).await,
                None => Ok(()),
            },
            Change::ApplyConfig { kind: ConfigKind::Mesh, .. } => match &look.mesh_desired {
                Some(desired) => self.machine.mesh.apply(desired).await.map(|_| ()),
                None => Ok(()),
            },
        };
        match result {
            Ok(()) => Some(change),
            Err(error) => {
                if matches!(change, Change::ApplyConfig { kind: ConfigKind::Routes, .. }) {
                    self.exchange_taken_ports(&desired, look).await;
                }
                self.failed(&change, error).await;
                None
            }
        }
    }

    /// Certificates first, because the config names them.
    async fn apply_routes(&self, desired: &DesiredState, config: &GatewayConfig) -> Result<(), DriverError> {
        self.machine.gateway.bring(&desired.certificates).await?;
        self.machine.gateway.apply(config).await.map(|_| ())
    }

    /// Loopback ports of services, where internal names do not resolve.
    pub(super) async fn give_service_ports(&mut self, desired: &DesiredState) {
        self.service_ports = BTreeMap::new();
        if self.machine.dns.method().resolves() && desired.dns.enabled {
            return;
        }
        let ids: Vec<ServiceId> = observe::listening_services(desired).map(|(_, s)| s.service_id.clone()).collect();
        match self.ledger.service_ports(&ids, first_port(&self.server_id), is_free).await {
            Ok(ports) => self.service_ports = ports,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "loopback ports of services cannot be given out");
            }
        }
    }

    /// Where somebody else listens on a service's loopback port, the gateway would refuse the routes of
    /// all services. The service gets another port; what runs learns of it when it is started again.
    async fn exchange_taken_ports(&mut self, desired: &DesiredState, look: &Look) {
        let ours = |port: u16| look.gateway.listening.iter().any(|address| address.port() == port);
        let taken = self.service_ports.iter().filter(|(_, port)| !ours(**port) && !is_free(**port));
        let taken: Vec<ServiceId> = taken.map(|(service, _)| service.clone()).collect();
        for service in &taken {
            if let Err(error) = self.ledger.service_port_forget(service).await {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "a taken loopback port cannot be exchanged");
            }
        }
        if !taken.is_empty() {
            self.give_service_ports(desired).await;
        }
    }

    async fn failed(&mut self, change: &Change, error: DriverError) {
        let message = error.describe();
        tracing::warn!(?change, %message, "a change failed; the others go on");
        self.failures.record(subject_of(change), target_of(change), message, error.retryable()).await;
    }

    fn prepare(
        &mut self,
        desired: &DesiredState,
        service_id: &ServiceId,
        revision_id: &RevisionId,
    ) -> Result<(), DriverError> {
        let (_, service) = service(desired, service_id)?;
        let revision = service.revision(revision_id).ok_or_else(|| DriverError::NotPrepared(revision_id.clone()))?;
        let request = PrepareRequest {
            service_id: service_id.clone(),
            service: service.name.clone(),
            revision: revision.clone(),
            env: self.env(desired, service_id, &revision.run),
        };
        let workloads = self.machine.workloads.clone();
        self.preparations.begin(revision_id.clone(), |cancel| async move { workloads.prepare(request, cancel).await });
        Ok(())
    }

    /// Takes the result of a preparation in.
    pub(super) async fn preparation_ended(&mut self, ended: Ended) {
        let revision_id = ended.revision_id;
        let subject = Subject::Preparation(revision_id.clone());
        match ended.result {
            Ok(()) => {
                self.failures.clear(&subject).await;
                self.forget_failed_starts_of(&revision_id).await;
            }
            Err(error) if error.cancelled => {}
            Err(error) => {
                tracing::warn!(%error, retryable = error.retryable, "a preparation failed");
                self.failures.record(subject, "prepare".into(), error.message, error.retryable).await;
            }
        }
    }

    /// What a start failed of may be gone with the new preparation: nobody waits for an old backoff.
    async fn forget_failed_starts_of(&mut self, revision_id: &RevisionId) {
        let Some(desired) = self.desired.clone() else { return };
        let instances = desired.services().flat_map(|(_, service)| &service.instances);
        for instance in instances.filter(|instance| &instance.revision_id == revision_id) {
            self.failures.clear(&Subject::Instance(instance.instance_id.clone())).await;
        }
    }

    async fn start(
        &mut self,
        desired: &DesiredState,
        service_id: &ServiceId,
        instance_id: &InstanceId,
        revision_id: &RevisionId,
    ) -> Result<(), DriverError> {
        let (stack, service) = service(desired, service_id)?;
        let revision = service.revision(revision_id).ok_or_else(|| DriverError::NotPrepared(revision_id.clone()))?;
        let instance = service.instances.iter().find(|i| &i.instance_id == instance_id);
        let instance = instance.ok_or_else(|| DriverError::NoSuchInstance(instance_id.clone()))?;
        let request = StartRequest {
            project_id: stack.project_id.clone(),
            service_id: service_id.clone(),
            service: service.name.clone(),
            instance: instance.clone(),
            revision: revision.clone(),
            env: self.env(desired, service_id, &revision.run),
        };
        let started = self.machine.workloads.start(request).await?;
        if !started.already_running {
            self.started.insert(instance_id.clone(), Instant::now());
        }
        Ok(())
    }

    fn env(
        &self,
        desired: &DesiredState,
        service_id: &ServiceId,
        run: &RunSpec,
    ) -> BTreeMap<String, api::secret::Secret> {
        // A container asks the gateway for names, and a port on this machine's loopback is nothing to it.
        let names = matches!(run, RunSpec::Container(_)) || self.machine.dns.method().resolves();
        observe::service_urls(desired, service_id, names, &self.service_ports)
    }

    /// The grace time of the revision that runs; it may be known only from the former desired state.
    fn grace(&self, desired: &DesiredState, look: &Look, instance_id: &InstanceId) -> Duration {
        let revision = look.instances.iter().find(|i| &i.instance_id == instance_id).map(|i| &i.revision_id);
        let known = revision.and_then(|revision| {
            let states = std::iter::once(desired).chain(self.former.as_deref());
            states.flat_map(DesiredState::services).find_map(|(_, s)| s.revision(revision).map(|r| r.stop.grace_ms))
        });
        Duration::from_millis(known.unwrap_or_else(|| StopSpec::default().grace_ms))
    }
}

/// Agents on one machine begin their search at different places.
fn first_port(server_id: &ServerId) -> u16 {
    let (low, high) = (*LOOPBACK_PORTS.start(), *LOOPBACK_PORTS.end());
    let number = server_id.as_str().bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    low + u16::try_from(number % u32::from(high - low + 1)).unwrap_or(0)
}

fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn service<'a>(
    desired: &'a DesiredState,
    id: &ServiceId,
) -> Result<(&'a StackDesired, &'a ServiceDesired), DriverError> {
    desired
        .services()
        .find(|(_, s)| &s.service_id == id)
        .ok_or_else(|| DriverError::refused(format!("the desired state does not name service {id}")))
}
