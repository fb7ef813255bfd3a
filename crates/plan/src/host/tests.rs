use super::*;
use crate::samples::*;
use InstanceIntent::{Run, Stop};
use Traffic::{Active, Candidate};

#[derive(Default)]
struct World {
    desired: Vec<ServiceDesired>,
    instances: Vec<InstanceObserved>,
    preparations: Vec<PreparationObserved>,
    configs: Vec<ConfigView>,
    gateway_active: Vec<InstanceId>,
    failures: Vec<Failure>,
}

impl World {
    fn plan(&self) -> HostPlan {
        let desired = desired(self.desired.clone());
        self.plan_for(Some(&desired))
    }

    fn plan_for(&self, desired: Option<&DesiredState>) -> HostPlan {
        plan(HostInput {
            desired,
            instances: &self.instances,
            preparations: &self.preparations,
            configs: &self.configs,
            gateway_active: &self.gateway_active,
            failures: &self.failures,
            now_ms: 1_000,
        })
    }

    /// The plan as short words: `prepare 1`, `stop 2 orphan`, `wait: …`.
    fn text(&self) -> Vec<String> {
        let number = |id: &str| u64::from_str_radix(&id[id.len() - 8..], 16).unwrap();
        let plan = self.plan();
        let changes = plan.changes.iter().map(|change| match change {
            Change::Prepare { revision_id, .. } => format!("prepare {}", number(revision_id.as_str())),
            Change::StopInstance { instance_id, reason } => {
                format!("stop {} {reason:?}", number(instance_id.as_str()))
            }
            Change::RemoveInstance { instance_id } => format!("remove {}", number(instance_id.as_str())),
            Change::StartInstance { instance_id, .. } => format!("start {}", number(instance_id.as_str())),
            Change::ApplyConfig { kind, .. } => format!("apply {}", kind.as_str()),
        });
        changes.chain(plan.blocked.iter().map(|b| format!("wait: {}: {}", b.subject, b.reason))).collect()
    }
}

fn config(kind: ConfigKind, live: bool) -> ConfigView {
    ConfigView { kind, desired_digest: "new".into(), live_digest: Some(if live { "new" } else { "old" }.into()) }
}

#[test]
fn without_a_verified_desired_state_nothing_is_touched() {
    let world = World { instances: vec![seen(1, 1, InstanceState::Healthy)], ..World::default() };
    let plan = world.plan_for(None);
    assert!(plan.changes.is_empty() && plan.blocked[0].reason.contains("verified"), "{plan:?}");
}

#[test]
fn everything_as_desired_is_an_empty_plan() {
    let world = World {
        desired: vec![service(1, vec![instance(1, 1, Run, Active)])],
        instances: vec![seen(1, 1, InstanceState::Healthy)],
        configs: vec![config(ConfigKind::Routes, true), config(ConfigKind::Dns, true)],
        ..World::default()
    };
    assert!(world.plan().is_empty());
}

#[test]
fn changes_come_in_the_order_prepare_stop_start_dns_routes_whatever_the_input_order() {
    let mut world = World {
        desired: vec![
            service(3, vec![instance(3, 3, Run, Candidate)]),
            service(1, vec![instance(1, 1, Run, Candidate)]),
        ],
        instances: vec![seen(9, 9, InstanceState::Running)],
        preparations: vec![prepared(1, PreparationState::Ready)],
        configs: vec![
            config(ConfigKind::Mesh, false),
            config(ConfigKind::Routes, false),
            config(ConfigKind::Dns, false),
        ],
        ..World::default()
    };
    let expected = ["prepare 3", "stop 9 Orphan", "start 1", "apply dns", "apply routes", "apply mesh"];
    assert_eq!(world.text(), expected);
    world.desired.reverse();
    world.configs.reverse();
    assert_eq!(world.text(), expected);
}

#[test]
fn an_instance_that_still_gets_requests_is_stopped_only_after_the_routes() {
    let mut world = World {
        instances: vec![seen(1, 1, InstanceState::Healthy)],
        configs: vec![config(ConfigKind::Routes, false)],
        gateway_active: vec![id("ins", 1)],
        ..World::default()
    };
    let plan = world.text();
    assert_eq!(plan[0], "apply routes");
    assert!(plan[1].starts_with("wait: instance") && plan[1].contains("still sends it requests"), "{plan:?}");
    world.configs = vec![config(ConfigKind::Routes, true)];
    world.gateway_active.clear();
    assert_eq!(world.text(), ["stop 1 Orphan"]);
}

#[test]
fn routes_that_keep_failing_do_not_keep_an_instance_alive_for_ever() {
    let failure = |attempts| Failure {
        subject: Subject::Config(ConfigKind::Routes),
        attempts,
        message: "port 80 is in use".into(),
        retry_at_ms: 5_000,
    };
    let mut world = World {
        instances: vec![seen(1, 1, InstanceState::Healthy)],
        configs: vec![config(ConfigKind::Routes, false)],
        gateway_active: vec![id("ins", 1)],
        failures: vec![failure(2)],
        ..World::default()
    };
    assert!(!world.text().contains(&"stop 1 Orphan".to_string()));
    world.failures = vec![failure(3)];
    assert_eq!(world.text(), ["stop 1 Orphan", "wait: routes: port 80 is in use"]);
}

#[test]
fn an_instance_of_another_revision_is_stopped_and_then_started_anew() {
    let mut world = World {
        desired: vec![service(1, vec![instance(1, 1, Run, Active)])],
        instances: vec![seen(1, 2, InstanceState::Running)],
        preparations: vec![prepared(1, PreparationState::Ready)],
        ..World::default()
    };
    assert_eq!(world.text(), ["stop 1 WrongRevision"]);
    world.instances = vec![seen(1, 2, InstanceState::Exited)];
    assert_eq!(world.text(), ["remove 1"]);
    world.instances.clear();
    assert_eq!(world.text(), ["start 1"]);
}

#[test]
fn a_candidate_that_must_not_run_yet_is_prepared() {
    let world = World { desired: vec![service(1, vec![instance(1, 1, Stop, Candidate)])], ..World::default() };
    assert_eq!(world.text(), ["prepare 1"]);
}

#[test]
fn a_failed_build_is_not_tried_again_and_says_why() {
    let world = World {
        desired: vec![service(1, vec![instance(1, 1, Run, Candidate)])],
        preparations: vec![prepared(1, PreparationState::Failed)],
        ..World::default()
    };
    assert_eq!(
        world.text(),
        ["wait: service service-1: its release could not be prepared: the build command exited with code 1"]
    );
}

#[test]
fn a_failing_start_backs_off_alone() {
    let world = World {
        desired: vec![
            service(1, vec![instance(1, 1, Run, Candidate)]),
            service(2, vec![instance(2, 2, Run, Candidate)]),
        ],
        preparations: vec![prepared(1, PreparationState::Ready), prepared(2, PreparationState::Ready)],
        failures: vec![Failure {
            subject: Subject::Instance(id("ins", 1)),
            attempts: 2,
            message: "no free port".into(),
            retry_at_ms: 2_000,
        }],
        ..World::default()
    };
    assert_eq!(world.text(), ["start 2", "wait: service service-1: it failed 2 times: no free port"]);
}

#[test]
fn an_instance_that_is_stopping_is_not_asked_again() {
    let mut stopping = seen(1, 1, InstanceState::Transient);
    stopping.stopping = true;
    let world = World { instances: vec![stopping], ..World::default() };
    assert_eq!(world.text(), ["wait: instance 00000001: an instance that nothing wants is stopping"]);
}

#[test]
fn every_combination_of_intent_and_state_has_a_change_a_reason_or_no_difference() {
    use InstanceState::*;
    for intent in [Run, Stop] {
        for state in [Absent, Transient, Running, Healthy, Unhealthy, Exited] {
            let world = World {
                desired: vec![service(1, vec![instance(1, 1, intent, Active)])],
                instances: vec![seen(1, 1, state)],
                preparations: vec![prepared(1, PreparationState::Ready)],
                ..World::default()
            };
            let as_desired = match intent {
                Run => matches!(state, Running | Healthy | Unhealthy),
                Stop => matches!(state, Absent | Exited),
            };
            assert_eq!(world.plan().is_empty(), as_desired, "{intent:?} {state:?}");
        }
    }
}
