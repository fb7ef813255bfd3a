//! Points of how much was used, in pieces of ten or twelve to a row.
//!
//! A row is a place in a ring: one subject, one length of points, one place. What comes round to a place
//! replaces what was in it, so the space per subject is bounded by construction and nothing is ever deleted but
//! with the subject. What the points mean is the control plane's matter; here they are text.

use crate::pen::Write;
use crate::statement::{ROWS_AT_ONCE, Statement, Value};
use crate::{Result, Scope, Store};
use api::UnixMillis;
use api::ids::ServerId;
use std::collections::HashSet;

/// Which piece of time, in which ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkTime {
    /// How long a point is.
    pub step_ms: i64,
    pub place: i64,
    pub begins_at_ms: UnixMillis,
}

/// One piece of what one subject used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricChunk {
    /// Id of a service or a server.
    pub subject: String,
    pub time: ChunkTime,
    pub points: String,
}

impl Store {
    /// What is in this place of these subjects' rings, as far as it is still of that time.
    pub async fn metric_chunk_list(
        &self,
        scope: &Scope,
        time: ChunkTime,
        subjects: &[&str],
    ) -> Result<Vec<(String, String)>> {
        let select = "SELECT subject, points FROM metric_chunks";
        // Numbers of ours, which need no placeholder.
        let rest = format!(
            " AND step_ms = {} AND place = {} AND begins_at_ms = {}",
            time.step_ms, time.place, time.begins_at_ms
        );
        Statement::fetch_among(self, (select, &rest), scope, "subject", subjects).await
    }

    /// All that one subject used since, oldest first.
    pub async fn metric_history(
        &self,
        scope: &Scope,
        subject: &str,
        step_ms: i64,
        from_ms: UnixMillis,
    ) -> Result<Vec<(UnixMillis, String)>> {
        let rows = sqlx::query_as::<_, (i64, String)>(
            "SELECT begins_at_ms, points FROM metric_chunks
             WHERE subject = $1 AND organization_id = $2 AND step_ms = $3 AND begins_at_ms >= $4
             ORDER BY begins_at_ms",
        )
        .bind(subject)
        .bind(scope.organization.as_str())
        .bind(step_ms)
        .bind(from_ms)
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// Puts pieces into their places. Those of subjects that are gone are dropped; answers how many were kept.
    pub async fn metric_chunk_put(&self, scope: &Scope, chunks: &[MetricChunk]) -> Result<usize> {
        if chunks.is_empty() {
            return Ok(0);
        }
        // The organization's only writer: whoever is there now is there when this is written.
        let mut transaction = self.write(&scope.organization).await?;
        let put = put(&mut transaction, scope, chunks).await;
        transaction.end(put).await
    }
}

async fn put(transaction: &mut Write, scope: &Scope, chunks: &[MetricChunk]) -> Result<usize> {
    let mut subjects: Vec<&str> = chunks.iter().map(|chunk| chunk.subject.as_str()).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let mut known = HashSet::new();
    for some in subjects.chunks(ROWS_AT_ONCE) {
        for table in ["services", "servers"] {
            let mut statement = Statement::new("SELECT id FROM ");
            statement.push(table).push(" WHERE organization_id = ").bind(scope.organization.as_str());
            statement.push(" AND id IN (").bind_all(some.iter().copied()).push(")");
            known.extend(statement.fetch_all::<(String,), _>(&mut **transaction).await?.into_iter().map(|(id,)| id));
        }
    }
    let kept: Vec<&MetricChunk> = chunks.iter().filter(|chunk| known.contains(&chunk.subject)).collect();
    for some in kept.chunks(ROWS_AT_ONCE) {
        let mut statement = Statement::new(
            "INSERT INTO metric_chunks (subject, organization_id, step_ms, place, begins_at_ms, points) ",
        );
        statement.bind_rows(some.iter().map(|chunk| -> [Value; 6] {
            [
                chunk.subject.as_str().into(),
                scope.organization.as_str().into(),
                chunk.time.step_ms.into(),
                chunk.time.place.into(),
                chunk.time.begins_at_ms.into(),
                chunk.points.as_str().into(),
            ]
        }));
        statement.push(
            " ON CONFLICT (subject, step_ms, place) DO UPDATE
              SET begins_at_ms = excluded.begins_at_ms, points = excluded.points",
        );
        statement.execute(transaction).await?;
    }
    Ok(kept.len())
}

/// Of a server, with it.
pub(crate) async fn delete(transaction: &mut Write, scope: &Scope, server_id: &ServerId) -> Result<()> {
    sqlx::query("DELETE FROM metric_chunks WHERE subject = $1 AND organization_id = $2")
        .bind(server_id.as_str())
        .bind(scope.organization.as_str())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
