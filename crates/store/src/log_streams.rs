//! Taking log lines in, by offset: what was acknowledged is neither taken twice nor lost.
//!
//! A log is known by its source and the server that it comes from: several servers may build for one
//! deployment, each with offsets of its own.

use crate::codec::{text, word};
use crate::pen::Write;
use crate::statement::{ROWS_AT_ONCE, Statement, Value};
use crate::{Result, Scope, Store, take_numbers};
use api::ids::ServerId;
use api::logs::{LogAcknowledgement, LogBatch, LogLine, LogSource, LogStream};

impl Store {
    /// Keeps the batches of one server, and answers for each up to where its log is kept now. A batch
    /// that was taken before, in part or whole, adds nothing. One that begins later than its log ends
    /// is taken too, because what lies between was rotated away; a line in the log says so.
    pub async fn log_append(
        &self,
        scope: &Scope,
        server_id: &ServerId,
        batches: &[LogBatch],
    ) -> Result<Vec<LogAcknowledgement>> {
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.write(&scope.organization).await?;
        let acknowledged = append_all(&mut transaction, scope, server_id, batches).await;
        transaction.end(acknowledged).await
    }
}

async fn append_all(
    transaction: &mut Write,
    scope: &Scope,
    server_id: &ServerId,
    batches: &[LogBatch],
) -> Result<Vec<LogAcknowledgement>> {
    let mut acknowledged = Vec::with_capacity(batches.len());
    for batch in batches {
        let next_offset = append(transaction, scope, server_id, batch).await?;
        acknowledged.push(LogAcknowledgement { source: batch.source.clone(), next_offset });
    }
    Ok(acknowledged)
}

async fn append(transaction: &mut Write, scope: &Scope, server_id: &ServerId, batch: &LogBatch) -> Result<u64> {
    let key = batch.source.key();
    let expected = kept_up_to(transaction, scope, server_id, &key).await?;
    let Ok(next_offset) = i64::try_from(batch.next_offset) else { return Ok(expected) };
    if batch.offset < expected || batch.next_offset <= batch.offset {
        return Ok(expected);
    }
    // A service that was forgotten meanwhile: acknowledged, so that nobody sends the lines for ever.
    if !service_exists(transaction, scope, batch).await? {
        return Ok(batch.next_offset);
    }
    let gap = (batch.offset > expected).then(|| gap_line(batch, batch.offset - expected));
    insert_lines(transaction, scope, batch, &key, gap).await?;
    sqlx::query(
        "INSERT INTO log_streams (organization_id, source, server_id, service_id, deployment_id, next_offset)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (organization_id, source, server_id) DO UPDATE
         SET next_offset = excluded.next_offset,
             deployment_id = COALESCE(log_streams.deployment_id, excluded.deployment_id)",
    )
    .bind(scope.organization.as_str())
    .bind(&key)
    .bind(server_id.as_str())
    .bind(batch.service_id.as_str())
    .bind(deployment_of(transaction, scope, &batch.source).await?)
    .bind(next_offset)
    .execute(&mut **transaction)
    .await?;
    Ok(batch.next_offset)
}

async fn kept_up_to(transaction: &mut Write, scope: &Scope, server_id: &ServerId, key: &str) -> Result<u64> {
    let row = sqlx::query_as::<_, (i64,)>(
        "SELECT next_offset FROM log_streams WHERE organization_id = $1 AND source = $2 AND server_id = $3",
    )
    .bind(scope.organization.as_str())
    .bind(key)
    .bind(server_id.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(row.map_or(0, |(offset,)| offset as u64))
}

async fn service_exists(transaction: &mut Write, scope: &Scope, batch: &LogBatch) -> Result<bool> {
    let row = sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM services WHERE id = $1 AND organization_id = $2")
        .bind(batch.service_id.as_str())
        .bind(scope.organization.as_str())
        .fetch_one(&mut **transaction)
        .await?;
    Ok(row.0 > 0)
}

/// Kept with the log, because an instance is forgotten when it has stopped and its log is not.
async fn deployment_of(transaction: &mut Write, scope: &Scope, source: &LogSource) -> Result<Option<String>> {
    let instance_id = match source {
        LogSource::Build { deployment_id } => return Ok(Some(deployment_id.to_string())),
        LogSource::Run { instance_id } => instance_id,
    };
    let row =
        sqlx::query_as::<_, (String,)>("SELECT deployment_id FROM instances WHERE id = $1 AND organization_id = $2")
            .bind(instance_id.as_str())
            .bind(scope.organization.as_str())
            .fetch_optional(&mut **transaction)
            .await?;
    Ok(row.map(|(id,)| id))
}

/// A log whose beginning was rotated away before it could be sent starts later; the gap is real.
fn gap_line(batch: &LogBatch, bytes: u64) -> LogLine {
    let text = format!("({bytes} bytes of this log were rotated away before they could be sent)");
    let at_ms = batch.lines.first().map_or_else(ambient::now_ms, |line| line.at_ms);
    LogLine { at_ms, stream: LogStream::Mainstay, text }
}

async fn insert_lines(
    transaction: &mut Write,
    scope: &Scope,
    batch: &LogBatch,
    key: &str,
    gap: Option<LogLine>,
) -> Result<()> {
    let lines: Vec<&LogLine> = gap.iter().chain(&batch.lines).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let first = take_numbers(transaction, &scope.organization, "log_lines", lines.len() as i64).await?;
    let numbered: Vec<(i64, &LogLine)> = (first..).zip(lines).collect();
    for chunk in numbered.chunks(ROWS_AT_ONCE) {
        let mut query = Statement::new(
            "INSERT INTO log_lines (organization_id, sequence, source, service_id, at_ms, stream, text) ",
        );
        query.bind_rows(chunk.iter().map(|(sequence, line)| -> [Value; 7] {
            [
                scope.organization.as_str().into(),
                (*sequence).into(),
                key.into(),
                batch.service_id.as_str().into(),
                line.at_ms.into(),
                word(&line.stream).into(),
                text(&line.text).into_owned().into(),
            ]
        }));
        query.execute(transaction).await?;
    }
    Ok(())
}
