//! The few calls without a scope: those that find out which scope a caller has, the first start, and
//! what Mainstay does for all organizations alike (with [`crate::retention`]). Nothing here answers a
//! user's question.

use crate::codec::{parse, text};
use crate::servers::{Server, find_unscoped};
use crate::{Error, Result, Store};
use api::UnixMillis;
use api::ids::{OrganizationId, ServerId, UserId};

/// A person, found by name to check the password.
#[derive(Debug, Clone)]
pub struct User {
    pub id: UserId,
    pub organization: OrganizationId,
    pub name: String,
    pub password_hash: String,
}

impl Store {
    /// The organization of that name, made with the given id at the first start.
    pub async fn organization_ensure(
        &self,
        id: &OrganizationId,
        name: &str,
        now_ms: UnixMillis,
    ) -> Result<OrganizationId> {
        self.execute(
            sqlx::query(
                "INSERT INTO organizations (id, name, created_at_ms) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
            )
            .bind(id.as_str())
            .bind(name)
            .bind(now_ms),
        )
        .await?;
        let row = sqlx::query_as::<_, (String,)>("SELECT id FROM organizations WHERE name = $1")
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        parse("organization", &row.0)
    }

    pub async fn organization_list(&self) -> Result<Vec<(OrganizationId, String)>> {
        let rows =
            sqlx::query_as::<_, (String, String)>("SELECT id, name FROM organizations ORDER BY created_at_ms, id")
                .fetch_all(&self.pool)
                .await?;
        rows.into_iter().map(|(id, name)| Ok((parse("organization", &id)?, name))).collect()
    }

    pub async fn user_find(&self, name: &str) -> Result<Option<User>> {
        let row = sqlx::query_as::<_, (String, String, String, String)>(
            "SELECT id, organization_id, name, password_hash FROM users WHERE name = $1",
        )
        .bind(text(name).as_ref())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(id, organization, name, password_hash)| {
            Ok(User { id: parse("user", &id)?, organization: parse("user", &organization)?, name, password_hash })
        })
        .transpose()
    }

    /// Organization and user name of a session that has not ended.
    pub async fn session_find(&self, hash: &str, now_ms: UnixMillis) -> Result<Option<(OrganizationId, String)>> {
        let row = sqlx::query_as::<_, (String, String)>(
            "SELECT s.organization_id, u.name FROM sessions s JOIN users u ON u.id = s.user_id
             WHERE s.hash = $1 AND s.expires_at_ms > $2",
        )
        .bind(hash)
        .bind(now_ms)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(organization, name)| Ok((parse("session", &organization)?, name))).transpose()
    }

    /// Organization and token name of an API token that is good now.
    pub async fn token_api_find(&self, hash: &str, now_ms: UnixMillis) -> Result<Option<(OrganizationId, String)>> {
        let row = sqlx::query_as::<_, (String, String)>(
            "SELECT organization_id, name FROM tokens
             WHERE hash = $1 AND kind = 'api' AND revoked_at_ms IS NULL
               AND (expires_at_ms IS NULL OR expires_at_ms > $2)",
        )
        .bind(hash)
        .bind(now_ms)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(organization, name)| Ok((parse("token", &organization)?, name))).transpose()
    }

    pub(crate) async fn token_join_organization(&self, hash: &str) -> Result<OrganizationId> {
        let row =
            sqlx::query_as::<_, (String,)>("SELECT organization_id FROM tokens WHERE hash = $1 AND kind = 'join'")
                .bind(hash)
                .fetch_optional(&self.pool)
                .await?;
        parse("token", &row.ok_or(Error::TokenUnknown)?.0)
    }

    /// The server that a signed request claims to be from, with the secret to check it by.
    pub async fn server_authenticate(&self, id: &ServerId) -> Result<Option<(OrganizationId, Server)>> {
        find_unscoped(self, id).await
    }
}
