//! What the tests stand on: a machine with a driver that can be dropped and made anew, and requests.

use agent::drivers::fake::{FakeDriver, FakeMachine};
use agent::drivers::process::{LogLimits, ProcessDriver, ProcessOptions};
use agent::drivers::{PrepareRequest, StartRequest, StartedInstance, Workloads};
use api::desired::{InstanceDesired, InstanceIntent, ResolvedGit, ResolvedSource, RevisionDesired, Traffic};
use api::ids::{DeploymentId, InstanceId, ProjectId, RevisionId, ServiceId};
use api::observed::InstanceObserved;
use api::services::{BuildSpec, CommitSha, HealthCheck, HealthSpec, Limits, PortSpec, RestartSpec, RunSpec, StopSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

pub const HELPER: &str = env!("CARGO_BIN_EXE_agent-test-helper");

/// A driver, the machine under it, and words for what both can be asked to run.
pub trait Machine {
    type Driver: Workloads;
    /// Whether throwing away what is prepared frees something.
    const FREES: bool = true;
    /// Part of what is said of an instance after [`Self::kill_supervisor`].
    const LOST: &str = "supervisor was killed";
    fn driver(&self) -> Self::Driver;
    /// A revision whose source exists, with the given words of [`Words`].
    fn revision(&self, words: Words) -> RevisionDesired;
    /// As `kill -9` of whatever supervises the instance, or, where nothing does, its end behind the agent's back.
    async fn kill_supervisor(&self, instance: &InstanceId);
    /// Let the instance print many lines, more than are kept.
    async fn print_many(&self, instance: &InstanceId);
}

/// What both drivers understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Words {
    /// Runs until it is stopped.
    Serve,
    /// Ends at once.
    Exit,
    /// Ends only when its grace is over.
    Stubborn,
    /// Prints more lines than are kept, when asked to.
    Print,
    BuildFails,
    BuildHangs,
}

pub struct FakeHost(pub FakeMachine);

impl Machine for FakeHost {
    type Driver = FakeDriver;
    fn driver(&self) -> FakeDriver {
        FakeDriver::new(self.0.clone())
    }
    fn revision(&self, words: Words) -> RevisionDesired {
        let (build, run) = match words {
            Words::Serve | Words::Print => ("ok", "serve"),
            Words::Exit => ("ok", "exit"),
            Words::Stubborn => ("ok", "stubborn"),
            Words::BuildFails => ("fail", "serve"),
            Words::BuildHangs => ("hang", "serve"),
        };
        revision(source("file:///nowhere", &"a".repeat(40)), Some(build), run)
    }
    async fn kill_supervisor(&self, instance: &InstanceId) {
        self.0.kill_supervisor(instance);
    }
    async fn print_many(&self, instance: &InstanceId) {
        for number in 0..1000 {
            self.0.print(instance, &format!("line {number} of a log that is long enough"));
        }
    }
}

/// A temporary data directory and a repository; ends all processes that carry its instances' marks.
pub struct ProcessHost {
    pub place: tempfile::TempDir,
    pub repository: Repository,
}

impl ProcessHost {
    pub fn new() -> Self {
        let place = tempfile::Builder::new().prefix("mainstay-driver-").tempdir().unwrap();
        let repository = Repository::new(place.path().join("repository"));
        repository.write("index.html", "hello");
        repository.commit("first");
        Self { place, repository }
    }

    pub fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }

    pub fn options(&self) -> ProcessOptions {
        let mut options = ProcessOptions::new(self.data(), HELPER);
        options.log_limits = LogLimits { segment_bytes: 8 * 1024, segments: 3 };
        options.git_timeout = Duration::from_secs(20);
        options.concurrent_builds = 4;
        options
    }

    /// A revision of the repository's newest commit.
    pub fn head(&self, build: Option<&str>, run: &str) -> RevisionDesired {
        revision(source(&self.repository.url(), &self.repository.head()), build, run)
    }

    pub fn instance_directory(&self, instance: &InstanceId) -> PathBuf {
        self.data().join("instances").join(instance.as_str())
    }

    pub fn supervisor(&self, instance: &InstanceId) -> u32 {
        let text = std::fs::read_to_string(self.instance_directory(instance).join("status.json")).unwrap();
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        u32::try_from(status["supervisor"]["pid"].as_u64().unwrap()).unwrap()
    }

    pub fn build_directory(&self, revision: &RevisionDesired) -> PathBuf {
        self.data().join("builds").join(&revision.build_key)
    }
}

impl Machine for ProcessHost {
    type Driver = ProcessDriver;
    fn driver(&self) -> ProcessDriver {
        ProcessDriver::open(self.options()).unwrap()
    }
    fn revision(&self, words: Words) -> RevisionDesired {
        let serve = format!("{HELPER} serve");
        let print = format!("{HELPER} print 2000");
        let (build, run) = match words {
            Words::Serve => (None, serve.as_str()),
            Words::Print => (None, print.as_str()),
            Words::Exit => (None, "exit 1"),
            Words::Stubborn => (None, "trap '' TERM; while true; do sleep 0.05; done"),
            Words::BuildFails => (Some("echo about to fail >&2; exit 3"), serve.as_str()),
            Words::BuildHangs => (Some("sleep 600"), serve.as_str()),
        };
        self.head(build, run)
    }
    async fn kill_supervisor(&self, instance: &InstanceId) {
        let pid = self.supervisor(instance);
        signal(pid, "KILL");
        eventually("the supervisor is gone", async || !is_running(pid)).await;
    }
    async fn print_many(&self, _instance: &InstanceId) {}
}

impl Drop for ProcessHost {
    /// Supervisors first, then whatever carries the mark of an instance in this directory.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.data().join("instances")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let supervisor = std::fs::read_to_string(entry.path().join("status.json"))
                .ok()
                .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
                .and_then(|status| status["supervisor"]["pid"].as_u64());
            if let Some(pid) = supervisor.and_then(|pid| u32::try_from(pid).ok())
                && command_line(pid).contains(&name)
            {
                signal(pid, "KILL");
            }
            for pid in marked("MAINSTAY_INSTANCE", &name) {
                signal(pid, "KILL");
            }
            remove_groups(&name);
        }
    }
}

/// Control groups of an instance whose supervisor was killed.
fn remove_groups(name: &str) {
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let group = hierarchy.path().join("mainstay").join(name);
        let deadline = Instant::now() + Duration::from_millis(500);
        while group.exists() && std::fs::remove_dir(&group).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A git repository to fetch from.
pub struct Repository {
    pub path: PathBuf,
}

impl Repository {
    pub fn new(path: PathBuf) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let repository = Self { path };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_NAME", "Test")
            .env("GIT_AUTHOR_EMAIL", "test@localhost")
            .env("GIT_COMMITTER_NAME", "Test")
            .env("GIT_COMMITTER_EMAIL", "test@localhost")
            .env("GIT_ALLOW_PROTOCOL", "file")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.head()
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }
}

pub fn source(url: &str, commit: &str) -> ResolvedSource {
    ResolvedSource::Git(ResolvedGit {
        git: url.parse().unwrap(),
        commit: commit.parse::<CommitSha>().unwrap(),
        reference: Some("main".parse().unwrap()),
        directory: String::new(),
        submodules: false,
        credential: None,
    })
}

/// Where it comes from, to be changed.
pub fn git(revision: &mut RevisionDesired) -> &mut ResolvedGit {
    match &mut revision.source {
        ResolvedSource::Git(source) => source,
        ResolvedSource::Image(_) => panic!("it comes from an image"),
    }
}

fn fresh() -> uuid::Uuid {
    uuid::Uuid::now_v7()
}

pub fn revision(source: ResolvedSource, build: Option<&str>, run: &str) -> RevisionDesired {
    let build = build.map(|command| BuildSpec {
        command: command.into(),
        timeout_ms: 60_000,
        limits: Limits::default(),
        cache: Vec::new(),
    });
    RevisionDesired {
        revision_id: RevisionId::from_uuid(fresh()),
        number: 1,
        deployment_id: DeploymentId::from_uuid(fresh()),
        source,
        build,
        build_key: format!("{}{}", fresh().simple(), fresh().simple()),
        run: RunSpec::Command { command: run.into() },
        env: BTreeMap::new(),
        port: PortSpec::Injected,
        health: HealthSpec::with(HealthCheck::Http { path: "/".into() }),
        limits: Limits::default(),
        restart: RestartSpec {
            backoff_ms: 50,
            backoff_limit_ms: 400,
            crash_loop_after: 3,
            crash_loop_window_ms: 60_000,
        },
        stop: StopSpec { grace_ms: 2_000 },
    }
}

/// One service with its requests.
pub struct Service {
    pub id: ServiceId,
    pub revision: RevisionDesired,
}

impl Service {
    pub fn of(revision: RevisionDesired) -> Self {
        Self { id: ServiceId::from_uuid(fresh()), revision }
    }

    pub fn prepare_request(&self) -> PrepareRequest {
        PrepareRequest {
            service_id: self.id.clone(),
            service: "web".parse().unwrap(),
            revision: self.revision.clone(),
            env: BTreeMap::new(),
        }
    }

    pub fn start_request(&self) -> StartRequest {
        StartRequest {
            project_id: ProjectId::from_uuid(uuid::Uuid::from_u128(1)),
            service_id: self.id.clone(),
            service: "web".parse().unwrap(),
            instance: InstanceDesired {
                instance_id: InstanceId::from_uuid(fresh()),
                revision_id: self.revision.revision_id.clone(),
                deployment_id: self.revision.deployment_id.clone(),
                ordinal: 0,
                intent: InstanceIntent::Run,
                traffic: Traffic::Candidate,
                address: None,
            },
            revision: self.revision.clone(),
            env: BTreeMap::new(),
        }
    }
}

/// Prepare and start one instance of a revision.
pub async fn run<W: Workloads>(driver: &W, revision: RevisionDesired) -> (StartRequest, StartedInstance) {
    let service = Service::of(revision);
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    let request = service.start_request();
    let started = driver.start(request.clone()).await.unwrap();
    (request, started)
}

pub async fn observed<W: Workloads>(driver: &W, instance: &InstanceId) -> Option<InstanceObserved> {
    driver.list().await.unwrap().into_iter().find(|observed| &observed.instance_id == instance)
}

/// Wait until an instance is as wanted; panics with what it was instead.
pub async fn until<W: Workloads>(
    driver: &W,
    instance: &InstanceId,
    what: &str,
    wanted: impl Fn(&InstanceObserved) -> bool,
) -> InstanceObserved {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = observed(driver, instance).await;
        match seen {
            Some(seen) if wanted(&seen) => return seen,
            seen if Instant::now() > deadline => panic!("never {what}: {seen:#?}"),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn signal(pid: u32, signal: &str) {
    let _ = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .stderr(std::process::Stdio::null())
        .status();
}

pub fn command_line(pid: u32) -> String {
    let data = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&data).replace('\0', " ")
}

/// There and not a zombie.
pub fn is_running(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rfind(')').is_some_and(|at| !text[at..].starts_with(") Z"))
}

/// Living processes with this variable in their environment.
pub fn marked(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|data| data.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
        })
        .filter(|pid| is_running(*pid))
        .collect()
}

pub async fn get(port: u16, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// A file that a process writes its id into, once it is there.
pub async fn pid_in(file: &Path) -> u32 {
    let read = || std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    eventually("a process wrote its id", async || read().is_some()).await;
    read().unwrap()
}
