//! Events that wait until the control plane has them.
//!
//! Bounded: a machine that is cut off for a month must not fill its disk with news. When it is full
//! the oldest informational events go first, then warnings, then errors, and one event says how many
//! went. An event keeps its id until it is acknowledged, so a report that arrived twice adds nothing.

use super::LedgerError;
use super::file::{FileLedger, meta_put};
use api::cause::Cause;
use api::events::{Event, EventKind, EventLevel};
use api::ids::EventId;

/// How many events wait at most.
pub const OUTBOX_LIMIT: i64 = 4_000;
/// How many go into one report.
pub const REPORT_LIMIT: i64 = 200;

const DROPPED: &str = "dropped_events";
const NOTICE: &str = "dropped_notice";

pub(super) fn level_rank(level: EventLevel) -> i64 {
    match level {
        EventLevel::Info => 0,
        EventLevel::Warning => 1,
        EventLevel::Error => 2,
    }
}

impl FileLedger {
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
        let operation = "keeping events";
        let failed = |source| LedgerError::Query { operation, source };
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        for event in events {
            insert(&mut transaction, event).await.map_err(failed)?;
        }
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut *transaction).await.map_err(failed)?;
        if count > limit {
            // One more than needed, to make room for the notice.
            drop_oldest(&mut transaction, count - limit + 1, now_ms).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// The oldest events that are not acknowledged yet.
    pub async fn outbox_pending(&self) -> Result<Vec<Event>, LedgerError> {
        let operation = "reading waiting events";
        let bodies: Vec<String> = sqlx::query_scalar("SELECT body FROM outbox ORDER BY sequence LIMIT $1")
            .bind(REPORT_LIMIT)
            .fetch_all(&self.pool)
            .await
            .map_err(|source| LedgerError::Query { operation, source })?;
        bodies
            .iter()
            .map(|body| serde_json::from_str(body).map_err(|source| LedgerError::Content { operation, source }))
            .collect()
    }

    /// Forgets what the control plane keeps now.
    pub async fn outbox_acknowledge(&self, ids: &[EventId]) -> Result<(), LedgerError> {
        if ids.is_empty() {
            return Ok(());
        }
        let failed = |source| LedgerError::Query { operation: "forgetting acknowledged events", source };
        let notice = self.meta_get(NOTICE).await?;
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        for id in ids {
            sqlx::query("DELETE FROM outbox WHERE id = $1")
                .bind(id.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            if notice.as_deref() == Some(id.as_str()) {
                meta_put(&mut transaction, DROPPED, "0").await.map_err(failed)?;
            }
        }
        transaction.commit().await.map_err(failed)
    }
}

async fn insert(connection: &mut sqlx::SqliteConnection, event: &Event) -> Result<(), sqlx::Error> {
    let body = serde_json::to_string(event).map_err(|e| sqlx::Error::Encode(Box::new(e)))?;
    sqlx::query("INSERT INTO outbox (id, level, body) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING")
        .bind(event.id.as_str())
        .bind(level_rank(event.level))
        .bind(body)
        .execute(connection)
        .await
        .map(|_| ())
}

async fn drop_oldest(connection: &mut sqlx::SqliteConnection, excess: i64, now_ms: i64) -> Result<(), sqlx::Error> {
    let notice: Option<String> = meta(connection, NOTICE).await?;
    // The former notice makes room for the new one and is not itself counted.
    let mut excess = excess;
    if let Some(former) = &notice {
        let gone = sqlx::query("DELETE FROM outbox WHERE id = $1").bind(former).execute(&mut *connection).await?;
        excess -= i64::try_from(gone.rows_affected()).unwrap_or(0);
    }
    let dropped = sqlx::query(
        "DELETE FROM outbox WHERE sequence IN (SELECT sequence FROM outbox ORDER BY level, sequence LIMIT $1)",
    )
    .bind(excess.max(0))
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let before: u64 = meta(connection, DROPPED).await?.and_then(|t| t.parse().ok()).unwrap_or(0);
    let total = before + dropped;
    meta_put(connection, DROPPED, &total.to_string()).await?;
    let event = dropped_notice(total, now_ms);
    meta_put(connection, NOTICE, event.id.as_str()).await?;
    insert(connection, &event).await
}

async fn meta(connection: &mut sqlx::SqliteConnection, key: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT value FROM meta WHERE key = $1").bind(key).fetch_optional(connection).await
}

pub(super) fn dropped_notice(total: u64, now_ms: i64) -> Event {
    Event {
        id: EventId::from_uuid(ambient::fresh_id()),
        at_ms: now_ms,
        kind: EventKind::EventsDropped,
        level: EventLevel::Warning,
        message: format!("{} dropped: the control plane could not be told in time", api::words::count(total, "event")),
        cause: Cause::system("agent", "the outbox of events is full"),
        stack_id: None,
        service_id: None,
        deployment_id: None,
        instance_id: None,
        server_id: None,
    }
}
