//! A real control plane in this process, on SQLite in a directory of its own, over real HTTP.

use crate::fake_agent::FakeAgent;
use api::deployments::{Deployment, Stage};
use api::error::ApiError;
use api::plans::{DeployAnswer, StackPlan};
use api::services::ServiceView;
use api::tokens::TokenCreated;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use server::{Server, ServerOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// No wait of a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub server: Server,
    pub directory: tempfile::TempDir,
    pub http: reqwest::Client,
    pub token: String,
    pub base: String,
}

/// A status and the JSON (or text) that came with it.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert!(self.status.is_success(), "{} {}", self.status, self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    #[track_caller]
    pub fn error(&self, status: u16) -> ApiError {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

pub fn options(directory: &Path) -> ServerOptions {
    ServerOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        allow_local_sources: true,
        poll_interval_ms: 1_000,
        ..ServerOptions::new(directory)
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut ServerOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut options = options(directory.path());
        change(&mut options);
        let server = Server::start(options).await.unwrap();
        Self::around(server, directory)
    }

    fn around(server: Server, directory: tempfile::TempDir) -> Self {
        let token = std::fs::read_to_string(directory.path().join("server/cli-token")).unwrap().trim().to_owned();
        let base = format!("http://{}", server.address());
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { server, directory, http, token, base }
    }

    /// Stops the control plane and starts it again on the same data.
    pub async fn restart(self) -> Self {
        let Self { server, directory, .. } = self;
        server.shutdown().await;
        let server = Server::start(options(directory.path())).await.unwrap();
        Self::around(server, directory)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        Answer { status, headers, text: answer.text().await.unwrap() }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(&body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn join_token(&self) -> TokenCreated {
        self.post("/api/v1/tokens", json!({"name": "machine", "purpose": {"kind": "join"}})).await.json()
    }

    /// A machine that does at once whatever it is told.
    pub async fn agent(&self) -> FakeAgent {
        let token = self.join_token().await;
        FakeAgent::join(&self.base, token.token).await
    }

    pub async fn plan(&self, manifest: &str) -> Answer {
        self.post("/api/v1/plan", json!({"manifest": manifest})).await
    }

    pub async fn plan_ok(&self, manifest: &str) -> StackPlan {
        self.plan(manifest).await.json()
    }

    pub async fn deploy(&self, manifest: &str) -> Answer {
        self.post("/api/v1/deploy", json!({"manifest": manifest})).await
    }

    pub async fn deploy_ok(&self, manifest: &str) -> DeployAnswer {
        self.deploy(manifest).await.json()
    }

    /// Deploys and waits until all of it runs.
    pub async fn deploy_and_wait(&self, manifest: &str) -> Vec<Deployment> {
        let mut done = Vec::new();
        for deployment in self.deploy_ok(manifest).await.deployments {
            done.push(self.wait_for(&deployment, Stage::Running).await);
        }
        done
    }

    pub async fn deployment(&self, deployment: &Deployment) -> Deployment {
        self.get(&format!("/api/v1/deployments/{}", deployment.id)).await.json()
    }

    /// Waits for a stage; a deployment that ends otherwise fails the test at once.
    #[track_caller]
    pub fn wait_for(&self, deployment: &Deployment, stage: Stage) -> impl Future<Output = Deployment> {
        let (began, deployment) = (Instant::now(), deployment.clone());
        async move {
            loop {
                let seen = self.deployment(&deployment).await;
                if seen.stage == stage {
                    return seen;
                }
                assert!(
                    seen.stage.in_flight() || (seen.stage == Stage::Running && seen.bake_until_ms.is_some()),
                    "waiting for {stage}, got {seen:#?}"
                );
                assert!(began.elapsed() < PATIENCE, "still waiting for {stage}: {seen:#?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub async fn service(&self, stack: &str, service: &str) -> ServiceView {
        self.get(&format!("/api/v1/stacks/{stack}/services/{service}")).await.json()
    }

    /// Waits until a service is as the test wants it.
    pub async fn service_until(&self, stack: &str, service: &str, good: impl Fn(&ServiceView) -> bool) -> ServiceView {
        let began = Instant::now();
        loop {
            let view = self.service(stack, service).await;
            if good(&view) {
                return view;
            }
            assert!(began.elapsed() < PATIENCE, "still waiting: {view:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A git repository with one commit on `main`.
    pub fn repository(&self, name: &str) -> Repository {
        let path = self.directory.path().join("repositories").join(name);
        std::fs::create_dir_all(&path).unwrap();
        let repository = Repository { path };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.commit("first");
        repository
    }
}

pub struct Repository {
    pub path: PathBuf,
}

impl Repository {
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = std::process::Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A commit whose only file holds the message; answers its SHA.
    pub fn commit(&self, message: &str) -> String {
        std::fs::write(self.path.join("file"), message).unwrap();
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    /// A manifest of one service `web` that runs from here.
    pub fn manifest(&self, extra: &str) -> String {
        format!(
            "name = \"shop\"\n\n[services.web]\ngit = \"{}\"\nrun = \"serve\"\nroute = \"/\"\n{extra}\n",
            self.url()
        )
    }
}
