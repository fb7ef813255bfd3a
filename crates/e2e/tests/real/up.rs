//! `mainstay up`: the README's first command, and what comes of it.

use crate::{SHORT, answering, get, machine_with, machine_with_app, word_after};
use e2e::{Machine, eventually};

#[tokio::test]
async fn up_deploys_a_repository_waits_until_it_is_healthy_and_prints_addresses_that_answer() {
    let machine = Machine::new().unwrap();
    let repository = machine.repository("shop").unwrap();
    repository.write_app("v1", "").unwrap();
    repository.commit("first").unwrap();
    let answer = machine.up(&repository.path, &[]).ok();
    answer.says(&machine.control_url()).says(&machine.gateway_url());
    // No waiting here: what `up` printed must answer at once.
    assert!(get(&machine.gateway_url()).await.unwrap().starts_with("version v1 "));
    let login = get(&format!("{}/login", machine.control_url())).await.unwrap();
    assert!(login.contains("<form"), "{login}");
}

#[tokio::test]
async fn up_builds_and_serves_the_example_of_the_readme() {
    let machine = Machine::new().unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    machine.up(&root.join("examples/hello"), &[]).ok();
    assert!(get(&machine.gateway_url()).await.unwrap().contains("Mainstay"));
}

#[tokio::test]
async fn up_serves_a_plain_folder_of_files_without_a_manifest() {
    let machine = Machine::new().unwrap();
    let repository = machine.repository("site").unwrap();
    repository.write("index.html", "<h1>plain</h1>").unwrap();
    repository.commit("first").unwrap();
    machine.up(&repository.path, &[]).ok().says("static");
    assert!(get(&machine.gateway_url()).await.unwrap().contains("<h1>plain</h1>"));
}

#[tokio::test]
async fn up_again_deploys_to_the_running_system() {
    let (machine, repository) = machine_with_app().await;
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    machine.up(&repository.path, &[]).ok();
    assert!(answering(&machine).await.starts_with("version v2 "));
}

#[tokio::test]
async fn down_stops_everything_that_up_started() {
    let (machine, _repository) = machine_with_app().await;
    assert!(!machine.processes().is_empty());
    machine.run(&["down"]).ok();
    eventually("no process is left", SHORT, || async { machine.processes().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_service_reaches_another_through_the_injected_address() {
    let extra = format!("\n[services.api]\nrun = \"exec {} api1\"\n", e2e::binary("e2e-app").display());
    let (machine, _repository) = machine_with(&[], &extra).await;
    let url = get(&format!("{}/env/SERVICE_API_URL", machine.gateway_url())).await.unwrap();
    assert!(url.starts_with("http://"), "{url:?}");
    // Tests never touch the machine's own names, so the address is asked through loopback.
    let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let (name, port) = host.split_once(':').unwrap_or((&host, "80"));
    let client = reqwest::Client::builder()
        .resolve(name, std::net::SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())))
        .build()
        .unwrap();
    let body = eventually("the other service answers", SHORT, || async {
        client.get(&url).send().await.ok()?.text().await.ok().filter(|text| text.starts_with("version"))
    })
    .await;
    assert!(body.starts_with("version api1 "), "{body}");
    assert_ne!(word_after(&body, "pid"), word_after(&answering(&machine).await, "pid"));
}

#[tokio::test]
async fn up_runs_on_postgresql_and_comes_back_on_it() {
    let Ok(server) = std::env::var("MAINSTAY_TEST_POSTGRES_URL") else {
        assert_ne!(std::env::var("MAINSTAY_REQUIRE_POSTGRES").as_deref(), Ok("1"), "a PostgreSQL is required");
        eprintln!("skipped: MAINSTAY_TEST_POSTGRES_URL names no PostgreSQL");
        return;
    };
    let database = format!("e2e_{}", std::process::id());
    let psql = |statement: &str| {
        let status =
            std::process::Command::new("psql").args([server.as_str(), "--quiet", "--command", statement]).status();
        assert!(status.unwrap().success(), "{statement}");
    };
    psql(&format!("CREATE DATABASE {database}"));
    let (address, query) = server.split_once('?').map_or((server.as_str(), ""), |(address, query)| (address, query));
    let (host, _) = address.rsplit_once('/').unwrap();
    let url = format!("{host}/{database}?{query}");
    let (machine, repository) = machine_with(&["--database", &url], "").await;
    repository.write_app("v2", "").unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    assert!(answering(&machine).await.starts_with("version v2 "));
    machine.run(&["down"]).ok();
    machine.up(&repository.path, &["--database", &url]).ok();
    assert!(answering(&machine).await.starts_with("version v2 "));
    machine.run(&["down"]).ok();
    psql(&format!("DROP DATABASE {database}"));
}
