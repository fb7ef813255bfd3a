//! How the ordering of certificates goes: per host, lately, and what is being asked just now.

use crate::certificates;
use crate::codec::{from_word, parse, text, word};
use crate::pen::Write;
use crate::{Certificate, Result, Scope, Store, events as stored_events};
use api::UnixMillis;
use api::events::Event;
use api::name::HostName;
use api::tls::ChallengeAnswer;

/// How long it is remembered what was ordered: no bound of an authority looks back further than a week.
const LOG_LIFETIME_MS: i64 = 8 * 24 * 60 * 60 * 1000;

/// How ordering goes for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateOrder {
    pub host: HostName,
    /// In a row.
    pub failures: u32,
    pub reason: Option<String>,
    pub next_at_ms: UnixMillis,
    /// A person asked for it now.
    pub forced: bool,
}

/// An order that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderBegun {
    pub host: HostName,
    pub began_at_ms: UnixMillis,
    pub failed: bool,
}

impl Store {
    pub async fn certificate_order_list(&self, scope: &Scope) -> Result<Vec<CertificateOrder>> {
        let rows = sqlx::query_as::<_, (String, i64, Option<String>, i64, i64)>(
            "SELECT host, failures, reason, next_at_ms, forced FROM certificate_orders
             WHERE organization_id = $1 ORDER BY host",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(host, failures, reason, next_at_ms, forced)| {
                let host = parse("certificate order", &host)?;
                let failures = u32::try_from(failures).unwrap_or(u32::MAX);
                Ok(CertificateOrder { host, failures, reason, next_at_ms, forced: forced != 0 })
            })
            .collect()
    }

    /// What was ordered lately, oldest first.
    pub async fn certificate_order_log(&self, scope: &Scope) -> Result<Vec<OrderBegun>> {
        let rows = sqlx::query_as::<_, (String, i64, i64)>(
            "SELECT host, began_at_ms, failed FROM certificate_order_log
             WHERE organization_id = $1 ORDER BY began_at_ms, host",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        let begun = |(host, began_at_ms, failed): (String, i64, i64)| {
            Ok(OrderBegun { host: parse("certificate order", &host)?, began_at_ms, failed: failed != 0 })
        };
        rows.into_iter().map(begun).collect()
    }

    /// A person wants a certificate for a host now.
    pub async fn certificate_order_force(&self, scope: &Scope, host: &HostName, events: &[Event]) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let forced = force(&mut transaction, scope, host, events).await;
        transaction.end(forced).await
    }

    /// Notes that orders begin, before they do: a control plane that is killed in the middle, over and over, must not
    /// order without end. Forgets what was noted long ago.
    pub async fn certificate_orders_begin(
        &self,
        scope: &Scope,
        hosts: &[HostName],
        now_ms: UnixMillis,
        events: &[Event],
    ) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let begun = begin(&mut transaction, scope, hosts, now_ms, events).await;
        transaction.end(begun).await
    }

    /// An order failed: for the reason, and not to be tried again before a time.
    pub async fn certificate_order_failed(
        &self,
        scope: &Scope,
        host: &HostName,
        reason: &str,
        next_at_ms: UnixMillis,
        events: &[Event],
    ) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let failed = fail(&mut transaction, scope, host, (reason, next_at_ms), events).await;
        transaction.end(failed).await
    }

    /// An order succeeded: its certificate takes its place and what failed before is forgotten.
    pub async fn certificate_order_done(
        &self,
        scope: &Scope,
        host: &HostName,
        row: &Certificate,
        events: &[Event],
    ) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let done = match certificates::put(&mut transaction, scope, row, events).await {
            Ok(()) => forget(&mut transaction, scope, host).await,
            Err(error) => Err(error),
        };
        transaction.end(done).await
    }

    /// No route has this host any more.
    pub async fn certificate_order_forget(&self, scope: &Scope, host: &HostName) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let forgotten = forget(&mut transaction, scope, host).await;
        transaction.end(forgotten).await
    }

    pub async fn challenge_list(&self, scope: &Scope) -> Result<Vec<ChallengeAnswer>> {
        let rows = sqlx::query_as::<_, (String, String, String, String)>(
            "SELECT token, host, kind, key_authorization FROM challenges WHERE organization_id = $1
             ORDER BY host, token",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|(token, host, kind, key_authorization)| {
                let (host, kind) = (parse("challenge", &host)?, from_word("challenge", kind)?);
                Ok(ChallengeAnswer { host, kind, token, key_authorization })
            })
            .collect()
    }

    /// These are the challenges, and no others.
    pub async fn challenges_set(&self, scope: &Scope, answers: &[ChallengeAnswer]) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let set = set_challenges(&mut transaction, scope, answers).await;
        transaction.end(set).await
    }

    /// The sealed credentials of the account at an authority.
    pub async fn acme_account_get(&self, scope: &Scope, directory_url: &str) -> Result<Option<String>> {
        let row = sqlx::query_as::<_, (String,)>(
            "SELECT sealed_credentials FROM acme_accounts WHERE organization_id = $1 AND directory_url = $2",
        )
        .bind(scope.organization.as_str())
        .bind(directory_url)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(sealed,)| sealed))
    }

    pub async fn acme_account_put(
        &self,
        scope: &Scope,
        directory_url: &str,
        sealed_credentials: &str,
        now_ms: UnixMillis,
    ) -> Result<()> {
        self.execute(
            sqlx::query(
                "INSERT INTO acme_accounts (organization_id, directory_url, sealed_credentials, created_at_ms)
                 VALUES ($1, $2, $3, $4)
                 ON CONFLICT (organization_id, directory_url) DO UPDATE
                 SET sealed_credentials = excluded.sealed_credentials, created_at_ms = excluded.created_at_ms",
            )
            .bind(scope.organization.as_str())
            .bind(directory_url)
            .bind(sealed_credentials)
            .bind(now_ms),
        )
        .await?;
        Ok(())
    }
}

async fn force(transaction: &mut Write, scope: &Scope, host: &HostName, events: &[Event]) -> Result<()> {
    sqlx::query(
        "INSERT INTO certificate_orders (organization_id, host, failures, reason, next_at_ms, forced)
         VALUES ($1, $2, 0, NULL, 0, 1)
         ON CONFLICT (organization_id, host) DO UPDATE SET next_at_ms = 0, forced = 1",
    )
    .bind(scope.organization.as_str())
    .bind(host.as_str())
    .execute(&mut **transaction)
    .await?;
    stored_events::append_in(transaction, scope, events).await
}

async fn begin(
    transaction: &mut Write,
    scope: &Scope,
    hosts: &[HostName],
    now_ms: UnixMillis,
    events: &[Event],
) -> Result<()> {
    sqlx::query("DELETE FROM certificate_order_log WHERE organization_id = $1 AND began_at_ms < $2")
        .bind(scope.organization.as_str())
        .bind(now_ms - LOG_LIFETIME_MS)
        .execute(&mut **transaction)
        .await?;
    for host in hosts {
        sqlx::query(
            "INSERT INTO certificate_order_log (organization_id, host, began_at_ms, failed) VALUES ($1, $2, $3, 0)
             ON CONFLICT (organization_id, host, began_at_ms) DO NOTHING",
        )
        .bind(scope.organization.as_str())
        .bind(host.as_str())
        .bind(now_ms)
        .execute(&mut **transaction)
        .await?;
        // What was asked for is done with this; how it ends is written then.
        sqlx::query("UPDATE certificate_orders SET forced = 0 WHERE organization_id = $1 AND host = $2")
            .bind(scope.organization.as_str())
            .bind(host.as_str())
            .execute(&mut **transaction)
            .await?;
    }
    stored_events::append_in(transaction, scope, events).await
}

async fn fail(
    transaction: &mut Write,
    scope: &Scope,
    host: &HostName,
    (reason, next_at_ms): (&str, UnixMillis),
    events: &[Event],
) -> Result<()> {
    sqlx::query(
        "INSERT INTO certificate_orders (organization_id, host, failures, reason, next_at_ms, forced)
         VALUES ($1, $2, 1, $3, $4, 0)
         ON CONFLICT (organization_id, host) DO UPDATE
         SET failures = certificate_orders.failures + 1, reason = excluded.reason, next_at_ms = excluded.next_at_ms",
    )
    .bind(scope.organization.as_str())
    .bind(host.as_str())
    .bind(text(reason).as_ref())
    .bind(next_at_ms)
    .execute(&mut **transaction)
    .await?;
    sqlx::query(
        "UPDATE certificate_order_log SET failed = 1 WHERE organization_id = $1 AND host = $2 AND began_at_ms =
           (SELECT MAX(began_at_ms) FROM certificate_order_log WHERE organization_id = $1 AND host = $2)",
    )
    .bind(scope.organization.as_str())
    .bind(host.as_str())
    .execute(&mut **transaction)
    .await?;
    stored_events::append_in(transaction, scope, events).await
}

async fn forget(transaction: &mut Write, scope: &Scope, host: &HostName) -> Result<()> {
    sqlx::query("DELETE FROM certificate_orders WHERE organization_id = $1 AND host = $2")
        .bind(scope.organization.as_str())
        .bind(host.as_str())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn set_challenges(transaction: &mut Write, scope: &Scope, answers: &[ChallengeAnswer]) -> Result<()> {
    sqlx::query("DELETE FROM challenges WHERE organization_id = $1")
        .bind(scope.organization.as_str())
        .execute(&mut **transaction)
        .await?;
    for answer in answers {
        sqlx::query(
            "INSERT INTO challenges (organization_id, token, host, kind, key_authorization)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(scope.organization.as_str())
        .bind(&answer.token)
        .bind(answer.host.as_str())
        .bind(word(&answer.kind))
        .bind(&answer.key_authorization)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}
