//! Well-formed nouns for the tests of this crate: those inside of it, and those beside it in `tests/`,
//! which see only what is public and therefore include this file.

use api::desired::*;
use api::observed::*;
use api::services::*;
use std::collections::BTreeMap;

/// The last eight digits of the number are what [`short`](api::ids::InstanceId::short) shows.
pub fn id<T: std::str::FromStr>(prefix: &str, number: u64) -> T
where
    T::Err: std::fmt::Debug,
{
    format!("{prefix}_{number:032x}").parse().unwrap()
}

pub fn desired(generation: u64, services: Vec<ServiceDesired>) -> DesiredState {
    DesiredState {
        server_id: id("srv", 1),
        server_name: "local".parse().unwrap(),
        generation,
        issued_at_ms: 0,
        poll_interval_ms: 10_000,
        in_fleet: false,
        security_mode: SecurityMode::Closed,
        gateway: Default::default(),
        dns: Default::default(),
        stacks: vec![StackDesired {
            stack_id: id("stk", 1),
            project_id: id("prj", 1),
            name: "shop".parse().unwrap(),
            version: 1,
            hash: String::new(),
            services,
        }],
        certificates: vec![],
        challenges: vec![],
    }
}

pub fn service(number: u64, name: &str) -> ServiceDesired {
    ServiceDesired {
        service_id: id("svc", number),
        name: name.parse().unwrap(),
        routes: Vec::new(),
        revisions: Vec::new(),
        instances: Vec::new(),
    }
}

pub fn revision(number: u64, port: PortSpec) -> RevisionDesired {
    RevisionDesired {
        revision_id: id("rev", number),
        number,
        deployment_id: id("dep", number),
        source: ResolvedSource::Git(ResolvedGit {
            git: "https://example.com/shop.git".parse().unwrap(),
            commit: "0".repeat(40).parse().unwrap(),
            reference: None,
            directory: String::new(),
            submodules: false,
            credential: None,
        }),
        build: None,
        build_key: String::new(),
        run: RunSpec::Command { command: "run".into() },
        env: BTreeMap::new(),
        port,
        health: HealthSpec::with(HealthCheck::Tcp),
        limits: Limits::default(),
        restart: RestartSpec::default(),
        stop: StopSpec::default(),
    }
}

pub fn wanted(number: u64, revision: u64, intent: InstanceIntent, traffic: Traffic) -> InstanceDesired {
    InstanceDesired {
        instance_id: id("ins", number),
        revision_id: id("rev", revision),
        deployment_id: id("dep", revision),
        ordinal: (number % 100) as u32,
        intent,
        traffic,
        address: None,
    }
}

pub fn seen(number: u64, service: u64, revision: u64, state: InstanceState) -> InstanceObserved {
    InstanceObserved {
        instance_id: id("ins", number),
        service_id: id("svc", service),
        revision_id: id("rev", revision),
        state,
        pid: Some(100),
        port: Some(20_000 + (number % 10_000) as u16),
        address: None,
        started_at_ms: None,
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

pub fn prepared(service: u64, revision: u64, state: PreparationState) -> PreparationObserved {
    PreparationObserved {
        service_id: id("svc", service),
        revision_id: id("rev", revision),
        deployment_id: id("dep", revision),
        state,
        step: PreparationStep::Build,
        started_at_ms: None,
        ended_at_ms: None,
        error: (state == PreparationState::Failed).then(|| "the build command exited with code 1".into()),
        retryable: false,
        attempts: 1,
        log_tail: vec![],
    }
}
