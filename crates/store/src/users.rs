//! People and their sessions.

use crate::codec::text;
use crate::pen::Write;
use crate::{Error, Result, Scope, Store, events as stored_events};
use api::UnixMillis;
use api::events::Event;
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

    /// Gives a user another password, ends all their sessions but one, and keeps what is told about it.
    pub async fn user_password_set(
        &self,
        scope: &Scope,
        name: &str,
        password_hash: &str,
        session_kept: &str,
        events: &[Event],
    ) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let done = set_password(&mut transaction, scope, name, password_hash, session_kept).await;
        let told = stored_events::append_after(&mut transaction, scope, done, events).await;
        transaction.end(told).await
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

async fn set_password(
    transaction: &mut Write,
    scope: &Scope,
    name: &str,
    password_hash: &str,
    session_kept: &str,
) -> Result<()> {
    let changed = sqlx::query("UPDATE users SET password_hash = $1 WHERE name = $2 AND organization_id = $3")
        .bind(password_hash)
        .bind(text(name).as_ref())
        .bind(scope.organization.as_str())
        .execute(&mut **transaction)
        .await?;
    if changed.rows_affected() == 0 {
        return Err(Error::not_found("user", name));
    }
    sqlx::query(
        "DELETE FROM sessions WHERE organization_id = $1 AND hash <> $2
           AND user_id IN (SELECT id FROM users WHERE name = $3 AND organization_id = $1)",
    )
    .bind(scope.organization.as_str())
    .bind(session_kept)
    .bind(text(name).as_ref())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
