//! What every workload driver promises, asked of each of them.

use crate::containers::ContainerHost;
use crate::machine::{FakeHost, Machine, ProcessHost, Service, Words, eventually, observed, run, until};
use agent::drivers::fake::FakeMachine;
use agent::drivers::{DriverError, Keep, Workloads};
use api::ids::InstanceId;
use api::logs::LogSource;
use api::observed::{InstanceState, PreparationState, PreparationStep};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The same promise for the fake, for real processes and for real containers. What is about builds is not for containers:
/// their images are made elsewhere.
macro_rules! promises {
    (builds: $($build:ident),* ; $($name:ident),* $(,)?) => {
        mod fake {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::FakeHost(super::FakeMachine::default())).await; })*
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $build() { super::$build(&super::FakeHost(super::FakeMachine::default())).await; })*
        }
        mod process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(&super::ProcessHost::new()).await; })*
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $build() { super::$build(&super::ProcessHost::new()).await; })*
        }
        mod container {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(host) = super::ContainerHost::new() {
                    super::$name(&host).await;
                }
            })*
        }
    };
}

promises!(
    builds: a_failing_build_is_said_with_its_reason_and_is_not_retryable,
    a_hanging_build_ends_with_its_time,
    a_cancelled_preparation_leaves_nothing;
    an_instance_goes_from_start_to_running_to_stopped_to_absent,
    every_verb_may_be_repeated,
    what_is_not_prepared_does_not_start,
    a_driver_made_anew_finds_what_runs,
    a_process_that_ends_is_started_again_later_and_later_and_said_to_crash_loop,
    an_instance_whose_supervisor_was_killed_is_exited_and_can_be_started_on_its_port,
    instances_are_reached_at_different_places,
    a_running_instance_is_not_removed,
    a_stubborn_instance_is_stopping_until_its_grace_is_over,
    a_preparation_succeeds_and_is_remembered,
    logs_resume_by_offset_while_old_lines_go,
    garbage_is_what_neither_desired_state_nor_instances_need,
    changes_are_told,
);

const GRACE: Duration = Duration::from_secs(2);

async fn an_instance_goes_from_start_to_running_to_stopped_to_absent<M: Machine>(machine: &M) {
    let driver = machine.driver();
    assert_eq!(driver.list().await.unwrap(), []);
    let (request, started) = run(&driver, machine.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let seen = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    assert_eq!((seen.port, seen.restarts, seen.crash_looping), (started.port, 0, false));
    assert_eq!((&seen.service_id, &seen.revision_id), (&request.service_id, &request.revision.revision_id));
    assert!(seen.pid.is_some() && seen.started_at_ms.is_some() && seen.port.is_some());
    driver.stop(&id, GRACE).await.unwrap();
    let seen = until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    assert!(seen.last_exit.is_some() && seen.was_put_down(), "{seen:?}");
    driver.remove(&id).await.unwrap();
    assert_eq!(observed(&driver, &id).await, None);
}

async fn every_verb_may_be_repeated<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (request, started) = run(&driver, machine.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let before = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    let again = driver.start(request.clone()).await.unwrap();
    assert_eq!((again.already_running, again.port), (true, started.port));
    assert_eq!(observed(&driver, &id).await.unwrap().pid, before.pid, "starting what runs changes nothing");
    driver.stop(&id, GRACE).await.unwrap();
    driver.stop(&id, GRACE).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    driver.stop(&id, GRACE).await.unwrap();
    driver.remove(&id).await.unwrap();
    driver.remove(&id).await.unwrap();
    driver.stop(&id, GRACE).await.unwrap();
}

async fn what_is_not_prepared_does_not_start<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let service = Service::of(machine.revision(Words::Serve));
    let error = driver.start(service.start_request()).await.unwrap_err();
    assert!(matches!(error, DriverError::NotPrepared(_)), "{error}");
    assert_eq!(driver.list().await.unwrap(), []);
}

async fn a_driver_made_anew_finds_what_runs<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (request, started) = run(&driver, machine.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let before = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    drop(driver);
    let driver = machine.driver();
    let seen = observed(&driver, &id).await.expect("it is adopted");
    assert_eq!((seen.state, seen.pid, seen.port), (InstanceState::Running, before.pid, started.port));
    assert!(driver.start(request).await.unwrap().already_running, "adopted, not doubled");
    assert!(driver.preparations().await.iter().all(|p| p.state == PreparationState::Ready));
    driver.stop(&id, GRACE).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
}

async fn a_process_that_ends_is_started_again_later_and_later_and_said_to_crash_loop<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (request, _) = run(&driver, machine.revision(Words::Exit)).await;
    let id = request.instance.instance_id.clone();
    let seen = until(&driver, &id, "waiting", |i| i.state == InstanceState::Transient && i.last_exit.is_some()).await;
    assert_eq!(seen.last_exit.as_ref().and_then(|exit| exit.code), Some(1));
    assert!(seen.problem.as_deref().is_some_and(|p| p.contains("exited with code 1")), "{seen:?}");
    assert!(!seen.stopping);
    let seen = until(&driver, &id, "crash-looping", |i| i.crash_looping).await;
    assert!(seen.restarts >= 2, "{seen:?}");
    let restarts = seen.restarts;
    until(&driver, &id, "retried all the same", |i| i.restarts > restarts).await;
    driver.stop(&id, GRACE).await.unwrap();
    let seen = until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    assert!(!seen.crash_looping);
}

async fn an_instance_whose_supervisor_was_killed_is_exited_and_can_be_started_on_its_port<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (request, started) = run(&driver, machine.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let before = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    machine.kill_supervisor(&id).await;
    let seen = until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    assert!(seen.problem.as_deref().is_some_and(|p| p.contains(M::LOST)), "{seen:?}");
    let again = driver.start(request).await.unwrap();
    assert_eq!((again.port, again.already_running), (started.port, false));
    let seen = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    assert!(seen.pid != before.pid && seen.restarts == 1, "{seen:?}");
}

async fn instances_are_reached_at_different_places<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let service = Service::of(machine.revision(Words::Serve));
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    let requests: Vec<_> = (0..4).map(|_| service.start_request()).collect();
    let starts = requests.iter().map(|request| driver.start(request.clone()));
    let started = futures_util::future::join_all(starts).await;
    assert!(started.into_iter().all(|started| started.unwrap().port.is_some()));
    let all = driver.list().await.unwrap();
    let places: BTreeSet<_> = all.iter().map(|instance| instance.socket().unwrap()).collect();
    assert_eq!(places.len(), 4, "{places:?}");
}

async fn a_running_instance_is_not_removed<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (request, _) = run(&driver, machine.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let error = driver.remove(&id).await.unwrap_err();
    assert!(matches!(error, DriverError::StillRunning(_)) && error.retryable(), "{error}");
    assert_eq!(observed(&driver, &id).await.unwrap().state, InstanceState::Running);
}

async fn a_stubborn_instance_is_stopping_until_its_grace_is_over<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (request, _) = run(&driver, machine.revision(Words::Stubborn)).await;
    let id = request.instance.instance_id.clone();
    until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    // The shell needs a moment until it ignores the signal.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = std::time::Instant::now();
    driver.stop(&id, Duration::from_millis(600)).await.unwrap();
    let seen = observed(&driver, &id).await.unwrap();
    assert_eq!((seen.state, seen.stopping), (InstanceState::Transient, true), "{seen:?}");
    assert!(driver.start(request).await.is_err(), "it is not started while it stops");
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited && !i.stopping).await;
    assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
}

async fn a_preparation_succeeds_and_is_remembered<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let service = Service::of(machine.revision(Words::Serve));
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    let seen = driver.preparations().await;
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].state, seen[0].attempts, &seen[0].service_id), (PreparationState::Ready, 1, &service.id));
    assert!(seen[0].ended_at_ms.is_some() && seen[0].error.is_none());
    drop(driver);
    assert_eq!(machine.driver().preparations().await[0].state, PreparationState::Ready);
    let shared = Service { id: service.id, revision: machine.revision(Words::Serve) };
    let mut request = shared.prepare_request();
    request.revision.build_key = service.revision.build_key;
    let driver = machine.driver();
    driver.prepare(request, CancellationToken::new()).await.unwrap();
    assert_eq!(driver.preparations().await.len(), 2, "a revision that shares the build is ready too");
}

async fn a_failing_build_is_said_with_its_reason_and_is_not_retryable<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let service = Service::of(machine.revision(Words::BuildFails));
    let error = driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap_err();
    assert!(error.message.contains("exited with code"), "{error:?}");
    assert_eq!((error.step, error.retryable, error.cancelled), (PreparationStep::Build, false, false));
    assert!(!error.log_tail.is_empty());
    let seen = &driver.preparations().await[0];
    assert_eq!(
        (seen.state, seen.step, seen.error.as_ref()),
        (PreparationState::Failed, PreparationStep::Build, Some(&error.message))
    );
    assert!(matches!(driver.start(service.start_request()).await, Err(DriverError::NotPrepared(_))));
    let _ = driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap_err();
    assert_eq!(driver.preparations().await[0].attempts, 2);
}

async fn a_hanging_build_ends_with_its_time<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let mut revision = machine.revision(Words::BuildHangs);
    revision.build.as_mut().unwrap().timeout_ms = 300;
    let service = Service::of(revision);
    let error = driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap_err();
    assert!(error.message.contains("timed out after") && !error.retryable, "{error:?}");
}

async fn a_cancelled_preparation_leaves_nothing<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let service = Service::of(machine.revision(Words::BuildHangs));
    let cancel = CancellationToken::new();
    let (error, ()) = tokio::join!(driver.prepare(service.prepare_request(), cancel.clone()), async {
        eventually("it builds", async || {
            let all = driver.preparations().await;
            all.iter().any(|p| p.state == PreparationState::Working && p.step == PreparationStep::Build)
        })
        .await;
        cancel.cancel();
    });
    assert!(error.unwrap_err().cancelled);
    assert_eq!(driver.preparations().await, []);
}

async fn logs_resume_by_offset_while_old_lines_go<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (request, _) = run(&driver, machine.revision(Words::Print)).await;
    let id = request.instance.instance_id.clone();
    let source = LogSource::Run { instance_id: id.clone() };
    let first = driver.read_log(&source, 0, 10_000).await.unwrap().unwrap();
    assert_eq!(first.service_id, request.service_id);
    machine.print_many(&id).await;
    eventually("everything is printed and the beginning rotated away", async || {
        let tail = driver.log_tail(&source, 1).await;
        let state = driver.logs().await.into_iter().find(|log| log.source == source).unwrap();
        state.first_offset > 0
            && tail.iter().any(|line| line.starts_with("line 1999 ") || line.starts_with("line 999 "))
    })
    .await;
    let state = driver.logs().await.into_iter().find(|log| log.source == source).unwrap();
    let oldest = driver.read_log(&source, 0, 100).await.unwrap().unwrap();
    assert_eq!(oldest.offset, state.first_offset, "an offset that is gone begins at the oldest line kept");
    let (mut offset, mut lines) = (oldest.next_offset, oldest.lines);
    loop {
        let batch = driver.read_log(&source, offset, 500).await.unwrap().unwrap();
        if batch.lines.is_empty() {
            assert_eq!(batch.next_offset, state.end_offset);
            break;
        }
        assert_eq!(batch.offset, offset);
        offset = batch.next_offset;
        lines.extend(batch.lines);
    }
    let numbers: Vec<u64> =
        lines.iter().filter_map(|l| l.text.strip_prefix("line ")?.split(' ').next()?.parse().ok()).collect();
    assert!(numbers.len() > 50, "{}", numbers.len());
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "none is missing and none is twice: {numbers:?}");
    let unknown = LogSource::Run { instance_id: InstanceId::from_uuid(uuid::Uuid::from_u128(1)) };
    assert_eq!(driver.read_log(&unknown, 0, 100).await.unwrap(), None);
}

async fn garbage_is_what_neither_desired_state_nor_instances_need<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let (running, _) = run(&driver, machine.revision(Words::Serve)).await;
    let wanted = Service::of(machine.revision(Words::Serve));
    let unwanted = Service::of(machine.revision(Words::Serve));
    for service in [&wanted, &unwanted] {
        driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    }
    let mut keep = Keep::default();
    keep.services.insert(wanted.id.clone());
    keep.revisions.insert(wanted.revision.revision_id.clone());
    keep.build_keys.insert(wanted.revision.build_key.clone());
    assert_eq!(driver.collect_garbage(&keep).await.unwrap() > 0, M::FREES);
    assert_eq!(observed(&driver, &running.instance.instance_id).await.unwrap().state, InstanceState::Running);
    assert!(driver.start(wanted.start_request()).await.is_ok());
    let error = driver.start(unwanted.start_request()).await.unwrap_err();
    assert!(matches!(error, DriverError::NotPrepared(_)), "{error}");
    let left: Vec<_> = driver.preparations().await.into_iter().map(|p| p.revision_id).collect();
    assert!(!left.contains(&unwanted.revision.revision_id), "{left:?}");
    driver.stop(&running.instance.instance_id, GRACE).await.unwrap();
}

async fn changes_are_told<M: Machine>(machine: &M) {
    let driver = machine.driver();
    let mut changes = driver.changes();
    let (request, _) = run(&driver, machine.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    changes.mark_unchanged();
    driver.stop(&id, GRACE).await.unwrap();
    while observed(&driver, &id).await.unwrap().state != InstanceState::Exited {
        tokio::time::timeout(Duration::from_secs(10), changes.changed()).await.expect("its end is told").unwrap();
    }
}
