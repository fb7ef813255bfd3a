//! Values for unit tests of this crate.

use api::ids::{InstanceId, RevisionId, ServerId, ServiceId};
use api::observed::{InstanceObserved, InstanceState, ObservedState};
use api::services::{
    GitSource, HealthCheck, HealthSpec, PortSpec, RestartSpec, Revision, RolloutSpec, RouteSpec, RunSpec, ServiceSpec,
    SourceSpec, StopSpec,
};
use std::collections::BTreeMap;

/// A revision of `web` with a commit of its own and one route.
pub fn revision(number: u64, path: &str) -> Revision {
    let route = RouteSpec { host: None, path: path.parse().unwrap(), strip_prefix: false, tls: Default::default() };
    Revision {
        id: RevisionId::from_uuid(uuid::Uuid::from_u128(u128::from(number))),
        service_id: ServiceId::from_uuid(uuid::Uuid::from_u128(2)),
        number,
        source_version: format!("{number:040x}").parse().unwrap(),
        source_subject: String::new(),
        spec: ServiceSpec {
            name: "web".parse().unwrap(),
            source: SourceSpec::Git(GitSource {
                git: "https://example.com/shop.git".parse().unwrap(),
                reference: None,
                directory: String::new(),
                credential: None,
                submodules: false,
            }),
            build: None,
            run: RunSpec::Command { command: "serve".into() },
            env: BTreeMap::new(),
            port: PortSpec::Injected,
            replicas: None,
            routes: vec![route],
            health: HealthSpec::with(HealthCheck::Tcp),
            limits: Default::default(),
            restart: RestartSpec::default(),
            stop: StopSpec::default(),
            rollout: RolloutSpec::default(),
        },
        hash: String::new(),
        created_at_ms: 0,
    }
}

/// A report of a machine on which nothing is.
pub fn observed_nothing() -> ObservedState {
    ObservedState {
        server_id: ServerId::from_uuid(uuid::Uuid::from_u128(1)),
        generation: 1,
        observed_at_ms: 0,
        fleet_generation: 0,
        agent: Default::default(),
        stacks: vec![],
        instances: vec![],
        preparations: vec![],
        gateway: Default::default(),
        dns: Default::default(),
        mesh: Default::default(),
        blocked: vec![],
        resources: Default::default(),
    }
}

/// A healthy instance of `web`.
pub fn observed_instance(number: u128) -> InstanceObserved {
    InstanceObserved {
        instance_id: InstanceId::from_uuid(uuid::Uuid::from_u128(number)),
        service_id: ServiceId::from_uuid(uuid::Uuid::from_u128(2)),
        revision_id: RevisionId::from_uuid(uuid::Uuid::from_u128(1)),
        state: InstanceState::Healthy,
        pid: Some(1),
        port: Some(20_000),
        address: None,
        started_at_ms: Some(0),
        restarts: 0,
        crash_looping: false,
        stopping: false,
        last_exit: None,
        last_probe: None,
        problem: None,
        log_tail: vec![],
        memory_bytes: None,
        cpu_ms: None,
    }
}

/// One that was ordered for the host, good for a long time.
pub fn certificate(
    key: &sealing::SealingKey,
    organization: &api::ids::OrganizationId,
    host: &api::name::HostName,
) -> store::Certificate {
    let name = api::tls::CertificateName::from(host.clone());
    let source = api::domains::CertificateSource::Acme;
    let identity = crate::certificates::key_identity(organization, &name, source);
    store::Certificate {
        sealed_key: key.seal(&identity, "key"),
        names: vec![name.clone()],
        host: name,
        source,
        issuer: "Authority".into(),
        digest: "1".into(),
        chain: String::new(),
        not_before_ms: 0,
        not_after_ms: i64::MAX,
        created_at_ms: 0,
    }
}
