//! Health over real processes.

use crate::machine::{HELPER, Machine, ProcessHost, eventually, run};
use agent::drivers::process::ProcessDriver;
use agent::drivers::{StartRequest, Workloads};
use agent::health::Health;
use api::observed::{InstanceObserved, InstanceState};
use api::services::{HealthCheck, HealthSpec, PortSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Watched {
    driver: Arc<ProcessDriver>,
    health: Health<ProcessDriver>,
    request: StartRequest,
    spec: HealthSpec,
}

impl Watched {
    async fn start(
        host: &ProcessHost,
        command: &str,
        check: HealthCheck,
        change: impl FnOnce(&mut StartRequest),
    ) -> Self {
        let driver = Arc::new(host.driver());
        let mut spec = HealthSpec::with(check);
        spec.interval_ms = 200;
        spec.timeout_ms = 500;
        spec.unhealthy_after = 2;
        let (mut request, _) = {
            let mut revision = host.head(None, command);
            let mut probe = StartRequest {
                revision: revision.clone(),
                ..crate::machine::Service::of(revision.clone()).start_request()
            };
            change(&mut probe);
            revision.port = probe.revision.port;
            run(&*driver, revision).await
        };
        request.revision.health = spec.clone();
        Self { health: Health::new(driver.clone()), driver, request, spec }
    }

    async fn look(&self) -> InstanceObserved {
        let mut all = self.driver.list().await.unwrap();
        let specs = BTreeMap::from([(self.request.instance.instance_id.clone(), self.spec.clone())]);
        self.health.sync(&all, &specs);
        self.health.merge(&mut all);
        all.remove(0)
    }

    async fn until(&self, what: &str, wanted: impl Fn(&InstanceObserved) -> bool) -> InstanceObserved {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.look().await;
            if wanted(&seen) {
                return seen;
            }
            assert!(Instant::now() < deadline, "never {what}: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn http() -> HealthCheck {
    HealthCheck::Http { path: "/health".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_answers_is_healthy_soon_after_it_listens() {
    let host = ProcessHost::new();
    let mut watched = Watched::start(&host, &format!("{HELPER} serve-after 600"), http(), |_| {}).await;
    // One that is well is asked once in an hour; one that is starting must not wait for that.
    watched.spec.interval_ms = 3_600_000;
    let mut changes = watched.health.changes();
    watched.look().await;
    let before = watched.look().await;
    assert_eq!(before.state, InstanceState::Running, "not known yet");
    let port = before.port.unwrap();
    eventually("it listens", async || crate::machine::get(port, "/").await.is_some()).await;
    let seen = watched.until("healthy", |i| i.state == InstanceState::Healthy).await;
    let probe = seen.last_probe.unwrap();
    assert_eq!(probe.message, format!("GET http://127.0.0.1:{port}/health answered 200"));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_listens_elsewhere_is_told_so() {
    let host = ProcessHost::new();
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let watched = Watched::start(&host, &format!("{HELPER} serve-on {elsewhere}"), http(), |_| {}).await;
    let seen = watched
        .until("diagnosed", |i| i.problem.as_deref().is_some_and(|p| p.contains("; the process listens on")))
        .await;
    let port = seen.port.unwrap();
    assert_eq!(
        seen.last_probe.unwrap().message,
        format!(
            "nothing listens on {port}; the process listens on {elsewhere}: let it read the PORT variable, or set `port = {elsewhere}`"
        )
    );
    assert_eq!(seen.state, InstanceState::Running, "within its grace time it is not yet unhealthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_answering_becomes_unhealthy_and_its_successor_begins_as_unknown() {
    let host = ProcessHost::new();
    let watched = Watched::start(&host, &format!("exec {HELPER} serve"), HealthCheck::Tcp, |_| {}).await;
    let seen = watched.until("healthy", |i| i.state == InstanceState::Healthy).await;
    let pid = seen.pid.unwrap();
    // A stopped process still accepts connections in the kernel, so this one is asked over HTTP.
    let mut asked = Watched { spec: HealthSpec { check: http(), ..watched.spec.clone() }, ..watched };
    asked.spec.start_grace_ms = 0;
    crate::machine::signal(pid, "STOP");
    let seen = asked.until("unhealthy", |i| i.state == InstanceState::Unhealthy).await;
    assert!(seen.problem.unwrap().contains("did not answer within 500 ms"));
    crate::machine::signal(pid, "KILL");
    let seen = asked.until("another", |i| i.pid.is_some_and(|now| now != pid)).await;
    assert!(matches!(seen.state, InstanceState::Running | InstanceState::Healthy), "{seen:?}");
    asked.until("healthy again", |i| i.state == InstanceState::Healthy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_check_runs_in_the_services_surroundings() {
    let host = ProcessHost::new();
    let check = HealthCheck::Command {
        command: "test -n \"$PORT\" && test -e index.html && test -e ok || { echo not yet; exit 3; }".into(),
    };
    let watched = Watched::start(&host, "exec sleep 600", check, |_| {}).await;
    let seen = watched.until("asked", |i| i.last_probe.is_some()).await;
    let message = seen.last_probe.unwrap().message;
    assert!(message.ends_with("exited with code 3: not yet"), "{message}");
    std::fs::write(host.build_directory(&watched.request.revision).join("source/ok"), "").unwrap();
    watched.until("healthy", |i| i.state == InstanceState::Healthy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_healthy_once_it_lived_for_two_seconds() {
    let host = ProcessHost::new();
    let watched =
        Watched::start(&host, "exec sleep 600", HealthCheck::Process, |request| request.revision.port = PortSpec::None)
            .await;
    let begun = Instant::now();
    let seen = watched.until("healthy", |i| i.state == InstanceState::Healthy).await;
    assert!(begun.elapsed() > Duration::from_millis(1_500), "{:?}", begun.elapsed());
    assert_eq!(seen.port, None);
}
