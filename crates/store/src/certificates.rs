//! Certificates of hosts, with their keys sealed before they come here.

use crate::codec::{from_json, from_word, parse, text, to_json, word};
use crate::pen::Write;
use crate::{Error, Result, Scope, Store, events as stored_events};
use api::UnixMillis;
use api::domains::CertificateSource;
use api::events::Event;
use api::tls::CertificateName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// What it was ordered or given for.
    pub host: CertificateName,
    pub source: CertificateSource,
    /// All that it is for.
    pub names: Vec<CertificateName>,
    pub issuer: String,
    /// SHA-256 of the chain.
    pub digest: String,
    /// In PEM.
    pub chain: String,
    /// Never in the clear; whoever calls has the key that it was sealed with.
    pub sealed_key: String,
    pub not_before_ms: UnixMillis,
    pub not_after_ms: UnixMillis,
    pub created_at_ms: UnixMillis,
}

type Row = (String, String, String, String, String, String, String, i64, i64, i64);

const COLUMNS: &str =
    "host, source, names, issuer, digest, chain, sealed_key, not_before_ms, not_after_ms, created_at_ms";

fn certificate(row: Row) -> Result<Certificate> {
    let (host, source, names, issuer, digest, chain, sealed_key, not_before_ms, not_after_ms, created_at_ms) = row;
    Ok(Certificate {
        host: parse("certificate", &host)?,
        source: from_word("certificate", source)?,
        names: from_json("certificate", &names)?,
        issuer,
        digest,
        chain,
        sealed_key,
        not_before_ms,
        not_after_ms,
        created_at_ms,
    })
}

impl Store {
    /// All of them, by host.
    pub async fn certificate_list(&self, scope: &Scope) -> Result<Vec<Certificate>> {
        let sql = format!("SELECT {COLUMNS} FROM certificates WHERE organization_id = $1 ORDER BY host, source");
        let rows = sqlx::query_as::<_, Row>(sqlx::AssertSqlSafe(sql))
            .bind(scope.organization.as_str())
            .fetch_all(&self.pool)
            .await?;
        rows.into_iter().map(certificate).collect()
    }

    /// Stores a certificate, in place of the one of its host and source, with what is told about that.
    pub async fn certificate_put(&self, scope: &Scope, row: &Certificate, events: &[Event]) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let put = put(&mut transaction, scope, row, events).await;
        transaction.end(put).await
    }

    /// Forgets a certificate and its key, with what is told about that.
    pub async fn certificate_delete(
        &self,
        scope: &Scope,
        host: &CertificateName,
        source: CertificateSource,
        events: &[Event],
    ) -> Result<()> {
        let mut transaction = self.write(&scope.organization).await?;
        let deleted = delete(&mut transaction, scope, host, source, events).await;
        transaction.end(deleted).await
    }
}

pub(crate) async fn put(transaction: &mut Write, scope: &Scope, row: &Certificate, events: &[Event]) -> Result<()> {
    sqlx::query(
        "INSERT INTO certificates (organization_id, host, source, names, issuer, digest, chain, sealed_key,
                                   not_before_ms, not_after_ms, created_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (organization_id, host, source) DO UPDATE
         SET names = excluded.names, issuer = excluded.issuer, digest = excluded.digest, chain = excluded.chain,
             sealed_key = excluded.sealed_key, not_before_ms = excluded.not_before_ms,
             not_after_ms = excluded.not_after_ms, created_at_ms = excluded.created_at_ms",
    )
    .bind(scope.organization.as_str())
    .bind(row.host.as_str())
    .bind(word(&row.source))
    .bind(to_json("certificate", &row.names)?)
    .bind(text(&row.issuer).as_ref())
    .bind(&row.digest)
    .bind(text(&row.chain).as_ref())
    .bind(&row.sealed_key)
    .bind(row.not_before_ms)
    .bind(row.not_after_ms)
    .bind(row.created_at_ms)
    .execute(&mut **transaction)
    .await?;
    stored_events::append_in(transaction, scope, events).await
}

async fn delete(
    transaction: &mut Write,
    scope: &Scope,
    host: &CertificateName,
    source: CertificateSource,
    events: &[Event],
) -> Result<()> {
    let gone = sqlx::query("DELETE FROM certificates WHERE organization_id = $1 AND host = $2 AND source = $3")
        .bind(scope.organization.as_str())
        .bind(host.as_str())
        .bind(word(&source))
        .execute(&mut **transaction)
        .await?;
    if gone.rows_affected() == 0 {
        return Err(Error::not_found("certificate", host.as_str()));
    }
    stored_events::append_in(transaction, scope, events).await
}
