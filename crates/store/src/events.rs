//! Events, in the control plane's order.
//!
//! Two hundred thousand are kept, and what somebody looks for may be the oldest of them. So each filter has an
//! index that ends with the sequence: a page is read from where it begins, however rare what it shows. Several
//! kinds, or a request and the deployments that it began, are several runs of an index; each gives up its first
//! rows, and the statement puts them together.

use crate::codec::{from_json, parse, text, to_json, word};
use crate::pen::Write;
use crate::statement::{ROWS_AT_ONCE, Statement, Value};
use crate::{Result, Scope, Store, newest_number, take_numbers};
use api::cause::Actor;
use api::events::{Event, EventKind, EventLevel, EventRecord};
use api::ids::{DeploymentId, EventId, RequestId, ServerId, ServiceId, StackId};
use sqlx::{Any, Transaction};
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
    /// Only of these kinds.
    pub kinds: Option<Vec<EventKind>>,
    /// Only what one of these asked for: users and holders of tokens.
    pub people: Option<Vec<Actor>>,
    /// What a request did, and all that belongs to the deployments that it began.
    pub request_id: Option<RequestId>,
    /// Only of this level and worse.
    pub lowest_level: Option<EventLevel>,
}

/// One run of an index: a column, and what it holds.
type Head = (&'static str, String);

/// More deployments than this of one request are not followed.
const DEPLOYMENTS_OF_REQUEST: i64 = 200;

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
        let mut transaction = self.read().await?;
        let heads = heads(&mut transaction, scope, filter).await?;
        let query = statement(scope, filter, &heads);
        let rows = query.fetch_all::<(i64, String), _>(&mut *transaction).await?;
        transaction.commit().await?;
        rows.iter()
            .map(|(sequence, text)| Ok(EventRecord { sequence: *sequence, event: from_json("event", text)? }))
            .collect()
    }

    /// The highest sequence so far; 0 before the first.
    pub async fn event_newest(&self, scope: &Scope) -> Result<i64> {
        newest_number(self, &scope.organization, "events").await
    }
}

/// What to begin with, if not with one condition that is the same for all: several runs of an index.
async fn heads(transaction: &mut Transaction<'static, Any>, scope: &Scope, filter: &EventFilter) -> Result<Vec<Head>> {
    if let Some(id) = &filter.request_id {
        let rows = sqlx::query_as::<_, (String,)>(
            "SELECT DISTINCT deployment_id FROM events
             WHERE organization_id = $1 AND request_id = $2 AND deployment_id IS NOT NULL LIMIT $3",
        )
        .bind(scope.organization.as_str())
        .bind(id.as_str())
        .bind(DEPLOYMENTS_OF_REQUEST)
        .fetch_all(&mut **transaction)
        .await?;
        let deployments = rows.into_iter().map(|(id,)| ("deployment_id", id));
        return Ok(deployments.chain([("request_id", id.to_string())]).collect());
    }
    if let Some(people) = &filter.people {
        return Ok(people.iter().filter_map(person).map(|label| ("person", label)).collect());
    }
    // Any of these leaves few enough, among which the kind is looked at.
    let narrowed = filter.stack_id.is_some()
        || filter.service_id.is_some()
        || filter.deployment_id.is_some()
        || filter.server_id.is_some();
    Ok(match &filter.kinds {
        Some(kinds) if !narrowed => kinds.iter().map(|kind| ("kind", kind.as_str())).collect(),
        _ => Vec::new(),
    })
}

fn statement(scope: &Scope, filter: &EventFilter, heads: &[Head]) -> Statement {
    let order = if filter.after.is_some() { " ORDER BY sequence ASC" } else { " ORDER BY sequence DESC" };
    let limit = i64::from(filter.limit);
    let mut query = Statement::new("SELECT sequence, document FROM events WHERE organization_id = ");
    query.bind(scope.organization.as_str());
    if heads.is_empty() {
        // Nobody and nothing that could be looked for: then there is none.
        if filter.people.is_some() || filter.kinds.as_ref().is_some_and(Vec::is_empty) {
            query.push(" AND 1 = 0");
        }
        push_conditions(&mut query, filter);
    } else {
        query.push(" AND sequence IN (");
        for (number, (column, value)) in heads.iter().enumerate() {
            query.push(if number == 0 { "SELECT sequence FROM (" } else { " UNION SELECT sequence FROM (" });
            query.push("SELECT sequence FROM events WHERE organization_id = ").bind(scope.organization.as_str());
            query.push(" AND ").push(column).push(" = ").bind(text(value).into_owned());
            push_conditions(&mut query, filter);
            query.push(order).push(" LIMIT ").bind(limit).push(&format!(") AS head_{number}"));
        }
        query.push(")");
    }
    query.push(order).push(" LIMIT ").bind(limit);
    query
}

/// What holds for every event that is let through. Only what is asked for becomes part of the statement, so
/// that an index can serve it.
fn push_conditions(query: &mut Statement, filter: &EventFilter) {
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
    // Without a request they are looked for instead, each by itself.
    if let (Some(people), Some(_)) = (&filter.people, &filter.request_id) {
        query.push(" AND person IN (").bind_all(people.iter().filter_map(person)).push(")");
    }
    match filter.lowest_level {
        None | Some(EventLevel::Info) => {}
        Some(EventLevel::Warning) => {
            query.push(" AND level <> 'info'");
        }
        // The first of both is what the index of problems is made for.
        Some(EventLevel::Error) => {
            query.push(" AND level <> 'info' AND level = 'error'");
        }
    }
    if let Some(kinds) = &filter.kinds {
        query.push(" AND kind IN (").bind_all(kinds.iter().map(|kind| kind.as_str())).push(")");
    }
    if let Some(after) = filter.after {
        query.push(" AND sequence > ").bind(after);
    }
    if let Some(before) = filter.before {
        query.push(" AND sequence < ").bind(before);
    }
}

/// As the column has it: of whom it is worth to ask what they did.
fn person(actor: &Actor) -> Option<String> {
    match actor {
        Actor::User { .. } | Actor::Token { .. } => Some(text(&actor.label()).into_owned()),
        Actor::Agent { .. } | Actor::System { .. } => None,
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
    for chunk in events.chunks(ROWS_AT_ONCE) {
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
        "INSERT INTO events (organization_id, sequence, id, at_ms, level, kind, person, request_id, stack_id,
                             service_id, deployment_id, server_id, document) ",
    );
    query.bind_rows(events.iter().zip(documents).zip(first..).map(|((event, document), sequence)| -> [Value; 13] {
        [
            scope.organization.as_str().into(),
            sequence.into(),
            event.id.as_str().into(),
            event.at_ms.into(),
            word(&event.level).into(),
            event.kind.as_str().into(),
            person(&event.cause.actor).as_deref().into(),
            event.cause.request_id.as_ref().map(RequestId::as_str).into(),
            event.stack_id.as_ref().map(StackId::as_str).into(),
            event.service_id.as_ref().map(ServiceId::as_str).into(),
            event.deployment_id.as_ref().map(DeploymentId::as_str).into(),
            event.server_id.as_ref().map(ServerId::as_str).into(),
            document.into(),
        ]
    }));
    query.execute(transaction).await
}
