//! What a build may do, and what happens to it.

use crate::machine::{Machine, ProcessHost, Service, eventually, is_running, marked, pid_in};
use agent::drivers::Workloads;
use api::ids::RevisionId;
use api::logs::{LogSource, LogStream};
use api::observed::PreparationState;
use api::secret::Secret;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

async fn prepare(host: &ProcessHost, service: &Service) -> Result<(), agent::drivers::PrepareError> {
    host.driver().prepare(service.prepare_request(), CancellationToken::new()).await
}

async fn build_log(host: &ProcessHost, service: &Service) -> String {
    let source = LogSource::Build { deployment_id: service.revision.deployment_id.clone() };
    host.driver().log_tail(&source, 200).await.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_runs_in_its_source_with_its_own_environment_and_nothing_of_the_agents() {
    let host = ProcessHost::new();
    let mut revision = host.head(Some("env > environment; pwd > place; cat index.html"), "true");
    revision.env.insert("OWN".into(), Secret::new("mine"));
    let service = Service::of(revision);
    let mut request = service.prepare_request();
    request.env.insert("OWN".into(), Secret::new("overlaid"));
    request.env.insert("SERVICE_API_URL".into(), Secret::new("http://api"));
    host.driver().prepare(request, CancellationToken::new()).await.unwrap();
    let source = host.build_directory(&service.revision).join("source");
    let environment = std::fs::read_to_string(source.join("environment")).unwrap();
    for line in ["OWN=mine", "SERVICE_API_URL=http://api", "CI=true", "MAINSTAY_SERVICE=web"] {
        assert!(environment.lines().any(|l| l == line), "{line} is missing in {environment}");
    }
    assert!(environment.contains(&format!("MAINSTAY_COMMIT={}", service.revision.source.git().unwrap().commit)));
    assert!(!environment.contains("CARGO_MANIFEST_DIR"), "what this test runs with leaks in: {environment}");
    assert_eq!(
        std::fs::read_to_string(source.join("place")).unwrap().trim(),
        source.canonicalize().unwrap().to_str().unwrap()
    );
    let log = build_log(&host, &service).await;
    assert!(log.contains("hello") && log.contains("building: env") && log.contains("built in"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_build_log_is_there_while_the_build_runs() {
    let host = ProcessHost::new();
    let service =
        Service::of(host.head(Some("echo early; echo oops >&2; while [ ! -e go ]; do sleep 0.02; done"), "true"));
    let driver = host.driver();
    let source = LogSource::Build { deployment_id: service.revision.deployment_id.clone() };
    let (result, ()) = tokio::join!(driver.prepare(service.prepare_request(), CancellationToken::new()), async {
        eventually("its lines are there", async || {
            let batch = driver.read_log(&source, 0, 100_000).await.unwrap();
            batch.is_some_and(|batch| {
                let has = |stream, text: &str| batch.lines.iter().any(|l| l.stream == stream && l.text == text);
                has(LogStream::Stdout, "early") && has(LogStream::Stderr, "oops")
            })
        })
        .await;
        assert_eq!(driver.preparations().await[0].state, PreparationState::Working);
        std::fs::write(host.build_directory(&service.revision).join("source/go"), "").unwrap();
    });
    result.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_times_out_is_killed_with_its_grandchildren() {
    let host = ProcessHost::new();
    let escaped = host.place.path().join("escaped");
    // One in the background, one that left the session too.
    let command =
        format!("sleep 600 & setsid sh -c 'echo $$ > {}; exec sleep 600' & echo waiting; wait", escaped.display());
    let mut revision = host.head(Some(&command), "true");
    revision.build.as_mut().unwrap().timeout_ms = 1_500;
    let service = Service::of(revision);
    let error = prepare(&host, &service).await.unwrap_err();
    assert!(error.message.starts_with("build timed out after 1.5 s"), "{error:?}");
    assert!(error.log_tail.iter().any(|line| line == "waiting"), "{error:?}");
    let pid = pid_in(&escaped).await;
    assert!(!is_running(pid), "the process that left the session lives");
    assert_eq!(marked("MAINSTAY_BUILD", &service.revision.build_key), Vec::<u32>::new());
    assert!(!host.build_directory(&service.revision).exists(), "a half-done build is thrown away");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_build_leaves_in_the_background_is_ended_with_it() {
    let host = ProcessHost::new();
    let service = Service::of(host.head(Some("sleep 600 & echo done"), "true"));
    let begun = std::time::Instant::now();
    prepare(&host, &service).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "it did not wait for the pipes: {:?}", begun.elapsed());
    assert_eq!(marked("MAINSTAY_BUILD", &service.revision.build_key), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_build_shows_its_exit_code_and_last_lines() {
    let host = ProcessHost::new();
    let service = Service::of(
        host.head(Some("for i in 1 2 3; do echo step $i; done; echo 'cannot find module x' >&2; exit 7"), "true"),
    );
    let error = prepare(&host, &service).await.unwrap_err();
    assert!(error.message.contains("exited with code 7"), "{error:?}");
    assert!(
        error.log_tail.ends_with(&["cannot find module x".into()])
            || error.log_tail.iter().any(|l| l == "cannot find module x")
    );
    assert!(error.log_tail.iter().any(|line| line == "step 3"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_folders_are_kept_between_builds_also_when_one_fails() {
    let host = ProcessHost::new();
    let build = |command: &str| {
        let mut revision = host.head(Some(command), "true");
        revision.build.as_mut().unwrap().cache = vec!["deps".into(), "web/node_modules".into()];
        revision
    };
    let mut service =
        Service::of(build("mkdir -p deps web/node_modules; echo 1 > deps/a; echo 2 > web/node_modules/b"));
    prepare(&host, &service).await.unwrap();
    let first = host.build_directory(&service.revision).join("source");

    service.revision = build("cat deps/a web/node_modules/b; echo broken > deps/a; exit 1");
    let error = prepare(&host, &service).await.unwrap_err();
    assert!(error.log_tail.iter().any(|line| line == "2"), "the second build finds both: {error:?}");
    assert_eq!(std::fs::read_to_string(first.join("deps/a")).unwrap(), "1\n", "the first release is as it was built");

    service.revision = build("test -e web/node_modules/b");
    prepare(&host, &service).await.unwrap();

    let other = Service::of(build("test ! -e deps"));
    prepare(&host, &other).await.expect("another service has a cache of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_folder_that_leads_out_of_the_source_is_refused() {
    let host = ProcessHost::new();
    let mut revision = host.head(Some("true"), "true");
    revision.build.as_mut().unwrap().cache = vec!["../../../etc".into()];
    let error = prepare(&host, &Service::of(revision)).await.unwrap_err();
    assert!(error.message.contains("leads out of the source directory") && !error.retryable, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_done_build_of_a_killed_agent_is_thrown_away() {
    let host = ProcessHost::new();
    let service = Service::of(host.head(Some("test ! -e leftover"), "true"));
    let half = host.build_directory(&service.revision).join("source");
    drop(host.driver());
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("leftover"), "").unwrap();
    prepare(&host, &service).await.unwrap();
    assert!(!half.join("leftover").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_for_a_revision_in_work_waits_and_does_not_build_twice() {
    let host = ProcessHost::new();
    let count = host.place.path().join("count");
    let service = Service::of(host.head(Some(&format!("echo x >> {}; sleep 0.3", count.display())), "true"));
    let driver = host.driver();
    let call = || driver.prepare(service.prepare_request(), CancellationToken::new());
    let (first, second) = tokio::join!(call(), call());
    first.unwrap();
    second.unwrap();
    assert_eq!(std::fs::read_to_string(count).unwrap(), "x\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_so_many_builds_run_at_once_as_the_options_say() {
    let host = ProcessHost::new();
    let place = host.place.path().join("running");
    std::fs::create_dir(&place).unwrap();
    let most = host.place.path().join("most");
    let mut options = host.options();
    options.concurrent_builds = 1;
    let driver = agent::drivers::process::ProcessDriver::open(options).unwrap();
    let command =
        format!("touch {p}/$$; ls {p} | wc -l >> {m}; sleep 0.3; rm {p}/$$", p = place.display(), m = most.display());
    let services: Vec<Service> = (0..3).map(|_| Service::of(host.head(Some(&command), "true"))).collect();
    let calls = services.iter().map(|service| driver.prepare(service.prepare_request(), CancellationToken::new()));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    let counts = std::fs::read_to_string(most).unwrap();
    assert_eq!(counts.split_whitespace().collect::<Vec<_>>(), ["1", "1", "1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_preparation_ended_outlives_the_agent() {
    let host = ProcessHost::new();
    let service = Service::of(host.head(Some("exit 1"), "true"));
    let error = prepare(&host, &service).await.unwrap_err();
    let seen = host.driver().preparations().await;
    assert_eq!(seen[0].error.as_ref(), Some(&error.message));
    assert_eq!(seen[0].state, PreparationState::Failed);
    let ready = Service::of(host.head(None, "true"));
    prepare(&host, &ready).await.unwrap();
    std::fs::remove_dir_all(host.build_directory(&ready.revision)).unwrap();
    let ids: Vec<RevisionId> = host.driver().preparations().await.into_iter().map(|p| p.revision_id).collect();
    assert!(!ids.contains(&ready.revision.revision_id), "a build that is gone is not ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_needs_more_memory_than_its_limit_is_killed_and_told_why() {
    let host = ProcessHost::new();
    if host.driver().probe().await.cgroups == "none" {
        eprintln!("skipped: this machine enforces no limits");
        return;
    }
    let command = format!("{} eat 300", crate::machine::HELPER);
    let mut revision = host.head(Some(&command), "true");
    revision.build.as_mut().unwrap().limits.memory_bytes = Some(64 * 1024 * 1024);
    let error = prepare(&host, &Service::of(revision)).await.unwrap_err();
    assert!(error.message.contains("memory limit of 67 MB"), "{error:?}");
}
