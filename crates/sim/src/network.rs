//! The network between a machine and the control plane: it delays, loses, doubles and reorders, and it
//! can be cut. A letter that was sent travels on its own: its sender may die meanwhile.

use crate::chance::Chance;
use crate::machine::Machine;
use crate::time::locked;
use crate::world::World;
use agent::transport::{Incoming, Outgoing, Transport, TransportError};
use api::ids::ServerId;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wire::request::{HEADER_CONTENT, HEADER_NONCE, HEADER_SERVER, HEADER_SIGNATURE, HEADER_TIMESTAMP, RequestParts};

/// Documents that a proxy keeps.
const PASSED_BY_LIMIT: usize = 4;

type Outcome = Result<Incoming, TransportError>;

/// One agent's way to the control plane, for as long as it lives.
pub struct Wire {
    pub world: Arc<World>,
    pub machine: Arc<Machine>,
    pub alive: Arc<AtomicBool>,
    pub chance: Mutex<Chance>,
}

impl Transport for Wire {
    fn send(&self, request: Outgoing) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            self.machine.referee_looks_at_letter(&self.world, &request);
            let (answer, answered) = oneshot::channel();
            let letter = Letter {
                world: self.world.clone(),
                machine: self.machine.clone(),
                request,
                chance: locked(&self.chance).child("letter"),
            };
            tokio::spawn(letter.travel(answer));
            match answered.await {
                Ok(outcome) if self.alive.load(Ordering::SeqCst) => outcome,
                // Lost, or too late for whoever asked.
                _ => std::future::pending().await,
            }
        })
    }
}

struct Letter {
    world: Arc<World>,
    machine: Arc<Machine>,
    request: Outgoing,
    chance: Chance,
}

impl Letter {
    async fn travel(mut self, answer: oneshot::Sender<Outcome>) {
        let weather = self.world.weather();
        let path = self.request.url.path().rsplit('/').next().unwrap_or_default().to_owned();
        let name = self.machine.name;
        if self.machine.is_cut_off() {
            return self.lose(answer, weather.silent, "no route to host").await;
        }
        self.delay(weather.delay_limit_ms).await;
        if self.chance.happens(weather.lost_requests) {
            self.world.story.tell("network", format_args!("loses {path} of {name}"));
            return self.lose(answer, weather.silent, "connection reset").await;
        }
        if self.chance.happens(weather.doubled) {
            self.world.story.tell("network", format_args!("doubles {path} of {name}"));
            let mut copy = Self {
                world: self.world.clone(),
                machine: self.machine.clone(),
                request: self.request.clone(),
                chance: self.chance.child("copy"),
            };
            tokio::spawn(async move {
                let pause = copy.chance.ms(0..5_000);
                tokio::time::sleep(pause).await;
                // Nobody waits for what comes back.
                drop(copy.deliver().await);
            });
        }
        let outcome = match self.stale(&path, weather.stale) {
            Some(stale) => Ok(stale),
            None => self.deliver().await,
        };
        self.delay(weather.delay_limit_ms).await;
        if self.machine.is_deaf() || self.chance.happens(weather.lost_answers) {
            self.world.story.tell("network", format_args!("loses the answer to {path} of {name}"));
            return self.lose(answer, weather.silent, "connection reset").await;
        }
        let _ = answer.send(outcome);
    }

    /// Whoever sent what is lost hears of that some time, or waits until its own patience ends.
    async fn lose(&mut self, answer: oneshot::Sender<Outcome>, silent: u32, why: &str) {
        if !self.chance.happens(silent) {
            tokio::time::sleep(self.chance.ms(1..3_000)).await;
            let _ = answer.send(Err(TransportError::Unreachable(why.into())));
        }
    }

    /// A document that passed by before, from whoever keeps such things on the way.
    fn stale(&mut self, path: &str, per_thousand: u32) -> Option<Incoming> {
        let kept = locked(&self.machine.passed_by);
        if path != "expected-state" || kept.is_empty() || !self.chance.happens(per_thousand) {
            return None;
        }
        self.world.story.tell("network", format_args!("gives {} a document of yesterday", self.machine.name));
        Some(self.chance.one_of(&kept).clone())
    }

    async fn delay(&mut self, limit_ms: u64) {
        let mut delay = self.chance.ms(1..5);
        if limit_ms > 0 && self.chance.happens(200) {
            delay = self.chance.ms(1..limit_ms);
        }
        tokio::time::sleep(delay).await;
    }

    /// What the control plane says. A poll without news is held until there is some, as the control
    /// plane holds it; it is asked again under a signature of the moment.
    async fn deliver(&mut self) -> Outcome {
        let (after, wait) = self.poll();
        let deadline = Instant::now() + wait;
        let mut seen = self.world.seen.subscribe();
        let epoch = seen.borrow_and_update().epoch;
        let refused = || Err(TransportError::Unreachable("connection refused".into()));
        loop {
            let Some(answer) = self.world.ask_plane(self.http_request()) else { return refused() };
            let incoming = Incoming { status: answer.status, headers: answer.headers, body: answer.body };
            if incoming.status == http::StatusCode::OK && !wait.is_zero() {
                let mut kept = locked(&self.machine.passed_by);
                kept.push(incoming.clone());
                let excess = kept.len().saturating_sub(PASSED_BY_LIMIT);
                kept.drain(..excess);
            }
            let promises = &self.world.referee.promises;
            promises.answered(&self.world.story, self.machine.server_id().as_ref(), &self.request, &incoming);
            if incoming.status != http::StatusCode::NOT_MODIFIED || wait.is_zero() {
                return Ok(incoming);
            }
            let Some(server_id) = self.machine.server_id() else { return Ok(incoming) };
            let news = seen.wait_for(|now| {
                now.epoch != epoch || !now.up || now.generations.get(&server_id).is_some_and(|g| *g > after)
            });
            match tokio::time::timeout_at(deadline, news).await {
                Err(_) => return Ok(incoming),
                Ok(Err(_)) => return refused(),
                Ok(Ok(now)) if now.epoch != epoch || !now.up => {
                    return Err(TransportError::Unreachable("connection reset".into()));
                }
                Ok(Ok(_)) => {}
            }
            self.sign_again(&server_id);
        }
    }

    fn poll(&self) -> (u64, Duration) {
        if !self.request.url.path().ends_with("/expected-state") {
            return (0, Duration::ZERO);
        }
        let number = |name: &str| {
            let found = self.request.url.query_pairs().find(|(key, _)| key == name);
            found.and_then(|(_, value)| value.parse::<u64>().ok()).unwrap_or(0)
        };
        (number("after"), Duration::from_secs(number("wait")))
    }

    fn http_request(&self) -> http::Request<bytes::Bytes> {
        let path = match self.request.url.query() {
            Some(query) => format!("{}?{query}", self.request.url.path()),
            None => self.request.url.path().to_owned(),
        };
        let mut request = http::Request::new(self.request.body.clone());
        *request.method_mut() = self.request.method.clone();
        *request.uri_mut() = path.parse().expect("the path of a URL is one of a request");
        *request.headers_mut() = self.request.headers.clone();
        request
    }

    fn sign_again(&mut self, server_id: &ServerId) {
        let Some(identity) = self.machine.identity() else { return };
        let signer = wire::RequestSigner::from_base64(&identity.secret).expect("the identity's secret was checked");
        let parts = RequestParts {
            method: Method::GET.as_str(),
            path: self.request.url.path(),
            query: self.request.url.query().unwrap_or_default(),
            body: &self.request.body,
        };
        let nonce = format!("{:016x}{:016x}", self.chance.any(), self.chance.any());
        let signed = signer.sign(&parts, self.world.time.true_ms(), nonce);
        for (name, text) in [
            (HEADER_SERVER, server_id.to_string()),
            (HEADER_TIMESTAMP, signed.timestamp_ms.to_string()),
            (HEADER_NONCE, signed.nonce),
            (HEADER_CONTENT, signed.content_sha256),
            (HEADER_SIGNATURE, signed.signature),
        ] {
            let value = HeaderValue::from_str(&text).expect("ids, numbers, hex and base64 are good in a header");
            self.request.headers.insert(name, value);
        }
    }
}

/// What is looked for in a report ([`api::agent::StatusReport`]); most of it is stepped over.
#[derive(serde::Deserialize)]
struct Said {
    observed: SaidOfItself,
}

#[derive(serde::Deserialize)]
struct SaidOfItself {
    generation: u64,
}

/// The generation that a report speaks of.
pub fn reported_generation(request: &Outgoing) -> Option<u64> {
    if !request.url.path().ends_with("/status") {
        return None;
    }
    serde_json::from_slice::<Said>(&request.body).ok().map(|report| report.observed.generation)
}
