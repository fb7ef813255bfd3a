//! Reading rows that are one document: deployments and revisions, by id, or newest first of a service.

use crate::{Error, Result, Scope, Store};
use api::ids::ServiceId;

impl Store {
    /// `$1` is the id, `$2` the organization.
    pub(crate) async fn document(
        &self,
        sql: &'static str,
        scope: &Scope,
        noun: &'static str,
        id: &str,
    ) -> Result<String> {
        let row = sqlx::query_as::<_, (String,)>(sql)
            .bind(id)
            .bind(scope.organization.as_str())
            .fetch_optional(&self.pool)
            .await?;
        row.map(|(document,)| document).ok_or_else(|| Error::not_found(noun, id))
    }

    /// `$1` is the service, `$2` the organization, `$3` how many at most.
    pub(crate) async fn documents_of_service(
        &self,
        sql: &'static str,
        scope: &Scope,
        service_id: &ServiceId,
        limit: u32,
    ) -> Result<Vec<(String,)>> {
        let rows = sqlx::query_as(sql)
            .bind(service_id.as_str())
            .bind(scope.organization.as_str())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        Ok(rows)
    }
}
