//! Small named documents of an organization, for what has no table of its own.

use crate::codec::{open, seal};
use crate::{Result, Scope, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;

impl Store {
    /// All settings whose names begin with `prefix`, without it.
    pub async fn setting_list<T: DeserializeOwned>(&self, scope: &Scope, prefix: &str) -> Result<Vec<(String, T)>> {
        let rows = sqlx::query_as::<_, (String, String)>(
            "SELECT name, value FROM settings WHERE organization_id = $1 ORDER BY name",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        let own = rows.iter().filter_map(|(name, value)| Some((name.strip_prefix(prefix)?, value)));
        own.map(|(name, value)| Ok((name.to_owned(), open("setting", value)?))).collect()
    }

    pub async fn setting_put<T: Serialize>(&self, scope: &Scope, name: &str, value: &T) -> Result<()> {
        self.execute(
            sqlx::query(
                "INSERT INTO settings (organization_id, name, value) VALUES ($1, $2, $3)
             ON CONFLICT (organization_id, name) DO UPDATE SET value = excluded.value",
            )
            .bind(scope.organization.as_str())
            .bind(name)
            .bind(seal("setting", value)?),
        )
        .await?;
        Ok(())
    }

    pub async fn setting_delete(&self, scope: &Scope, name: &str) -> Result<()> {
        self.execute(
            sqlx::query("DELETE FROM settings WHERE organization_id = $1 AND name = $2")
                .bind(scope.organization.as_str())
                .bind(name),
        )
        .await?;
        Ok(())
    }
}
