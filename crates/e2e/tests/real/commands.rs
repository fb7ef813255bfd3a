//! The command line, as scripts use it.

use crate::{SHORT, get, machine_with_app, version_is};
use e2e::eventually;

#[tokio::test]
async fn a_plan_shows_the_difference_and_a_stale_one_is_refused() {
    let (machine, repository) = machine_with_app().await;
    let nothing = machine.run_in(&repository.path, &["plan", "--detailed-exitcode"]);
    assert_eq!(nothing.code, 0, "{}", nothing.all());

    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    let plan = machine.folder().join("plan.json");
    let plan_text = plan.to_string_lossy().into_owned();
    let some = machine.run_in(&repository.path, &["plan", "--detailed-exitcode", "--out", &plan_text]);
    assert_eq!(some.code, 2, "{}", some.all());
    some.says("run.command").says("commit");
    assert!(get(&machine.gateway_url()).await.unwrap().starts_with("version v1 "), "a plan changes nothing");

    repository.write_app("v3", "").unwrap();
    repository.commit("third").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    let stale = machine.run_in(&repository.path, &["deploy", "--plan", &plan_text]);
    assert_eq!(stale.code, 6, "{}", stale.all());
    assert!(get(&machine.gateway_url()).await.unwrap().starts_with("version v3 "));
}

#[tokio::test]
async fn an_agreed_plan_is_applied_as_it_was_shown() {
    let (machine, repository) = machine_with_app().await;
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    let plan = machine.folder().join("plan.json").to_string_lossy().into_owned();
    machine.run_in(&repository.path, &["plan", "--out", &plan]).ok();
    machine.run_in(&repository.path, &["deploy", "--plan", &plan]).ok();
    version_is(&machine, "v2").await;
}

#[tokio::test]
async fn logs_of_build_and_run_and_events_are_there_with_their_cause() {
    let (machine, repository) = machine_with_app().await;
    repository.write_app("v2", "build = \"echo building-now\"\n").unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    get(&format!("{}/log/a-line-of-the-service", machine.gateway_url())).await;
    eventually("the line is in the logs", SHORT, || async {
        machine.run(&["logs", "web"]).stdout.contains("a-line-of-the-service").then_some(())
    })
    .await;
    eventually("the build's output is in its log", SHORT, || async {
        machine.run(&["logs", "web", "--build"]).stdout.contains("building-now").then_some(())
    })
    .await;
    let events = machine.run(&["--json", "events"]).ok().json();
    let events = events.as_array().unwrap().clone();
    for kind in ["deployment_created", "build_started", "build_succeeded", "instance_started", "health_changed"] {
        assert!(events.iter().any(|event| event["kind"] == kind), "no {kind} in {events:#?}");
    }
    assert!(events.iter().all(|event| event["cause"]["action"].is_string()), "{events:#?}");
}

#[tokio::test]
async fn a_variable_that_is_set_reaches_the_service_and_is_not_shown() {
    let (machine, _repository) = machine_with_app().await;
    machine.run(&["env", "set", "web", "COLOUR=swordfish-blue"]).ok();
    let url = format!("{}/env/COLOUR", machine.gateway_url());
    let value =
        eventually("the new value is there", SHORT, || async { get(&url).await.filter(|v| !v.is_empty()) }).await;
    assert_eq!(value, "swordfish-blue");
    let listed = machine.run(&["env", "list", "web"]).ok();
    listed.says("COLOUR");
    assert!(!listed.all().contains("swordfish-blue"), "{}", listed.all());
}

#[tokio::test]
async fn every_reading_command_speaks_json() {
    let (machine, _repository) = machine_with_app().await;
    for arguments in [
        &["status"][..],
        &["status", "web"],
        &["servers"],
        &["events"],
        &["stacks", "list"],
        &["tokens", "list"],
        &["env", "list", "web"],
    ] {
        let mut with_json = vec!["--json"];
        with_json.extend(arguments);
        machine.run(&with_json).ok().json();
    }
    // A log is a stream: a document per line.
    let logs = machine.run(&["--json", "logs", "web"]).ok().stdout.clone();
    let records: Vec<serde_json::Value> = logs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!records.is_empty() && records.iter().all(|record| record["service"] == "web"), "{logs}");
}

#[tokio::test]
async fn an_unknown_service_is_answered_with_the_nearest_name_and_an_unreachable_control_plane_with_its_address() {
    let (machine, _repository) = machine_with_app().await;
    let unknown = machine.run(&["status", "wbe"]);
    assert_eq!(unknown.code, 1, "{}", unknown.all());
    unknown.says("web");
    let nowhere = format!("http://127.0.0.1:{}", e2e::free_port());
    let unreachable = machine.run(&["--server", &nowhere, "status"]);
    assert_eq!(unreachable.code, 4, "{}", unreachable.all());
    unreachable.says(&nowhere).says("mainstay up");
}
