//! The small records of the ledger: acknowledged log offsets, failures with their backoff, facts
//! as last reported, and the loopback port of each service.

use super::LedgerError;
use super::file::{FileLedger, meta_put};
use api::UnixMillis;
use api::ids::ServiceId;
use api::logs::LogSource;
use api::servers::ServerFacts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Ports on loopback through which services reach each other when internal names do not resolve.
/// Below the instance ports (20000–29999) and outside the kernel's ephemeral range.
pub const LOOPBACK_PORTS: RangeInclusive<u16> = 18_000..=18_999;

/// A change that failed, and when to try again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    pub attempts: u32,
    pub error: String,
    pub retryable: bool,
    pub failed_at_ms: UnixMillis,
    pub retry_at_ms: UnixMillis,
    /// What was tried; the same subject with another target is another matter and begins anew.
    #[serde(default)]
    pub target: String,
}

impl FileLedger {
    /// Gives a service's loopback port back, because somebody else listens there.
    pub async fn service_port_forget(&self, service: &ServiceId) -> Result<(), LedgerError> {
        sqlx::query("DELETE FROM service_port WHERE service_id = $1")
            .bind(service.as_str())
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(|source| LedgerError::Query { operation: "giving a loopback port back", source })
    }

    /// Up to where the control plane keeps each log.
    pub async fn log_offsets(&self) -> Result<BTreeMap<String, u64>, LedgerError> {
        let rows: Vec<(String, i64)> = sqlx::query_as("SELECT source, next_offset FROM log_offset")
            .fetch_all(&self.pool)
            .await
            .map_err(|source| LedgerError::Query { operation: "reading log offsets", source })?;
        Ok(rows.into_iter().map(|(source, offset)| (source, u64::try_from(offset).unwrap_or(0))).collect())
    }

    pub async fn log_offset_put(&self, source: &LogSource, next_offset: u64, now_ms: i64) -> Result<(), LedgerError> {
        sqlx::query(
            "INSERT INTO log_offset (source, next_offset, acknowledged_at_ms) VALUES ($1, $2, $3)
             ON CONFLICT (source) DO UPDATE SET next_offset = $2, acknowledged_at_ms = $3",
        )
        .bind(source.key())
        .bind(i64::try_from(next_offset).unwrap_or(i64::MAX))
        .bind(now_ms)
        .execute(&self.pool)
        .await
        .map(|_| ())
        .map_err(|source| LedgerError::Query { operation: "keeping a log offset", source })
    }

    /// Forgets the offsets of logs that are gone.
    pub async fn log_offsets_retain(&self, keys: &[String]) -> Result<(), LedgerError> {
        let keep = serde_json::to_string(keys)
            .map_err(|source| LedgerError::Content { operation: "forgetting log offsets", source })?;
        sqlx::query("DELETE FROM log_offset WHERE source NOT IN (SELECT value FROM json_each($1))")
            .bind(keep)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(|source| LedgerError::Query { operation: "forgetting log offsets", source })
    }

    pub async fn failures_load(&self) -> Result<BTreeMap<String, FailureRecord>, LedgerError> {
        let operation = "reading failures";
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT subject, body FROM failure")
            .fetch_all(&self.pool)
            .await
            .map_err(|source| LedgerError::Query { operation, source })?;
        rows.into_iter()
            .map(|(subject, body)| match serde_json::from_str(&body) {
                Ok(record) => Ok((subject, record)),
                Err(source) => Err(LedgerError::Content { operation, source }),
            })
            .collect()
    }

    pub async fn failure_put(&self, subject: &str, record: &FailureRecord) -> Result<(), LedgerError> {
        let operation = "keeping a failure";
        let body = serde_json::to_string(record).map_err(|source| LedgerError::Content { operation, source })?;
        sqlx::query("INSERT INTO failure (subject, body) VALUES ($1, $2) ON CONFLICT (subject) DO UPDATE SET body = $2")
            .bind(subject)
            .bind(body)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(|source| LedgerError::Query { operation, source })
    }

    pub async fn failure_clear(&self, subject: &str) -> Result<(), LedgerError> {
        sqlx::query("DELETE FROM failure WHERE subject = $1")
            .bind(subject)
            .execute(&self.pool)
            .await
            .map(|_| ())
            .map_err(|source| LedgerError::Query { operation: "forgetting a failure", source })
    }

    /// The facts that the control plane was told last.
    pub async fn facts_load(&self) -> Result<Option<ServerFacts>, LedgerError> {
        let text = self.meta_get("facts").await?;
        Ok(text.and_then(|t| serde_json::from_str(&t).ok()))
    }

    pub async fn facts_put(&self, facts: &ServerFacts) -> Result<(), LedgerError> {
        let operation = "keeping facts";
        let text = serde_json::to_string(facts).map_err(|source| LedgerError::Content { operation, source })?;
        let failed = |source| LedgerError::Query { operation, source };
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        meta_put(&mut connection, "facts", &text).await.map_err(failed)
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
        let failed = |source| LedgerError::Query { operation: "giving out loopback ports", source };
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT service_id, port FROM service_port").fetch_all(&self.pool).await.map_err(failed)?;
        let mut kept: BTreeMap<String, u16> =
            rows.into_iter().filter_map(|(id, port)| Some((id, u16::try_from(port).ok()?))).collect();
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        let gone: Vec<String> =
            kept.keys().filter(|id| !services.iter().any(|s| s.as_str() == id.as_str())).cloned().collect();
        for id in gone {
            sqlx::query("DELETE FROM service_port WHERE service_id = $1")
                .bind(&id)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            kept.remove(&id);
        }
        let taken: BTreeSet<u16> = kept.values().copied().collect();
        let (low, high) = (*LOOPBACK_PORTS.start(), *LOOPBACK_PORTS.end());
        let first = first.clamp(low, high);
        let mut free = (first..=high).chain(low..first).filter(|port| !taken.contains(port) && is_free(*port));
        let mut given = BTreeMap::new();
        for service in services {
            let port = match kept.get(service.as_str()) {
                Some(port) => *port,
                None => {
                    let Some(port) = free.next() else { continue };
                    sqlx::query("INSERT INTO service_port (service_id, port) VALUES ($1, $2)")
                        .bind(service.as_str())
                        .bind(i64::from(port))
                        .execute(&mut *transaction)
                        .await
                        .map_err(failed)?;
                    port
                }
            };
            given.insert(service.clone(), port);
        }
        transaction.commit().await.map_err(failed)?;
        Ok(given)
    }
}
