//! People and their sessions.

use crate::codec::text;
use crate::{Error, Result, Scope, Store};
use api::UnixMillis;
use api::ids::UserId;

impl Store {
    pub async fn user_create(
        &self,
        scope: &Scope,
        id: &UserId,
        name: &str,
        password_hash: &str,
        now_ms: UnixMillis,
    ) -> Result<()> {
        self.execute(sqlx::query(
            "INSERT INTO users (id, organization_id, name, password_hash, created_at_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(id.as_str())
        .bind(scope.organization.as_str())
        .bind(text(name).as_ref())
        .bind(password_hash)
        .bind(now_ms))
        .await
        .map_err(|error| match error.is_unique_violation() {
            true => Error::Conflict(format!("there is a user `{name}` already")),
            false => error,
        })?;
        Ok(())
    }

    pub async fn session_create(
        &self,
        scope: &Scope,
        hash: &str,
        user_id: &UserId,
        now_ms: UnixMillis,
        expires_at_ms: UnixMillis,
    ) -> Result<()> {
        let made = self
            .execute(
                sqlx::query(
                    "INSERT INTO sessions (hash, organization_id, user_id, created_at_ms, expires_at_ms)
             SELECT $1, organization_id, id, $2, $3 FROM users WHERE id = $4 AND organization_id = $5",
                )
                .bind(hash)
                .bind(now_ms)
                .bind(expires_at_ms)
                .bind(user_id.as_str())
                .bind(scope.organization.as_str()),
            )
            .await?;
        if made.rows_affected() == 0 {
            return Err(Error::not_found("user", user_id.as_str()));
        }
        Ok(())
    }

    pub async fn session_delete(&self, scope: &Scope, hash: &str) -> Result<()> {
        self.execute(
            sqlx::query("DELETE FROM sessions WHERE hash = $1 AND organization_id = $2")
                .bind(hash)
                .bind(scope.organization.as_str()),
        )
        .await?;
        Ok(())
    }
}
