//! Forgetting what is past its time, so that nothing grows without bound.
//!
//! Events and log lines go in chunks, oldest first, each chunk a statement of its own: a table with
//! two million rows must not hold up a machine's report until it is cleared. What a call leaves is
//! taken by the next one.

use crate::{Result, Store, newest_number};
use api::UnixMillis;
use api::ids::OrganizationId;

/// How long things are kept.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Also of tokens that are used, revoked or expired.
    pub events_ms: i64,
    pub events_count: i64,
    pub log_lines_ms: i64,
    pub log_lines_count: i64,
    /// Ended deployments kept per service, with the revisions that they name.
    pub deployments_count: i64,
}

impl Default for Retention {
    fn default() -> Self {
        let day_ms = 24 * 60 * 60 * 1000;
        Self {
            events_ms: 90 * day_ms,
            events_count: 200_000,
            log_lines_ms: 30 * day_ms,
            log_lines_count: 2_000_000,
            deployments_count: 200,
        }
    }
}

pub(crate) const ROWS_PER_CHUNK: i64 = 5_000;

/// Per table, organization and call.
const CHUNKS_PER_CALL: u32 = 200;

impl Store {
    /// Forgets what is past its time and answers how many rows that were. Bounded work, to be repeated.
    pub async fn retention_apply(&self, retention: &Retention, now_ms: UnixMillis) -> Result<u64> {
        let mut gone = 0;
        for (organization, _) in self.organization_list().await? {
            let (age_ms, count) = (retention.events_ms, retention.events_count);
            gone += self.numbered_forget("events", &organization, now_ms - age_ms, count).await?;
            let (age_ms, count) = (retention.log_lines_ms, retention.log_lines_count);
            gone += self.numbered_forget("log_lines", &organization, now_ms - age_ms, count).await?;
        }
        let kept = retention.deployments_count.max(1);
        for (sql, limit) in [
            (NONCES, now_ms),
            (SESSIONS, now_ms),
            (TOKENS, now_ms - retention.events_ms),
            (DEPLOYMENTS, kept),
            (REVISIONS, 0),
            (LOG_STREAMS, 0),
        ] {
            gone += self.execute(sqlx::query(sql).bind(limit)).await?.rows_affected();
        }
        Ok(gone)
    }

    /// Forgets rows that are older than the moment, or more than `count` behind the newest.
    async fn numbered_forget(
        &self,
        table: &'static str,
        organization: &OrganizationId,
        oldest_kept_ms: UnixMillis,
        count: i64,
    ) -> Result<u64> {
        let newest = newest_number(self, organization, table).await?;
        // Times come from many clocks and only roughly follow the order: looking at the oldest chunk
        // alone misses at most a few rows, which the count then takes.
        let sql = format!(
            "DELETE FROM {table}
             WHERE organization_id = $1 AND (sequence <= $2 OR at_ms < $3) AND sequence <=
               (SELECT MAX(sequence) FROM
                 (SELECT sequence FROM {table} WHERE organization_id = $1 ORDER BY sequence LIMIT $4) AS chunk)"
        );
        let mut gone = 0;
        for _ in 0..CHUNKS_PER_CALL {
            let chunk = self
                .execute(
                    sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
                        .bind(organization.as_str())
                        .bind(newest - count)
                        .bind(oldest_kept_ms)
                        .bind(ROWS_PER_CHUNK),
                )
                .await?
                .rows_affected();
            if chunk == 0 {
                break;
            }
            gone += chunk;
        }
        Ok(gone)
    }
}

const NONCES: &str = "DELETE FROM nonces WHERE expires_at_ms < $1";

const SESSIONS: &str = "DELETE FROM sessions WHERE expires_at_ms < $1";

const TOKENS: &str = "DELETE FROM tokens
    WHERE revoked_at_ms < $1 OR expires_at_ms < $1 OR (kind = 'join' AND used_at_ms < $1)";

/// The newest of a service is always kept, because the next number follows from it.
const DEPLOYMENTS: &str = "DELETE FROM deployments
    WHERE in_flight = 0
      AND number <= (SELECT MAX(d.number) FROM deployments d WHERE d.service_id = deployments.service_id) - $1
      AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.deployment_id = deployments.id)";

const REVISIONS: &str = "DELETE FROM revisions
    WHERE number < (SELECT MAX(r.number) FROM revisions r WHERE r.service_id = revisions.service_id) - $1
      AND NOT EXISTS (SELECT 1 FROM deployments d WHERE d.revision_id = revisions.id)
      AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.revision_id = revisions.id)
      AND NOT EXISTS (SELECT 1 FROM services s WHERE s.id = revisions.service_id
                      AND (s.current_revision_id = revisions.id OR s.previous_revision_id = revisions.id))";

/// How far a log was received matters until nobody can send more of it. The keys are `build:ID` and `run:ID`.
const LOG_STREAMS: &str = "DELETE FROM log_streams
    WHERE next_offset >= $1
      AND NOT EXISTS (SELECT 1 FROM log_lines l
                      WHERE l.organization_id = log_streams.organization_id AND l.source = log_streams.source)
      AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = SUBSTR(log_streams.source, 5))
      AND NOT EXISTS (SELECT 1 FROM deployments d
                      WHERE d.id = SUBSTR(log_streams.source, 7) OR d.id = log_streams.deployment_id)";
