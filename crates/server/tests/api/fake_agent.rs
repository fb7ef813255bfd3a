//! A machine that exists only on the wire: it registers, signs, waits for desired states, verifies
//! them, pretends to have done what they say, and reports. How it pretends is the test's to choose.

use crate::harness::PATIENCE;
use api::agent::{RegisterAnswer, RegisterRequest, StatusAnswer, StatusReport};
use api::desired::{DesiredState, InstanceIntent, SignedDesiredState, Traffic};
use api::events::Event;
use api::gateway::GatewayObserved;
use api::observed::{
    ExitStatus, InstanceObserved, InstanceState, ObservedState, PreparationObserved, PreparationState, PreparationStep,
    ProbeResult, StackCondition, StackObserved,
};
use api::secret::Secret;
use api::servers::ServerFacts;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use wire::request::{HEADER_CONTENT, HEADER_NONCE, HEADER_SERVER, HEADER_SIGNATURE, HEADER_TIMESTAMP, RequestParts};
use wire::{RequestSigner, VerifyingKey};

/// What becomes of the instances of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behaviour {
    #[default]
    Healthy,
    /// Runs, but its health check never succeeds.
    NeverHealthy,
    /// The build command fails.
    BuildFails,
    /// Nothing is prepared yet.
    StillBuilding,
}

/// Everything that a test may change while the agent runs.
#[derive(Default)]
pub struct Script {
    /// By number of the revision; others are healthy.
    pub revisions: BTreeMap<u64, Behaviour>,
    /// Instances of these revisions crash from now on.
    pub crashed_revisions: Vec<u64>,
    pub events: Vec<Event>,
    pub silent: bool,
}

pub struct Identity {
    pub base: String,
    pub answer: RegisterAnswer,
    pub http: reqwest::Client,
}

pub struct FakeAgent {
    pub identity: Arc<Identity>,
    pub script: Arc<Mutex<Script>>,
    changed: Arc<Notify>,
    seen: Arc<Mutex<Option<DesiredState>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

pub fn facts() -> ServerFacts {
    ServerFacts {
        hostname: "fake".into(),
        architecture: "x86_64".into(),
        cpu_count: 2,
        cgroups: "none".into(),
        ..ServerFacts::default()
    }
}

pub async fn register(http: &reqwest::Client, base: &str, token: &Secret) -> Response {
    let request = RegisterRequest {
        token: token.clone(),
        name: Some("fake".parse().unwrap()),
        public_key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
        agent_version: "0.1.0".into(),
        facts: facts(),
    };
    http.post(format!("{base}/api/v1/agent/register")).json(&request).send().await.unwrap()
}

impl Identity {
    pub async fn join(base: &str, token: &Secret) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = register(&http, base, token).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{status} {text}");
        Self { base: base.to_owned(), answer: serde_json::from_str(&text).unwrap(), http }
    }

    /// A signed request, ready to be sent or spoilt.
    pub fn signed(&self, method: Method, path_and_query: &str, body: Vec<u8>, timestamp_ms: i64) -> RequestBuilder {
        self.signed_as(method, path_and_query, path_and_query, body, timestamp_ms)
    }

    /// Signs for one address and sends to another.
    pub fn signed_as(
        &self,
        method: Method,
        signed: &str,
        sent: &str,
        body: Vec<u8>,
        timestamp_ms: i64,
    ) -> RequestBuilder {
        let (path, query) = signed.split_once('?').unwrap_or((signed, ""));
        let signer = RequestSigner::from_base64(&self.answer.secret).unwrap();
        let nonce = uuid::Uuid::now_v7().simple().to_string();
        let parts = RequestParts { method: method.as_str(), path, query, body: &body };
        let signature = signer.sign(&parts, timestamp_ms, nonce);
        self.http
            .request(method, format!("{}{sent}", self.base))
            .header(HEADER_SERVER, self.answer.server_id.as_str())
            .header(HEADER_TIMESTAMP, signature.timestamp_ms)
            .header(HEADER_NONCE, signature.nonce)
            .header(HEADER_CONTENT, signature.content_sha256)
            .header(HEADER_SIGNATURE, signature.signature)
            .header("content-type", "application/json")
            .body(body)
    }

    pub async fn expected_state(&self, after: u64, wait_seconds: u64) -> Option<DesiredState> {
        let path = format!("/api/v1/agent/expected-state?after={after}&wait={wait_seconds}");
        let answer = self.signed(Method::GET, &path, Vec::new(), now_ms()).send().await.unwrap();
        if answer.status() == StatusCode::NOT_MODIFIED {
            return None;
        }
        assert!(answer.status().is_success(), "{} {}", answer.status(), answer.text().await.unwrap());
        let signed: SignedDesiredState = answer.json().await.unwrap();
        let pinned = VerifyingKey::from_base64(&self.answer.control_plane_key).unwrap();
        Some(pinned.verify(&signed).unwrap())
    }

    pub async fn report(&self, observed: ObservedState, events: Vec<Event>) -> StatusAnswer {
        let report = StatusReport { observed, facts: None, events, held: None };
        let body = serde_json::to_vec(&report).unwrap();
        let answer = self.signed(Method::POST, "/api/v1/agent/status", body, now_ms()).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{status} {text}");
        serde_json::from_str(&text).unwrap()
    }
}

impl FakeAgent {
    pub async fn join(base: &str, token: Secret) -> Self {
        Self::start(Arc::new(Identity::join(base, &token).await))
    }

    /// The same machine again, against a control plane that may listen elsewhere now.
    pub fn with_identity(base: &str, answer: RegisterAnswer) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self::start(Arc::new(Identity { base: base.to_owned(), answer, http }))
    }

    fn start(identity: Arc<Identity>) -> Self {
        let (script, changed, seen) =
            (Arc::new(Mutex::new(Script::default())), Arc::new(Notify::new()), Arc::default());
        let task = tokio::spawn(run(identity.clone(), script.clone(), changed.clone(), Arc::clone(&seen)));
        Self { identity, script, changed, seen, task }
    }

    /// Changes how the machine behaves from now on, and has it reported.
    pub fn behave(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
        self.changed.notify_one();
    }

    /// The last desired state that it got.
    pub fn desired(&self) -> DesiredState {
        self.seen.lock().unwrap().clone().expect("a desired state has arrived")
    }

    /// Once the news that make it so have arrived: what the control plane decided takes its way.
    pub async fn desired_until(&self, good: impl Fn(&DesiredState) -> bool) -> DesiredState {
        let began = Instant::now();
        loop {
            let desired = self.desired();
            if good(&desired) {
                return desired;
            }
            assert!(began.elapsed() < PATIENCE, "still waiting: {desired:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn run(
    identity: Arc<Identity>,
    script: Arc<Mutex<Script>>,
    changed: Arc<Notify>,
    seen: Arc<Mutex<Option<DesiredState>>>,
) {
    let mut generation = 0;
    loop {
        tokio::select! {
            newer = identity.expected_state(generation, 30) => if let Some(state) = newer {
                assert!(state.generation > generation, "the generation fell");
                generation = state.generation;
                *seen.lock().unwrap() = Some(state);
            },
            () = changed.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(900)) => {}
        }
        let Some(state) = seen.lock().unwrap().clone() else { continue };
        if script.lock().unwrap().silent {
            continue;
        }
        let observed = pretend(&state, &script.lock().unwrap());
        let events = std::mem::take(&mut script.lock().unwrap().events);
        identity.report(observed, events).await;
    }
}

/// What the machine says it looks like when it has done what it was told.
pub fn pretend(state: &DesiredState, script: &Script) -> ObservedState {
    let mut observed = nothing(state);
    for (_, service) in state.services() {
        for revision in &service.revisions {
            let behaviour = script.revisions.get(&revision.number).copied().unwrap_or_default();
            let state = match behaviour {
                Behaviour::BuildFails => PreparationState::Failed,
                Behaviour::StillBuilding => PreparationState::Working,
                _ => PreparationState::Ready,
            };
            let failed = state == PreparationState::Failed;
            observed.preparations.push(PreparationObserved {
                service_id: service.service_id.clone(),
                revision_id: revision.revision_id.clone(),
                deployment_id: revision.deployment_id.clone(),
                state,
                step: PreparationStep::Build,
                started_at_ms: None,
                ended_at_ms: None,
                error: failed.then(|| "the build command exited with code 2".into()),
                retryable: false,
                attempts: 1,
                log_tail: if failed { vec!["cc: no such file: main.c".into()] } else { vec![] },
            });
        }
        for instance in &service.instances {
            let number = service.revision(&instance.revision_id).map_or(0, |r| r.number);
            let behaviour = script.revisions.get(&number).copied().unwrap_or_default();
            let crashed = script.crashed_revisions.contains(&number);
            let state = match (instance.intent, behaviour) {
                (InstanceIntent::Stop, _) | (_, Behaviour::BuildFails | Behaviour::StillBuilding) => continue,
                _ if crashed => InstanceState::Transient,
                (_, Behaviour::NeverHealthy) => InstanceState::Running,
                (_, Behaviour::Healthy) => InstanceState::Healthy,
            };
            if instance.traffic == Traffic::Active && state == InstanceState::Healthy {
                observed.gateway.active.push(instance.instance_id.clone());
            }
            observed.instances.push(InstanceObserved {
                instance_id: instance.instance_id.clone(),
                service_id: service.service_id.clone(),
                revision_id: instance.revision_id.clone(),
                state,
                pid: Some(1000 + instance.ordinal),
                port: Some(20_000),
                address: None,
                started_at_ms: Some(now_ms() - 100),
                restarts: u32::from(crashed),
                crash_looping: false,
                last_exit: crashed.then(|| ExitStatus {
                    code: Some(3),
                    signal: None,
                    out_of_memory: false,
                    at_ms: now_ms(),
                }),
                last_probe: (state == InstanceState::Running).then(|| ProbeResult {
                    ok: false,
                    at_ms: now_ms(),
                    duration_ms: 1,
                    message: "GET http://127.0.0.1:20000/health: connection refused".into(),
                }),
                problem: None,
                stopping: false,
                log_tail: vec!["listening on 8080".into()],
                memory_bytes: None,
                cpu_ms: None,
            });
        }
    }
    observed
}

/// A machine on which nothing runs yet.
pub fn nothing(state: &DesiredState) -> ObservedState {
    let stacks = state.stacks.iter().map(|stack| StackObserved {
        stack_id: stack.stack_id.clone(),
        version: stack.version,
        hash: stack.hash.clone(),
        condition: StackCondition::Applied,
        problems: vec![],
    });
    ObservedState {
        server_id: state.server_id.clone(),
        generation: state.generation,
        observed_at_ms: now_ms(),
        fleet_generation: 0,
        agent: Default::default(),
        stacks: stacks.collect(),
        instances: vec![],
        preparations: vec![],
        gateway: GatewayObserved { running: true, ..GatewayObserved::default() },
        dns: Default::default(),
        mesh: Default::default(),
        blocked: vec![],
        resources: Default::default(),
    }
}
