//! What the control plane says in its answers, and is held to from that moment on, whether or not the
//! answer arrives.

use crate::story::Story;
use crate::time::locked;
use crate::world::World;
use agent::transport::{Incoming, Outgoing};
use api::agent::{RegisterAnswer, RegisterRequest, StatusAnswer};
use api::deployments::{Deployment, Stage};
use api::desired::SignedDesiredState;
use api::ids::{DeploymentId, EventId, ServerId};
use api::logs::{LogSource, LogUploadAnswer};
use http::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use store::{EventFilter, LogFilter};
use wire::request::HEADER_NONCE;

#[derive(Default)]
pub struct Promises {
    events: Mutex<BTreeSet<EventId>>,
    /// Events that were written to the ledger of a machine.
    kept: Mutex<BTreeSet<EventId>>,
    logs: Mutex<BTreeMap<LogSource, u64>>,
    /// Lines of logs whose instance is gone.
    past_logs: Mutex<BTreeMap<LogSource, Vec<String>>>,
    /// Logs that began anew: their instance was removed, and started again by an agent that could not
    /// keep the document that removed it.
    begun_anew: Mutex<BTreeSet<LogSource>>,
    nonces: Mutex<BTreeSet<String>>,
    /// Join tokens, and whom each let in.
    let_in: Mutex<BTreeMap<String, ServerId>>,
    /// The newest document that was given to each machine: generation and hash.
    documents: Mutex<BTreeMap<ServerId, (u64, String)>>,
    deployments: Mutex<BTreeSet<DeploymentId>>,
    stages: Mutex<BTreeMap<DeploymentId, Stage>>,
}

impl Promises {
    /// A machine keeps events, and will keep them until they have arrived.
    pub fn events_kept(&self, ids: Vec<EventId>) {
        locked(&self.kept).extend(ids);
    }

    pub fn log_goes(&self, source: LogSource, lines: Vec<String>) {
        locked(&self.past_logs).insert(source, lines);
    }

    pub fn log_begins(&self, source: LogSource) {
        if locked(&self.past_logs).contains_key(&source) {
            locked(&self.begun_anew).insert(source);
        }
    }

    pub fn begun_anew(&self, source: &LogSource) -> bool {
        locked(&self.begun_anew).contains(source)
    }

    pub fn log_kept_up_to(&self, source: &LogSource) -> u64 {
        locked(&self.logs).get(source).copied().unwrap_or(0)
    }

    pub fn deployment_promised(&self, id: DeploymentId) {
        locked(&self.deployments).insert(id);
    }

    pub fn missing_deployment(&self, present: &[Deployment]) -> Option<DeploymentId> {
        locked(&self.deployments).iter().find(|id| present.iter().all(|d| &d.id != *id)).cloned()
    }

    /// The stage at the last look, if there was one.
    pub fn stage_seen(&self, id: &DeploymentId, now: Stage) -> Option<Stage> {
        locked(&self.stages).insert(id.clone(), now)
    }

    /// An answer leaves the control plane.
    pub fn answered(&self, story: &Story, server: Option<&ServerId>, request: &Outgoing, answer: &Incoming) {
        let fine = answer.status.is_success() || answer.status == StatusCode::NOT_MODIFIED;
        if !fine {
            return;
        }
        let nonce = request.headers.get(HEADER_NONCE).and_then(|nonce| nonce.to_str().ok());
        if let Some(nonce) = nonce
            && !locked(&self.nonces).insert(nonce.to_owned())
        {
            story.never(format_args!("a request that was made before is taken again: {}", request.url.path()));
        }
        let path = request.url.path().rsplit('/').next().unwrap_or_default();
        match path {
            "status" => {
                if let Ok(answer) = serde_json::from_slice::<StatusAnswer>(&answer.body) {
                    locked(&self.events).extend(answer.acknowledged_events);
                }
            }
            "logs" => {
                if let Ok(answer) = serde_json::from_slice::<LogUploadAnswer>(&answer.body) {
                    let mut logs = locked(&self.logs);
                    for acknowledged in answer.acknowledged {
                        let known = logs.entry(acknowledged.source).or_default();
                        *known = acknowledged.next_offset.max(*known);
                    }
                }
            }
            "register" => self.let_in(story, request, answer),
            "expected-state" if answer.status.is_success() => self.document(story, server, answer),
            _ => {}
        }
    }

    fn let_in(&self, story: &Story, request: &Outgoing, answer: &Incoming) {
        let (Ok(asked), Ok(answer)) = (
            serde_json::from_slice::<RegisterRequest>(&request.body),
            serde_json::from_slice::<RegisterAnswer>(&answer.body),
        ) else {
            return;
        };
        let former = locked(&self.let_in).insert(asked.token.expose().to_owned(), answer.server_id.clone());
        if former.is_some_and(|former| former != answer.server_id) {
            story.never("one token let two machines in");
        }
    }

    fn document(&self, story: &Story, server: Option<&ServerId>, answer: &Incoming) {
        let (Some(server), Ok(signed)) = (server, serde_json::from_slice::<SignedDesiredState>(&answer.body)) else {
            return;
        };
        let given = signed.generation;
        let Some((generation, hash)) = locked(&self.documents).insert(server.clone(), (given, signed.sha256.clone()))
        else {
            return;
        };
        if given < generation {
            story.never(format_args!("the control plane gives out generation {given} after {generation}"));
        } else if given == generation && signed.sha256 != hash {
            story.never(format_args!("the control plane gives out two documents with the generation {given}"));
        }
    }
}

impl World {
    /// Everything that was promised is there, once.
    pub fn look_at_promises(&self) {
        let read = self.plane.inspect(|state| {
            Box::pin(async move {
                let scope = state.system_scope("referee");
                let filter = EventFilter { after: Some(0), limit: 100_000, ..EventFilter::default() };
                let events = state.store().event_list(&scope, &filter).await?;
                let filter = LogFilter {
                    after: Some(0),
                    before: None,
                    limit: 100_000,
                    service_ids: None,
                    deployment_id: None,
                    instance_id: None,
                    kind: None,
                    since_ms: None,
                    until_ms: None,
                };
                Ok::<_, store::Error>((events, state.store().log_list(&scope, &filter).await?))
            })
        });
        let Some(Ok((events, logs))) = read else { return };
        let mut stored: BTreeSet<EventId> = BTreeSet::new();
        for record in events {
            if !stored.insert(record.event.id.clone()) {
                self.story.never(format_args!("the event {} is kept twice", record.event.id.short()));
            }
        }
        if let Some(lost) = locked(&self.referee.promises.events).difference(&stored).next() {
            self.story.never(format_args!("the event {} was acknowledged and is lost", lost.short()));
        }
        if let Some(lost) = locked(&self.referee.promises.kept).difference(&stored).next() {
            self.story.never(format_args!("the event {} was kept by its machine and never arrived", lost.short()));
        }
        let mut lines: BTreeMap<LogSource, Vec<String>> = BTreeMap::new();
        for record in logs {
            lines.entry(record.source).or_default().push(record.line.text);
        }
        for (source, acknowledged) in locked(&self.referee.promises.logs).iter() {
            self.compare_log(&self.story, source, *acknowledged, lines.get(source).map_or(&[], Vec::as_slice));
        }
    }

    fn compare_log(&self, story: &Story, source: &LogSource, acknowledged: u64, stored: &[String]) {
        let LogSource::Run { instance_id } = source else { return };
        if self.referee.promises.begun_anew(source) {
            return;
        }
        let living = self.machines.iter().map(|machine| machine.workloads.log_lines(source)).find(|l| !l.is_empty());
        let Some(printed) = living.or_else(|| locked(&self.referee.promises.past_logs).get(source).cloned()) else {
            return;
        };
        let what = self.referee.name_of(instance_id);
        let mut offset = 0;
        for (position, line) in printed.iter().enumerate() {
            offset += line.len() as u64 + 1;
            match stored.get(position) {
                Some(kept) if kept == line => {}
                Some(kept) => {
                    story.never(format_args!("the log of {what} has `{kept}` where `{line}` was printed"));
                    return;
                }
                None if offset <= acknowledged => {
                    story.never(format_args!("the line `{line}` of the log of {what} was acknowledged and is lost"));
                    return;
                }
                None => return,
            }
        }
        if stored.len() > printed.len() {
            story.never(format_args!("the log of {what} has more lines than were printed"));
        }
    }
}
