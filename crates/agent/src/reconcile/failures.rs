//! Changes that failed, each with its own backoff. In memory for planning, in the ledger for the next
//! start, so that a crash of the agent does not turn a backoff into a busy loop.

use crate::backoff::{Backoff, jitter};
use crate::clock::now_ms;
use crate::ledger::{FailureRecord, Ledger};
use api::UnixMillis;
use api::desired::DesiredState;
use api::ids::InstanceId;
use plan::host::{ConfigKind, Failure, Subject};
use std::collections::BTreeMap;

/// Something that cannot succeed without anybody changing it is still tried at this interval: what
/// seems final (a missing file, a refused config) may be mended outside.
const HOPELESS_RETRY_MS: i64 = 600_000;

pub struct Failures {
    ledger: Ledger,
    records: BTreeMap<Subject, FailureRecord>,
}

impl Failures {
    pub async fn load(ledger: Ledger) -> Self {
        let records = match ledger.failures_load().await {
            Ok(rows) => rows.into_iter().filter_map(|(key, record)| Some((parse_key(&key)?, record))).collect(),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "former failures cannot be read; everything is tried at once"
                );
                BTreeMap::new()
            }
        };
        Self { ledger, records }
    }

    /// One more failure at the same target, or the first at another.
    pub async fn record(&mut self, subject: Subject, target: String, error: String, retryable: bool) {
        let attempts = match self.records.get(&subject) {
            Some(former) if former.target == target => former.attempts.saturating_add(1),
            _ => 1,
        };
        let failed_at_ms = now_ms();
        let delay_ms = if retryable {
            i64::try_from(Backoff::CHANGE.delay_ms(attempts, jitter())).unwrap_or(HOPELESS_RETRY_MS)
        } else {
            HOPELESS_RETRY_MS
        };
        let record =
            FailureRecord { attempts, error, retryable, failed_at_ms, retry_at_ms: failed_at_ms + delay_ms, target };
        if let Err(error) = self.ledger.failure_put(&key(&subject), &record).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a failure cannot be kept; its backoff ends with the agent"
            );
        }
        self.records.insert(subject, record);
    }

    pub async fn clear(&mut self, subject: &Subject) {
        if self.records.remove(subject).is_some()
            && let Err(error) = self.ledger.failure_clear(&key(subject)).await
        {
            tracing::debug!(%error, "a failure that is over stays in the ledger");
        }
    }

    /// Forgets that an instance could not be started; a stop that fails is another matter.
    pub async fn clear_start(&mut self, id: &InstanceId) {
        let subject = Subject::Instance(id.clone());
        if self.records.get(&subject).is_some_and(|record| record.target.starts_with(super::START)) {
            self.clear(&subject).await;
        }
    }

    /// Forgets what no longer concerns anybody.
    pub async fn retain_wanted(&mut self, desired: &DesiredState) {
        let wanted = |subject: &Subject| match subject {
            Subject::Config(_) => true,
            Subject::Instance(id) => desired.services().any(|(_, s)| s.instances.iter().any(|i| &i.instance_id == id)),
            Subject::Preparation(id) => desired.services().any(|(_, s)| s.revision(id).is_some()),
        };
        let gone: Vec<Subject> = self.records.keys().filter(|subject| !wanted(subject)).cloned().collect();
        for subject in gone {
            self.clear(&subject).await;
        }
    }

    /// A clock that was set back must not turn a wait of seconds into one of an hour: what failed in the
    /// future failed just now.
    pub fn mind_the_clock(&mut self, now_ms: UnixMillis) {
        for record in self.records.values_mut().filter(|record| record.failed_at_ms > now_ms) {
            record.retry_at_ms -= record.failed_at_ms - now_ms;
            record.failed_at_ms = now_ms;
        }
    }

    /// For the planner.
    pub fn list(&self) -> Vec<Failure> {
        let failures = self.records.iter().map(|(subject, record)| Failure {
            subject: subject.clone(),
            attempts: record.attempts,
            message: record.error.clone(),
            retry_at_ms: record.retry_at_ms,
        });
        failures.collect()
    }

    /// Until when this very change has to wait.
    pub fn waits(&self, subject: &Subject, target: &str, now_ms: UnixMillis) -> Option<UnixMillis> {
        let record = self.records.get(subject).filter(|r| r.target == target)?;
        (record.retry_at_ms > now_ms).then_some(record.retry_at_ms)
    }

    pub fn message(&self, subject: &Subject) -> String {
        self.records.get(subject).map(|r| r.error.clone()).unwrap_or_default()
    }

    pub fn attempts(&self, subject: &Subject) -> u32 {
        self.records.get(subject).map_or(0, |r| r.attempts)
    }

    pub fn next_retry_at_ms(&self, after_ms: UnixMillis) -> Option<UnixMillis> {
        self.records.values().map(|r| r.retry_at_ms).filter(|at| *at > after_ms).min()
    }
}

fn key(subject: &Subject) -> String {
    match subject {
        Subject::Instance(id) => format!("instance:{id}"),
        Subject::Preparation(id) => format!("preparation:{id}"),
        Subject::Config(kind) => format!("config:{}", kind.as_str()),
    }
}

fn parse_key(key: &str) -> Option<Subject> {
    let (kind, id) = key.split_once(':')?;
    match (kind, id) {
        ("instance", id) => id.parse().ok().map(Subject::Instance),
        ("preparation", id) => id.parse().ok().map(Subject::Preparation),
        ("config", "dns") => Some(Subject::Config(ConfigKind::Dns)),
        ("config", "routes") => Some(Subject::Config(ConfigKind::Routes)),
        ("config", "mesh") => Some(Subject::Config(ConfigKind::Mesh)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{MemoryDisk, MemoryLedger};

    #[tokio::test]
    async fn a_clock_set_back_by_an_hour_keeps_a_wait_of_seconds_one_of_seconds() {
        let ledger = Ledger::Memory(MemoryLedger::new(MemoryDisk::default(), None));
        let mut failures = Failures::load(ledger).await;
        let subject = Subject::Config(ConfigKind::Routes);
        failures.record(subject.clone(), "x".into(), "no".into(), true).await;
        let an_hour_ago = now_ms() - 3_600_000;
        assert!(failures.waits(&subject, "x", an_hour_ago + 3_000_000).is_some(), "it would wait for an hour");
        failures.mind_the_clock(an_hour_ago);
        assert!(failures.waits(&subject, "x", an_hour_ago).is_some());
        assert_eq!(failures.waits(&subject, "x", an_hour_ago + 1_001), None);
        // And one set ahead only ends a wait early.
        failures.record(subject.clone(), "x".into(), "no".into(), true).await;
        failures.mind_the_clock(now_ms() + 3_600_000);
        assert_eq!(failures.waits(&subject, "x", now_ms() + 3_600_000), None);
    }
}
