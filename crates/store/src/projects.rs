//! Projects.

use crate::codec::parse;
use crate::{Error, Result, Scope, Store};
use api::UnixMillis;
use api::ids::ProjectId;
use api::name::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    pub id: ProjectId,
    pub name: Name,
}

impl Store {
    pub async fn project_list(&self, scope: &Scope) -> Result<Vec<Project>> {
        let rows = sqlx::query_as::<_, (String, String)>(
            "SELECT id, name FROM projects WHERE organization_id = $1 ORDER BY name",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|(id, name)| Ok(Project { id: parse("project", id)?, name: parse("project", name)? })).collect()
    }

    pub async fn project_find(&self, scope: &Scope, name: &Name) -> Result<Option<Project>> {
        Ok(self.project_list(scope).await?.into_iter().find(|project| &project.name == name))
    }

    /// The project of that name, made with the given id if it is not there yet.
    pub async fn project_ensure(
        &self,
        scope: &Scope,
        id: &ProjectId,
        name: &Name,
        now_ms: UnixMillis,
    ) -> Result<Project> {
        let mut transaction = self.write(&scope.organization).await?;
        let made = sqlx::query(
            "INSERT INTO projects (id, organization_id, name, created_at_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (organization_id, name) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(scope.organization.as_str())
        .bind(name.as_str())
        .bind(now_ms)
        .execute(&mut *transaction)
        .await;
        transaction.end(made.map_err(Error::from)).await?;
        self.project_find(scope, name).await?.ok_or_else(|| Error::not_found("project", name.as_str()))
    }
}
