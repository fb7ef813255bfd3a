//! Generators of services in any state: every stage of every kind of deployment, rows and reports
//! that fit together or not, servers that report or do not.

use crate::host_worlds::{intent, port, state, traffic};
use crate::samples::{self, id};
use api::cause::Cause;
use api::deployments::{Deployment, DeploymentKind, Stage, StageEntry};
use api::desired::{InstanceIntent, Traffic};
use api::observed::{ExitStatus, InstanceState, PreparationState};
use api::services::{PortSpec, RolloutSpec, ServiceIntent, Sole};
use plan::placement::Candidate;
use plan::rollout::{RolloutInput, RolloutInstance, RolloutRevision};
use proptest::prelude::*;

pub const NOW_MS: i64 = 1_000_000;
const REVISIONS: u64 = 3;
const SERVERS: u64 = 3;
const LIMIT: usize = 7;

fn kind() -> impl Strategy<Value = DeploymentKind> {
    use DeploymentKind::*;
    prop_oneof![3 => Just(Deploy), 1 => Just(Rollback), 1 => Just(Restart), 1 => Just(Scale), 1 => Just(Start), 1 => Just(Stop)]
}

fn stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        3 => prop::sample::select(&Stage::PATH[..]),
        1 => prop::sample::select(vec![
            Stage::Failed, Stage::RolledBack, Stage::Stopped, Stage::Cancelled, Stage::Superseded, Stage::Unknown,
        ])
    ]
}

fn deployment() -> impl Strategy<Value = Deployment> {
    let times = (0..200_000_i64, -60_000..60_000_i64, -60_000..60_000_i64);
    (kind(), 1..=REVISIONS, prop::option::of(1..=REVISIONS), 0..4_u32, stage(), times).prop_map(
        |(kind, revision, previous, replicas, stage, (age_ms, bake_ms, warm_ms))| Deployment {
            id: id("dep", 9),
            stack_id: id("stk", 1),
            service_id: id("svc", 1),
            service: "web".parse().unwrap(),
            kind,
            revision_id: id("rev", revision),
            revision_number: revision,
            source_version: "0".repeat(40).parse().unwrap(),
            source_subject: String::new(),
            previous_revision_id: previous.map(|number| id("rev", number)),
            replicas: if kind == DeploymentKind::Stop { 0 } else { replicas },
            stage,
            stages: vec![StageEntry { stage, at_ms: NOW_MS - age_ms }],
            cause: Cause::system("test", "deploy"),
            failure: None,
            created_at_ms: NOW_MS - age_ms,
            ended_at_ms: None,
            bake_until_ms: (stage == Stage::Running).then_some(NOW_MS + bake_ms),
            warm_until_ms: (stage == Stage::Running).then_some(NOW_MS + warm_ms),
            waits_for: Vec::new(),
        },
    )
}

fn instance(number: u64) -> impl Strategy<Value = RolloutInstance> {
    let row = (1..=REVISIONS, prop_oneof![Just(1_u64), Just(9)], 1..=SERVERS, 0..3_u32, intent(), traffic());
    let seen = prop::option::weighted(0.8, (state(), 0..6_u32, prop::option::of(-100_000..0_i64)));
    let gateway = (any::<bool>(), prop_oneof![2 => Just(0_u64), 1 => 1..4_u64], prop::bool::weighted(0.1));
    (row, seen, gateway, 0..60_000_i64, any::<bool>()).prop_map(
        move |(
            (revision, deployment, server, ordinal, intent, traffic),
            seen,
            (routed, open, problem),
            age_ms,
            caught_up,
        )| {
            let observed = seen.map(|(state, restarts, exit)| {
                let mut observed = samples::seen(number, 1, revision, state);
                observed.restarts = restarts;
                observed.crash_looping = restarts >= 5;
                observed.last_exit = exit.map(|ago_ms| ExitStatus {
                    code: Some(1),
                    signal: None,
                    out_of_memory: false,
                    at_ms: NOW_MS + ago_ms,
                });
                observed
            });
            RolloutInstance {
                id: id("ins", number),
                revision_id: id("rev", revision),
                deployment_id: id("dep", deployment),
                server_id: id("srv", server),
                ordinal,
                intent,
                traffic,
                traffic_changed_at_ms: NOW_MS - age_ms,
                observed,
                caught_up,
                server_exists: true,
                server_online: true,
                routed,
                open_requests: open,
                gateway_problem: problem.then(|| "port 80 is in use".to_owned()),
            }
        },
    )
}

/// Whether a server exists and reports.
fn servers() -> impl Strategy<Value = Vec<(bool, bool)>> {
    prop::collection::vec((prop::bool::weighted(0.9), prop::bool::weighted(0.8)), SERVERS as usize)
}

pub fn input() -> impl Strategy<Value = RolloutInput> {
    let instances = (1..=LIMIT as u64).map(instance).collect::<Vec<_>>();
    let instances = (instances, 0..=LIMIT).prop_map(|(mut instances, count)| {
        instances.truncate(count);
        instances
    });
    let releases = prop::collection::vec(
        prop_oneof![Just(PreparationState::Working), Just(PreparationState::Ready), Just(PreparationState::Failed)],
        (SERVERS * REVISIONS) as usize,
    );
    let service = (
        prop_oneof![4 => Just(ServiceIntent::Run), 1 => Just(ServiceIntent::Stop)],
        1..4_u32,
        prop::option::weighted(0.8, 1..=REVISIONS),
        prop::option::of(1..=REVISIONS),
    );
    let ports = prop::collection::vec(port(), REVISIONS as usize);
    (service, prop::option::weighted(0.9, deployment()), instances, releases, servers(), ports).prop_map(build)
}

/// In the middle of a switch from revision 1 to revision 2, with acknowledgements outstanding or not:
/// what is rare among all worlds and matters most.
pub fn handing_over() -> impl Strategy<Value = RolloutInput> {
    (input(), deployment(), 1..4_u32, 0..70_000_i64).prop_map(|(mut input, mut deployment, replicas, ago_ms)| {
        let fixed = input.revisions.iter().any(|r| matches!(r.port, PortSpec::Fixed { .. }));
        let replicas = if fixed { 1 } else { replicas };
        deployment.kind = DeploymentKind::Deploy;
        deployment.stage = Stage::RoutesUpdating;
        deployment.stages = vec![StageEntry { stage: Stage::RoutesUpdating, at_ms: NOW_MS - ago_ms }];
        (deployment.revision_id, deployment.revision_number) = (id("rev", 2), 2);
        deployment.previous_revision_id = Some(id("rev", 1));
        (deployment.replicas, input.replicas) = (replicas, replicas);
        (input.current_revision_id, input.previous_revision_id) = (Some(id("rev", 2)), Some(id("rev", 1)));
        input.deployment = Some(deployment);
        for (index, instance) in input.instances.iter_mut().enumerate() {
            let new = index < replicas as usize;
            instance.revision_id = id("rev", if new { 2 } else { 1 });
            instance.intent = InstanceIntent::Run;
            instance.traffic = match instance.traffic {
                _ if new => Traffic::Active,
                Traffic::Active => Traffic::Active,
                _ => Traffic::Draining,
            };
            instance.caught_up = instance.server_online;
            if let Some(observed) = &mut instance.observed {
                observed.revision_id = instance.revision_id.clone();
                observed.state = if observed.restarts == 0 { observed.state } else { InstanceState::Healthy };
                (observed.restarts, observed.crash_looping, observed.last_exit) = (0, false, None);
            }
        }
        input
    })
}

/// A third release is prepared and waits beside two earlier ones that are in the middle of anything:
/// deployments followed each other faster than releases hand over. It is on a server of its own that reports.
pub fn superseding() -> impl Strategy<Value = RolloutInput> {
    let moments = prop::collection::vec(prop_oneof![0..70_000_i64, Just(3_600_000_i64)], LIMIT);
    (handing_over(), moments).prop_map(|(mut input, ago_ms)| {
        let replicas = input.replicas as usize;
        let deployment = input.deployment.as_mut().expect("there is one in the middle of a switch");
        (deployment.stage, deployment.stages) =
            (Stage::Building, vec![StageEntry { stage: Stage::Building, at_ms: NOW_MS - 5_000 }]);
        (deployment.revision_id, deployment.revision_number) = (id("rev", 3), 3);
        deployment.previous_revision_id = Some(id("rev", 2));
        for (instance, ago_ms) in input.instances.iter_mut().zip(ago_ms) {
            instance.deployment_id = id("dep", 1);
            instance.traffic_changed_at_ms = NOW_MS - ago_ms;
        }
        for number in 0..replicas as u64 {
            input.instances.push(RolloutInstance {
                id: id("ins", 100 + number),
                revision_id: id("rev", 3),
                deployment_id: deployment.id.clone(),
                server_id: id("srv", SERVERS + 1),
                ordinal: number as u32,
                intent: InstanceIntent::Stop,
                traffic: Traffic::Candidate,
                traffic_changed_at_ms: NOW_MS - 5_000,
                observed: None,
                caught_up: true,
                server_exists: true,
                server_online: true,
                routed: false,
                open_requests: 0,
                gateway_problem: None,
            });
        }
        input.preparations.push((id("srv", SERVERS + 1), samples::prepared(1, 3, PreparationState::Ready)));
        input
    })
}

type ServiceRow = (ServiceIntent, u32, Option<u64>, Option<u64>);
type Parts =
    (ServiceRow, Option<Deployment>, Vec<RolloutInstance>, Vec<PreparationState>, Vec<(bool, bool)>, Vec<PortSpec>);

fn build((service, deployment, mut instances, releases, servers, ports): Parts) -> RolloutInput {
    let (intent, replicas, current, previous) = service;
    for instance in &mut instances {
        let (exists, online) = servers[samples::number(instance.server_id.as_str()) as usize - 1];
        instance.server_exists = exists;
        instance.server_online = exists && online;
        if !instance.server_online {
            // As the control plane reads it: a server that does not report says nothing.
            instance.observed = None;
            instance.caught_up = false;
            instance.routed = false;
            instance.open_requests = 0;
            instance.gateway_problem = None;
        }
    }
    // Two instances of one service cannot share a port, and the API does not let anybody ask for it.
    let several = ports.iter().all(|port| !matches!(port, PortSpec::Fixed { .. }));
    let at_most = |replicas: u32| if several { replicas } else { replicas.min(1) };
    let replicas = at_most(replicas);
    let deployment = deployment.map(|deployment| Deployment { replicas: at_most(deployment.replicas), ..deployment });
    // What a deployment placed is of its release.
    if let Some(deployment) = &deployment {
        for instance in instances.iter_mut().filter(|instance| instance.deployment_id == deployment.id) {
            instance.revision_id = deployment.revision_id.clone();
            if let Some(observed) = &mut instance.observed {
                observed.revision_id = deployment.revision_id.clone();
            }
        }
    }
    let preparations = releases.iter().enumerate().map(|(index, state)| {
        let (server, revision) = (index as u64 / REVISIONS + 1, index as u64 % REVISIONS + 1);
        (id("srv", server), samples::prepared(1, revision, *state))
    });
    let takes = servers.iter().enumerate().filter(|(_, (exists, online))| *exists && *online);
    RolloutInput {
        service: "web".parse().unwrap(),
        intent,
        replicas,
        current_revision_id: current.map(|number| id("rev", number)),
        previous_revision_id: previous.map(|number| id("rev", number)),
        deployment,
        revisions: (1..=REVISIONS)
            .map(|number| RolloutRevision {
                id: id("rev", number),
                number,
                port: ports[number as usize - 1].clone(),
                sole: match ports[number as usize - 1] {
                    PortSpec::Fixed { port } => Some(Sole::Port(port)),
                    _ => None,
                },
                is_image: false,
                rollout: RolloutSpec::default(),
            })
            .collect(),
        preparations: preparations.collect(),
        candidates: takes
            .map(|(index, _)| Candidate {
                server_id: id("srv", index as u64 + 1),
                index: index as _,
                of_service: 0,
                of_all: 0,
            })
            .collect(),
        instances,
        now_ms: NOW_MS,
    }
}

pub fn shuffled(input: RolloutInput) -> impl Strategy<Value = (RolloutInput, RolloutInput)> {
    (
        Just(input.instances.clone()).prop_shuffle(),
        Just(input.revisions.clone()).prop_shuffle(),
        Just(input.preparations.clone()).prop_shuffle(),
        Just(input.candidates.clone()).prop_shuffle(),
    )
        .prop_map(move |(instances, revisions, preparations, candidates)| {
            let other = RolloutInput { instances, revisions, preparations, candidates, ..input.clone() };
            (input.clone(), other)
        })
}

pub fn healthy(instance: &RolloutInstance) -> bool {
    instance.server_exists && instance.observed.as_ref().is_some_and(|o| o.state == InstanceState::Healthy)
}

pub fn gone(instance: &RolloutInstance) -> bool {
    let ended = |state| matches!(state, InstanceState::Absent | InstanceState::Exited);
    !instance.server_exists || instance.observed.as_ref().map_or(instance.caught_up, |o| ended(o.state))
}

pub fn flying(input: &RolloutInput) -> Option<&Deployment> {
    input.deployment.as_ref().filter(|deployment| deployment.stage.in_flight())
}

pub fn fixed(input: &RolloutInput, revision: &api::ids::RevisionId) -> Option<u16> {
    match input.revisions.iter().find(|known| &known.id == revision)?.port {
        PortSpec::Fixed { port } => Some(port),
        _ => None,
    }
}
