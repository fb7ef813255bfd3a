//! Revisions: written once, never changed.

use crate::codec::{open, seal, text};
use crate::deployments::RevisionCreate;
use crate::pen::Write;
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store};
use api::UnixMillis;
use api::ids::{RevisionId, ServiceId};
use api::services::Revision;

impl Store {
    pub async fn revision_get(&self, scope: &Scope, id: &RevisionId) -> Result<Revision> {
        const SQL: &str = "SELECT document FROM revisions WHERE id = $1 AND organization_id = $2";
        open("revision", &self.document(SQL, scope, "revision", id.as_str()).await?)
    }

    /// Those of these that are there.
    pub async fn revision_list_of<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a RevisionId>,
    ) -> Result<Vec<Revision>> {
        let ids: Vec<&str> = ids.into_iter().map(RevisionId::as_str).collect();
        let select = ("SELECT document FROM revisions", "");
        let rows = Statement::fetch_among::<(String,)>(self, select, scope, "id", &ids).await?;
        rows.iter().map(|(text,)| open("revision", text)).collect()
    }

    /// Those that an instance is of or that a service has as its current one.
    pub async fn revision_list_in_use(&self, scope: &Scope) -> Result<Vec<Revision>> {
        let rows = sqlx::query_as::<_, (String,)>(
            "SELECT document FROM revisions WHERE organization_id = $1 AND
               (id IN (SELECT revision_id FROM instances WHERE organization_id = $1)
                OR id IN (SELECT current_revision_id FROM services
                          WHERE organization_id = $1 AND current_revision_id IS NOT NULL))",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|(text,)| open("revision", text)).collect()
    }

    /// Newest first.
    pub async fn revision_list(&self, scope: &Scope, service_id: &ServiceId, limit: u32) -> Result<Vec<Revision>> {
        const SQL: &str = "SELECT document FROM revisions WHERE service_id = $1 AND organization_id = $2
             ORDER BY number DESC LIMIT $3";
        let documents = self.documents_of_service(SQL, scope, service_id, limit).await?;
        documents.iter().map(|(text,)| open("revision", text)).collect()
    }

    /// By the number that people say aloud.
    pub async fn revision_by_number(
        &self,
        scope: &Scope,
        service_id: &ServiceId,
        number: u64,
    ) -> Result<Option<Revision>> {
        let row = sqlx::query_as::<_, (String,)>(
            "SELECT document FROM revisions WHERE service_id = $1 AND organization_id = $2 AND number = $3",
        )
        .bind(service_id.as_str())
        .bind(scope.organization.as_str())
        .bind(i64::try_from(number).unwrap_or(i64::MAX))
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(text,)| open("revision", &text)).transpose()
    }
}

/// Writes a revision with the next number of its service.
pub(crate) async fn insert(
    transaction: &mut Write,
    scope: &Scope,
    service_id: &ServiceId,
    create: &RevisionCreate,
    now_ms: UnixMillis,
) -> Result<Revision> {
    let (newest,) = sqlx::query_as::<_, (i64,)>("SELECT COALESCE(MAX(number), 0) FROM revisions WHERE service_id = $1")
        .bind(service_id.as_str())
        .fetch_one(&mut **transaction)
        .await?;
    let revision = Revision {
        id: create.id.clone(),
        service_id: service_id.clone(),
        number: newest as u64 + 1,
        source_version: create.source_version.clone(),
        source_subject: create.source_subject.clone(),
        spec: create.spec.clone(),
        hash: create.hash.clone(),
        created_at_ms: now_ms,
    };
    sqlx::query(
        "INSERT INTO revisions (id, organization_id, service_id, number, hash, document, created_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(revision.id.as_str())
    .bind(scope.organization.as_str())
    .bind(service_id.as_str())
    .bind(revision.number as i64)
    .bind(text(&revision.hash).as_ref())
    .bind(seal("revision", &revision)?)
    .bind(now_ms)
    .execute(&mut **transaction)
    .await?;
    Ok(revision)
}

/// A revision of this service, inside a transaction.
pub(crate) async fn get_in(
    transaction: &mut Write,
    scope: &Scope,
    service_id: &ServiceId,
    id: &RevisionId,
) -> Result<Revision> {
    let row = sqlx::query_as::<_, (String,)>(
        "SELECT document FROM revisions WHERE id = $1 AND service_id = $2 AND organization_id = $3",
    )
    .bind(id.as_str())
    .bind(service_id.as_str())
    .bind(scope.organization.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    open("revision", &row.ok_or_else(|| Error::not_found("revision", id.as_str()))?.0)
}
