//! Bad input: each is refused in words that name the field, the value and the mend, and what ran
//! before keeps running.

use crate::{answering, machine_with_app};
use e2e::{Answer, Machine, Repository};

/// Replaces the manifest, deploys, and expects a refusal while version 1 keeps answering.
async fn refused(machine: &Machine, repository: &Repository, manifest: &str) -> Answer {
    repository.write("mainstay.toml", manifest).unwrap();
    repository.commit("bad").unwrap();
    let answer = machine.run_in(&repository.path, &["deploy"]);
    assert_ne!(answer.code, 0, "{}", answer.all());
    assert!(answering(machine).await.starts_with("version v1 "), "what ran before keeps running");
    answer
}

fn app(command: &str, extra: &str) -> String {
    let app = e2e::binary("e2e-app");
    format!(
        "name = \"shop\"\n[services.web]\nrun = \"{}\"\nroute = \"/\"\nhealth = \"/healthz\"\n{extra}\n",
        command.replace("APP", &app.to_string_lossy())
    )
}

#[tokio::test]
async fn manifests_that_cannot_be_read_are_refused_with_line_column_and_a_suggestion() {
    let (machine, repository) = machine_with_app().await;
    let unknown = refused(&machine, &repository, &app("APP v2", "replcias = 2")).await;
    unknown.says("replcias").says("replicas").says("mainstay.toml:6");
    refused(&machine, &repository, "name = \"shop\"\n[services.web\n").await.says("mainstay.toml:2");
    let twice = format!("{}[services.web]\nrun = \"x\"\n", app("APP v2", ""));
    refused(&machine, &repository, &twice).await.says("is written twice");
    let name = app("APP v2", "").replace("services.web", "services.My_Web");
    refused(&machine, &repository, &name).await.says("My_Web").says("my-web");
    let route = format!("{}[services.other]\nrun = \"x\"\nroute = \"/\"\n", app("APP v2", ""));
    refused(&machine, &repository, &route).await.says("other").says("web").says("route");
}

#[tokio::test]
async fn git_urls_and_references_that_git_could_misread_are_refused() {
    let (machine, repository) = machine_with_app().await;
    for (field, value) in [
        ("git", "--upload-pack=touch /tmp/owned"),
        ("git", "ext::sh -c touch% /tmp/owned"),
        ("git", "https://example.com/a\\nb"),
        ("branch", "--upload-pack=x"),
        ("branch", "a\\nb"),
    ] {
        let answer = refused(&machine, &repository, &app("APP v2", &format!("{field} = \"{value}\""))).await;
        answer.says(field);
    }
}

#[tokio::test]
async fn a_missing_branch_and_an_unreachable_repository_are_told_apart() {
    let (machine, repository) = machine_with_app().await;
    let url = format!("file://{}", repository.path.display());
    let branch = app("APP v2", &format!("git = \"{url}\"\nbranch = \"no-such-branch\""));
    refused(&machine, &repository, &branch).await.says("no-such-branch");
    let gone = app("APP v2", "git = \"file:///nowhere/at/all\"");
    refused(&machine, &repository, &gone).await.says("/nowhere/at/all");
    let port = e2e::free_port();
    let closed = app("APP v2", &format!("git = \"git://127.0.0.1:{port}/a.git\""));
    refused(&machine, &repository, &closed).await.says("127.0.0.1");
}

#[tokio::test]
async fn a_build_that_fails_or_hangs_fails_the_deployment_with_its_last_lines() {
    let (machine, repository) = machine_with_app().await;
    let failing = app("exec APP v2", "build = \"echo the-reason >&2; exit 7\"");
    let answer = refused(&machine, &repository, &failing).await;
    answer.says("7").says("the-reason");
    assert_eq!(answer.code, 3, "{}", answer.all());
    let hanging = app("exec APP v2", "build = { command = \"sleep 600\", timeout = \"1s\" }");
    refused(&machine, &repository, &hanging).await.says("timed out");
    assert!(machine.pids_of(&["sleep 600"]).is_empty(), "{:#?}", machine.processes());
}

#[tokio::test]
async fn a_command_that_exits_at_once_fails_the_deployment_with_its_code_and_log() {
    let (machine, repository) = machine_with_app().await;
    let answer = refused(&machine, &repository, &app("echo last-words; exit 5", "")).await;
    answer.says("code 5").says("last-words");
}

#[tokio::test]
async fn a_service_that_listens_elsewhere_is_told_where() {
    let (machine, repository) = machine_with_app().await;
    let port = e2e::free_port();
    let extra = format!("env = {{ LISTEN_ON = \"{port}\" }}\nrollout = {{ healthy_within = \"3s\" }}");
    let answer = refused(&machine, &repository, &app("exec APP v2", &extra)).await;
    answer.says("nothing listens on").says(&format!("listens on {port}"));
}

#[tokio::test]
async fn a_health_path_that_never_answers_fails_the_deployment_with_the_last_probe() {
    let (machine, repository) = machine_with_app().await;
    let manifest = app("exec APP v2", "rollout = { healthy_within = \"3s\" }")
        .replace("health = \"/healthz\"", "health = { http = \"/slow/60000\", timeout = \"500ms\" }");
    refused(&machine, &repository, &manifest).await.says("/slow/60000");
}

#[tokio::test]
async fn a_fixed_port_in_use_is_named_with_its_owner() {
    let (machine, repository) = machine_with_app().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let extra = format!("port = {port}\nrollout = {{ healthy_within = \"5s\" }}");
    let answer = refused(&machine, &repository, &app("exec APP v2", &extra)).await;
    answer.says(&port.to_string()).says("in use");
}
