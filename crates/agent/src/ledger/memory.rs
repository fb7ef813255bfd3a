//! A ledger without a file: what would be on the disk is in a [`MemoryDisk`] that outlives the agent.
//!
//! It keeps two copies. *Written* is what a process reads back; *durable* is what is left after a power
//! cut. Each write reaches both, as SQLite does with `synchronous=FULL`; the difference exists so that a
//! forgotten fsync can be simulated and seen. A [`Disk`] may be put before it: it is asked before and
//! told after each write, and can let it fail, or let the agent die there.

use super::outbox::{dropped_notice, level_rank};
use super::{Acceptance, FailureRecord, GenerationError, LOOPBACK_PORTS, LedgerError, OUTBOX_LIMIT, REPORT_LIMIT};
use api::desired::SignedDesiredState;
use api::events::Event;
use api::ids::{EventId, ServiceId};
use api::logs::LogSource;
use api::servers::ServerFacts;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What can go wrong with a write.
pub trait Disk: Send + Sync + 'static {
    /// Before the write: an error fails it, and a future that never ends is the end of the agent.
    fn before_write(&self, operation: &'static str) -> BoxFuture<'_, io::Result<()>>;
    /// After the write.
    fn after_write(&self, operation: &'static str) -> BoxFuture<'_, ()>;
    /// Whether a write that returns has reached the disk itself.
    fn syncs(&self, operation: &'static str) -> bool;
}

#[derive(Debug, Clone, Default)]
struct Tables {
    desired: Option<SignedDesiredState>,
    fleet: Option<SignedDesiredState>,
    highest_generation: u64,
    /// With the sequence that orders them.
    outbox: Vec<(u64, Event)>,
    sequence: u64,
    dropped: u64,
    notice: Option<EventId>,
    log_offsets: BTreeMap<String, u64>,
    failures: BTreeMap<String, FailureRecord>,
    facts: Option<ServerFacts>,
    service_ports: BTreeMap<ServiceId, u16>,
}

#[derive(Debug, Default)]
struct Copies {
    written: Tables,
    durable: Tables,
}

/// What outlives the agent; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    copies: Arc<Mutex<Copies>>,
}

impl MemoryDisk {
    /// What was written and not synced is lost.
    pub fn cut_power(&self) {
        let mut copies = self.lock();
        copies.written = copies.durable.clone();
    }

    /// The highest generation that a process would read now.
    pub fn highest_generation(&self) -> u64 {
        self.lock().written.highest_generation
    }

    /// The document that a process would read now.
    pub fn desired(&self) -> Option<SignedDesiredState> {
        self.lock().written.desired.clone()
    }

    /// Events that still wait.
    pub fn waiting_events(&self) -> Vec<EventId> {
        self.lock().written.outbox.iter().map(|(_, event)| event.id.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One agent's view of the disk.
#[derive(Clone)]
pub struct MemoryLedger {
    disk: MemoryDisk,
    gate: Option<Arc<dyn Disk>>,
}

impl fmt::Debug for MemoryLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLedger").finish_non_exhaustive()
    }
}

impl MemoryLedger {
    pub fn new(disk: MemoryDisk, gate: Option<Arc<dyn Disk>>) -> Self {
        Self { disk, gate }
    }

    async fn write<R>(&self, operation: &'static str, change: impl FnOnce(&mut Tables) -> R) -> Result<R, LedgerError> {
        if let Some(gate) = &self.gate {
            let failed = |error| LedgerError::Query { operation, source: sqlx::Error::Io(error) };
            gate.before_write(operation).await.map_err(failed)?;
        }
        let result = {
            let mut copies = self.disk.lock();
            let result = change(&mut copies.written);
            if self.gate.as_ref().is_none_or(|gate| gate.syncs(operation)) {
                copies.durable = copies.written.clone();
            }
            result
        };
        if let Some(gate) = &self.gate {
            gate.after_write(operation).await;
        }
        Ok(result)
    }

    fn read<R>(&self, read: impl FnOnce(&Tables) -> R) -> R {
        read(&self.disk.lock().written)
    }

    pub async fn desired_load(&self) -> Result<Option<SignedDesiredState>, LedgerError> {
        Ok(self.read(|tables| tables.desired.clone()))
    }

    pub async fn fleet_load(&self) -> Result<Option<SignedDesiredState>, LedgerError> {
        Ok(self.read(|tables| tables.fleet.clone()))
    }

    pub async fn fleet_keep(&self, signed: &SignedDesiredState) -> Result<(), LedgerError> {
        let signed = signed.clone();
        self.write("keeping a fleet state", |tables| tables.fleet = Some(signed)).await
    }

    pub async fn highest_generation(&self) -> Result<u64, LedgerError> {
        Ok(self.read(|tables| tables.highest_generation))
    }

    pub async fn desired_accept(&self, signed: &SignedDesiredState, _now_ms: i64) -> Result<Acceptance, LedgerError> {
        let (highest, kept) = self.read(|tables| (tables.highest_generation, tables.desired.clone()));
        let given = signed.generation;
        if given < highest {
            return Ok(Acceptance::Refused(GenerationError::Fallen { given, highest }));
        }
        if let Some(kept) = kept.filter(|kept| kept.generation == given) {
            let refused = GenerationError::Forked { given };
            return Ok(if kept.sha256 == signed.sha256 { Acceptance::Same } else { Acceptance::Refused(refused) });
        }
        self.write("keeping a desired state", |tables| {
            tables.desired = Some(signed.clone());
            tables.highest_generation = given;
        })
        .await?;
        Ok(Acceptance::New)
    }

    pub async fn outbox_append(&self, events: &[Event], now_ms: i64) -> Result<(), LedgerError> {
        self.outbox_append_bounded(events, now_ms, OUTBOX_LIMIT).await
    }

    pub(super) async fn outbox_append_bounded(
        &self,
        events: &[Event],
        now_ms: i64,
        limit: i64,
    ) -> Result<(), LedgerError> {
        if events.is_empty() {
            return Ok(());
        }
        let limit = usize::try_from(limit).unwrap_or(0);
        self.write("keeping events", |tables| {
            for event in events {
                tables.push(event);
            }
            if tables.outbox.len() > limit {
                // One more than needed, to make room for the notice.
                tables.drop_oldest(tables.outbox.len() - limit + 1, now_ms);
            }
        })
        .await
    }

    pub async fn outbox_pending(&self) -> Result<Vec<Event>, LedgerError> {
        let limit = usize::try_from(REPORT_LIMIT).unwrap_or(0);
        Ok(self.read(|tables| tables.outbox.iter().take(limit).map(|(_, event)| event.clone()).collect()))
    }

    pub async fn outbox_acknowledge(&self, ids: &[EventId]) -> Result<(), LedgerError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.write("forgetting acknowledged events", |tables| {
            tables.outbox.retain(|(_, event)| !ids.contains(&event.id));
            if tables.notice.as_ref().is_some_and(|notice| ids.contains(notice)) {
                tables.dropped = 0;
            }
        })
        .await
    }

    pub async fn log_offsets(&self) -> Result<BTreeMap<String, u64>, LedgerError> {
        Ok(self.read(|tables| tables.log_offsets.clone()))
    }

    pub async fn log_offset_put(&self, source: &LogSource, next_offset: u64, _now_ms: i64) -> Result<(), LedgerError> {
        self.write("keeping a log offset", |tables| {
            tables.log_offsets.insert(source.key(), next_offset);
        })
        .await
    }

    pub async fn log_offsets_retain(&self, keys: &[String]) -> Result<(), LedgerError> {
        self.write("forgetting log offsets", |tables| tables.log_offsets.retain(|key, _| keys.contains(key))).await
    }

    pub async fn failures_load(&self) -> Result<BTreeMap<String, FailureRecord>, LedgerError> {
        Ok(self.read(|tables| tables.failures.clone()))
    }

    pub async fn failure_put(&self, subject: &str, record: &FailureRecord) -> Result<(), LedgerError> {
        self.write("keeping a failure", |tables| {
            tables.failures.insert(subject.to_owned(), record.clone());
        })
        .await
    }

    pub async fn failure_clear(&self, subject: &str) -> Result<(), LedgerError> {
        self.write("forgetting a failure", |tables| {
            tables.failures.remove(subject);
        })
        .await
    }

    pub async fn facts_load(&self) -> Result<Option<ServerFacts>, LedgerError> {
        Ok(self.read(|tables| tables.facts.clone()))
    }

    pub async fn facts_put(&self, facts: &ServerFacts) -> Result<(), LedgerError> {
        self.write("keeping facts", |tables| tables.facts = Some(facts.clone())).await
    }

    pub async fn service_port_forget(&self, service: &ServiceId) -> Result<(), LedgerError> {
        self.write("giving a loopback port back", |tables| {
            tables.service_ports.remove(service);
        })
        .await
    }

    pub async fn service_ports(
        &self,
        services: &[ServiceId],
        first: u16,
        is_free: impl Fn(u16) -> bool,
    ) -> Result<BTreeMap<ServiceId, u16>, LedgerError> {
        let (low, high) = (*LOOPBACK_PORTS.start(), *LOOPBACK_PORTS.end());
        let first = first.clamp(low, high);
        self.write("giving out loopback ports", |tables| {
            tables.service_ports.retain(|service, _| services.contains(service));
            let taken: Vec<u16> = tables.service_ports.values().copied().collect();
            let mut free = (first..=high).chain(low..first).filter(|port| !taken.contains(port) && is_free(*port));
            for service in services {
                if !tables.service_ports.contains_key(service)
                    && let Some(port) = free.next()
                {
                    tables.service_ports.insert(service.clone(), port);
                }
            }
            tables.service_ports.clone()
        })
        .await
    }
}

impl Tables {
    fn push(&mut self, event: &Event) {
        if self.outbox.iter().all(|(_, known)| known.id != event.id) {
            self.sequence += 1;
            self.outbox.push((self.sequence, event.clone()));
        }
    }

    fn drop_oldest(&mut self, excess: usize, now_ms: i64) {
        let mut excess = excess;
        // The former notice makes room for the new one and is not itself counted.
        if let Some(former) = self.notice.take() {
            let before = self.outbox.len();
            self.outbox.retain(|(_, event)| event.id != former);
            excess = excess.saturating_sub(before - self.outbox.len());
        }
        let mut order: Vec<(i64, u64)> =
            self.outbox.iter().map(|(sequence, event)| (level_rank(event.level), *sequence)).collect();
        order.sort_unstable();
        order.truncate(excess);
        self.outbox.retain(|(sequence, _)| order.iter().all(|(_, gone)| gone != sequence));
        self.dropped += order.len() as u64;
        let notice = dropped_notice(self.dropped, now_ms);
        self.notice = Some(notice.id.clone());
        self.push(&notice);
    }
}
