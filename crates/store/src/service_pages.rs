//! Services a page at a time, for lists of any length: searched, ordered and cut by the database.
//!
//! The order is that of `stack/service`, and a page begins after (or ends before) such a name. So a page costs
//! the same however many came before it, and a service that comes or goes meanwhile moves no other one to a
//! page where it is not looked for.

use crate::services::{COLUMNS, Row, Service, service};
use crate::statement::Statement;
use crate::{Result, Scope, Store};
use api::ids::{ServiceId, StackId};
use std::collections::BTreeSet;

/// Which services; every field narrows.
#[derive(Debug, Clone, Default)]
pub struct ServiceFilter {
    pub stack_id: Option<StackId>,
    /// A part of `stack/service`, in any case. Empty: all.
    pub text: String,
}

/// Where a page lies: names of a stack and of a service of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceCursor {
    After(String, String),
    Before(String, String),
}

impl Store {
    /// At most `limit`, with the name of their stack, ordered by it and their own.
    pub async fn service_page(
        &self,
        scope: &Scope,
        filter: &ServiceFilter,
        cursor: Option<&ServiceCursor>,
        limit: u32,
    ) -> Result<Vec<(String, Service)>> {
        let columns = COLUMNS.split(", ").map(|column| format!("s.{column}")).collect::<Vec<_>>().join(", ");
        let mut query = select(&format!("st.name, {columns}"), scope, filter);
        match cursor {
            // The first comparison alone is one that an index can begin with.
            Some(ServiceCursor::After(stack, name)) => {
                query.push(" AND st.name >= ").bind(stack.as_str());
                query.push(" AND (st.name > ").bind(stack.as_str()).push(" OR s.name > ").bind(name.as_str()).push(")");
            }
            Some(ServiceCursor::Before(stack, name)) => {
                query.push(" AND st.name <= ").bind(stack.as_str());
                query.push(" AND (st.name < ").bind(stack.as_str()).push(" OR s.name < ").bind(name.as_str()).push(")");
            }
            None => {}
        }
        let backwards = matches!(cursor, Some(ServiceCursor::Before(..)));
        query.push(if backwards { " ORDER BY st.name DESC, s.name DESC" } else { " ORDER BY st.name, s.name" });
        query.push(" LIMIT ").bind(i64::from(limit));
        type Joined = (String, String, String, String, String, i64, Option<String>, Option<String>, i64);
        let rows = query.fetch_all::<Joined, _>(&self.pool).await?;
        let mut found = Vec::with_capacity(rows.len());
        for (stack, id, stack_id, name, intent, replicas, current, previous, removing) in rows {
            let row: Row = (id, stack_id, name, intent, replicas, current, previous, removing);
            found.push((stack, service(row)?));
        }
        if backwards {
            found.reverse();
        }
        Ok(found)
    }

    /// How many the filter lets through.
    pub async fn service_count(&self, scope: &Scope, filter: &ServiceFilter) -> Result<u64> {
        let rows = select("COUNT(*)", scope, filter).fetch_all::<(i64,), _>(&self.pool).await?;
        Ok(rows.first().map_or(0, |(count,)| *count as u64))
    }

    /// Services with a deployment on its way.
    pub async fn service_ids_in_flight(&self, scope: &Scope) -> Result<BTreeSet<ServiceId>> {
        let rows = sqlx::query_as::<_, (String,)>(
            "SELECT service_id FROM deployments WHERE organization_id = $1 AND in_flight = 1",
        )
        .bind(scope.organization.as_str())
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|(id,)| crate::codec::parse("deployment", id)).collect()
    }
}

fn select(what: &str, scope: &Scope, filter: &ServiceFilter) -> Statement {
    let mut query = Statement::new("SELECT ");
    query.push(what).push(" FROM stacks st JOIN services s ON s.stack_id = st.id WHERE st.organization_id = ");
    query.bind(scope.organization.as_str()).push(" AND s.organization_id = ").bind(scope.organization.as_str());
    if let Some(id) = &filter.stack_id {
        query.push(" AND st.id = ").bind(id.as_str());
    }
    if !filter.text.is_empty() {
        query.push(" AND st.name || '/' || s.name LIKE ").bind(like(&filter.text)).push(" ESCAPE '\\'");
    }
    query
}

/// A pattern for a part of a name; names are in small letters.
pub(crate) fn like(text: &str) -> String {
    let mut pattern = String::from("%");
    for letter in text.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}
