//! What only the container driver can be asked, over a real Podman.

use crate::engine_lab::{Engine, image_archive, is_possible};
use crate::machine::{Machine, Service, Words, eventually, observed, revision, run, until};
use agent::drivers::container::{ContainerDriver, ContainerOptions};
use agent::drivers::process::LogLimits;
use agent::drivers::{DriverError, Workloads};
use api::desired::{ResolvedImage, ResolvedSource, RevisionDesired};
use api::ids::InstanceId;
use api::images::{ContainerSpec, PullPolicy, VolumeMount};
use api::logs::LogSource;
use api::observed::{InstanceState, PreparationStep};
use api::secret::Secret;
use api::services::{HealthCheck, Limits, RunSpec};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub const IMAGE: &str = "localhost/test:1";

/// A machine with an engine of its own.
pub struct ContainerHost {
    // Ends before its folder goes.
    pub engine: Mutex<Engine>,
    place: tempfile::TempDir,
}

impl ContainerHost {
    /// `None` where there can be none, with the reason said.
    pub fn new() -> Option<Self> {
        if let Err(reason) = is_possible() {
            assert!(std::env::var_os("MAINSTAY_REQUIRE_CONTAINERS").is_none(), "{reason}");
            println!("skipped: {reason}");
            return None;
        }
        let place = tempfile::Builder::new().prefix("mainstay-containers-").tempdir().unwrap();
        let engine = Engine::start(place.path());
        let config = serde_json::json!({
            "ExposedPorts": { "8080/tcp": {} },
            "Cmd": ["/bin/sh", "-c", "echo wrong"],
            "Healthcheck": { "Test": ["CMD-SHELL", "test -e /tmp/well || { echo not well; exit 3; }"] },
        });
        engine.load(&image_archive(place.path(), IMAGE, "hello", config));
        Some(Self { place, engine: Mutex::new(engine) })
    }

    pub fn options(&self) -> ContainerOptions {
        let mut options = ContainerOptions::new(self.place.path().join("data"));
        options.socket = Some(self.engine.lock().unwrap().socket());
        // Podman keeps the addresses that it gave in one book for all its storages on a machine, by the network's name.
        options.network = self.engine.lock().unwrap().namespace.name.clone();
        options.run_dir = self.place.path().join("run");
        options.log_limits = LogLimits { segment_bytes: 8 * 1024, segments: 3 };
        options
    }

    pub fn say(&self, arguments: &[&str]) -> String {
        self.engine.lock().unwrap().say(arguments)
    }

    /// The container of an instance, as the engine calls it.
    pub fn container(&self, instance: &InstanceId) -> String {
        self.say(&["ps", "--all", "--quiet", "--filter", &format!("label=mainstay.instance.id={instance}")])
    }

    /// A page of a container, asked for from its machine.
    pub fn page(&self, seen: &api::observed::InstanceObserved) -> Option<String> {
        let socket = seen.socket().unwrap();
        let engine = self.engine.lock().unwrap();
        let output = engine
            .namespace
            .command("curl")
            .args(["--silent", "--max-time", "3"])
            .arg(format!("http://{socket}/"))
            .output();
        output
            .ok()
            .filter(|output| output.status.success())
            .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
    }
}

const SERVE: &str = "/bin/busybox httpd -p 8080 -h /www; trap 'exit 0' TERM; while :; do sleep 1 & wait; done";

pub fn container(script: &str) -> RevisionDesired {
    let image =
        ResolvedImage { image: IMAGE.parse().unwrap(), digest: None, pull: PullPolicy::Never, credential: None };
    let mut revision = revision(ResolvedSource::Image(image), None, "");
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    revision.run = RunSpec::Container(ContainerSpec { command: Some(command), ..ContainerSpec::default() });
    revision
}

pub fn spec(revision: &mut RevisionDesired) -> &mut ContainerSpec {
    match &mut revision.run {
        RunSpec::Container(spec) => spec,
        _ => panic!("it is no container"),
    }
}

impl Machine for ContainerHost {
    type Driver = ContainerDriver;
    // The image was here before, so it is not the driver's to remove.
    const FREES: bool = false;
    const LOST: &str = "removed by something other than Mainstay";
    fn driver(&self) -> ContainerDriver {
        ContainerDriver::open(self.options()).unwrap()
    }
    fn revision(&self, words: Words) -> RevisionDesired {
        match words {
            Words::Serve => container(SERVE),
            Words::Exit => container("exit 1"),
            Words::Stubborn => container("trap '' TERM; while true; do sleep 0.05; done"),
            Words::Print => container(
                "i=0; while [ $i -lt 2000 ]; do echo \"line $i of a log that is long enough to be rotated several times\"; \
                 i=$((i+1)); done; trap 'exit 0' TERM; while :; do sleep 1 & wait; done",
            ),
            Words::BuildFails | Words::BuildHangs => panic!("an image is not built here"),
        }
    }
    async fn kill_supervisor(&self, instance: &InstanceId) {
        let container = self.container(instance);
        self.say(&["rm", "--force", "--time", "0", &container]);
    }
    async fn print_many(&self, _instance: &InstanceId) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_has_its_address_its_limits_and_no_more_rights_than_named() {
    let Some(host) = ContainerHost::new() else { return };
    let driver = host.driver();
    let mut revision = container(&format!("env; id; cat /etc/secret; touch /forbidden; {SERVE}"));
    let spec = spec(&mut revision);
    spec.user = Some("1000:1000".into());
    spec.read_only = true;
    spec.tmpfs = BTreeMap::from([("/scratch".into(), Some(1_048_576))]);
    spec.files = BTreeMap::from([("/etc/secret".into(), Secret::new("the word\n".to_owned()))]);
    spec.volumes =
        BTreeMap::from([("/data".into(), VolumeMount { volume: "data".parse().unwrap(), read_only: false })]);
    revision.env = BTreeMap::from([("OWN".into(), Secret::new("mine".to_owned()))]);
    revision.limits = Limits { memory_bytes: Some(32 << 20), cpu_millis: Some(500), pids: Some(30) };
    let (request, _) = run(&driver, revision).await;
    let id = request.instance.instance_id.clone();
    let seen = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    eventually("it answers", async || host.page(&seen).as_deref() == Some("hello")).await;
    let name = host.container(&id);
    let inspect = |format: &str| host.say(&["inspect", "--format", format, &name]);
    assert_eq!(inspect("{{.Name}}"), format!("web-{}-{}", request.instance.deployment_id.short(), id.short()));
    assert_eq!(inspect("{{index .Config.Labels \"mainstay.service.name\"}}"), "web");
    assert_eq!(inspect("{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}"), format!("{} 30", 32 << 20));
    assert_eq!(inspect("{{.EffectiveCaps}}"), "[]");
    let [a, b, c, d] = seen.address.unwrap().octets();
    let mac = inspect("{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}");
    assert_eq!(mac, format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}"));
    let seen = observed(&driver, &id).await.unwrap();
    assert!(seen.memory_bytes.is_some_and(|bytes| bytes > 0) && seen.cpu_ms.is_some(), "{seen:?}");
    let log = driver.log_tail(&LogSource::Run { instance_id: id.clone() }, 100).await.join("\n");
    for line in ["OWN=mine", "PORT=8080", "MAINSTAY_SERVICE=web", "uid=1000", "the word", "Read-only file system"] {
        assert!(log.contains(line), "{line} is missing in {log}");
    }
    assert!(!log.contains("CARGO_MANIFEST_DIR"), "what this test runs with leaks in: {log}");
    assert!(!driver.listening(&id).await.is_empty());
    assert_eq!(
        host.say(&["volume", "ls", "--quiet", "--filter", "label=mainstay.volume.name=data"]).lines().count(),
        1
    );
    driver.stop(&id, Duration::from_secs(2)).await.unwrap();
    until(&driver, &id, "exited", |i| i.state == InstanceState::Exited).await;
    driver.remove(&id).await.unwrap();
    assert_eq!(host.say(&["volume", "ls", "--quiet"]).lines().count(), 1, "a volume goes with nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_away_hides_nothing_and_nothing_is_started_twice() {
    let Some(host) = ContainerHost::new() else { return };
    let driver = host.driver();
    let (request, _) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let before = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    host.engine.lock().unwrap().stop_service();
    let away = |seen: &api::observed::InstanceObserved| {
        seen.state == InstanceState::Running && seen.problem.as_deref().is_some_and(|p| p.contains("is not known"))
    };
    let seen = until(&driver, &id, "not known", away).await;
    assert_eq!((seen.pid, seen.socket()), (before.pid, before.socket()));
    assert!(driver.start(request.clone()).await.is_err_and(|error| error.retryable()));
    assert!(driver.remove(&id).await.is_err());
    drop(driver);
    let driver = host.driver();
    assert!(observed(&driver, &id).await.is_some_and(|seen| away(&seen)), "also after a restart of the agent");
    host.engine.lock().unwrap().start_service();
    let seen = until(&driver, &id, "known again", |i| i.problem.is_none()).await;
    assert_eq!(seen.pid, before.pid);
    assert!(driver.start(request).await.unwrap().already_running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_whose_folder_is_lost_is_found_by_its_labels() {
    let Some(host) = ContainerHost::new() else { return };
    let driver = host.driver();
    let (request, _) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let before = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    drop(driver);
    std::fs::remove_dir_all(host.place.path().join("data")).unwrap();
    let driver = host.driver();
    let seen = until(&driver, &id, "found", |_| true).await;
    assert_eq!((seen.state, seen.pid, seen.socket()), (InstanceState::Running, before.pid, before.socket()));
    assert_eq!((&seen.service_id, &seen.revision_id), (&before.service_id, &before.revision_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stopped_by_hand_is_started_again_and_what_others_made_is_not_touched() {
    let Some(host) = ContainerHost::new() else { return };
    let driver = host.driver();
    host.say(&["run", "--detach", "--network", "none", "--name", "strange", IMAGE, "sleep", "600"]);
    let (request, _) = run(&driver, host.revision(Words::Serve)).await;
    let id = request.instance.instance_id.clone();
    let before = until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    let name = host.container(&id);
    host.say(&["stop", "--time", "1", &name]);
    let seen = until(&driver, &id, "running again", |i| i.state == InstanceState::Running && i.pid != before.pid).await;
    assert_eq!((seen.restarts, seen.socket()), (1, before.socket()));
    assert_eq!(host.container(&id), name, "the same container");
    host.say(&["pause", &name]);
    eventually("resumed", async || {
        driver.list().await.unwrap();
        host.say(&["inspect", "--format", "{{.State.Status}}", &name]) == "running"
    })
    .await;
    assert_eq!(driver.list().await.unwrap().len(), 1);
    assert_eq!(host.say(&["inspect", "--format", "{{.State.Status}}", "strange"]), "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_run_inside_the_container_also_the_one_that_the_image_brings() {
    let Some(host) = ContainerHost::new() else { return };
    let driver = host.driver();
    let mut revision = host.revision(Words::Serve);
    revision.health.check = HealthCheck::Image;
    let (request, _) = run(&driver, revision).await;
    let id = request.instance.instance_id.clone();
    until(&driver, &id, "running", |i| i.state == InstanceState::Running).await;
    let outcome = driver.check_of_image(&id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        (outcome.ok, outcome.message.as_str()),
        (false, "the image's health check exited with code 3: not well")
    );
    let outcome = driver.check(&id, "touch /tmp/well; test $PORT = 8080", Duration::from_secs(5)).await.unwrap();
    assert!(outcome.ok, "{outcome:?}");
    assert!(driver.check_of_image(&id, Duration::from_secs(5)).await.unwrap().ok);
    let outcome = driver.check(&id, "sleep 60", Duration::from_millis(300)).await.unwrap();
    assert_eq!(outcome.message, "`sleep 60` took longer than 300 ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_is_nowhere_and_a_runtime_that_is_missing_are_said() {
    let Some(host) = ContainerHost::new() else { return };
    let driver = host.driver();
    let mut revision = host.revision(Words::Serve);
    if let ResolvedSource::Image(image) = &mut revision.source {
        image.image = "localhost/nowhere:1".parse().unwrap();
    }
    let error = driver.prepare(Service::of(revision).prepare_request(), CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.step, error.retryable), (PreparationStep::Pull, true));
    assert!(error.message.contains("is not on this server"), "{}", error.message);
    let facts = driver.probe().await;
    assert_eq!(facts.engine.as_deref(), Some("podman"));
    assert!(facts.engine_version.is_some() && facts.runtimes.iter().any(|name| name == "runc"), "{facts:?}");
    if !facts.runtimes.iter().any(|name| name == "runsc") {
        let mut revision = host.revision(Words::Serve);
        spec(&mut revision).isolation = api::images::Isolation::Gvisor;
        let service = Service::of(revision);
        driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
        let error = driver.start(service.start_request()).await.unwrap_err();
        assert!(error.to_string().contains("runsc"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_was_removed_is_prepared_again_before_it_starts() {
    let Some(host) = ContainerHost::new() else { return };
    let driver = host.driver();
    let service = Service::of(host.revision(Words::Serve));
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    host.say(&["rmi", "--force", IMAGE]);
    let error = driver.start(service.start_request()).await.unwrap_err();
    assert!(matches!(error, DriverError::NotPrepared(_)), "{error}");
    assert_eq!(driver.preparations().await, []);
}
