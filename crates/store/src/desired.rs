//! The newest signed desired state of each server.

use crate::codec::{open, parse, seal};
use crate::statement::Statement;
use crate::{Error, Result, Scope, Store};
use api::desired::SignedDesiredState;
use api::ids::ServerId;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub struct DesiredRow {
    pub generation: u64,
    /// Digest of what the document says, apart from generation and time.
    pub digest: String,
    pub signed: SignedDesiredState,
}

/// Server, generation, digest.
type HeadRow = (String, i64, String);

fn heads(rows: Vec<HeadRow>) -> Result<BTreeMap<ServerId, (u64, String)>> {
    rows.into_iter()
        .map(|(id, generation, digest)| Ok((parse("desired state", &id)?, (generation as u64, digest))))
        .collect()
}

impl Store {
    pub async fn desired_state_get(&self, scope: &Scope, server_id: &ServerId) -> Result<Option<DesiredRow>> {
        let row = sqlx::query_as::<_, (i64, String, String)>(
            "SELECT generation, digest, document FROM desired_states WHERE server_id = $1 AND organization_id = $2",
        )
        .bind(server_id.as_str())
        .bind(scope.organization.as_str())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|(generation, digest, document)| {
            Ok(DesiredRow { generation: generation as u64, digest, signed: open("desired state", &document)? })
        })
        .transpose()
    }

    /// Generation and digest alone, for "is there news?".
    pub async fn desired_state_head(&self, scope: &Scope, server_id: &ServerId) -> Result<Option<(u64, String)>> {
        let row = sqlx::query_as::<_, (i64, String)>(
            "SELECT generation, digest FROM desired_states WHERE server_id = $1 AND organization_id = $2",
        )
        .bind(server_id.as_str())
        .bind(scope.organization.as_str())
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|(generation, digest)| (generation as u64, digest)))
    }

    /// Generation and digest of those of these servers that have a document.
    pub async fn desired_state_heads_of<'a>(
        &self,
        scope: &Scope,
        ids: impl IntoIterator<Item = &'a ServerId>,
    ) -> Result<BTreeMap<ServerId, (u64, String)>> {
        let ids: Vec<&str> = ids.into_iter().map(ServerId::as_str).collect();
        let select = ("SELECT server_id, generation, digest FROM desired_states", "");
        heads(Statement::fetch_among::<HeadRow>(self, select, scope, "server_id", &ids).await?)
    }

    /// Generation and digest of every server that has a document.
    pub async fn desired_state_heads(&self, scope: &Scope) -> Result<BTreeMap<ServerId, (u64, String)>> {
        let rows = sqlx::query_as::<_, HeadRow>(
            "SELECT server_id, generation, digest FROM desired_states WHERE organization_id = $1",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        heads(rows)
    }

    /// Keeps a document whose generation is higher than what is kept. A generation that is not is
    /// refused as stale: somebody else was faster, look again.
    pub async fn desired_state_put(&self, scope: &Scope, server_id: &ServerId, row: &DesiredRow) -> Result<()> {
        let written = self
            .execute(
                sqlx::query(
                    "INSERT INTO desired_states (server_id, organization_id, generation, digest, document)
             SELECT id, organization_id, $1, $2, $3 FROM servers WHERE id = $4 AND organization_id = $5
             ON CONFLICT (server_id) DO UPDATE
             SET generation = excluded.generation, digest = excluded.digest, document = excluded.document
             WHERE desired_states.generation < excluded.generation",
                )
                .bind(row.generation as i64)
                .bind(&row.digest)
                .bind(seal("desired state", &row.signed)?)
                .bind(server_id.as_str())
                .bind(scope.organization.as_str()),
            )
            .await?;
        if written.rows_affected() > 0 {
            return Ok(());
        }
        match self.desired_state_head(scope, server_id).await? {
            Some((found, _)) => Err(Error::Stale {
                noun: "desired state",
                expected: format!("a generation below {}", row.generation),
                found: found.to_string(),
            }),
            None => Err(Error::not_found("server", server_id.as_str())),
        }
    }
}
