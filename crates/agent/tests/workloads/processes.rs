//! Real processes under a real supervisor: what they may do, and that nothing of them stays.

use crate::machine::{
    HELPER, Machine, ProcessHost, Service, Words, eventually, get, is_running, marked, observed, pid_in, run, signal,
    until,
};
use agent::drivers::{DriverError, Workloads};
use api::logs::LogSource;
use api::observed::InstanceState;
use api::services::{PortSpec, RunSpec};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const GRACE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_service_gets_its_port_and_its_surroundings_and_answers() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let (request, started) = run(&driver, host.head(None, &format!("env; {HELPER} serve"))).await;
    let port = started.port.unwrap();
    assert!((20_000..30_000).contains(&port));
    let commit = request.revision.source.git().unwrap().commit.to_string();
    eventually("it answers", async || get(port, "/").await == Some(commit.clone())).await;
    let source = LogSource::Run { instance_id: request.instance.instance_id.clone() };
    let log = driver.log_tail(&source, 100).await;
    let mut wanted = vec![format!("PORT={port}"), "HOST=127.0.0.1".into(), "MAINSTAY_SERVICE=web".into()];
    wanted.push(format!("MAINSTAY_INSTANCE={}", request.instance.instance_id));
    wanted.push(format!("MAINSTAY_COMMIT={commit}"));
    for line in wanted {
        assert!(log.contains(&line), "{line} is missing: {log:?}");
    }
    assert!(!log.iter().any(|line| line.starts_with("CARGO_MANIFEST_DIR")), "the agent's environment leaks: {log:?}");
    let folder = host.instance_directory(&request.instance.instance_id);
    for (name, mode) in [("control.sock", 0o600), ("spec.json", 0o600), ("status.json", 0o600), ("", 0o700)] {
        let found = std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_site_is_served_from_its_folder() {
    let host = ProcessHost::new();
    host.repository.write("public/page.html", "a page");
    host.repository.commit("page");
    let driver = host.driver();
    let mut revision = host.head(None, "");
    revision.run = RunSpec::Static { directory: "public".into() };
    let (_, started) = run(&driver, revision).await;
    eventually("the page is served", async || {
        get(started.port.unwrap(), "/page.html").await.as_deref() == Some("a page")
    })
    .await;
    let mut revision = host.head(None, "");
    revision.run = RunSpec::Static { directory: "missing".into() };
    let service = Service::of(revision);
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    let error = driver.start(service.start_request()).await.unwrap_err();
    assert!(error.to_string().contains("`missing` does not exist"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_the_whole_process_group_and_those_that_left_it() {
    everything_ends(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_everything_also_without_control_groups() {
    everything_ends(false).await;
}

async fn everything_ends(control_groups: bool) {
    let host = ProcessHost::new();
    let mut options = host.options();
    options.control_groups = control_groups;
    let driver = agent::drivers::process::ProcessDriver::open(options).unwrap();
    let daemon = host.place.path().join("daemon");
    let child = host.place.path().join("child");
    // A child, and a daemon that forked twice into a session of its own and forgot its environment.
    let command = format!(
        "sh -c 'echo $$ > {child}; exec sleep 600' & \
         (setsid sh -c 'env -i sh -c \"echo \\$\\$ > {daemon}; trap : TERM; while true; do sleep 0.05; done\" &'); \
         {HELPER} serve",
        child = child.display(),
        daemon = daemon.display()
    );
    let (request, _) = run(&driver, host.head(None, &command)).await;
    let id = request.instance.instance_id.clone();
    let (child, daemon) = (pid_in(&child).await, pid_in(&daemon).await);
    assert!(is_running(child) && is_running(daemon));
    driver.stop(&id, Duration::from_millis(300)).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    assert!(!is_running(child), "the child lives");
    assert!(!is_running(daemon), "the daemon lives");
    assert_eq!(marked("MAINSTAY_INSTANCE", id.as_str()), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_that_dies_at_once_does_not_cut_short_the_server_under_it() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let ready = host.place.path().join("ready");
    let done = host.place.path().join("done");
    // The inner shell finishes its work after the signal and prints; the outer one is gone by then.
    let inner = format!(
        "trap 'sleep 0.4; echo finished; touch {}; exit 0' TERM; echo $$ > {}; while true; do sleep 0.02; done",
        done.display(),
        ready.display()
    );
    std::fs::write(host.place.path().join("inner.sh"), inner).unwrap();
    let (request, _) =
        run(&driver, host.head(None, &format!("sh {}/inner.sh; true", host.place.path().display()))).await;
    let id = request.instance.instance_id.clone();
    pid_in(&ready).await;
    driver.stop(&id, Duration::from_secs(5)).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    assert!(done.exists(), "it was killed before it finished");
    let log = driver.log_tail(&LogSource::Run { instance_id: id }, 20).await;
    assert!(log.contains(&"finished".to_owned()), "its last words are lost: {log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_leaves_no_second_copy_behind() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let server = host.place.path().join("server");
    // The real server is a grandchild of the supervisor, which the kernel does not kill with it.
    let command = format!("sh -c 'echo $$ > {}; exec {HELPER} serve'; true", server.display());
    let (request, started) = run(&driver, host.head(None, &command)).await;
    let id = request.instance.instance_id.clone();
    let first = pid_in(&server).await;
    eventually("it answers", async || get(started.port.unwrap(), "/").await.is_some()).await;
    host.kill_supervisor(&id).await;
    std::fs::remove_file(&server).unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    let again = driver.start(request).await.unwrap();
    assert_eq!(again.port, started.port);
    assert!(!is_running(first), "the old server still runs beside the new one");
    let second = pid_in(&server).await;
    assert_ne!(first, second);
    eventually("it answers again", async || get(started.port.unwrap(), "/").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_from_outside_is_started_again_and_its_signal_is_kept() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let (request, started) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let before = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    signal(before.pid.unwrap(), "KILL");
    let seen = until(&driver, &id, "running again", |i| i.state == InstanceState::Running && i.pid != before.pid).await;
    assert_eq!((seen.restarts, seen.port), (1, started.port));
    assert_eq!(seen.last_exit.unwrap().signal, Some(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_exits_at_once_says_so_with_its_last_words() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let mut revision = host.head(None, "echo 'no such database' >&2; exit 4");
    revision.restart.backoff_ms = 60_000;
    revision.restart.backoff_limit_ms = 60_000;
    let (request, _) = run(&driver, revision).await;
    let seen = until(&driver, &request.instance.instance_id, "waiting", |i| i.last_exit.is_some()).await;
    assert_eq!(seen.last_exit.as_ref().unwrap().code, Some(4));
    let problem = seen.problem.unwrap();
    assert!(problem.starts_with("exited with code 4; starting again in"), "{problem}");
    assert!(seen.log_tail.contains(&"no such database".to_owned()), "{:?}", seen.log_tail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_goes_into_the_background_is_not_left_running_unsupervised() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let daemon = host.place.path().join("daemon");
    let command = format!("setsid sh -c 'echo $$ > {}; exec sleep 600' & sleep 0.3", daemon.display());
    let mut revision = host.head(None, &command);
    revision.restart.backoff_ms = 60_000;
    revision.restart.backoff_limit_ms = 60_000;
    let (request, _) = run(&driver, revision).await;
    until(&driver, &request.instance.instance_id, "waiting", |i| i.last_exit.is_some()).await;
    assert!(!is_running(pid_in(&daemon).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_port_in_use_names_the_port_and_its_owner() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let mut revision = host.revision(Words::Serve);
    revision.port = PortSpec::Fixed { port };
    let service = Service::of(revision);
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    let request = service.start_request();
    let error = driver.start(request.clone()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DriverError::PortInUse { .. }) && error.retryable());
    assert!(text.contains(&port.to_string()) && text.contains(&format!("pid {} (", std::process::id())), "{text}");
    assert_eq!(driver.list().await.unwrap(), [], "nothing half-started stays");
    drop(holder);
    let started = driver.start(request).await.unwrap();
    assert_eq!(started.port, Some(port));
    eventually("it answers", async || get(port, "/").await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_taken_by_a_stranger_meanwhile_is_replaced_on_the_next_start() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let (request, started) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let port = started.port.unwrap();
    driver.stop(&id, GRACE).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    let same = driver.start(request.clone()).await.unwrap();
    assert_eq!(same.port, Some(port), "kept while it is free");
    driver.stop(&id, GRACE).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    let _stranger = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let other = driver.start(request).await.unwrap();
    assert_ne!(other.port, Some(port));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_on_one_machine_never_give_out_the_same_port() {
    let (one, two) = (ProcessHost::new(), ProcessHost::new());
    let drivers: Vec<_> = [&one, &two]
        .into_iter()
        .map(|host| {
            let mut options = host.options();
            options.ports = 19_900..=19_905;
            agent::drivers::process::ProcessDriver::open(options).unwrap()
        })
        .collect();
    let mut ports = Vec::new();
    for round in 0..6 {
        // The processes never listen, so only the claim tells the agents of each other.
        let host = [&one, &two][round % 2];
        let (_, started) = run(&drivers[round % 2], host.head(None, "exec sleep 600")).await;
        ports.push(started.port.unwrap());
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 6, "{ports:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_limit_kills_and_is_reported_as_such() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let facts = driver.probe().await;
    let mut revision = host.head(None, &format!("exec {HELPER} eat 300"));
    revision.limits.memory_bytes = Some(64 * 1024 * 1024);
    revision.restart.backoff_ms = 60_000;
    revision.restart.backoff_limit_ms = 60_000;
    let (request, _) = run(&driver, revision).await;
    let id = request.instance.instance_id.clone();
    if facts.cgroups == "none" {
        assert!(facts.limitations.iter().any(|text| text.starts_with("Limits are not enforced")), "{facts:?}");
        return;
    }
    let seen = until(&driver, &id, "killed", |i| i.last_exit.is_some()).await;
    let exit = seen.last_exit.unwrap();
    assert!(exit.out_of_memory && exit.signal == Some(9), "{exit:?}");
    assert!(seen.problem.unwrap().contains("out of memory"));
}

#[tokio::test(flavor = "multi_thread")]
async fn use_of_memory_and_cpu_is_measured() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let (request, _) = run(&driver, host.head(None, &format!("{HELPER} eat 40"))).await;
    let id = request.instance.instance_id.clone();
    let seen = until(&driver, &id, "fed", |i| i.memory_bytes.is_some_and(|bytes| bytes > 40 * 1024 * 1024)).await;
    assert!(seen.cpu_ms.is_some(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_supervisors_of_one_instance_are_impossible() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let (request, _) = run(&driver, host.revision(Words::Serve)).await;
    let directory = host.instance_directory(&request.instance.instance_id);
    let output = std::process::Command::new(HELPER).arg("shim").arg(&directory).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("another supervisor of this instance is running"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_told_to_end_stops_its_instance_politely() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let (request, _) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    signal(host.supervisor(&id), "TERM");
    let seen = until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    assert_eq!(seen.last_exit.unwrap().signal, Some(15), "SIGTERM, not SIGKILL");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_neither_listed_nor_touched() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let foreign = host.data().join("instances").join("someones-folder");
    std::fs::create_dir(&foreign).unwrap();
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let (request, _) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    std::fs::copy(host.instance_directory(&id).join("spec.json"), foreign.join("spec.json")).unwrap();
    assert_eq!(driver.list().await.unwrap().len(), 1);
    driver.stop(&id, GRACE).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    driver.remove(&id).await.unwrap();
    driver.collect_garbage(&agent::drivers::Keep::default()).await.unwrap();
    assert!(foreign.join("spec.json").exists());
    assert!(stranger.try_wait().unwrap().is_none(), "a process of somebody else was ended");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_takes_files_and_control_groups_away() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let (request, _) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    host.kill_supervisor(&id).await;
    driver.remove(&id).await.unwrap();
    assert!(!host.instance_directory(&id).exists());
    assert_eq!(marked("MAINSTAY_INSTANCE", id.as_str()), Vec::<u32>::new());
    let groups = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let left: Vec<_> =
        groups.map(|entry| entry.path().join("mainstay").join(id.as_str())).filter(|path| path.exists()).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_is_small_and_a_start_is_quick() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let service = Service::of(host.revision(Words::Serve));
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    let request = service.start_request();
    let id = request.instance.instance_id.clone();
    let begun = Instant::now();
    driver.start(request).await.unwrap();
    until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    let took = begun.elapsed();
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.supervisor(&id))).unwrap();
    let kilobytes: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap();
    println!("start to running: {took:?}; supervisor: {kilobytes} kB of its own memory");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(kilobytes < 16 * 1024, "{kilobytes} kB");
    assert!(observed(&driver, &id).await.is_some());
}
