//! Log lines, appended by offset: what was acknowledged is neither taken twice nor lost.

use crate::codec::{from_word, parse, word};
use crate::{Error, Result, Scope, Store, take_numbers};
use api::ids::{DeploymentId, InstanceId, ServerId, ServiceId};
use api::logs::{LogAcknowledgement, LogBatch, LogLine, LogRecord, LogSource};
use sqlx::{Any, QueryBuilder, Transaction};

/// Which lines; every field narrows.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    /// Only later ones, oldest first. Without it, the last `limit` lines, oldest first.
    pub after: Option<i64>,
    pub limit: u32,
    pub service_ids: Option<Vec<ServiceId>>,
    pub deployment_id: Option<DeploymentId>,
    pub instance_id: Option<InstanceId>,
    pub kind: Option<LogKind>,
    /// Not older than this.
    pub since_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    Build,
    Run,
}

/// Rows per INSERT: below the parameter limits of both databases.
const ROWS_PER_STATEMENT: usize = 500;

fn source(key: &str) -> Result<LogSource> {
    match key.split_once(':') {
        Some(("build", id)) => Ok(LogSource::Build { deployment_id: parse("log line", id)? }),
        Some(("run", id)) => Ok(LogSource::Run { instance_id: parse("log line", id)? }),
        _ => Err(Error::corrupt("log line", format!("`{key}` names no log"))),
    }
}

impl Store {
    /// Keeps the batches of one server. A batch that begins where its log ends is taken; one that
    /// was taken before, or that leaves a gap, is answered with where to go on.
    pub async fn log_append(
        &self,
        scope: &Scope,
        server_id: &ServerId,
        batches: &[LogBatch],
    ) -> Result<Vec<LogAcknowledgement>> {
        let mut transaction = self.write(&scope.organization).await?;
        let mut acknowledged = Vec::with_capacity(batches.len());
        for batch in batches {
            let next_offset = append(&mut transaction, scope, server_id, batch).await?;
            acknowledged.push(LogAcknowledgement { source: batch.source.clone(), next_offset });
        }
        transaction.commit().await?;
        Ok(acknowledged)
    }

    /// Whether lines of this log came from this server before.
    pub async fn log_stream_exists(&self, scope: &Scope, source: &LogSource, server_id: &ServerId) -> Result<bool> {
        let row = sqlx::query_as::<_, (i64,)>(
            "SELECT COUNT(*) FROM log_streams WHERE organization_id = $1 AND source = $2 AND server_id = $3",
        )
        .bind(scope.organization.as_str())
        .bind(source.key())
        .bind(server_id.as_str())
        .fetch_one(&self.pool)
        .await?;
        Ok(row.0 > 0)
    }

    pub async fn log_list(&self, scope: &Scope, filter: &LogFilter) -> Result<Vec<LogRecord>> {
        let mut query = QueryBuilder::<Any>::new(
            "SELECT l.sequence, l.service_id, s.name, l.source, l.at_ms, l.stream, l.text
             FROM log_lines l JOIN services s ON s.id = l.service_id WHERE l.organization_id = ",
        );
        query.push_bind(scope.organization.as_str().to_owned());
        query.push(" AND l.sequence > ").push_bind(filter.after.unwrap_or(0));
        if let Some(ids) = &filter.service_ids {
            query.push(" AND l.service_id IN (''");
            for id in ids {
                query.push(", ").push_bind(id.as_str().to_owned());
            }
            query.push(")");
        }
        if let Some(id) = &filter.deployment_id {
            // The build's own log, and those of the instances that the deployment made.
            query.push(" AND (l.source = ").push_bind(format!("build:{id}"));
            query.push(" OR l.source IN (SELECT 'run:' || i.id FROM instances i WHERE i.deployment_id = ");
            query.push_bind(id.as_str().to_owned()).push("))");
        }
        if let Some(id) = &filter.instance_id {
            query.push(" AND l.source = ").push_bind(format!("run:{id}"));
        }
        match filter.kind {
            Some(LogKind::Build) => drop(query.push(" AND l.source LIKE 'build:%'")),
            Some(LogKind::Run) => drop(query.push(" AND l.source LIKE 'run:%'")),
            None => {}
        }
        if let Some(since_ms) = filter.since_ms {
            query.push(" AND l.at_ms >= ").push_bind(since_ms);
        }
        query.push(if filter.after.is_some() { " ORDER BY l.sequence ASC" } else { " ORDER BY l.sequence DESC" });
        query.push(" LIMIT ").push_bind(i64::from(filter.limit));
        type Row = (i64, String, String, String, i64, String, String);
        let mut rows = query.build_query_as::<Row>().fetch_all(&self.pool).await?;
        if filter.after.is_none() {
            rows.reverse();
        }
        rows.into_iter().map(record).collect()
    }

    /// The highest sequence so far; 0 before the first.
    pub async fn log_newest(&self, scope: &Scope) -> Result<i64> {
        let row =
            sqlx::query_as::<_, (i64,)>("SELECT COALESCE(MAX(sequence), 0) FROM log_lines WHERE organization_id = $1")
                .bind(scope.organization.as_str())
                .fetch_one(&self.pool)
                .await?;
        Ok(row.0)
    }
}

fn record(row: (i64, String, String, String, i64, String, String)) -> Result<LogRecord> {
    let (sequence, service_id, service, key, at_ms, stream, text) = row;
    Ok(LogRecord {
        sequence,
        service_id: parse("log line", &service_id)?,
        service,
        source: source(&key)?,
        line: LogLine { at_ms, stream: from_word("log line", stream)?, text },
    })
}

async fn append(
    transaction: &mut Transaction<'static, Any>,
    scope: &Scope,
    server_id: &ServerId,
    batch: &LogBatch,
) -> Result<u64> {
    let key = batch.source.key();
    let organization = scope.organization.as_str();
    let known = sqlx::query_as::<_, (i64,)>(
        "SELECT next_offset FROM log_streams WHERE organization_id = $1 AND source = $2 AND server_id = $3",
    )
    .bind(organization)
    .bind(&key)
    .bind(server_id.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    let expected = known.map_or(0, |(offset,)| offset as u64);
    // A log whose beginning was rotated away before it could be sent starts later; the gap is real.
    let gap = batch.offset > expected;
    if batch.offset < expected || batch.next_offset <= batch.offset {
        return Ok(expected);
    }
    let owned = sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM services WHERE id = $1 AND organization_id = $2")
        .bind(batch.service_id.as_str())
        .bind(organization)
        .fetch_one(&mut **transaction)
        .await?;
    // A service that was forgotten meanwhile: the lines are acknowledged, so that nobody sends them for ever.
    if owned.0 > 0 {
        let gap_line = gap.then(|| LogLine {
            at_ms: batch.lines.first().map_or(0, |l| l.at_ms),
            stream: api::logs::LogStream::Mainstay,
            text: format!(
                "({} bytes of this log were rotated away before they could be sent)",
                batch.offset - expected
            ),
        });
        insert_lines(transaction, scope, batch, &key, gap_line).await?;
        sqlx::query(
            "INSERT INTO log_streams (organization_id, source, service_id, server_id, next_offset) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (organization_id, source, server_id) DO UPDATE SET next_offset = excluded.next_offset",
        )
        .bind(organization)
        .bind(&key)
        .bind(batch.service_id.as_str())
        .bind(server_id.as_str())
        .bind(batch.next_offset as i64)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(batch.next_offset)
}

async fn insert_lines(
    transaction: &mut Transaction<'static, Any>,
    scope: &Scope,
    batch: &LogBatch,
    key: &str,
    gap_line: Option<LogLine>,
) -> Result<()> {
    let lines: Vec<&LogLine> = gap_line.iter().chain(&batch.lines).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let mut sequence = take_numbers(transaction, &scope.organization, "log_lines", lines.len() as i64).await?;
    for chunk in lines.chunks(ROWS_PER_STATEMENT) {
        let mut query = QueryBuilder::<Any>::new(
            "INSERT INTO log_lines (organization_id, sequence, source, service_id, at_ms, stream, text) ",
        );
        query.push_values(chunk, |mut row, line| {
            row.push_bind(scope.organization.as_str().to_owned())
                .push_bind(sequence)
                .push_bind(key.to_owned())
                .push_bind(batch.service_id.as_str().to_owned())
                .push_bind(line.at_ms)
                .push_bind(word(&line.stream))
                // PostgreSQL keeps no NUL in text.
                .push_bind(line.text.replace('\0', "\u{fffd}"));
            sequence += 1;
        });
        query.build().execute(&mut **transaction).await?;
    }
    Ok(())
}
