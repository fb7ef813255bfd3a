//! Events, in the control plane's order.

use crate::codec::{from_json, parse, to_json, word};
use crate::pen::Write;
use crate::statement::{Statement, Value};
use crate::{Result, Scope, Store, newest_number, take_numbers};
use api::events::{Event, EventRecord};
use api::ids::{DeploymentId, EventId, ServerId, ServiceId, StackId};
use std::collections::HashSet;

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

/// Rows per INSERT: below the parameter limits of both databases.
const ROWS_PER_STATEMENT: usize = 500;

impl Store {
    /// Keeps events and answers the ids that are kept now, whether new or known already.
    pub async fn event_append(&self, scope: &Scope, events: &[Event]) -> Result<Vec<EventId>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut transaction = self.write(&scope.organization).await?;
        let kept = append_in(&mut transaction, scope, events).await;
        transaction.end(kept).await?;
        Ok(events.iter().map(|event| event.id.clone()).collect())
    }

    pub async fn event_list(&self, scope: &Scope, filter: &EventFilter) -> Result<Vec<EventRecord>> {
        // Only what is asked for becomes part of the statement, so that an index can serve it.
        let mut query = Statement::new("SELECT sequence, document FROM events WHERE organization_id = ");
        query.bind(scope.organization.as_str());
        for (column, id) in [
            (" AND stack_id = ", filter.stack_id.as_ref().map(StackId::as_str)),
            (" AND service_id = ", filter.service_id.as_ref().map(ServiceId::as_str)),
            (" AND deployment_id = ", filter.deployment_id.as_ref().map(DeploymentId::as_str)),
            (" AND server_id = ", filter.server_id.as_ref().map(ServerId::as_str)),
        ] {
            if let Some(id) = id {
                query.push(column).bind(id);
            }
        }
        if filter.problems_only {
            query.push(" AND level <> 'info'");
        }
        if let Some(after) = filter.after {
            query.push(" AND sequence > ").bind(after);
        }
        if let Some(before) = filter.before {
            query.push(" AND sequence < ").bind(before);
        }
        query.push(if filter.after.is_some() { " ORDER BY sequence ASC" } else { " ORDER BY sequence DESC" });
        query.push(" LIMIT ").bind(i64::from(filter.limit));
        let rows = query.fetch_all::<(i64, String), _>(&self.pool).await?;
        rows.iter()
            .map(|(sequence, text)| Ok(EventRecord { sequence: *sequence, event: from_json("event", text)? }))
            .collect()
    }

    /// The highest sequence so far; 0 before the first.
    pub async fn event_newest(&self, scope: &Scope) -> Result<i64> {
        newest_number(self, &scope.organization, "events").await
    }
}

/// Keeps events of what went well, in its transaction.
pub(crate) async fn append_after<T>(
    transaction: &mut Write,
    scope: &Scope,
    done: Result<T>,
    events: &[Event],
) -> Result<T> {
    if done.is_ok() {
        append_in(transaction, scope, events).await?;
    }
    done
}

/// Keeps events inside a transaction of what they tell about.
pub(crate) async fn append_in(transaction: &mut Write, scope: &Scope, events: &[Event]) -> Result<()> {
    for chunk in events.chunks(ROWS_PER_STATEMENT) {
        let mut seen = known_ids(transaction, scope, chunk).await?;
        let fresh: Vec<&Event> = chunk.iter().filter(|event| seen.insert(event.id.clone())).collect();
        insert(transaction, scope, &fresh).await?;
    }
    Ok(())
}

async fn known_ids(transaction: &mut Write, scope: &Scope, events: &[Event]) -> Result<HashSet<EventId>> {
    let mut query = Statement::new("SELECT id FROM events WHERE organization_id = ");
    query.bind(scope.organization.as_str()).push(" AND id IN (");
    query.bind_all(events.iter().map(|event| event.id.as_str())).push(")");
    let rows = query.fetch_all::<(String,), _>(&mut **transaction).await?;
    rows.iter().map(|(id,)| parse("event", id)).collect()
}

async fn insert(transaction: &mut Write, scope: &Scope, events: &[&Event]) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let documents = events.iter().map(|event| to_json("event", event)).collect::<Result<Vec<String>>>()?;
    let first = take_numbers(transaction, &scope.organization, "events", events.len() as i64).await?;
    let mut query = Statement::new(
        "INSERT INTO events (organization_id, sequence, id, at_ms, level, stack_id, service_id, deployment_id,
                             server_id, document) ",
    );
    query.bind_rows(events.iter().zip(documents).zip(first..).map(|((event, document), sequence)| -> [Value; 10] {
        [
            scope.organization.as_str().into(),
            sequence.into(),
            event.id.as_str().into(),
            event.at_ms.into(),
            word(&event.level).into(),
            event.stack_id.as_ref().map(StackId::as_str).into(),
            event.service_id.as_ref().map(ServiceId::as_str).into(),
            event.deployment_id.as_ref().map(DeploymentId::as_str).into(),
            event.server_id.as_ref().map(ServerId::as_str).into(),
            document.into(),
        ]
    }));
    query.execute(transaction).await
}
