//! A service as it should be: everything that a revision freezes, plus what may change without one.
//!
//! [`ServiceSpec`] is the manifest's service after defaults are filled in and every text is parsed.
//! A revision is a spec plus the exact commit or image. What is *not* part of a revision is the number of
//! replicas and whether the service should run at all: scaling and stopping do not make a new one.

use crate::desired::{InstanceIntent, Traffic};
use crate::ids::{DeploymentId, ProjectId, RevisionId, ServiceId, StackId};
use crate::images::ContainerSpec;
use crate::name::{HostName, Name, PathPrefix};
use crate::observed::{InstanceObserved, InstanceState};
use crate::secret::Secret;
use crate::tls::TlsMode;
use crate::{UnixMillis, deployments::Deployment};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::sources::{CommitSha, GitRef, GitSource, GitTextError, GitUrl, SourceSpec, SourceVersion};

/// Everything about a service that a revision freezes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceSpec {
    pub name: Name,
    pub source: SourceSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
    pub run: RunSpec,
    /// Set for the build and for the run command alike. Values may be secret, so they do not print.
    #[serde(default)]
    pub env: BTreeMap<String, Secret>,
    pub port: PortSpec,
    /// `None`: one, or what `mainstay scale` last asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
    pub health: HealthSpec,
    #[serde(default)]
    pub limits: Limits,
    pub restart: RestartSpec,
    pub stop: StopSpec,
    pub rollout: RolloutSpec,
}

/// How a release is made from the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BuildSpec {
    /// The user's own command, run by `/bin/sh -c` inside the build's sandbox.
    pub command: String,
    pub timeout_ms: u64,
    #[serde(default)]
    pub limits: Limits,
    /// Folders relative to the source directory that are kept between builds (`node_modules`, `target`).
    #[serde(default)]
    pub cache: Vec<String>,
}

/// What an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum RunSpec {
    /// The user's own command, run by `/bin/sh -c` in the release's source directory.
    Command { command: String },
    /// A folder of files served by Mainstay's own static file server.
    Static { directory: String },
    /// A container of the service's image.
    Container(ContainerSpec),
}

/// Which port an instance listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PortSpec {
    /// The agent picks a free one and injects it as `PORT`; for a container the one that its image exposes, else 8080.
    Injected,
    /// The command always listens on this one. Two processes cannot share it, so a rollout stops
    /// the old one first; containers have an address each.
    Fixed { port: u16 },
    /// A worker: nothing listens.
    None,
}

/// A host and path that lead to this service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RouteSpec {
    /// `None`: any host that no other route names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    #[serde(default)]
    pub path: PathPrefix,
    /// Remove the prefix before the request reaches the service.
    #[serde(default)]
    pub strip_prefix: bool,
    #[serde(default, skip_serializing_if = "TlsMode::is_auto")]
    pub tls: TlsMode,
}

impl RouteSpec {
    /// As a person writes it: `shop.example.com/api`, or `*/` without a host.
    pub fn label(&self) -> String {
        format!("{}{}", self.host.as_ref().map_or("*", |h| h.as_str()), self.path)
    }
}

/// How it is found out whether an instance is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HealthSpec {
    pub check: HealthCheck,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    /// Good answers in a row until an instance counts as healthy.
    pub healthy_after: u32,
    /// Bad answers in a row until a healthy instance counts as unhealthy.
    pub unhealthy_after: u32,
    /// Bad answers within this time after the start are not counted.
    pub start_grace_ms: u64,
}

impl HealthSpec {
    pub fn with(check: HealthCheck) -> Self {
        Self {
            check,
            interval_ms: 5_000,
            timeout_ms: 2_000,
            healthy_after: 1,
            unhealthy_after: 3,
            start_grace_ms: 60_000,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HealthCheck {
    /// `GET path` answers with a status from 200 to 399.
    Http { path: String },
    /// The port accepts a connection.
    Tcp,
    /// The user's own command exits with 0.
    Command { command: String },
    /// The process is alive two seconds after its start (workers).
    Process,
    /// The check that the image itself brings (`HEALTHCHECK`), run by the agent: engines run it differently, or not at all.
    Image,
}

/// What an instance or a build may use at most; `None`: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a process that exits is started again: exponential backoff from `backoff_ms` to
/// `backoff_limit_ms`. After `crash_loop_after` exits within `crash_loop_window_ms` it is said to
/// be crash-looping; it is still retried, at the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RestartSpec {
    pub backoff_ms: u64,
    pub backoff_limit_ms: u64,
    pub crash_loop_after: u32,
    pub crash_loop_window_ms: u64,
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self { backoff_ms: 500, backoff_limit_ms: 60_000, crash_loop_after: 5, crash_loop_window_ms: 300_000 }
    }
}

/// SIGTERM to the process group, SIGKILL after the grace time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StopSpec {
    pub grace_ms: u64,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { grace_ms: 10_000 }
    }
}

/// How a new release takes over from the old one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RolloutSpec {
    /// The new release must be healthy within this time after its build, or the deployment fails.
    pub healthy_within_ms: u64,
    /// How long open requests of the old release may take to finish.
    pub drain_ms: u64,
    /// If the new release breaks within this time after the switch, it is rolled back by itself.
    pub bake_ms: u64,
    /// How long the old release stays started (without traffic) so that a rollback is only a
    /// switch of routes.
    pub warm_ms: u64,
}

impl Default for RolloutSpec {
    fn default() -> Self {
        Self { healthy_within_ms: 120_000, drain_ms: 30_000, bake_ms: 30_000, warm_ms: 300_000 }
    }
}

impl ServiceSpec {
    /// The port of the machine itself that only one instance can have. A container's port is its own.
    pub fn machine_port(&self) -> Option<u16> {
        match (&self.port, &self.run) {
            (PortSpec::Fixed { port }, RunSpec::Command { .. } | RunSpec::Static { .. }) => Some(*port),
            _ => None,
        }
    }

    /// A volume that it writes to: two releases that write to one at the same time may spoil it.
    pub fn written_volume(&self) -> Option<&Name> {
        let RunSpec::Container(container) = &self.run else { return None };
        container.volumes.values().find(|mount| !mount.read_only).map(|mount| &mount.volume)
    }

    /// What only one instance on a server may have at a time, so that a new release starts after the old one has stopped.
    pub fn sole(&self) -> Option<Sole> {
        let port = self.machine_port().map(Sole::Port);
        port.or_else(|| self.written_volume().map(|_| Sole::Volumes))
    }
}

/// See [`ServiceSpec::sole`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sole {
    Port(u16),
    Volumes,
}

/// What the user last asked of a service as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ServiceIntent {
    Run,
    Stop,
}

/// An immutable snapshot: configuration plus exact commit or image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revision {
    pub id: RevisionId,
    pub service_id: ServiceId,
    /// 1, 2, 3, … per service: what people say aloud.
    pub number: u64,
    /// The exact code: a commit, or the digest of an image.
    #[serde(alias = "commit")]
    pub source_version: SourceVersion,
    /// First line of the commit message, if it could be read, or the image as it was written.
    #[serde(default, alias = "commit_subject")]
    pub source_subject: String,
    pub spec: ServiceSpec,
    /// SHA-256 over spec and source version, hexadecimal: equal hashes need no new revision.
    pub hash: String,
    pub created_at_ms: UnixMillis,
}

/// One word for the whole service, worked out from its deployment and instances, for lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ServiceCondition {
    /// All wanted instances of the current revision are healthy.
    Running,
    /// A deployment is in flight.
    Deploying,
    /// Some, but not all, wanted instances are healthy.
    Degraded,
    /// No instance is healthy.
    Down,
    Stopped,
    /// Its server does not report.
    Unknown,
}

/// A service as `GET /services` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceView {
    pub id: ServiceId,
    pub name: Name,
    pub stack_id: StackId,
    pub stack: Name,
    pub project_id: ProjectId,
    pub intent: ServiceIntent,
    pub condition: ServiceCondition,
    pub replicas: u32,
    /// Revision that traffic goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<RevisionSummary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<RevisionSummary>,
    /// The newest deployment, in flight or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    pub instances: Vec<InstanceView>,
    pub routes: Vec<RouteSpec>,
    /// Addresses that answer for this service, as this machine's gateway serves them.
    pub urls: Vec<String>,
}

impl ServiceView {
    /// Whether what looks like `down` is a start on its way: an instance that should get requests is between
    /// stopped and healthy for the first time, as after a boot, or after `mainstay up`.
    pub fn is_starting(&self) -> bool {
        let starting = |instance: &InstanceView| {
            let Some(seen) = &instance.observed else { return true };
            // What it reports as its problem then is what it has not reached yet: nothing listens on its port.
            let on_its_way = matches!(seen.state, InstanceState::Transient | InstanceState::Running);
            let wanted_again = instance.intent == InstanceIntent::Run && seen.was_put_down();
            !seen.crash_looping && ((on_its_way && seen.restarts == 0) || wanted_again)
        };
        let mut active = self.instances.iter().filter(|instance| instance.traffic == Traffic::Active);
        self.condition == ServiceCondition::Down && active.any(starting)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionSummary {
    pub id: RevisionId,
    pub number: u64,
    /// The exact code: a commit, or the digest of an image.
    #[serde(alias = "commit")]
    pub source_version: SourceVersion,
    #[serde(default, alias = "commit_subject")]
    pub source_subject: String,
    pub created_at_ms: UnixMillis,
}

/// The three facts about an instance, side by side, never blurred into one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceView {
    pub id: crate::ids::InstanceId,
    pub server_id: crate::ids::ServerId,
    pub server: Name,
    pub revision_id: RevisionId,
    pub revision_number: u64,
    pub deployment_id: DeploymentId,
    pub ordinal: u32,
    pub intent: crate::desired::InstanceIntent,
    pub traffic: crate::desired::Traffic,
    /// `None`: the server has not reported it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<InstanceObserved>,
}

/// `PUT …/scale`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScaleRequest {
    pub replicas: u32,
}

/// The most replicas one service may have on the servers of one stack.
pub const REPLICAS_LIMIT: u32 = 100;

/// `PATCH …/env`: `None` removes a variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvPatch {
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub variables: BTreeMap<String, Option<Secret>>,
    /// Deploy the new values at once; otherwise they wait for the next deployment.
    #[serde(default)]
    pub deploy: bool,
}

/// One variable of `GET …/env`. Values are shown only when asked for with `reveal=true`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EnvVariable {
    pub name: String,
    pub origin: EnvOrigin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EnvOrigin {
    Manifest,
    /// Set with `mainstay env set`; wins over the manifest.
    Set,
    /// Injected by Mainstay (`PORT`, `SERVICE_<NAME>_URL`).
    Injected,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A service that is down, with one instance that should get requests and is seen like this.
    fn down(seen: serde_json::Value) -> ServiceView {
        let id = |prefix: &str| format!("{prefix}_{:032x}", 1);
        let mut observed = json!({"instance_id": id("ins"), "service_id": id("svc"), "revision_id": id("rev")});
        observed.as_object_mut().unwrap().extend(seen.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "id": id("svc"), "name": "web", "stack_id": id("stk"), "stack": "shop", "project_id": id("prj"),
            "intent": "run", "condition": "down", "replicas": 1, "routes": [], "urls": [],
            "instances": [{
                "id": id("ins"), "server_id": id("srv"), "server": "one", "revision_id": id("rev"), "revision_number": 1,
                "deployment_id": id("dep"), "ordinal": 0, "intent": "run", "traffic": "active", "observed": observed,
            }],
        }))
        .unwrap()
    }

    #[test]
    fn a_service_on_its_way_up_is_starting_and_one_that_broke_is_not() {
        assert!(down(json!({"state": "running", "problem": "nothing listens on 20001"})).is_starting());
        assert!(down(json!({"state": "transient"})).is_starting());
        assert!(down(json!({"state": "exited"})).is_starting(), "it was put down, and should run");
        assert!(!down(json!({"state": "running", "restarts": 2})).is_starting());
        assert!(!down(json!({"state": "transient", "crash_looping": true})).is_starting());
        assert!(!down(json!({"state": "exited", "problem": "no free port"})).is_starting());
        assert!(!down(json!({"state": "unhealthy"})).is_starting());
        let well = ServiceView { condition: ServiceCondition::Running, ..down(json!({"state": "running"})) };
        assert!(!well.is_starting());
    }
}
