//! One release after another, while requests keep coming.

use crate::{Load, SHORT, answering, get, machine_with, machine_with_app, version_is, word_after};
use e2e::eventually;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_and_a_rollback_under_load_lose_no_request() {
    let (machine, repository) = machine_with_app().await;
    let load = Load::start(&machine.gateway_url(), 8);
    tokio::time::sleep(Duration::from_millis(300)).await;
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v2").await;
    machine.run(&["rollback", "web"]).ok();
    version_is(&machine, "v1").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
    assert!(report.bodies.contains_key("version v1") && report.bodies.contains_key("version v2"), "{report:#?}");
    assert!(report.answered > 200, "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_goes_to_the_same_warm_process_within_a_second() {
    let (machine, repository) = machine_with_app().await;
    let before = word_after(&answering(&machine).await, "pid");
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v2").await;
    let begun = Instant::now();
    machine.run(&["rollback", "web"]).ok();
    let body = version_is(&machine, "v1").await;
    assert_eq!(word_after(&body, "pid"), before, "the warm process was used again");
    eprintln!("rollback, command to answer: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_breaks_while_it_bakes_is_rolled_back_by_itself() {
    let (machine, repository) = machine_with_app().await;
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v2").await;
    get(&format!("{}/break", machine.gateway_url())).await;
    version_is(&machine, "v1").await;
    let status = machine.status("web");
    assert_eq!(status["deployment"]["stage"], "rolled_back", "{status:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_requests_of_the_old_release_are_finished() {
    let (machine, repository) = machine_with_app().await;
    let url = format!("{}/slow/3000", machine.gateway_url());
    let slow = tokio::spawn(async move { get(&url).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    repository.write_app("v2", "[services.web.rollout]\nwarm = \"0s\"\nbake = \"0s\"\n").unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v2").await;
    let body = slow.await.unwrap().expect("the slow request is answered");
    assert!(body.starts_with("version v1 "), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_process_is_started_again() {
    let (machine, _repository) = machine_with_app().await;
    let before = word_after(&answering(&machine).await, "pid");
    let url = machine.gateway_url();
    get(&format!("{url}/exit/3")).await;
    let after = eventually("another process answers", SHORT, || async {
        get(&url).await.map(|body| word_after(&body, "pid")).filter(|pid| pid != &before)
    })
    .await;
    assert_ne!(after, before);
    eventually("the exit is an event with its code", SHORT, || async {
        let events = machine.run(&["events"]).stdout;
        events.contains("code 3").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_restarting_stopping_and_starting_do_what_they_say() {
    let (machine, _repository) = machine_with_app().await;
    machine.run(&["scale", "web=3"]).ok();
    let status = machine.status("web");
    assert_eq!(status["replicas"], 3, "{status:#}");
    assert_eq!(machine.pids_of(&["e2e-app v1"]).len(), 3, "{:#?}", machine.processes());
    let before = machine.pids_of(&["e2e-app v1"]);
    machine.run(&["restart", "web"]).ok();
    eventually("all processes are new", SHORT, || async {
        let now = machine.pids_of(&["e2e-app v1"]);
        (now.len() == 3 && now.iter().all(|pid| !before.contains(pid))).then_some(())
    })
    .await;
    machine.run(&["stop", "web"]).ok();
    assert!(machine.pids_of(&["e2e-app v1"]).is_empty(), "{:#?}", machine.processes());
    machine.run(&["start", "web"]).ok();
    version_is(&machine, "v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_on_a_fixed_port_is_replaced_with_a_gap_and_says_so() {
    let port = e2e::free_port();
    let extra = format!("port = {port}\n");
    let (machine, repository) = machine_with(&[], &extra).await;
    repository.write_app("v2", &extra).unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["plan"]).says("short gap");
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v2").await;
}
