//! Nonces of signed requests: each is good once.
//!
//! Every request of every machine claims one, so this is the write that there is most of.

use crate::{Error, Result, Store};
use api::UnixMillis;
use api::ids::ServerId;

impl Store {
    /// Whether this nonce is used for the first time.
    pub async fn nonce_claim(&self, server_id: &ServerId, nonce: &str, keep_until_ms: UnixMillis) -> Result<bool> {
        let taken = self
            .execute(
                sqlx::query(
                    "INSERT INTO nonces (server_id, nonce, expires_at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                )
                .bind(server_id.as_str())
                .bind(nonce)
                .bind(keep_until_ms),
            )
            .await
            .map_err(|error| match error.is_foreign_key_violation() {
                true => Error::not_found("server", server_id.as_str()),
                false => error,
            })?;
        Ok(taken.rows_affected() > 0)
    }
}
