//! SIGKILL at bad moments, with everything still served and put right afterwards.

use crate::parts::{Parts, parts};
use crate::{Load, SHORT, answering, get, start_agent, start_server, version_is, word_after};
use e2e::{eventually, kill};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_leaves_services_alone_and_adopts_them_when_it_is_back() {
    let Parts { machine, repository, server: _server, mut agent } = parts("").await;
    let before = word_after(&answering(&machine).await, "pid");
    let load = Load::start(&machine.gateway_url(), 4);
    agent.crash();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _agent = start_agent(&machine);
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(word_after(&answering(&machine).await, "pid"), before, "the process was adopted, not started anew");
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v2").await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_again_and_again_during_deployments_converges_without_a_second_copy() {
    let Parts { machine, repository, server: _server, mut agent } = parts("").await;
    let load = Load::start(&machine.gateway_url(), 4);
    for round in 2..8u64 {
        repository.write_app(&format!("v{round}"), "[services.web.rollout]\nwarm = \"0s\"\nbake = \"0s\"\n").unwrap();
        repository.commit("next").unwrap();
        machine.run_in(&repository.path, &["deploy", "--no-wait"]).ok();
        // A different moment each time, from "just told" to "just switched".
        tokio::time::sleep(Duration::from_millis(round * 60)).await;
        agent.crash();
        agent = start_agent(&machine);
        version_is(&machine, &format!("v{round}")).await;
        eventually("one process is left", SHORT, || async {
            (machine.pids_of(&["e2e-app v"]).len() == 1).then_some(())
        })
        .await;
    }
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_control_plane_gone_an_agent_restarts_and_keeps_everything_running_from_its_ledger() {
    let Parts { machine, repository: _repository, mut server, mut agent } = parts("").await;
    server.crash();
    agent.crash();
    let before = word_after(&answering(&machine).await, "pid");
    let _agent = start_agent(&machine);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(word_after(&answering(&machine).await, "pid"), before);
    // The service dies with nobody there but the machine itself.
    let shims = machine.pids_of(&["shim"]);
    assert_eq!(shims.len(), 1, "{:#?}", machine.processes());
    kill(shims[0]);
    let url = machine.gateway_url();
    eventually("another process answers", SHORT, || async {
        get(&url).await.map(|body| word_after(&body, "pid")).filter(|pid| pid != &before)
    })
    .await;
    assert_eq!(machine.pids_of(&["e2e-app v1"]).len(), 1, "{:#?}", machine.processes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_control_plane_goes_on_with_the_deployment_when_it_is_back() {
    let Parts { machine, repository, mut server, agent: _agent } = parts("").await;
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy", "--no-wait"]).ok();
    server.crash();
    assert!(answering(&machine).await.starts_with("version v"));
    let _server = start_server(&machine, &[]);
    version_is(&machine, "v2").await;
    eventually("the deployment ends as running", SHORT, || async {
        let answer = machine.run(&["--json", "status", "web"]);
        (answer.code == 0 && answer.json()["deployment"]["stage"] == "running").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_is_back_by_itself() {
    let Parts { machine, repository: _repository, server: _server, agent: _agent } = parts("").await;
    let gateways = machine.pids_of(&["gateway --directory"]);
    assert_eq!(gateways.len(), 1, "{:#?}", machine.processes());
    kill(gateways[0]);
    assert!(answering(&machine).await.starts_with("version v1 "));
    assert_ne!(machine.pids_of(&["gateway --directory"]), gateways);
}
