//! Reading log lines.
//!
//! A log may hold a million lines, and "the last hundred of these three services" must not look at
//! them all. So what is asked for is taken apart into *heads*, each one run of one index: a service,
//! or one log. Each head gives up its `limit` best rows, and the statement merges them. It is one
//! statement because a follower goes on from the highest number that it saw: two readings at two
//! moments could show it 25 of one log before 23 of the other was there.

use crate::codec::{from_word, parse};
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store, newest_number};
use api::ids::{DeploymentId, InstanceId, ServerId, ServiceId};
use api::logs::{LogLine, LogRecord, LogSource};
use sqlx::{Any, Transaction};

/// Which lines; every field narrows.
#[derive(Debug, Clone, Default)]
pub struct LogFilter {
    /// Only later ones, oldest first. Without it, the last `limit` lines, oldest first.
    pub after: Option<i64>,
    /// Only earlier ones, for paging back.
    pub before: Option<i64>,
    pub limit: u32,
    pub service_ids: Option<Vec<ServiceId>>,
    /// The deployment's builds, and the instances that it made.
    pub deployment_id: Option<DeploymentId>,
    pub instance_id: Option<InstanceId>,
    pub kind: Option<LogKind>,
    /// Not older than this.
    pub since_ms: Option<i64>,
    /// Not newer than this.
    pub until_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    Build,
    Run,
}

impl LogKind {
    fn key_prefix(self) -> &'static str {
        match self {
            LogKind::Build => "build:",
            LogKind::Run => "run:",
        }
    }
}

/// One run of one index.
enum Head {
    All,
    Service(ServiceId),
    /// By key: `build:dep_…`, `run:ins_…`.
    Log(String),
}

/// More heads than this are read as one, in the order of all lines.
const HEADS_LIMIT: usize = 64;

type Row = (i64, String, String, String, i64, String, String);

impl Store {
    pub async fn log_list(&self, scope: &Scope, filter: &LogFilter) -> Result<Vec<LogRecord>> {
        if filter.service_ids.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let mut transaction = self.read().await?;
        let heads = heads(&mut transaction, scope, filter).await?;
        if heads.is_empty() {
            return Ok(Vec::new());
        }
        let query = statement(scope, filter, &heads);
        let mut rows = query.fetch_all::<Row, _>(&mut *transaction).await?;
        transaction.commit().await?;
        if filter.after.is_none() {
            rows.reverse();
        }
        rows.into_iter().map(record).collect()
    }

    /// The highest sequence so far; 0 before the first.
    pub async fn log_newest(&self, scope: &Scope) -> Result<i64> {
        newest_number(self, &scope.organization, "log_lines").await
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
}

/// The narrowest way to everything that the filter lets through.
async fn heads(transaction: &mut Transaction<'static, Any>, scope: &Scope, filter: &LogFilter) -> Result<Vec<Head>> {
    let of_kind = |key: &String| filter.kind.is_none_or(|kind| key.starts_with(kind.key_prefix()));
    let instance = filter.instance_id.as_ref().map(|id| format!("run:{id}")).filter(of_kind);
    if filter.instance_id.is_some() && instance.is_none() {
        return Ok(Vec::new());
    }
    let Some(deployment_id) = &filter.deployment_id else {
        return Ok(match (instance, &filter.service_ids) {
            (Some(key), _) => vec![Head::Log(key)],
            (None, Some(ids)) => ids.iter().cloned().map(Head::Service).collect(),
            (None, None) => vec![Head::All],
        });
    };
    let rows = sqlx::query_as::<_, (String,)>(
        "SELECT DISTINCT source FROM log_streams WHERE organization_id = $1 AND deployment_id = $2",
    )
    .bind(scope.organization.as_str())
    .bind(deployment_id.as_str())
    .fetch_all(&mut **transaction)
    .await?;
    let keys = rows.into_iter().map(|(key,)| key).filter(of_kind);
    Ok(keys.filter(|key| instance.as_ref().is_none_or(|wanted| wanted == key)).map(Head::Log).collect())
}

fn statement(scope: &Scope, filter: &LogFilter, heads: &[Head]) -> Statement {
    let order = if filter.after.is_some() { " ORDER BY sequence ASC" } else { " ORDER BY sequence DESC" };
    let limit = i64::from(filter.limit);
    let mut query =
        Statement::new("SELECT l.sequence, l.service_id, s.name, l.source, l.at_ms, l.stream, l.text FROM (");
    if heads.len() > HEADS_LIMIT {
        push_lines(&mut query, scope, filter);
        push_any_of(&mut query, heads);
        query.push(order).push(" LIMIT ").bind(limit);
    } else {
        for (number, head) in heads.iter().enumerate() {
            query.push(if number == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
            push_lines(&mut query, scope, filter);
            match head {
                Head::All => &mut query,
                Head::Service(id) => query.push(" AND service_id = ").bind(id.as_str()),
                Head::Log(key) => query.push(" AND source = ").bind(key.as_str()),
            };
            query.push(order).push(" LIMIT ").bind(limit).push(&format!(") AS head_{number}"));
        }
    }
    query.push(") AS l JOIN services s ON s.id = l.service_id").push(order).push(" LIMIT ").bind(limit);
    query
}

/// The lines that pass what holds for every head.
fn push_lines(query: &mut Statement, scope: &Scope, filter: &LogFilter) {
    query.push("SELECT sequence, service_id, source, at_ms, stream, text FROM log_lines WHERE organization_id = ");
    query.bind(scope.organization.as_str());
    if let Some(after) = filter.after {
        query.push(" AND sequence > ").bind(after);
    }
    if let Some(before) = filter.before {
        query.push(" AND sequence < ").bind(before);
    }
    if let Some(since_ms) = filter.since_ms {
        query.push(" AND at_ms >= ").bind(since_ms);
    }
    if let Some(until_ms) = filter.until_ms {
        query.push(" AND at_ms <= ").bind(until_ms);
    }
    if let Some(kind) = filter.kind {
        query.push(" AND source LIKE ").bind(format!("{}%", kind.key_prefix()));
    }
    // Beside a narrower head the services narrow further.
    if let (Some(ids), true) = (&filter.service_ids, filter.instance_id.is_some() || filter.deployment_id.is_some()) {
        query.push(" AND service_id IN (").bind_all(ids.iter().map(ServiceId::as_str)).push(")");
    }
}

fn push_any_of(query: &mut Statement, heads: &[Head]) {
    for (column, of_column) in [
        ("service_id", heads.iter().filter_map(Head::service).collect::<Vec<&str>>()),
        ("source", heads.iter().filter_map(Head::log).collect()),
    ] {
        if !of_column.is_empty() {
            query.push(" AND ").push(column).push(" IN (").bind_all(of_column).push(")");
        }
    }
}

impl Head {
    fn service(&self) -> Option<&str> {
        if let Head::Service(id) = self { Some(id.as_str()) } else { None }
    }

    fn log(&self) -> Option<&str> {
        if let Head::Log(key) = self { Some(key) } else { None }
    }
}

fn record(row: Row) -> Result<LogRecord> {
    let (sequence, service_id, service, key, at_ms, stream, text) = row;
    Ok(LogRecord {
        sequence,
        service_id: parse("log line", &service_id)?,
        service,
        source: source(&key)?,
        line: LogLine { at_ms, stream: from_word("log line", stream)?, text },
    })
}

fn source(key: &str) -> Result<LogSource> {
    match key.split_once(':') {
        Some(("build", id)) => Ok(LogSource::Build { deployment_id: parse("log line", id)? }),
        Some(("run", id)) => Ok(LogSource::Run { instance_id: parse("log line", id)? }),
        _ => Err(Error::corrupt("log line", format!("`{key}` names no log"))),
    }
}
