//! Git credentials, stored under a name.

use crate::codec::{open, parse, seal};
use crate::{Error, Result, Scope, Store};
use api::UnixMillis;
use api::desired::{CredentialView, GitCredential};
use api::name::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub name: Name,
    pub credential: GitCredential,
}

impl Store {
    /// Stores a credential, in place of one of the same name.
    pub async fn credential_put(
        &self,
        scope: &Scope,
        name: &Name,
        credential: &GitCredential,
        now_ms: UnixMillis,
    ) -> Result<()> {
        let kind = match credential {
            GitCredential::DeployKey { .. } => "deploy_key",
            GitCredential::Token { .. } => "token",
        };
        self.execute(sqlx::query(
            "INSERT INTO credentials (organization_id, name, kind, document, created_at_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (organization_id, name) DO UPDATE
             SET kind = excluded.kind, document = excluded.document, created_at_ms = excluded.created_at_ms",
        )
        .bind(scope.organization.as_str())
        .bind(name.as_str())
        .bind(kind)
        .bind(seal("credential", credential)?)
        .bind(now_ms))
        .await?;
        Ok(())
    }

    /// All of them, with what they hold: for resolving sources and for desired states.
    pub async fn credential_list(&self, scope: &Scope) -> Result<Vec<Credential>> {
        let rows = sqlx::query_as::<_, (String, String)>(
            "SELECT name, document FROM credentials WHERE organization_id = $1 ORDER BY name",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|(name, text)| {
                Ok(Credential { name: parse("credential", name)?, credential: open("credential", text)? })
            })
            .collect()
    }

    /// All of them, without what they hold.
    pub async fn credential_view_list(&self, scope: &Scope) -> Result<Vec<CredentialView>> {
        let rows = sqlx::query_as::<_, (String, String, i64)>(
            "SELECT name, kind, created_at_ms FROM credentials WHERE organization_id = $1 ORDER BY name",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(name, kind, created_at_ms)| {
                Ok(CredentialView { name: parse("credential", &name)?, kind, created_at_ms })
            })
            .collect()
    }

    pub async fn credential_delete(&self, scope: &Scope, name: &Name) -> Result<()> {
        let gone = self
            .execute(
                sqlx::query("DELETE FROM credentials WHERE organization_id = $1 AND name = $2")
                    .bind(scope.organization.as_str())
                    .bind(name.as_str()),
            )
            .await?;
        if gone.rows_affected() == 0 {
            return Err(Error::not_found("credential", name.as_str()));
        }
        Ok(())
    }
}
