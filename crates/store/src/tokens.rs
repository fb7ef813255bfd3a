//! Join tokens and API tokens. Only their hashes are kept.

use crate::codec::{from_json, parse, text, to_json};
use crate::pen::Write;
use crate::{Error, Result, Scope, Store, events as stored_events};
use api::UnixMillis;
use api::events::Event;
use api::ids::TokenId;
use api::tokens::{TokenPurpose, TokenState, TokenView};

/// A token to be kept.
#[derive(Debug, Clone)]
pub struct TokenCreate {
    pub id: TokenId,
    pub hash: String,
    pub name: String,
    pub purpose: TokenPurpose,
    pub expires_at_ms: Option<UnixMillis>,
}

pub(crate) fn kind_of(purpose: &TokenPurpose) -> &'static str {
    match purpose {
        TokenPurpose::Join { .. } => "join",
        TokenPurpose::Api => "api",
    }
}

type Row = (String, String, String, i64, Option<i64>, Option<i64>, Option<i64>);

fn view(row: Row, now_ms: UnixMillis) -> Result<TokenView> {
    let (id, name, purpose, created_at_ms, expires_at_ms, used_at_ms, revoked_at_ms) = row;
    let purpose: TokenPurpose = from_json("token", &purpose)?;
    let state = if revoked_at_ms.is_some() {
        TokenState::Revoked
    } else if used_at_ms.is_some() && purpose != TokenPurpose::Api {
        TokenState::Used
    } else if expires_at_ms.is_some_and(|at| at <= now_ms) {
        TokenState::Expired
    } else {
        TokenState::Usable
    };
    Ok(TokenView { id: parse("token", &id)?, name, purpose, state, created_at_ms, expires_at_ms, used_at_ms })
}

impl Store {
    /// Makes a token, and keeps what is told about it.
    pub async fn token_create(
        &self,
        scope: &Scope,
        token: &TokenCreate,
        events: &[Event],
        now_ms: UnixMillis,
    ) -> Result<TokenView> {
        let mut transaction = self.write(&scope.organization).await?;
        let made = insert(&mut transaction, scope, token, now_ms).await;
        let told = stored_events::append_after(&mut transaction, scope, made, events).await;
        transaction.end(told).await
    }

    /// Newest first.
    pub async fn token_list(&self, scope: &Scope, now_ms: UnixMillis) -> Result<Vec<TokenView>> {
        let rows = sqlx::query_as::<_, Row>(
            "SELECT id, name, purpose, created_at_ms, expires_at_ms, used_at_ms, revoked_at_ms
             FROM tokens WHERE organization_id = $1 ORDER BY created_at_ms DESC, id DESC LIMIT 500",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| view(row, now_ms)).collect()
    }

    /// A token that was revoked is as one that never was. Revoking twice is no mistake.
    pub async fn token_revoke(&self, scope: &Scope, id: &TokenId, events: &[Event], now_ms: UnixMillis) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let revoked = revoke(&mut transaction, scope, id, now_ms).await;
        let told = stored_events::append_after(&mut transaction, scope, revoked, events).await;
        transaction.end(told).await
    }
}

async fn insert(transaction: &mut Write, scope: &Scope, token: &TokenCreate, now_ms: UnixMillis) -> Result<TokenView> {
    sqlx::query(
        "INSERT INTO tokens (id, organization_id, hash, name, kind, purpose, created_at_ms, expires_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(token.id.as_str())
    .bind(scope.organization.as_str())
    .bind(&token.hash)
    .bind(text(&token.name).as_ref())
    .bind(kind_of(&token.purpose))
    .bind(to_json("token", &token.purpose)?)
    .bind(now_ms)
    .bind(token.expires_at_ms)
    .execute(&mut **transaction)
    .await?;
    Ok(TokenView {
        id: token.id.clone(),
        name: text(&token.name).into_owned(),
        purpose: token.purpose.clone(),
        state: TokenState::Usable,
        created_at_ms: now_ms,
        expires_at_ms: token.expires_at_ms,
        used_at_ms: None,
    })
}

async fn revoke(transaction: &mut Write, scope: &Scope, id: &TokenId, now_ms: UnixMillis) -> Result<()> {
    let found = sqlx::query(
        "UPDATE tokens SET revoked_at_ms = COALESCE(revoked_at_ms, $1) WHERE id = $2 AND organization_id = $3",
    )
    .bind(now_ms)
    .bind(id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    if found.rows_affected() == 0 { Err(Error::not_found("token", id.as_str())) } else { Ok(()) }
}
