//! A machine that exists only on the wire, and is in no way to be told from a real one there.

use super::measure::Measure;
use anyhow::{Context, Result, ensure};
use api::agent::{RegisterAnswer, RegisterRequest, StatusReport};
use api::desired::{DesiredState, InstanceIntent, SignedDesiredState, Traffic};
use api::gateway::GatewayObserved;
use api::ids::InstanceId;
use api::observed::{
    AgentObserved, InstanceObserved, InstanceState, ObservedState, PreparationObserved, PreparationState,
    PreparationStep, StackCondition, StackObserved,
};
use api::secret::Secret;
use api::servers::ServerFacts;
use reqwest::{Method, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::request::{HEADER_CONTENT, HEADER_NONCE, HEADER_SERVER, HEADER_SIGNATURE, HEADER_TIMESTAMP, RequestParts};
use wire::{RequestSigner, VerifyingKey};

/// As a real agent waits.
const WAIT_SECONDS: u64 = 25;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
const VERSION: &str = "0.1.0";

pub struct Agent {
    tasks: [JoinHandle<()>; 2],
}

struct Identity {
    http: reqwest::Client,
    base: String,
    answer: RegisterAnswer,
    signer: RequestSigner,
    key: VerifyingKey,
    measure: Arc<Measure>,
}

impl Agent {
    /// Exchanges the token for an identity and begins to work.
    pub async fn join(
        http: reqwest::Client,
        base: String,
        token: &Secret,
        name: &str,
        measure: Arc<Measure>,
    ) -> Result<Self> {
        let facts = ServerFacts {
            hostname: name.into(),
            operating_system: "Debian GNU/Linux 12 (bookworm)".into(),
            architecture: "x86_64".into(),
            cpu_count: 2,
            memory_bytes: 2 << 30,
            cgroups: "v2".into(),
            ..ServerFacts::default()
        };
        let request = RegisterRequest {
            token: token.clone(),
            name: name.parse().ok(),
            public_key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
            agent_version: VERSION.into(),
            facts,
        };
        let sent = http.post(format!("{base}/api/v1/agent/register")).json(&request).timeout(REQUEST_LIMIT).send();
        let answer = sent.await.context("join")?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "joining was answered with {status}: {text}");
        let answer: RegisterAnswer = serde_json::from_str(&text)?;
        let identity = Arc::new(Identity {
            signer: RequestSigner::from_base64(&answer.secret)?,
            key: VerifyingKey::from_base64(&answer.control_plane_key)?,
            http,
            base,
            answer,
            measure,
        });
        let (desired, seen) = watch::channel(None);
        Ok(Self { tasks: [tokio::spawn(poll(identity.clone(), desired)), tokio::spawn(report(identity, seen))] })
    }

    pub fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Identity {
    async fn send(&self, method: Method, path: &str, query: &str, body: Vec<u8>) -> Result<reqwest::Response> {
        let parts = RequestParts { method: method.as_str(), path, query, body: &body };
        let signature = self.signer.sign(&parts, now_ms(), format!("{:032x}", fastrand::u128(..)));
        let url =
            if query.is_empty() { format!("{}{path}", self.base) } else { format!("{}{path}?{query}", self.base) };
        let request = self
            .http
            .request(method, url)
            .timeout(REQUEST_LIMIT)
            .header(HEADER_SERVER, self.answer.server_id.as_str())
            .header(HEADER_TIMESTAMP, signature.timestamp_ms)
            .header(HEADER_NONCE, signature.nonce)
            .header(HEADER_CONTENT, signature.content_sha256)
            .header(HEADER_SIGNATURE, signature.signature)
            .header("content-type", "application/json")
            .body(body);
        Ok(request.send().await?)
    }

    /// The next document, or `None` when there was no news.
    async fn expected_state(&self, after: u64) -> Result<Option<DesiredState>> {
        let query = format!("after={after}&wait={WAIT_SECONDS}");
        let answer = self.send(Method::GET, "/api/v1/agent/expected-state", &query, Vec::new()).await?;
        let status = answer.status();
        if status == StatusCode::NOT_MODIFIED {
            return Ok(None);
        }
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        let received = Instant::now();
        let signed: SignedDesiredState = serde_json::from_str(&text)?;
        let state: DesiredState = self.key.verify(&signed)?;
        ensure!(state.generation > after, "generation {} after {after}", state.generation);
        for (_, service) in state.services() {
            service.instances.iter().for_each(|i| self.measure.deployment_received(&i.deployment_id, received));
        }
        Ok(Some(state))
    }

    async fn report(&self, observed: ObservedState) -> Result<()> {
        let body = serde_json::to_vec(&StatusReport { observed, facts: None, events: vec![], held: None })?;
        let begun = Instant::now();
        let answer = self.send(Method::POST, "/api/v1/agent/status", "", body).await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{status}: {text}");
        self.measure.report_took(begun.elapsed());
        Ok(())
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

async fn poll(identity: Arc<Identity>, desired: watch::Sender<Option<Arc<DesiredState>>>) {
    let mut generation = 0;
    loop {
        match identity.expected_state(generation).await {
            Ok(None) => {}
            Ok(Some(state)) => {
                generation = state.generation;
                desired.send_replace(Some(Arc::new(state)));
            }
            Err(error) => {
                identity.measure.error("a long-poll", format!("{error:#}"));
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
    }
}

/// Reports when there is news and in any case at the interval that was asked for. What is new is first
/// running and a moment later healthy, so that a rollout sees both.
async fn report(identity: Arc<Identity>, mut seen: watch::Receiver<Option<Arc<DesiredState>>>) {
    let interval = Duration::from_millis(identity.answer.poll_interval_ms);
    let mut started: BTreeMap<InstanceId, i64> = BTreeMap::new();
    // Machines do not report in step.
    let mut next = Duration::from_millis(fastrand::u64(0..identity.answer.poll_interval_ms));
    loop {
        let _ = tokio::time::timeout(next, seen.changed()).await;
        next = interval;
        let Some(state) = seen.borrow_and_update().clone() else { continue };
        let known = started.clone();
        let now = now_ms();
        let running = |id: &InstanceId| state.services().any(|(_, s)| s.instances.iter().any(|i| &i.instance_id == id));
        started.retain(|id, _| running(id));
        for (_, service) in state.services() {
            for instance in &service.instances {
                started.entry(instance.instance_id.clone()).or_insert(now);
            }
        }
        let fresh = started.keys().any(|id| !known.contains_key(id));
        if let Err(error) = identity.report(observe(&state, &started, |id| known.contains_key(id))).await {
            identity.measure.error("a report", format!("{error:#}"));
            next = PAUSE_AFTER_ERROR;
            started = known;
        } else if fresh {
            next = Duration::ZERO;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(100..300))).await;
            // The next report finds everything known, and therefore healthy.
        }
    }
}

/// What the machine looks like when it has done what it was told.
fn observe(
    state: &DesiredState,
    started: &BTreeMap<InstanceId, i64>,
    healthy: impl Fn(&InstanceId) -> bool,
) -> ObservedState {
    let stacks = state.stacks.iter().map(|stack| StackObserved {
        stack_id: stack.stack_id.clone(),
        version: stack.version,
        hash: stack.hash.clone(),
        condition: StackCondition::Applied,
        problems: vec![],
    });
    let mut observed = ObservedState {
        server_id: state.server_id.clone(),
        generation: state.generation,
        observed_at_ms: now_ms(),
        fleet_generation: 0,
        agent: AgentObserved { version: VERSION.into(), started_at_ms: 1, ..AgentObserved::default() },
        stacks: stacks.collect(),
        instances: vec![],
        preparations: vec![],
        gateway: GatewayObserved { running: true, ..GatewayObserved::default() },
        dns: Default::default(),
        mesh: Default::default(),
        blocked: vec![],
        resources: Default::default(),
    };
    for (_, service) in state.services() {
        for revision in &service.revisions {
            observed.preparations.push(PreparationObserved {
                service_id: service.service_id.clone(),
                revision_id: revision.revision_id.clone(),
                deployment_id: revision.deployment_id.clone(),
                state: PreparationState::Ready,
                step: PreparationStep::Build,
                started_at_ms: None,
                ended_at_ms: None,
                error: None,
                retryable: false,
                attempts: 1,
                log_tail: vec![],
            });
        }
        for instance in service.instances.iter().filter(|i| i.intent == InstanceIntent::Run) {
            let id = &instance.instance_id;
            let is_healthy = healthy(id);
            if instance.traffic == Traffic::Active && is_healthy {
                observed.gateway.active.push(id.clone());
            }
            observed.instances.push(InstanceObserved {
                instance_id: id.clone(),
                service_id: service.service_id.clone(),
                revision_id: instance.revision_id.clone(),
                state: if is_healthy { InstanceState::Healthy } else { InstanceState::Running },
                pid: Some(1000),
                port: Some(20_000),
                address: None,
                started_at_ms: started.get(id).copied(),
                restarts: 0,
                crash_looping: false,
                stopping: false,
                last_exit: None,
                last_probe: None,
                problem: None,
                log_tail: vec![],
                memory_bytes: Some(fastrand::u64(20_000_000..30_000_000)),
                cpu_ms: Some(fastrand::u64(..1_000_000)),
            });
        }
    }
    observed
}
