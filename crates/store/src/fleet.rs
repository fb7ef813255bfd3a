//! The newest signed fleet state of an organization: one document for all its servers.

use crate::codec::{open, seal};
use crate::{DesiredRow, Error, Result, Scope, Store};

impl Store {
    pub async fn fleet_state_get(&self, scope: &Scope) -> Result<Option<DesiredRow>> {
        let row = sqlx::query_as::<_, (i64, String, String)>(
            "SELECT generation, digest, document FROM fleet_states WHERE organization_id = $1",
        )
        .bind(scope.organization.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(generation, digest, document)| {
            Ok(DesiredRow { generation: generation as u64, digest, signed: open("fleet state", &document)? })
        })
        .transpose()
    }

    /// Keeps a document whose generation is higher than what is kept; refused as stale otherwise.
    pub async fn fleet_state_put(&self, scope: &Scope, row: &DesiredRow) -> Result<()> {
        let written = self
            .execute(
                sqlx::query(
                    "INSERT INTO fleet_states (organization_id, generation, digest, document)
                     SELECT id, $1, $2, $3 FROM organizations WHERE id = $4
                     ON CONFLICT (organization_id) DO UPDATE
                     SET generation = excluded.generation, digest = excluded.digest, document = excluded.document
                     WHERE fleet_states.generation < excluded.generation",
                )
                .bind(row.generation as i64)
                .bind(&row.digest)
                .bind(seal("fleet state", &row.signed)?)
                .bind(scope.organization.as_str()),
            )
            .await?;
        if written.rows_affected() > 0 {
            return Ok(());
        }
        Err(Error::Stale {
            noun: "fleet state",
            expected: format!("a generation below {}", row.generation),
            found: "one that is not".into(),
        })
    }
}
