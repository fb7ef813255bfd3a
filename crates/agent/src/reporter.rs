//! Telling the control plane what was seen: at once when it is news, and at the poll interval as a
//! heartbeat. One report carries the whole observation and the oldest waiting events.
//!
//! A report that failed is not kept: the next one says all that it said. Events are, in the ledger,
//! until they are acknowledged.

use crate::backoff::Backoff;
use crate::control_plane::ControlPlane;
use crate::ledger::Ledger;
use crate::observe::significant;
use api::agent::{HeldDocument, StatusReport};
use api::observed::ObservedState;
use api::servers::ServerFacts;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Changes within this time travel in one report.
const COALESCE: Duration = Duration::from_millis(10);

pub struct Reporter {
    pub control_plane: Arc<ControlPlane>,
    pub ledger: Ledger,
    pub observed: watch::Receiver<Option<Arc<ObservedState>>>,
    pub facts: watch::Receiver<ServerFacts>,
    /// Told when the control plane has a newer generation than the one observed.
    pub hurry: Arc<Notify>,
    pub poll_interval: watch::Receiver<Duration>,
}

struct Memory {
    last: Option<ObservedState>,
    last_sent: Option<Instant>,
    facts_sent: Option<ServerFacts>,
    /// Which document is kept, read once per generation.
    held: Option<HeldDocument>,
    /// The control plane asked to see it.
    show_document: bool,
    attempts: u32,
}

impl Reporter {
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut memory =
            Memory { last: None, last_sent: None, facts_sent: None, held: None, show_document: false, attempts: 0 };
        loop {
            let interval = *self.poll_interval.borrow();
            let heartbeat = memory.last_sent.map_or_else(Instant::now, |sent| sent + interval);
            // Waiting on channels and clocks may be dropped at any time.
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = self.observed.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    tokio::time::sleep(COALESCE).await;
                }
                () = tokio::time::sleep_until(heartbeat), if self.observed.borrow().is_some() => {}
            }
            let Some(observed) = self.observed.borrow_and_update().clone() else { continue };
            let news = memory.last.as_ref() != Some(&significant(&observed));
            let due = memory.last_sent.is_none_or(|sent| sent.elapsed() >= interval);
            if !news && !due {
                continue;
            }
            let more = self.report(&mut memory, &observed).await;
            if memory.attempts > 0 {
                let pause = Backoff::CONTROL_PLANE.delay(memory.attempts).min(interval.max(Duration::from_secs(1)));
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                memory.last_sent = None;
            } else if more {
                memory.last_sent = None;
            }
        }
        // The last word, so that the control plane need not guess; bounded, as it may be gone.
        let last = self.observed.borrow().clone();
        if let Some(observed) = last.filter(|o| memory.last.as_ref() != Some(&significant(o))) {
            let _ = tokio::time::timeout(Duration::from_millis(500), self.report(&mut memory, &observed)).await;
        }
    }

    /// Which document this machine keeps, with all of it if the control plane asked.
    async fn held(&self, memory: &mut Memory, generation: u64) -> Option<HeldDocument> {
        if generation == 0 {
            return None;
        }
        let known = memory.held.as_ref().is_some_and(|held| held.generation == generation);
        if known && !memory.show_document {
            return memory.held.clone();
        }
        match self.ledger.desired_load().await {
            Ok(Some(kept)) if kept.generation == generation => {
                let head = HeldDocument { generation, sha256: kept.sha256.clone(), document: None };
                memory.held = Some(head.clone());
                Some(HeldDocument { document: memory.show_document.then_some(kept), ..head })
            }
            // Another one was accepted meanwhile; the next report speaks of that.
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "the kept desired state cannot be read; the report goes without its hash");
                None
            }
        }
    }

    /// Whether there is more to send than one report holds.
    async fn report(&self, memory: &mut Memory, observed: &ObservedState) -> bool {
        let events = match self.ledger.outbox_pending().await {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "waiting events cannot be read; the report goes without"
                );
                Vec::new()
            }
        };
        let facts = self.facts.borrow().clone();
        let facts_news = memory.facts_sent.as_ref() != Some(&facts);
        let full = events.len() as i64 >= crate::ledger::REPORT_LIMIT;
        let held = self.held(memory, observed.generation).await;
        let report =
            StatusReport { observed: observed.clone(), facts: facts_news.then(|| facts.clone()), events, held };
        match self.control_plane.status(&report).await {
            Ok(answer) => {
                memory.attempts = 0;
                memory.last_sent = Some(Instant::now());
                memory.last = Some(significant(observed));
                if facts_news {
                    memory.facts_sent = Some(facts.clone());
                    if let Err(error) = self.ledger.facts_put(&facts).await {
                        tracing::debug!(%error, "facts are not kept; they are sent again after a restart");
                    }
                }
                if let Err(error) = self.ledger.outbox_acknowledge(&answer.acknowledged_events).await {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "acknowledged events cannot be forgotten and are sent again"
                    );
                }
                if answer.generation > observed.generation {
                    self.hurry.notify_one();
                }
                // Asked for once more only if the answer says so again.
                let show = answer.send_document && !memory.show_document;
                memory.show_document = answer.send_document;
                show || full && !answer.acknowledged_events.is_empty()
            }
            Err(error) => {
                memory.attempts += 1;
                if memory.attempts == 1 {
                    tracing::warn!(%error, "the report is sent again later");
                } else {
                    tracing::debug!(%error, attempts = memory.attempts, "still no report delivered");
                }
                false
            }
        }
    }
}
