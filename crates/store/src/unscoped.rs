//! The few calls without a scope: those that find out which scope a caller has, the first start, and
//! what Mainstay does for all organizations alike. Nothing here answers a user's question.

use crate::codec::parse;
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

/// How long things are kept.
#[derive(Debug, Clone)]
pub struct Retention {
    pub events_ms: i64,
    pub events_count: i64,
    pub log_lines_ms: i64,
    pub log_lines_count: i64,
    /// Ended deployments kept per service.
    pub deployments_count: i64,
}

impl Default for Retention {
    fn default() -> Self {
        let day_ms = 24 * 60 * 60 * 1000;
        Self {
            events_ms: 90 * day_ms,
            events_count: 200_000,
            log_lines_ms: 30 * day_ms,
            log_lines_count: 2_000_000,
            deployments_count: 200,
        }
    }
}

impl Store {
    /// The organization of that name, made with the given id at the first start.
    pub async fn organization_ensure(
        &self,
        id: &OrganizationId,
        name: &str,
        now_ms: UnixMillis,
    ) -> Result<OrganizationId> {
        sqlx::query(
            "INSERT INTO organizations (id, name, created_at_ms) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
        )
        .bind(id.as_str())
        .bind(name)
        .bind(now_ms)
        .execute(&self.pool)
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
        .bind(name)
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
             WHERE hash = $1 AND kind = 'api' AND revoked_at_ms IS NULL AND (expires_at_ms IS NULL OR expires_at_ms > $2)",
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

    /// Whether this nonce is used for the first time.
    pub async fn nonce_claim(&self, server_id: &ServerId, nonce: &str, keep_until_ms: UnixMillis) -> Result<bool> {
        let taken = sqlx::query(
            "INSERT INTO nonces (server_id, nonce, expires_at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        )
        .bind(server_id.as_str())
        .bind(nonce)
        .bind(keep_until_ms)
        .execute(&self.pool)
        .await?;
        Ok(taken.rows_affected() > 0)
    }

    /// Forgets what is past its time. Bounded work, to be repeated.
    pub async fn retention_apply(&self, retention: &Retention, now_ms: UnixMillis) -> Result<u64> {
        let mut gone = 0;
        for sql in ["DELETE FROM nonces WHERE expires_at_ms < $1", "DELETE FROM sessions WHERE expires_at_ms < $1"] {
            gone += sqlx::query(sql).bind(now_ms).execute(&self.pool).await?.rows_affected();
        }
        for (organization, _) in self.organization_list().await? {
            gone += self
                .forget_by_age_and_count("events", &organization, retention.events_ms, retention.events_count, now_ms)
                .await?;
            let (age, count) = (retention.log_lines_ms, retention.log_lines_count);
            gone += self.forget_by_age_and_count("log_lines", &organization, age, count, now_ms).await?;
        }
        gone += sqlx::query(
            "DELETE FROM deployments WHERE in_flight = 0
               AND number <= (SELECT MAX(d.number) FROM deployments d WHERE d.service_id = deployments.service_id) - $1
               AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.deployment_id = deployments.id)",
        )
        .bind(retention.deployments_count)
        .execute(&self.pool)
        .await?
        .rows_affected();
        gone += sqlx::query(
            "DELETE FROM revisions WHERE
               number <= (SELECT MAX(r.number) FROM revisions r WHERE r.service_id = revisions.service_id) - $1
               AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.revision_id = revisions.id)
               AND NOT EXISTS (SELECT 1 FROM services s WHERE s.id = revisions.service_id
                               AND (s.current_revision_id = revisions.id OR s.previous_revision_id = revisions.id))",
        )
        .bind(retention.deployments_count)
        .execute(&self.pool)
        .await?
        .rows_affected();
        Ok(gone)
    }

    async fn forget_by_age_and_count(
        &self,
        table: &'static str,
        organization: &OrganizationId,
        age_ms: i64,
        count: i64,
        now_ms: UnixMillis,
    ) -> Result<u64> {
        let sql = format!(
            "DELETE FROM {table} WHERE organization_id = $1 AND sequence <= (
               SELECT COALESCE(MAX(sequence), 0) - $2 FROM {table} WHERE organization_id = $1)"
        );
        let by_count =
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(organization.as_str()).bind(count).execute(&self.pool).await?;
        let sql = format!("DELETE FROM {table} WHERE organization_id = $1 AND at_ms < $2");
        let by_age = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(organization.as_str())
            .bind(now_ms - age_ms)
            .execute(&self.pool)
            .await?;
        Ok(by_count.rows_affected() + by_age.rows_affected())
    }
}
