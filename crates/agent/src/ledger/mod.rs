//! The agent's memory: one SQLite file that survives a restart of everything.
//!
//! What is in it is what the agent must know before it has seen anything: the last verified desired
//! state (so that a machine comes up right with the control plane gone), the highest generation it
//! ever accepted (so that nobody can roll it back by replaying an old document), events and log
//! offsets that the control plane has not acknowledged, and how often which change failed. What runs
//! is *not* in it: that is observed, every time, so the ledger can be lost without harm to a service.
//!
//! SQLite in WAL mode with `synchronous=FULL`: a write that returned survives a power cut. A ledger
//! that cannot be read is said so, set aside under a name with a timestamp, and begun anew; what
//! runs is adopted and the desired state fetched again. A ledger from a newer version is not
//! touched: starting would throw away what the newer agent knew.
//!
//! There is a second one in memory ([`MemoryLedger`]), which passes the same tests: the simulation uses
//! it, because a hundred agents' disks have to be fast there, and have to fail on command.
//!
//! [`file`] is the only SQL outside the `store` crate. Store is the control plane's: it scopes every
//! call by organization and runs on two databases. The agent has neither need, must not link
//! Postgres, and its six small tables change with its own version, so sharing would couple the two
//! halves that DESIGN.md keeps apart.

mod file;
mod memory;
mod outbox;
mod private;
mod records;

pub use file::FileLedger;
pub use memory::{Disk, MemoryDisk, MemoryLedger};
pub use outbox::{OUTBOX_LIMIT, REPORT_LIMIT};
pub use records::{FailureRecord, LOOPBACK_PORTS};

use api::desired::SignedDesiredState;
use api::events::Event;
use api::ids::{EventId, ServiceId};
use api::logs::LogSource;
use api::servers::ServerFacts;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SCHEMA_VERSION: i64 = 1;

/// Why the ledger could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "the ledger {path} cannot be opened: check that the disk is not full and that the directory may be written"
    )]
    Open { path: PathBuf, source: sqlx::Error },
    #[error(
        "the ledger {path} has schema {found}, this agent knows up to {SCHEMA_VERSION}: \
         it was written by a newer agent. Start that version, or move the file away to begin anew"
    )]
    Newer { path: PathBuf, found: i64 },
    #[error("the broken ledger {path} cannot be set aside")]
    SetAside { path: PathBuf, source: std::io::Error },
    #[error("{operation} failed in the ledger")]
    Query { operation: &'static str, source: sqlx::Error },
    #[error("{operation}: the ledger holds a value that cannot be read")]
    Content { operation: &'static str, source: serde_json::Error },
}

/// Why a desired state was not accepted, apart from its signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerationError {
    #[error(
        "the control plane offers generation {given}, but this machine accepted {highest} before, and an older document \
         is never applied: was the control plane restored from a backup? What runs goes on. There, \
         `mainstay servers accept-restore` shows what would change and mends it"
    )]
    Fallen { given: u64, highest: u64 },
    #[error(
        "two different documents claim generation {given}, and the first stays in force: was the control plane restored \
         from a backup? What runs goes on. There, `mainstay servers accept-restore` shows what would change and mends it"
    )]
    Forked { given: u64 },
}

/// What became of a document that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acceptance {
    /// It is newer and now kept.
    New,
    /// It is the one that is kept already.
    Same,
    Refused(GenerationError),
}

/// A ledger and what had to be done to get it.
#[derive(Debug)]
pub struct Opened {
    pub ledger: Ledger,
    /// A broken ledger that was moved out of the way, and what was wrong with it.
    pub set_aside: Option<(PathBuf, String)>,
}

/// The ledger of one agent; clones share it.
#[derive(Debug, Clone)]
pub enum Ledger {
    File(FileLedger),
    Memory(MemoryLedger),
}

macro_rules! either {
    ($self:ident, $ledger:ident => $call:expr) => {
        match $self {
            Self::File($ledger) => $call.await,
            Self::Memory($ledger) => $call.await,
        }
    };
}

impl Ledger {
    /// The one in this file; made if it is missing, set aside and made anew if it is broken.
    pub async fn open(path: &Path) -> Result<Opened, LedgerError> {
        FileLedger::open(path).await
    }

    /// Waits for writes and lets go of the file.
    pub async fn close(&self) {
        if let Self::File(ledger) = self {
            ledger.close().await;
        }
    }

    /// The envelope as it was received. The caller verifies it again: what lies on a disk can be altered.
    pub async fn desired_load(&self) -> Result<Option<SignedDesiredState>, LedgerError> {
        either!(self, ledger => ledger.desired_load())
    }

    /// The fleet state as it was received. The caller verifies it again.
    pub async fn fleet_load(&self) -> Result<Option<SignedDesiredState>, LedgerError> {
        either!(self, ledger => ledger.fleet_load())
    }

    /// Keeps a verified fleet state; the caller has seen that it is newer.
    pub async fn fleet_keep(&self, signed: &SignedDesiredState) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.fleet_keep(signed))
    }

    /// The highest generation ever accepted; it never falls, even if the document itself is lost.
    pub async fn highest_generation(&self) -> Result<u64, LedgerError> {
        either!(self, ledger => ledger.highest_generation())
    }

    /// Keeps a verified document if it is newer than all before it.
    pub async fn desired_accept(&self, signed: &SignedDesiredState, now_ms: i64) -> Result<Acceptance, LedgerError> {
        either!(self, ledger => ledger.desired_accept(signed, now_ms))
    }

    /// Keeps events until they are acknowledged; the outbox is bounded.
    pub async fn outbox_append(&self, events: &[Event], now_ms: i64) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.outbox_append(events, now_ms))
    }

    /// The oldest events that are not acknowledged yet.
    pub async fn outbox_pending(&self) -> Result<Vec<Event>, LedgerError> {
        either!(self, ledger => ledger.outbox_pending())
    }

    /// Forgets what the control plane keeps now.
    pub async fn outbox_acknowledge(&self, ids: &[EventId]) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.outbox_acknowledge(ids))
    }

    /// Up to where the control plane keeps each log.
    pub async fn log_offsets(&self) -> Result<BTreeMap<String, u64>, LedgerError> {
        either!(self, ledger => ledger.log_offsets())
    }

    pub async fn log_offset_put(&self, source: &LogSource, next_offset: u64, now_ms: i64) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.log_offset_put(source, next_offset, now_ms))
    }

    /// Forgets the offsets of logs that are gone.
    pub async fn log_offsets_retain(&self, keys: &[String]) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.log_offsets_retain(keys))
    }

    pub async fn failures_load(&self) -> Result<BTreeMap<String, FailureRecord>, LedgerError> {
        either!(self, ledger => ledger.failures_load())
    }

    pub async fn failure_put(&self, subject: &str, record: &FailureRecord) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.failure_put(subject, record))
    }

    pub async fn failure_clear(&self, subject: &str) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.failure_clear(subject))
    }

    /// The facts that the control plane was told last.
    pub async fn facts_load(&self) -> Result<Option<ServerFacts>, LedgerError> {
        either!(self, ledger => ledger.facts_load())
    }

    pub async fn facts_put(&self, facts: &ServerFacts) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.facts_put(facts))
    }

    /// Gives a service's loopback port back, because somebody else listens there.
    pub async fn service_port_forget(&self, service: &ServiceId) -> Result<(), LedgerError> {
        either!(self, ledger => ledger.service_port_forget(service))
    }

    /// A stable loopback port for each of these services; those of services that are gone are given
    /// back. New ones are looked for from `first` on, so that agents on one machine seldom meet, among
    /// those that are free. A service goes without once all thousand are taken.
    pub async fn service_ports(
        &self,
        services: &[ServiceId],
        first: u16,
        is_free: impl Fn(u16) -> bool,
    ) -> Result<BTreeMap<ServiceId, u16>, LedgerError> {
        either!(self, ledger => ledger.service_ports(services, first, is_free))
    }
}

#[cfg(test)]
mod tests;
