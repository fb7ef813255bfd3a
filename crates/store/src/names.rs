//! Names that hold a text: what a person types into a search, answered by the database however many there are.

use crate::service_pages::like;
use crate::statement::Statement;
use crate::{Result, Scope, Store};

impl Store {
    /// Names of stacks that hold the text, in order; `limit` at most.
    pub async fn stack_names_with(&self, scope: &Scope, text: &str, limit: u32) -> Result<Vec<String>> {
        names(self, "stacks", scope, text, limit).await
    }

    /// Names of servers that hold the text, in order; `limit` at most.
    pub async fn server_names_with(&self, scope: &Scope, text: &str, limit: u32) -> Result<Vec<String>> {
        names(self, "servers", scope, text, limit).await
    }
}

async fn names(store: &Store, table: &'static str, scope: &Scope, text: &str, limit: u32) -> Result<Vec<String>> {
    let mut query = Statement::new("SELECT name FROM ");
    query.push(table).push(" WHERE organization_id = ").bind(scope.organization.as_str());
    if !text.is_empty() {
        query.push(" AND name LIKE ").bind(like(text)).push(" ESCAPE '\\'");
    }
    query.push(" ORDER BY name LIMIT ").bind(i64::from(limit));
    let rows = query.fetch_all::<(String,), _>(&store.pool).await?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}
