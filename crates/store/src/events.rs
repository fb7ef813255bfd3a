//! Events, in the control plane's order.

use crate::codec::{from_json, to_json, word};
use crate::{Result, Scope, Store, take_numbers};
use api::events::{Event, EventRecord};
use api::ids::{DeploymentId, EventId, ServerId, ServiceId, StackId};

/// Which events; every field narrows.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only later ones, oldest first. Without it, the newest come, newest first.
    pub after: Option<i64>,
    /// Only earlier ones, for paging back.
    pub before: Option<i64>,
    pub limit: u32,
    pub stack_id: Option<StackId>,
    pub service_id: Option<ServiceId>,
    pub deployment_id: Option<DeploymentId>,
    pub server_id: Option<ServerId>,
    /// `warning` and `error` only.
    pub problems_only: bool,
}

impl Store {
    /// Keeps events and answers the ids that are kept now, whether new or known already.
    pub async fn event_append(&self, scope: &Scope, events: &[Event]) -> Result<Vec<EventId>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.write(&scope.organization).await?;
        for event in events {
            let known =
                sqlx::query_as::<_, (i64,)>("SELECT sequence FROM events WHERE organization_id = $1 AND id = $2")
                    .bind(scope.organization.as_str())
                    .bind(event.id.as_str())
                    .fetch_optional(&mut *transaction)
                    .await?;
            if known.is_some() {
                continue;
            }
            let sequence = take_numbers(&mut transaction, &scope.organization, "events", 1).await?;
            sqlx::query(
                "INSERT INTO events (organization_id, sequence, id, at_ms, level, stack_id, service_id, deployment_id, server_id, document)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .bind(scope.organization.as_str())
            .bind(sequence)
            .bind(event.id.as_str())
            .bind(event.at_ms)
            .bind(word(&event.level))
            .bind(event.stack_id.as_ref().map(StackId::as_str))
            .bind(event.service_id.as_ref().map(ServiceId::as_str))
            .bind(event.deployment_id.as_ref().map(DeploymentId::as_str))
            .bind(event.server_id.as_ref().map(ServerId::as_str))
            .bind(to_json("event", event)?)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(events.iter().map(|event| event.id.clone()).collect())
    }

    pub async fn event_list(&self, scope: &Scope, filter: &EventFilter) -> Result<Vec<EventRecord>> {
        let order = if filter.after.is_some() { "ASC" } else { "DESC" };
        let problems = if filter.problems_only { "AND level <> 'info'" } else { "" };
        let sql = format!(
            "SELECT sequence, document FROM events
             WHERE organization_id = $1 AND sequence > $2 AND sequence < $3
               AND ($4 IS NULL OR stack_id = $4) AND ($5 IS NULL OR service_id = $5)
               AND ($6 IS NULL OR deployment_id = $6) AND ($7 IS NULL OR server_id = $7) {problems}
             ORDER BY sequence {order} LIMIT $8"
        );
        let rows = sqlx::query_as::<_, (i64, String)>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(filter.after.unwrap_or(0))
            .bind(filter.before.unwrap_or(i64::MAX))
            .bind(filter.stack_id.as_ref().map(StackId::as_str))
            .bind(filter.service_id.as_ref().map(ServiceId::as_str))
            .bind(filter.deployment_id.as_ref().map(DeploymentId::as_str))
            .bind(filter.server_id.as_ref().map(ServerId::as_str))
            .bind(i64::from(filter.limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|(sequence, text)| Ok(EventRecord { sequence: *sequence, event: from_json("event", text)? }))
            .collect()
    }

    /// The highest sequence so far; 0 before the first.
    pub async fn event_newest(&self, scope: &Scope) -> Result<i64> {
        let row =
            sqlx::query_as::<_, (i64,)>("SELECT COALESCE(MAX(sequence), 0) FROM events WHERE organization_id = $1")
                .bind(scope.organization.as_str())
                .fetch_one(&self.pool)
                .await?;
        Ok(row.0)
    }
}
