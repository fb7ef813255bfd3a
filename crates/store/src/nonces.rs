//! Nonces of signed requests: each is good once.
//!
//! Every request of every machine claims one, so this is the write that there is most of: with a
//! thousand machines some hundred a second. On SQLite each commit waits for the disk, and all wait for
//! the one writer; claims therefore travel together. Who comes while others are being written joins the
//! next group; whoever first gets hold of the pen writes for all that wait. Alone, a claim waits for
//! nobody. No task runs for this, so a store that is dropped leaves nothing behind.
//!
//! On PostgreSQL commits of several connections share a flush anyway, and each claim goes by itself.

use crate::{Dialect, Error, Result, Store};
use api::UnixMillis;
use api::ids::ServerId;
use sqlx::{Any, AnyConnection, Transaction};
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

/// What waits to be written.
#[derive(Debug, Default)]
pub struct Waiting {
    claims: Mutex<Vec<Claim>>,
    /// Held by the one that writes.
    pen: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Claim {
    server_id: ServerId,
    nonce: String,
    keep_until_ms: UnixMillis,
    answer: oneshot::Sender<Result<bool>>,
}

impl Waiting {
    fn add(&self, claim: Claim) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
    }

    fn take(&self) -> Vec<Claim> {
        std::mem::take(&mut *self.claims.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Store {
    /// Whether this nonce is used for the first time.
    pub async fn nonce_claim(&self, server_id: &ServerId, nonce: &str, keep_until_ms: UnixMillis) -> Result<bool> {
        if self.dialect == Dialect::Postgres {
            let mut connection = self.writer()?.acquire().await?;
            return insert(&mut connection, server_id, nonce, keep_until_ms).await;
        }
        let (answer, mut answered) = oneshot::channel();
        let claim = Claim { server_id: server_id.clone(), nonce: nonce.to_owned(), keep_until_ms, answer };
        self.nonces.add(claim);
        let _pen = self.nonces.pen.lock().await;
        // Somebody may have written it while we waited for the pen.
        match answered.try_recv() {
            Ok(outcome) => return outcome,
            Err(TryRecvError::Empty) => self.write_claims().await?,
            Err(TryRecvError::Closed) => {}
        }
        // Gone without an answer: whoever had taken it was cut off in the middle. Whether it was
        // written is not known, so it is not good; the machine asks again with another.
        answered.try_recv().unwrap_or_else(|_| Err(Error::Unavailable(sqlx::Error::WorkerCrashed)))
    }

    async fn write_claims(&self) -> Result<()> {
        // The connection first: what comes while it is busy still joins.
        let begun = match self.writer() {
            Ok(writer) => writer.begin_with("BEGIN IMMEDIATE").await.map_err(Error::from),
            Err(error) => Err(error),
        };
        // Taken in any case: while the disk is full, what waits must not pile up.
        let claims = self.nonces.take();
        let mut transaction: Transaction<'static, Any> = begun?;
        let mut outcomes = Vec::with_capacity(claims.len());
        for claim in &claims {
            outcomes.push(insert(&mut transaction, &claim.server_id, &claim.nonce, claim.keep_until_ms).await);
        }
        let committed = transaction.commit().await.map_err(Error::from);
        let failed = committed.as_ref().err().map(ToString::to_string);
        for (claim, outcome) in claims.into_iter().zip(outcomes) {
            let outcome = match &failed {
                None => outcome,
                Some(reason) => Err(Error::Unavailable(sqlx::Error::Protocol(reason.clone()))),
            };
            // Who asked may have hung up.
            let _ = claim.answer.send(outcome);
        }
        committed
    }
}

async fn insert(
    connection: &mut AnyConnection,
    server_id: &ServerId,
    nonce: &str,
    keep_until_ms: UnixMillis,
) -> Result<bool> {
    let taken =
        sqlx::query("INSERT INTO nonces (server_id, nonce, expires_at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(server_id.as_str())
            .bind(nonce)
            .bind(keep_until_ms)
            .execute(connection)
            .await
            .map_err(|e| match Error::is_foreign_key_violation(&e) {
                true => Error::not_found("server", server_id.as_str()),
                false => e.into(),
            })?;
    Ok(taken.rows_affected() > 0)
}
