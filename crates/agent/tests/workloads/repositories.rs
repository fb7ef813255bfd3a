//! Fetching: where from, what exactly, and what is said when it does not work.

use crate::machine::{Machine, ProcessHost, Repository, Service, git, revision, source};
use agent::drivers::{PrepareError, Workloads};
use api::logs::LogSource;
use api::observed::PreparationStep;
use git::{Environment, GitError, Subjects, resolve_reference};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(20);

async fn prepare(host: &ProcessHost, service: &Service) -> Result<(), PrepareError> {
    host.driver().prepare(service.prepare_request(), CancellationToken::new()).await
}

fn file(host: &ProcessHost, service: &Service, name: &str) -> Option<String> {
    std::fs::read_to_string(host.build_directory(&service.revision).join("source").join(name)).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_commit_is_checked_out_also_an_old_one() {
    let host = ProcessHost::new();
    let old = host.repository.head();
    host.repository.write("index.html", "newer");
    let new = host.repository.commit("second");
    let mut service = Service::of(host.head(Some("git log -1 --format=%s > subject"), "true"));
    prepare(&host, &service).await.unwrap();
    assert_eq!(file(&host, &service, "index.html").as_deref(), Some("newer"));
    assert_eq!(file(&host, &service, "subject").as_deref(), Some("second\n"), "a build may ask git");
    service.revision = revision(source(&host.repository.url(), &old), None, "true");
    prepare(&host, &service).await.unwrap();
    assert_eq!(file(&host, &service, "index.html").as_deref(), Some("hello"));
    // A branch that was rewritten still has the commit that was resolved.
    host.repository.git(&["commit", "--quiet", "--amend", "-m", "rewritten"]);
    service.revision = revision(source(&host.repository.url(), &new), None, "true");
    prepare(&host, &service).await.unwrap();
    assert_eq!(file(&host, &service, "index.html").as_deref(), Some("newer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_the_folder_that_the_service_names() {
    let host = ProcessHost::new();
    host.repository.write("apps/web/file", "x");
    std::os::unix::fs::symlink("/etc", host.repository.path.join("out")).unwrap();
    host.repository.commit("folder");
    let mut service = Service::of(host.head(Some("cat file"), "true"));
    git(&mut service.revision).directory = "apps/web".into();
    prepare(&host, &service).await.unwrap();
    for (directory, reason) in
        [("missing", "does not exist"), ("out", "symbolic link"), ("../..", "leads out"), ("index.html", "is a file")]
    {
        let mut service = Service::of(host.head(Some("true"), "true"));
        git(&mut service.revision).directory = directory.into();
        let error = prepare(&host, &service).await.unwrap_err();
        assert!(error.message.contains(reason) && !error.retryable, "{directory}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_is_named_and_not_retried() {
    let host = ProcessHost::new();
    let missing = "0123456789abcdef0123456789abcdef01234567";
    let service = Service::of(revision(source(&host.repository.url(), missing), None, "true"));
    let error = prepare(&host, &service).await.unwrap_err();
    assert!(error.message.contains(missing) && error.message.contains("was not found"), "{error:?}");
    assert_eq!((error.step, error.retryable), (PreparationStep::Sync, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_repository_is_told_apart_by_what_to_do() {
    let host = ProcessHost::new();
    let commit = host.repository.head();
    let nowhere = Service::of(revision(source("file:///nowhere/at/all", &commit), None, "true"));
    let error = prepare(&host, &nowhere).await.unwrap_err();
    assert!(error.message.contains("there is no repository at file:///nowhere/at/all"), "{error:?}");
    assert!(!error.retryable);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let down = Service::of(revision(source(&format!("git://127.0.0.1:{free}/x"), &commit), None, "true"));
    let error = prepare(&host, &down).await.unwrap_err();
    assert!(error.message.contains("cannot be reached") && error.retryable, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_never_answers_is_given_up_in_time() {
    let host = ProcessHost::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://127.0.0.1:{}/x", silent.local_addr().unwrap().port());
    let mut options = host.options();
    options.git_timeout = Duration::from_secs(1);
    let driver = agent::drivers::process::ProcessDriver::open(options).unwrap();
    let service = Service::of(revision(source(&url, &host.repository.head()), None, "true"));
    let begun = std::time::Instant::now();
    let error = driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap_err();
    assert!(error.message.contains("took longer than 1 s") && error.retryable, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn submodules_are_fetched_when_asked_for_and_warned_of_otherwise() {
    let host = ProcessHost::new();
    let library = Repository::new(host.place.path().join("library"));
    library.write("lib.txt", "library");
    library.commit("library");
    host.repository.git(&[
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "add",
        "--quiet",
        &library.url(),
        "vendor/lib",
    ]);
    host.repository.commit("with a submodule");
    let without = Service::of(host.head(None, "true"));
    prepare(&host, &without).await.unwrap();
    let log =
        host.driver().log_tail(&LogSource::Build { deployment_id: without.revision.deployment_id.clone() }, 50).await;
    assert!(log.iter().any(|line| line.contains("`submodules = true`")), "{log:?}");
    assert_eq!(file(&host, &without, "vendor/lib/lib.txt"), None);
    let mut with = Service::of(host.head(None, "true"));
    git(&mut with.revision).submodules = true;
    prepare(&host, &with).await.unwrap();
    assert_eq!(file(&host, &with, "vendor/lib/lib.txt").as_deref(), Some("library"));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_are_fetched_or_refused_but_never_silently_missing() {
    let host = ProcessHost::new();
    host.repository.write("assets/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    host.repository.commit("LFS");
    let service = Service::of(host.head(None, "true"));
    if host.driver().probe().await.git_lfs {
        prepare(&host, &service).await.unwrap();
        return;
    }
    let error = prepare(&host, &service).await.unwrap_err();
    assert!(error.message.contains("git-lfs is not installed") && !error.retryable, "{error:?}");
}

/// A git daemon on a port of its own, ended with the test.
struct Daemon(Child, u16);

impl Daemon {
    fn serve(base: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--export-all", "--listen=127.0.0.1", "--reuseaddr"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", base.display()))
            .arg(base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .spawn()
            .unwrap();
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Self(child, port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // `git daemon` is a program of its own under `git`; a plain signal reaches it through its parent.
        let _ = Command::new("pkill").arg("-P").arg(self.0.id().to_string()).status();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_fetched_over_the_network_and_its_references_resolved() {
    let host = ProcessHost::new();
    host.repository.git(&["tag", "-a", "v1", "-m", "annotated"]);
    let tagged = host.repository.head();
    host.repository.write("index.html", "newer");
    let newest = host.repository.commit("the newest");
    let daemon = Daemon::serve(host.place.path());
    let url = format!("git://127.0.0.1:{}/repository", daemon.1);
    let environment = Environment::prepare(&host.place.path().join("git"), Path::new(crate::machine::HELPER)).unwrap();
    let git_url = url.parse().unwrap();
    let subjects = Subjects::default();
    let resolve = async |reference: Option<&str>| {
        let reference = reference.map(|text| text.parse().unwrap());
        resolve_reference(&environment, &git_url, reference.as_ref(), None, TIMEOUT, &subjects).await
    };
    let head = resolve(None).await.unwrap();
    assert_eq!((head.commit.as_str(), head.subject.as_deref()), (newest.as_str(), Some("the newest")));
    assert_eq!(head.reference.unwrap().as_str(), "main");
    assert_eq!(resolve(None).await.unwrap().subject.as_deref(), Some("the newest"), "and of what was asked before");
    let at_tag = resolve(Some("v1")).await.unwrap();
    assert_eq!(at_tag.commit.as_str(), tagged, "the commit, not the tag object");
    assert_ne!(at_tag.subject, head.subject);
    assert_eq!(resolve(Some(&tagged)).await.unwrap().commit.as_str(), tagged);
    let error = resolve(Some("maim")).await.unwrap_err();
    assert!(
        matches!(error, GitError::NoSuchReference { .. }) && error.to_string().contains("did you mean `main`"),
        "{error}"
    );
    let service = Service::of(revision(source(&url, &newest), None, "true"));
    prepare(&host, &service).await.unwrap();
    assert_eq!(file(&host, &service, "index.html").as_deref(), Some("newer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn resolving_against_an_empty_or_missing_repository_says_which() {
    let host = ProcessHost::new();
    let empty = Repository::new(host.place.path().join("empty"));
    let environment = Environment::prepare(&host.place.path().join("git"), Path::new(crate::machine::HELPER)).unwrap();
    let resolve = async |url: String| {
        let url = url.parse().unwrap();
        resolve_reference(&environment, &url, None, None, TIMEOUT, &Subjects::default()).await.unwrap_err()
    };
    let error = resolve(empty.url()).await;
    assert!(matches!(error, GitError::Empty { .. }), "{error}");
    let error = resolve("file:///nowhere".into()).await;
    assert!(matches!(error, GitError::NoSuchRepository { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_configuration_of_the_machine_do_not_run() {
    let host = ProcessHost::new();
    let trace = host.place.path().join("trace");
    // A repository that would like to run something on whoever checks it out.
    host.repository.write(".gitattributes", "* filter=evil\n");
    host.repository.write(".gitconfig", &format!("[filter \"evil\"]\n\tsmudge = touch {}\n", trace.display()));
    host.repository.commit("evil");
    let service = Service::of(host.head(None, "true"));
    prepare(&host, &service).await.unwrap();
    assert!(!trace.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_reaches_git_through_the_helper_and_only_for_its_host() {
    let host = ProcessHost::new();
    // An HTTP server that asks for a password and notes what it is told.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 8192];
            let count = stream.read(&mut buffer).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
            if let Some(line) = text.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization:")) {
                let _ = sender.send(line.to_owned());
            }
            let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let mut service =
        Service::of(revision(source(&format!("http://127.0.0.1:{port}/a.git"), &host.repository.head()), None, "true"));
    git(&mut service.revision).credential =
        Some(api::desired::GitCredential::Token { user: "deploy".into(), token: api::secret::Secret::new("t0ken") });
    let error = prepare(&host, &service).await.unwrap_err();
    assert!(error.message.contains("refused access") && error.message.contains("stored credential"), "{error:?}");
    assert!(!error.message.contains("t0ken") && !error.retryable);
    let told = heard.recv().await.unwrap();
    // base64 of deploy:t0ken
    assert!(told.contains("ZGVwbG95OnQwa2Vu"), "{told}");
    server.abort();
    let mut anonymous = service.prepare_request();
    git(&mut anonymous.revision).credential = None;
    let calls = std::fs::read_dir(host.data().join("git/calls")).unwrap().count();
    assert_eq!(calls, 0, "a credential stays on disk after the call");
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_is_called_with_the_deploy_key_alone_and_never_asks() {
    use std::os::unix::fs::PermissionsExt;
    let host = ProcessHost::new();
    // An `ssh` that notes how it was called, and the key while it is there.
    let tools = host.place.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    let noted = host.place.path().join("noted");
    let script = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {}\n", noted.display());
    std::fs::write(tools.join("ssh"), script).unwrap();
    std::fs::set_permissions(tools.join("ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    Environment::prepare(&host.place.path().join("git"), Path::new(crate::machine::HELPER)).unwrap();
    let status = Command::new(host.place.path().join("git").join(git::environment::SSH_HELPER))
        .args(["-p", "2222", "git@example.com", "git-upload-pack 'a'"])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
        .env("MAINSTAY_GIT_KNOWN_HOSTS", "/known")
        .env("MAINSTAY_GIT_KEY_FILE", "/key")
        .status()
        .unwrap();
    assert!(status.success());
    let arguments = std::fs::read_to_string(noted).unwrap();
    for wanted in
        ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=accept-new", "UserKnownHostsFile=/known"]
    {
        assert!(arguments.contains(wanted), "{wanted} is missing: {arguments}");
    }
    assert!(arguments.contains("-i\n/key\n-p\n2222\ngit@example.com\ngit-upload-pack 'a'\n"), "{arguments}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_forgets_commits_that_no_build_is_of_and_stays_usable() {
    let host = ProcessHost::new();
    let driver = host.driver();
    let mut service = Service::of(host.head(None, "true"));
    let mirror = host.data().join("sources").join(service.id.as_str());
    for number in 0..25 {
        host.repository.write("index.html", &format!("version {number}"));
        host.repository.commit("another");
        service.revision = host.head(None, "true");
        driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    }
    let commits = || std::fs::read_dir(mirror.join("refs/mainstay")).map_or(0, Iterator::count);
    assert_eq!(commits(), 25);
    let mut keep = agent::drivers::Keep { warm_builds: 1, ..Default::default() };
    keep.services.insert(service.id.clone());
    assert!(driver.collect_garbage(&keep).await.unwrap() > 0);
    assert_eq!(commits(), 1, "only the warm build's commit is kept");
    host.repository.write("index.html", "after");
    host.repository.commit("after");
    service.revision = host.head(Some("git log -1 --format=%H"), "true");
    driver.prepare(service.prepare_request(), CancellationToken::new()).await.unwrap();
    assert_eq!(file(&host, &service, "index.html").as_deref(), Some("after"));
}
