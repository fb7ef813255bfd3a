use super::*;
use api::gateway::{DnsObserved, GatewayObserved};
use api::observed::{AgentObserved, ExitStatus, ProbeResult, StackObserved};

fn id(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

fn instance(state: InstanceState) -> InstanceObserved {
    serde_json::from_value(serde_json::json!({
        "instance_id": InstanceId::from_uuid(id(1)),
        "service_id": ServiceId::from_uuid(id(2)),
        "revision_id": RevisionId::from_uuid(id(3)),
        "state": state,
        "port": 20001,
    }))
    .unwrap()
}

fn preparation(state: PreparationState, step: PreparationStep) -> PreparationObserved {
    PreparationObserved {
        service_id: ServiceId::from_uuid(id(2)),
        revision_id: RevisionId::from_uuid(id(3)),
        deployment_id: DeploymentId::from_uuid(id(4)),
        state,
        step,
        started_at_ms: Some(1_500),
        ended_at_ms: (state != PreparationState::Working).then_some(3_000),
        error: (state == PreparationState::Failed).then(|| "exit code 2".to_owned()),
        retryable: false,
        attempts: 1,
        log_tail: vec![],
    }
}

fn seen(at_ms: i64, instances: Vec<InstanceObserved>, preparations: Vec<PreparationObserved>) -> ObservedState {
    ObservedState {
        server_id: "srv_00000000000000000000000000000001".parse().unwrap(),
        generation: 1,
        observed_at_ms: at_ms,
        fleet_generation: 0,
        agent: AgentObserved::default(),
        stacks: vec![],
        instances,
        preparations,
        gateway: GatewayObserved::default(),
        dns: DnsObserved::default(),
        mesh: Default::default(),
        blocked: vec![],
        resources: Default::default(),
    }
}

fn events(before: Option<&ObservedState>, after: &ObservedState) -> Vec<Event> {
    let mut n = 0;
    let mut told = Told::default();
    if let Some(before) = before {
        told.begin(before);
    }
    transitions(before, after, &[], &mut told, &mut || {
        n += 1;
        EventId::from_uuid(id(n))
    })
}

#[track_caller]
fn check(before: &ObservedState, after: &ObservedState, expected: &[(EventKind, &str)]) {
    let events: Vec<Event> =
        events(Some(before), after).into_iter().filter(|e| e.kind != EventKind::ConfigApplied).collect();
    let seen: Vec<(EventKind, &str)> = events.iter().map(|e| (e.kind, e.message.as_str())).collect();
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
    for ((kind, text), (wanted, part)) in seen.iter().zip(expected) {
        assert!(kind == wanted && text.contains(part), "{seen:#?} instead of {expected:#?}");
    }
}

#[test]
fn nothing_new_is_no_event() {
    let state = seen(
        1_000,
        vec![instance(InstanceState::Healthy)],
        vec![preparation(PreparationState::Ready, PreparationStep::Build)],
    );
    check(&state, &ObservedState { observed_at_ms: 9_000, ..state.clone() }, &[]);
}

#[test]
fn after_a_restart_of_the_agent_what_runs_is_adopted_and_nothing_else_is_claimed() {
    let state = seen(
        5_000,
        vec![instance(InstanceState::Running)],
        vec![preparation(PreparationState::Ready, PreparationStep::Build)],
    );
    let kinds: Vec<_> = events(None, &state).into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [EventKind::InstanceAdopted]);
}

#[test]
fn a_deployment_tells_of_build_start_and_health_in_order() {
    let empty = seen(1_000, vec![], vec![]);
    let working = seen(2_000, vec![], vec![preparation(PreparationState::Working, PreparationStep::Build)]);
    check(&empty, &working, &[(EventKind::BuildStarted, "began")]);
    let built = seen(2_500, vec![], vec![preparation(PreparationState::Ready, PreparationStep::Build)]);
    check(&working, &built, &[(EventKind::BuildSucceeded, "in 1.5 s")]);
    let running = seen(4_000, vec![instance(InstanceState::Running)], built.preparations.clone());
    check(&built, &running, &[(EventKind::InstanceStarted, "on port 20001")]);
    let healthy = seen(5_000, vec![instance(InstanceState::Healthy)], built.preparations.clone());
    check(&running, &healthy, &[(EventKind::HealthChanged, "is healthy")]);
}

#[test]
fn a_build_that_follows_a_fetch_that_was_seen_is_told_too() {
    let fetching = seen(1_000, vec![], vec![preparation(PreparationState::Working, PreparationStep::Sync)]);
    let building = seen(2_000, vec![], vec![preparation(PreparationState::Working, PreparationStep::Build)]);
    check(&fetching, &building, &[(EventKind::BuildStarted, "began")]);
}

#[test]
fn a_build_too_fast_to_be_seen_working_is_still_told_whole() {
    let empty = seen(1_000, vec![], vec![]);
    let built = seen(3_500, vec![], vec![preparation(PreparationState::Ready, PreparationStep::Build)]);
    check(&empty, &built, &[(EventKind::BuildStarted, "began"), (EventKind::BuildSucceeded, "was built")]);
    let reused = seen(9_500, vec![], built.preparations.clone());
    check(&ObservedState { observed_at_ms: 9_000, ..empty }, &reused, &[]);
}

#[test]
fn a_failed_fetch_and_a_failed_build_are_told_apart_with_their_cause() {
    let empty = seen(1_000, vec![], vec![]);
    let failed = seen(3_500, vec![], vec![preparation(PreparationState::Failed, PreparationStep::Build)]);
    check(&empty, &failed, &[(EventKind::BuildStarted, "began"), (EventKind::BuildFailed, "exit code 2")]);
    assert_eq!(events(Some(&empty), &failed)[1].cause.action, "exit code 2");
    let unreachable = seen(3_500, vec![], vec![preparation(PreparationState::Failed, PreparationStep::Sync)]);
    check(&empty, &unreachable, &[(EventKind::SyncFailed, "could not be fetched")]);
}

#[test]
fn a_crash_that_was_restarted_names_how_it_ended_and_a_loop_is_said_once() {
    let before = seen(1_000, vec![instance(InstanceState::Healthy)], vec![]);
    let exit = ExitStatus { code: Some(3), signal: None, out_of_memory: false, at_ms: 1_500 };
    let crashed = InstanceObserved { restarts: 1, last_exit: Some(exit), ..instance(InstanceState::Running) };
    let after = seen(2_000, vec![crashed.clone()], vec![]);
    check(&before, &after, &[(EventKind::InstanceExited, "exited with code 3 and is started again")]);
    assert_eq!(events(Some(&before), &after)[0].cause.action, "process exited with code 3");
    let looping = InstanceObserved { restarts: 5, crash_looping: true, ..crashed };
    let looped = seen(3_000, vec![looping], vec![]);
    check(&after, &looped, &[(EventKind::InstanceExited, "(4 times)"), (EventKind::InstanceCrashLooping, "5 times")]);
    check(&looped, &ObservedState { observed_at_ms: 4_000, ..looped.clone() }, &[]);
}

#[test]
fn an_instance_that_was_asked_to_stop_stopped_and_did_not_crash() {
    let stopping = InstanceObserved { stopping: true, ..instance(InstanceState::Transient) };
    let before = seen(1_000, vec![stopping], vec![]);
    let exited = seen(2_000, vec![instance(InstanceState::Exited)], vec![]);
    check(&before, &exited, &[(EventKind::InstanceStopped, "stopped")]);
    check(&before, &seen(2_000, vec![], vec![]), &[(EventKind::InstanceStopped, "stopped")]);
    check(&exited, &seen(3_000, vec![], vec![]), &[]);
}

#[test]
fn a_process_that_ends_at_once_when_it_is_asked_to_stopped_and_was_not_killed() {
    let before = seen(1_000, vec![instance(InstanceState::Healthy)], vec![]);
    let exit = ExitStatus { code: None, signal: Some(15), out_of_memory: false, at_ms: 1_500 };
    let ended = InstanceObserved { last_exit: Some(exit), ..instance(InstanceState::Exited) };
    let put_down = seen(2_000, vec![ended.clone()], vec![]);
    check(&before, &put_down, &[(EventKind::InstanceStopped, "stopped")]);
    assert_eq!(events(Some(&before), &put_down)[0].level, EventLevel::Info);
    // Nobody asked for this one.
    let killed = InstanceObserved { problem: Some("its supervisor was killed".into()), ..ended };
    let killed = seen(2_000, vec![killed], vec![]);
    check(&before, &killed, &[(EventKind::InstanceExited, "was killed by signal 15")]);
    assert_eq!(events(Some(&before), &killed)[0].level, EventLevel::Error);
}

#[test]
fn health_lost_carries_the_last_probe() {
    let probe = ProbeResult { ok: false, at_ms: 0, duration_ms: 1, message: "GET /health answered 500".into() };
    let unhealthy = InstanceObserved { last_probe: Some(probe), ..instance(InstanceState::Unhealthy) };
    let before = seen(1_000, vec![instance(InstanceState::Healthy)], vec![]);
    check(
        &before,
        &seen(2_000, vec![unhealthy], vec![]),
        &[(EventKind::HealthChanged, "unhealthy: GET /health answered 500")],
    );
}

#[test]
fn gateway_routes_and_stack_conditions_are_told_when_they_change() {
    let stack = |condition, problems: &[&str]| StackObserved {
        stack_id: StackId::from_uuid(id(9)),
        version: 1,
        hash: "h".into(),
        condition,
        problems: problems.iter().map(|p| (*p).to_owned()).collect(),
    };
    let mut before = seen(1_000, vec![], vec![]);
    before.stacks = vec![stack(StackCondition::Applying, &[])];
    let mut after = seen(2_000, vec![], vec![]);
    after.gateway =
        GatewayObserved { running: true, pid: Some(7), version: Some("0.1.0".into()), ..Default::default() };
    after.stacks = vec![stack(StackCondition::Degraded, &["web crashed"])];
    check(&before, &after, &[(EventKind::GatewayStarted, "0.1.0"), (EventKind::StackDegraded, "web crashed")]);
    let mut routed = after.clone();
    routed.gateway.digest = Some("d".into());
    routed.gateway.active = vec![InstanceId::from_uuid(id(1))];
    routed.stacks = vec![stack(StackCondition::Applied, &[])];
    check(&after, &routed, &[(EventKind::RoutesChanged, "1 instance gets"), (EventKind::StackApplied, "version 1")]);
    let mut gone = routed.clone();
    gone.gateway = GatewayObserved::default();
    check(&routed, &gone, &[(EventKind::GatewayStopped, "does not run")]);
}

/// A machine that settles is between two conditions each time; only the first time is news.
#[test]
fn a_version_is_said_to_be_applied_once_and_again_only_after_trouble() {
    use StackCondition::{Applied, Applying, Degraded};
    let mut told = Told::default();
    let mut last: Option<ObservedState> = None;
    let mut look = |version, condition| -> Vec<String> {
        let mut now = seen(1_000, vec![], vec![]);
        let problems = if condition == Degraded { vec!["web crashed".to_owned()] } else { Vec::new() };
        now.stacks =
            vec![StackObserved { stack_id: StackId::from_uuid(id(9)), version, hash: "h".into(), condition, problems }];
        let events = transitions(last.as_ref(), &now, &[], &mut told, &mut || EventId::from_uuid(id(1)));
        last = Some(now);
        events
            .into_iter()
            .map(|event| event.message.split_once(' ').map_or_else(String::new, |m| m.1.to_owned()))
            .collect()
    };
    let nothing: [&str; 0] = [];
    assert_eq!(look(1, Applied), nothing, "what was so before this agent began is no news");
    assert_eq!((look(1, Applying), look(1, Applied)), (vec![], vec![]));
    assert_eq!((look(2, Applying), look(2, Applied)), (vec![], vec!["version 2 is applied".to_owned()]));
    assert_eq!((look(2, Applying), look(2, Applied)), (vec![], vec![]));
    assert_eq!(look(2, Degraded), ["is degraded: web crashed"]);
    assert_eq!((look(2, Applying), look(2, Applied)), (vec![], vec!["version 2 is applied again".to_owned()]));
    assert_eq!((look(2, Applying), look(2, Applied)), (vec![], vec![]));
}

#[test]
fn a_refused_document_is_an_error_event_said_once() {
    let before = seen(1_000, vec![], vec![]);
    let mut after = seen(2_000, vec![], vec![]);
    after.agent.refused = Some("not signed".into());
    check(&before, &after, &[(EventKind::ConfigRefused, "not signed")]);
    check(&after, &ObservedState { observed_at_ms: 3_000, ..after.clone() }, &[]);
}
