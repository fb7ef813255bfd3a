//! Services, what the user last asked of them, and the variables set beside their manifest.

use crate::codec::{from_word, parse};
use crate::pen::Write;
use crate::retention::ROWS_PER_CHUNK;
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store, events as stored_events, stacks};
use api::events::Event;
use api::ids::{RevisionId, ServiceId, StackId};
use api::name::Name;
use api::secret::Secret;
use api::services::ServiceIntent;
use sqlx::AnyConnection;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    pub id: ServiceId,
    pub stack_id: StackId,
    pub name: Name,
    pub intent: ServiceIntent,
    pub replicas: u32,
    pub current_revision_id: Option<RevisionId>,
    pub previous_revision_id: Option<RevisionId>,
    /// It left the manifest: it is forgotten once its instances are gone.
    pub removing: bool,
}

pub(crate) const COLUMNS: &str =
    "id, stack_id, name, intent, replicas, current_revision_id, previous_revision_id, removing";

pub(crate) type Row = (String, String, String, String, i64, Option<String>, Option<String>, i64);

pub(crate) fn service(row: Row) -> Result<Service> {
    let (id, stack_id, name, intent, replicas, current, previous, removing) = row;
    Ok(Service {
        id: parse("service", &id)?,
        stack_id: parse("service", &stack_id)?,
        name: parse("service", &name)?,
        intent: from_word("service", intent)?,
        replicas: u32::try_from(replicas).map_err(|e| Error::corrupt("service", e))?,
        current_revision_id: current.map(|id| parse("service", &id)).transpose()?,
        previous_revision_id: previous.map(|id| parse("service", &id)).transpose()?,
        removing: removing != 0,
    })
}

impl Store {
    /// Those of one stack, or of all, by name.
    pub async fn service_list(&self, scope: &Scope, stack_id: Option<&StackId>) -> Result<Vec<Service>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM services WHERE organization_id = $1 AND ($2 IS NULL OR stack_id = $2)
             ORDER BY name, id"
        );
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(stack_id.map(StackId::as_str))
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(service).collect()
    }

    /// Those of these that are there.
    pub async fn service_list_of<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a ServiceId>,
    ) -> Result<Vec<Service>> {
        let select = format!("SELECT {COLUMNS} FROM services");
        let ids: Vec<&str> = ids.into_iter().map(ServiceId::as_str).collect();
        let rows = Statement::fetch_among::<Row>(self, (&select, ""), scope, "id", &ids).await?;
        rows.into_iter().map(service).collect()
    }

    /// Those that served once, stay, and have no instance now.
    pub async fn service_list_idle(&self, scope: &Scope) -> Result<Vec<Service>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM services
             WHERE organization_id = $1 AND instances = 0 AND removing = 0 AND current_revision_id IS NOT NULL
             ORDER BY name, id"
        );
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(service).collect()
    }

    pub async fn service_get(&self, scope: &Scope, id: &ServiceId) -> Result<Service> {
        let sql = format!("SELECT {COLUMNS} FROM services WHERE organization_id = $1 AND id = $2");
        let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await?;
        service(row.ok_or_else(|| Error::not_found("service", id.as_str()))?)
    }

    /// Forgets a service that left its manifest, with all its history. Refused while it is in its
    /// manifest or has instances. Its stack goes with the last one if it is being removed, and only then the
    /// events are kept, which tell that; answers whether it did.
    pub async fn service_delete(&self, scope: &Scope, id: &ServiceId, stack_gone: &[Event]) -> Result<bool> {
        expect_deletable(&mut *self.pool.acquire().await?, scope, id).await?;
        // There may be very many lines: they go first and in chunks, so that nobody else has to wait.
        while self.service_log_lines_delete(scope, id).await? > 0 {}
        let mut transaction = self.write(&scope.organization).await?;
        let deleted = delete(&mut transaction, scope, id, stack_gone).await;
        transaction.end(deleted).await
    }

    async fn service_log_lines_delete(&self, scope: &Scope, id: &ServiceId) -> Result<u64> {
        let gone = self
            .execute(
                sqlx::query(
                    "DELETE FROM log_lines
             WHERE service_id = $1 AND organization_id = $2 AND sequence <=
               (SELECT MAX(sequence) FROM
                 (SELECT sequence FROM log_lines WHERE service_id = $1 AND organization_id = $2
                  ORDER BY sequence LIMIT $3) AS chunk)",
                )
                .bind(id.as_str())
                .bind(scope.organization.as_str())
                .bind(ROWS_PER_CHUNK),
            )
            .await?;
        Ok(gone.rows_affected())
    }

    /// Variables set with `mainstay env set`.
    pub async fn service_env_list(&self, scope: &Scope, id: &ServiceId) -> Result<BTreeMap<String, Secret>> {
        let rows = sqlx::query_as::<_, (String, String)>(
            "SELECT name, value FROM service_env WHERE service_id = $1 AND organization_id = $2",
        )
        .bind(id.as_str())
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
    }

    /// Sets and (with `None`) removes variables, all or none, and keeps what is told about it.
    pub async fn service_env_patch(
        &self,
        scope: &Scope,
        id: &ServiceId,
        variables: &BTreeMap<String, Option<Secret>>,
        events: &[Event],
    ) -> Result<()> {
        if let Some(name) = variables.iter().find_map(|(name, value)| holds_nul(name, value.as_ref()).then_some(name)) {
            let name = name.escape_debug();
            return Err(Error::Conflict(format!("the variable `{name}` holds a NUL character, which none can hold")));
        }
        let mut transaction = self.write(&scope.organization).await?;
        let patched = patch_env(&mut transaction, scope, id, variables).await;
        let told = stored_events::append_after(&mut transaction, scope, patched, events).await;
        transaction.end(told).await
    }
}

async fn delete(transaction: &mut Write, scope: &Scope, id: &ServiceId, stack_gone: &[Event]) -> Result<bool> {
    let service = expect_deletable(transaction, scope, id).await?;
    for sql in [
        "DELETE FROM deployments WHERE service_id = $1 AND organization_id = $2",
        "DELETE FROM revisions WHERE service_id = $1 AND organization_id = $2",
        "DELETE FROM log_lines WHERE service_id = $1 AND organization_id = $2",
        "DELETE FROM log_streams WHERE service_id = $1 AND organization_id = $2",
        "DELETE FROM service_env WHERE service_id = $1 AND organization_id = $2",
        "DELETE FROM metric_chunks WHERE subject = $1 AND organization_id = $2",
        "DELETE FROM services WHERE id = $1 AND organization_id = $2",
    ] {
        sqlx::query(sql).bind(id.as_str()).bind(scope.organization.as_str()).execute(&mut **transaction).await?;
    }
    let gone = stacks::delete_if_empty(transaction, scope, &service.stack_id).await?;
    if gone {
        stored_events::append_in(transaction, scope, stack_gone).await?;
    }
    Ok(gone)
}

async fn patch_env(
    transaction: &mut Write,
    scope: &Scope,
    id: &ServiceId,
    variables: &BTreeMap<String, Option<Secret>>,
) -> Result<()> {
    get_in(transaction, scope, id).await?;
    for (name, value) in variables {
        let query = match value {
            Some(value) => sqlx::query(
                "INSERT INTO service_env (service_id, organization_id, name, value) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (service_id, name) DO UPDATE SET value = excluded.value",
            )
            .bind(id.as_str())
            .bind(scope.organization.as_str())
            .bind(name)
            .bind(value.expose()),
            None => sqlx::query("DELETE FROM service_env WHERE service_id = $1 AND organization_id = $2 AND name = $3")
                .bind(id.as_str())
                .bind(scope.organization.as_str())
                .bind(name),
        };
        query.execute(&mut **transaction).await?;
    }
    Ok(())
}

fn holds_nul(name: &str, value: Option<&Secret>) -> bool {
    name.contains('\0') || value.is_some_and(|value| value.expose().contains('\0'))
}

/// A service, inside a transaction or not.
pub(crate) async fn get_in(connection: &mut AnyConnection, scope: &Scope, id: &ServiceId) -> Result<Service> {
    let sql = format!("SELECT {COLUMNS} FROM services WHERE organization_id = $1 AND id = $2");
    let row = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
        .bind(scope.organization.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    service(row.ok_or_else(|| Error::not_found("service", id.as_str()))?)
}

async fn expect_deletable(connection: &mut AnyConnection, scope: &Scope, id: &ServiceId) -> Result<Service> {
    let service = get_in(connection, scope, id).await?;
    if !service.removing {
        return Err(Error::Conflict(format!("the service `{}` is still in its stack's manifest", service.name)));
    }
    let (instances,) =
        sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM instances WHERE service_id = $1 AND organization_id = $2")
            .bind(id.as_str())
            .bind(scope.organization.as_str())
            .fetch_one(connection)
            .await?;
    match instances {
        0 => Ok(service),
        1 => Err(Error::Conflict(format!("the service `{}` still has an instance", service.name))),
        more => Err(Error::Conflict(format!("the service `{}` still has {more} instances", service.name))),
    }
}
