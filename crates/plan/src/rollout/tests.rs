//! Stories: a small world that does at once what the engine says and reports back.

use super::*;
use api::cause::Cause;
use api::deployments::{DeploymentKind, StageEntry};
use api::observed::{ExitStatus, PreparationState, PreparationStep, ProbeResult};
use api::services::Sole;

fn id<T: std::str::FromStr>(prefix: &str, number: u64) -> T
where
    T::Err: std::fmt::Debug,
{
    format!("{prefix}_{number:032x}").parse().unwrap()
}

fn revision_id(number: u64) -> RevisionId {
    id("rev", number)
}

/// How instances of a revision fare on the fake machine.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Healthy,
    NeverHealthy,
    Crashes,
    BuildFails,
}

struct World {
    input: RolloutInput,
    fates: Vec<(u64, Fate)>,
    next_id: u64,
    /// The gateway takes up what is wanted only while this holds.
    gateway_works: bool,
    /// Highest and lowest number of instances that served during the story.
    served: Vec<usize>,
}

impl World {
    fn new(port: PortSpec) -> Self {
        let revision = |number: u64| RolloutRevision {
            id: revision_id(number),
            number,
            port: port.clone(),
            sole: match port {
                PortSpec::Fixed { port } => Some(Sole::Port(port)),
                _ => None,
            },
            is_image: false,
            rollout: RolloutSpec::default(),
        };
        let input = RolloutInput {
            service: "web".parse().unwrap(),
            intent: ServiceIntent::Run,
            replicas: 2,
            current_revision_id: None,
            previous_revision_id: None,
            deployment: None,
            revisions: (1..=3).map(revision).collect(),
            instances: Vec::new(),
            preparations: Vec::new(),
            candidates: vec![Candidate { server_id: id("srv", 1), index: 1, of_service: 0, of_all: 0 }],
            now_ms: 1_000_000,
        };
        Self { input, fates: vec![], next_id: 1, gateway_works: true, served: vec![] }
    }

    fn deploy(&mut self, kind: DeploymentKind, revision: u64, fate: Fate) {
        self.fates.push((revision, fate));
        self.next_id += 1;
        let replicas = if kind == DeploymentKind::Stop { 0 } else { self.input.replicas };
        self.input.deployment = Some(Deployment {
            id: id("dep", self.next_id),
            stack_id: id("stk", 1),
            service_id: id("svc", 1),
            service: "web".parse().unwrap(),
            kind,
            revision_id: revision_id(revision),
            revision_number: revision,
            source_version: "0".repeat(40).parse().unwrap(),
            source_subject: String::new(),
            previous_revision_id: self.input.current_revision_id.clone(),
            replicas,
            stage: Stage::Pending,
            stages: vec![StageEntry { stage: Stage::Pending, at_ms: self.input.now_ms }],
            cause: Cause::system("test", "deploy"),
            failure: None,
            created_at_ms: self.input.now_ms,
            ended_at_ms: None,
            bake_until_ms: None,
            warm_until_ms: None,
            waits_for: Vec::new(),
        });
    }

    fn fate(&self, revision: &RevisionId) -> Fate {
        self.fates.iter().rev().find(|(n, _)| &revision_id(*n) == revision).map_or(Fate::Healthy, |(_, f)| *f)
    }

    /// One tick of the engine, applied, then one look of the machine.
    fn step(&mut self) -> usize {
        let plan = plan(&self.input);
        assert_eq!(plan, super::plan(&self.input), "a tick is deterministic");
        let count = plan.changes.len();
        for change in plan.changes {
            self.apply(change);
        }
        self.observe();
        let serving = self.input.instances.iter().filter(|i| i.traffic == Traffic::Active && i.healthy()).count();
        self.served.push(serving);
        self.input.now_ms += 100;
        count
    }

    fn apply(&mut self, change: RolloutChange) {
        let now_ms = self.input.now_ms;
        match change {
            RolloutChange::CreateInstance { revision_id, deployment_id, server_id, ordinal, intent } => {
                self.next_id += 1;
                self.input.instances.push(RolloutInstance {
                    id: id("ins", self.next_id),
                    revision_id,
                    deployment_id,
                    server_id,
                    ordinal,
                    intent,
                    traffic: Traffic::Candidate,
                    traffic_changed_at_ms: now_ms,
                    observed: None,
                    caught_up: false,
                    server_exists: true,
                    server_online: true,
                    routed: false,
                    open_requests: 0,
                    gateway_problem: None,
                });
            }
            RolloutChange::SetTraffic { instance_id, traffic } => {
                let instance = self.input.instances.iter_mut().find(|i| i.id == instance_id).unwrap();
                instance.traffic = traffic;
                instance.traffic_changed_at_ms = now_ms;
                instance.caught_up = false;
            }
            RolloutChange::SetIntent { instance_id, intent } => {
                let instance = self.input.instances.iter_mut().find(|i| i.id == instance_id).unwrap();
                instance.intent = intent;
                instance.caught_up = false;
            }
            RolloutChange::DeleteInstance { instance_id } => {
                let index = self.input.instances.iter().position(|i| i.id == instance_id).unwrap();
                let gone = self.input.instances.remove(index);
                assert!(!gone.routed && gone.traffic == Traffic::Out, "deleted while it served: {gone:?}");
            }
            RolloutChange::SetStage { stage, failure, bake_until_ms, warm_until_ms, .. } => {
                let deployment = self.input.deployment.as_mut().unwrap();
                deployment.stage = stage;
                deployment.stages.push(StageEntry { stage, at_ms: now_ms });
                deployment.failure = failure.or(deployment.failure.take());
                deployment.bake_until_ms = bake_until_ms;
                deployment.warm_until_ms = warm_until_ms;
            }
            RolloutChange::SetCurrent { revision_id, previous_revision_id } => {
                self.input.current_revision_id = revision_id;
                self.input.previous_revision_id = previous_revision_id;
            }
        }
    }

    fn observe(&mut self) {
        let now_ms = self.input.now_ms;
        self.input.preparations.clear();
        for i in 0..self.input.instances.len() {
            let fate = self.fate(&self.input.instances[i].revision_id);
            let instance = &mut self.input.instances[i];
            let failed = fate == Fate::BuildFails;
            self.input.preparations.push((
                instance.server_id.clone(),
                PreparationObserved {
                    service_id: id("svc", 1),
                    revision_id: instance.revision_id.clone(),
                    deployment_id: instance.deployment_id.clone(),
                    state: if failed { PreparationState::Failed } else { PreparationState::Ready },
                    step: PreparationStep::Build,
                    started_at_ms: None,
                    ended_at_ms: None,
                    error: failed.then(|| "the build command exited with code 1".into()),
                    retryable: false,
                    attempts: 1,
                    log_tail: vec!["error: no".into()],
                },
            ));
            instance.caught_up = true;
            instance.observed =
                (instance.intent == InstanceIntent::Run && !failed).then(|| observed(instance, fate, now_ms));
            if self.gateway_works {
                let usable = instance.observed.as_ref().is_some_and(|o| o.state == InstanceState::Healthy);
                instance.routed = instance.traffic == Traffic::Active && usable;
            }
        }
    }

    fn run(&mut self, steps: usize) -> Stage {
        for _ in 0..steps {
            self.step();
        }
        self.input.deployment.as_ref().unwrap().stage
    }

    fn stage_names(&self) -> Vec<Stage> {
        self.input.deployment.as_ref().unwrap().stages.iter().map(|s| s.stage).collect()
    }

    fn active_revisions(&self) -> Vec<u64> {
        let number = |r: &RevisionId| (1..=3).find(|n| &revision_id(*n) == r).unwrap();
        let active = self.input.instances.iter().filter(|i| i.traffic == Traffic::Active);
        active.map(|i| number(&i.revision_id)).collect()
    }

    fn failure(&self) -> String {
        self.input.deployment.as_ref().unwrap().failure.as_ref().unwrap().message.clone()
    }
}

fn observed(instance: &RolloutInstance, fate: Fate, now_ms: UnixMillis) -> InstanceObserved {
    let crashes = fate == Fate::Crashes;
    InstanceObserved {
        instance_id: instance.id.clone(),
        service_id: id("svc", 1),
        revision_id: instance.revision_id.clone(),
        state: match fate {
            Fate::Healthy => InstanceState::Healthy,
            Fate::Crashes => InstanceState::Transient,
            _ => InstanceState::Unhealthy,
        },
        pid: None,
        port: Some(20000),
        address: None,
        started_at_ms: None,
        restarts: if crashes { 4 } else { 0 },
        crash_looping: crashes,
        stopping: false,
        last_exit: crashes.then_some(ExitStatus { code: Some(1), signal: None, out_of_memory: false, at_ms: now_ms }),
        last_probe: Some(ProbeResult {
            ok: false,
            at_ms: now_ms,
            duration_ms: 1,
            message: "nothing listens on 20000".into(),
        }),
        problem: None,
        log_tail: vec!["boom".into()],
        memory_bytes: None,
        cpu_ms: None,
    }
}

fn running_world() -> World {
    let mut world = World::new(PortSpec::Injected);
    world.deploy(DeploymentKind::Deploy, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    world.served.clear();
    world
}

#[test]
fn a_first_deployment_passes_every_stage_and_serves() {
    let world = running_world();
    assert_eq!(world.stage_names(), Stage::PATH);
    assert_eq!(world.active_revisions(), [1, 1]);
}

#[test]
fn a_new_release_takes_over_without_a_moment_of_fewer_instances() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    assert_eq!(world.active_revisions(), [2, 2]);
    assert!(world.served.iter().all(|&n| n >= 2), "{:?}", world.served);
    // The release before is warm: started, without traffic.
    assert_eq!(
        world.input.instances.iter().filter(|i| i.traffic == Traffic::Out && i.intent == InstanceIntent::Run).count(),
        2
    );
    world.input.now_ms += 300_000;
    world.run(5);
    assert_eq!(world.input.instances.len(), 2, "the warm release is gone after its time");
}

#[test]
fn the_old_release_is_not_drained_before_the_gateway_acknowledged_the_new_one() {
    let mut world = running_world();
    world.gateway_works = false;
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    assert_eq!(world.run(30), Stage::RoutesUpdating);
    assert!(world.input.instances.iter().all(|i| i.intent == InstanceIntent::Run), "something was stopped");
    world.gateway_works = true;
    assert_eq!(world.run(20), Stage::Running);
}

#[test]
fn a_release_that_never_gets_healthy_fails_and_the_old_one_keeps_serving() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::NeverHealthy);
    assert_eq!(world.run(10), Stage::Starting);
    world.input.now_ms += 120_000;
    assert_eq!(world.run(10), Stage::Failed);
    assert_eq!(world.active_revisions(), [1, 1]);
    assert!(world.failure().contains("nothing listens on 20000"), "{}", world.failure());
    assert!(world.failure().contains("Revision 1 keeps serving"), "{}", world.failure());
    assert_eq!(world.input.instances.len(), 2, "the failed instances are gone");
}

#[test]
fn a_process_that_exits_at_once_fails_before_the_time_is_over() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Crashes);
    assert_eq!(world.run(20), Stage::Failed);
    assert!(world.failure().contains("exited with code 1"), "{}", world.failure());
    assert!(world.served.iter().all(|&n| n >= 2));
}

#[test]
fn a_failed_build_fails_the_deployment_with_its_log() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::BuildFails);
    assert_eq!(world.run(20), Stage::Failed);
    let failure = world.input.deployment.as_ref().unwrap().failure.clone().unwrap();
    assert_eq!((failure.stage, failure.log_tail), (Stage::Building, vec!["error: no".to_string()]));
}

#[test]
fn a_release_that_breaks_while_it_bakes_is_rolled_back_in_one_tick() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    world.fates.push((2, Fate::NeverHealthy));
    world.observe();
    world.step();
    assert_eq!(world.stage_names().last(), Some(&Stage::RolledBack));
    assert_eq!(world.active_revisions(), [1, 1]);
    world.run(10);
    assert_eq!(world.input.instances.len(), 2);
    assert_eq!(world.input.current_revision_id, Some(revision_id(1)));
}

#[test]
fn a_release_that_is_put_down_with_its_machine_while_it_bakes_is_not_broken() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    world.observe();
    let now_ms = world.input.now_ms;
    for instance in &mut world.input.instances {
        let observed = instance.observed.as_mut().unwrap();
        observed.state = InstanceState::Exited;
        observed.last_exit = Some(ExitStatus { code: None, signal: Some(15), out_of_memory: false, at_ms: now_ms });
    }
    world.step();
    assert_eq!(world.stage_names().last(), Some(&Stage::Running));
    assert_eq!(world.active_revisions(), [2, 2]);
}

#[test]
fn a_release_that_breaks_after_it_baked_stays() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    world.run(20);
    world.input.now_ms += 31_000;
    world.fates.push((2, Fate::NeverHealthy));
    world.run(10);
    assert_eq!(world.stage_names().last(), Some(&Stage::Running));
    assert_eq!(world.active_revisions(), [2, 2]);
}

#[test]
fn a_rollback_to_the_warm_release_switches_routes_in_one_tick() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    world.run(20);
    world.deploy(DeploymentKind::Rollback, 1, Fate::Healthy);
    world.step();
    assert_eq!(world.active_revisions(), [1, 1]);
    assert_eq!(world.run(5), Stage::Running);
    assert_eq!(world.input.previous_revision_id, Some(revision_id(2)));
}

#[test]
fn a_restart_replaces_every_instance_by_one_of_the_same_revision() {
    let mut world = running_world();
    let before: Vec<_> = world.input.instances.iter().map(|i| i.id.clone()).collect();
    world.deploy(DeploymentKind::Restart, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    assert_eq!(world.input.instances.len(), 2);
    assert!(world.input.instances.iter().all(|i| !before.contains(&i.id)));
    assert!(world.served.iter().all(|&n| n >= 2));
}

#[test]
fn scaling_up_adds_and_scaling_down_drains() {
    let mut world = running_world();
    world.input.replicas = 3;
    world.deploy(DeploymentKind::Scale, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    assert_eq!(world.active_revisions(), [1, 1, 1]);
    world.input.replicas = 1;
    world.deploy(DeploymentKind::Scale, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    assert_eq!(world.input.instances.len(), 1);
}

#[test]
fn a_stop_drains_and_ends_stopped_and_a_start_brings_it_back() {
    let mut world = running_world();
    world.input.intent = ServiceIntent::Stop;
    world.deploy(DeploymentKind::Stop, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Stopped);
    assert!(world.input.instances.is_empty());
    world.input.intent = ServiceIntent::Run;
    world.deploy(DeploymentKind::Start, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    assert_eq!(world.active_revisions(), [1, 1]);
}

#[test]
fn on_a_fixed_port_the_old_release_is_gone_before_the_new_one_starts() {
    let mut world = World::new(PortSpec::Fixed { port: 3000 });
    world.input.replicas = 1;
    world.deploy(DeploymentKind::Deploy, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    for _ in 0..30 {
        world.step();
        let started = world.input.instances.iter().filter(|i| i.observed.is_some()).count();
        assert!(started <= 1, "two instances on one port");
    }
    assert_eq!(world.active_revisions(), [2]);
    assert_eq!(world.stage_names(), Stage::PATH);
}

#[test]
fn two_releases_never_write_to_one_volume() {
    let mut world = World::new(PortSpec::Injected);
    world.input.revisions.iter_mut().for_each(|revision| revision.sole = Some(Sole::Volumes));
    world.input.replicas = 1;
    world.deploy(DeploymentKind::Deploy, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    for _ in 0..30 {
        world.step();
        let started = world.input.instances.iter().filter(|i| i.observed.is_some()).count();
        assert!(started <= 1, "two instances with one volume");
    }
    assert_eq!(world.active_revisions(), [2]);
}

#[test]
fn an_image_that_cannot_be_pulled_fails_where_it_is_pulled() {
    let mut world = running_world();
    world.input.revisions.iter_mut().for_each(|revision| revision.is_image = true);
    world.deploy(DeploymentKind::Deploy, 2, Fate::BuildFails);
    assert_eq!(world.run(20), Stage::Failed);
    let failure = world.input.deployment.as_ref().and_then(|deployment| deployment.failure.clone()).unwrap();
    assert_eq!(failure.stage, Stage::Pulling);
    assert_eq!(world.active_revisions(), [1, 1]);
}

#[test]
fn on_a_fixed_port_a_failed_release_gives_the_port_back() {
    let mut world = World::new(PortSpec::Fixed { port: 3000 });
    world.input.replicas = 1;
    world.deploy(DeploymentKind::Deploy, 1, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    world.deploy(DeploymentKind::Deploy, 2, Fate::Crashes);
    for _ in 0..40 {
        world.step();
        let started = world.input.instances.iter().filter(|i| i.observed.is_some()).count();
        assert!(started <= 1, "two instances on one port");
    }
    assert_eq!(world.stage_names().last(), Some(&Stage::Failed));
    assert_eq!(world.active_revisions(), [1]);
}

#[test]
fn a_deployment_that_supersedes_another_removes_its_candidates() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::NeverHealthy);
    world.run(5);
    world.deploy(DeploymentKind::Deploy, 3, Fate::Healthy);
    assert_eq!(world.run(20), Stage::Running);
    assert_eq!(world.active_revisions(), [3, 3]);
    assert!(world.input.instances.iter().all(|i| i.revision_id != revision_id(2)));
    assert!(world.served.iter().all(|&n| n >= 2));
}

#[test]
fn without_a_server_a_deployment_waits_and_says_why() {
    let mut world = World::new(PortSpec::Injected);
    world.input.candidates.clear();
    world.deploy(DeploymentKind::Deploy, 1, Fate::Healthy);
    let plan = plan(&world.input);
    assert!(plan.changes.is_empty());
    assert!(plan.blocked[0].reason.contains("no server"), "{:?}", plan.blocked);
}

#[test]
fn an_instance_on_a_server_that_does_not_report_is_not_replaced() {
    let mut world = running_world();
    for instance in &mut world.input.instances {
        instance.observed = None;
        instance.caught_up = false;
        instance.server_online = false;
    }
    world.input.candidates.clear();
    let plan = plan(&world.input);
    assert!(plan.changes.is_empty(), "{:?}", plan.changes);
}

#[test]
fn open_requests_hold_an_old_instance_until_they_end_or_the_drain_time_is_over() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    while !world.stage_names().contains(&Stage::RoutesUpdating) {
        world.step();
    }
    for instance in &mut world.input.instances {
        instance.open_requests = u64::from(instance.revision_id == revision_id(1));
    }
    assert_eq!(world.run(20), Stage::StoppingOld);
    world.input.now_ms += 30_000;
    assert_eq!(world.run(5), Stage::Running);
}

#[test]
fn a_gateway_that_took_the_old_out_but_not_the_new_in_has_not_acknowledged() {
    let mut world = running_world();
    world.deploy(DeploymentKind::Deploy, 2, Fate::Healthy);
    while !world.stage_names().contains(&Stage::RoutesUpdating) {
        world.step();
    }
    world.gateway_works = false;
    for instance in &mut world.input.instances {
        instance.routed = false;
    }
    assert_eq!(world.run(20), Stage::RoutesUpdating);
}
