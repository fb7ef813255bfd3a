//! The last report of each server, whole.

use crate::codec::{from_json, parse, to_json};
use crate::pen::Write;
use crate::{Result, Scope, Store};
use api::UnixMillis;
use api::ids::ServerId;
use api::observed::ObservedState;

#[derive(Debug, Clone, PartialEq)]
pub struct ObservedRow {
    pub server_id: ServerId,
    pub received_at_ms: UnixMillis,
    pub observed: ObservedState,
}

impl Store {
    pub async fn observed_list(&self, scope: &Scope) -> Result<Vec<ObservedRow>> {
        let rows = sqlx::query_as::<_, (String, i64, String)>(
            "SELECT server_id, received_at_ms, document FROM observed_states WHERE organization_id = $1",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|(id, received_at_ms, text)| {
                let server_id = parse("observed state", id)?;
                Ok(ObservedRow {
                    server_id,
                    received_at_ms: *received_at_ms,
                    observed: from_json("observed state", text)?,
                })
            })
            .collect()
    }

    pub async fn observed_get(&self, scope: &Scope, server_id: &ServerId) -> Result<Option<ObservedRow>> {
        let row = sqlx::query_as::<_, (i64, String)>(
            "SELECT received_at_ms, document FROM observed_states WHERE server_id = $1 AND organization_id = $2",
        )
        .bind(server_id.as_str())
        .bind(scope.organization.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(received_at_ms, text)| {
            Ok(ObservedRow {
                server_id: server_id.clone(),
                received_at_ms,
                observed: from_json("observed state", &text)?,
            })
        })
        .transpose()
    }
}

pub(crate) async fn put(
    transaction: &mut Write,
    scope: &Scope,
    server_id: &ServerId,
    observed: &ObservedState,
    now_ms: UnixMillis,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO observed_states (server_id, organization_id, received_at_ms, document)
         SELECT id, organization_id, $1, $2 FROM servers WHERE id = $3 AND organization_id = $4
         ON CONFLICT (server_id) DO UPDATE
         SET received_at_ms = excluded.received_at_ms, document = excluded.document",
    )
    .bind(now_ms)
    .bind(to_json("observed state", observed)?)
    .bind(server_id.as_str())
    .bind(scope.organization.as_str())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
