//! Statements whose text depends on what is asked for.
//!
//! sqlx's own `QueryBuilder` writes `?` for the `Any` driver, and PostgreSQL wants `$1`. SQLite takes
//! both, so this one numbers its values. Whatever comes from outside is a value; only literals of this
//! crate become text.

use crate::pen::Write;
use crate::{Result, Scope, Store};
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::{Query, QueryAs};
use sqlx::{AssertSqlSafe, FromRow};
use std::fmt::Write as _;

/// Values that rows are looked for with in one statement. SQLite takes `$1` for a name and looks through all names for
/// each, so very many at once cost more than several statements.
const VALUES_AT_ONCE: usize = 250;
/// Rows of one INSERT, for the same reason.
pub const ROWS_AT_ONCE: usize = 50;

/// A value for a placeholder.
pub enum Value {
    Text(Option<String>),
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(Some(text))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Value::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Value::Number(number)
    }
}

pub struct Statement {
    sql: String,
    values: Vec<Value>,
}

impl Statement {
    pub fn new(sql: &str) -> Self {
        Self { sql: sql.to_owned(), values: Vec::new() }
    }

    /// What `select` reads, of all rows in the scope whose `column` has one of these values; `rest` ends the
    /// statement. Any number of them: PostgreSQL takes 65,535 values in one, and SQLite half as many. Of no value
    /// nothing is asked.
    pub async fn fetch_among<R>(
        store: &Store,
        (select, rest): (&str, &str),
        scope: &Scope,
        column: &str,
        values: &[&str],
    ) -> Result<Vec<R>>
    where
        R: for<'r> FromRow<'r, AnyRow> + Send + Unpin,
    {
        let mut found = Vec::new();
        for some in values.chunks(VALUES_AT_ONCE) {
            let mut statement = Self::new(select);
            statement.push(" WHERE organization_id = ").bind(scope.organization.as_str());
            statement.push(" AND ").push(column).push(" IN (").bind_all(some.iter().copied()).push(")").push(rest);
            found.extend(statement.fetch_all::<R, _>(&store.pool).await?);
        }
        Ok(found)
    }

    /// Text of this crate, never of a caller.
    pub fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// A placeholder, and what it stands for.
    pub fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        // Writing to a String cannot fail.
        let _ = write!(self.sql, "${}", self.values.len());
        self
    }

    /// Placeholders between commas: `$3, $4, $5`. Of no value `NULL`, which nothing is equal to.
    pub fn bind_all(&mut self, values: impl IntoIterator<Item = impl Into<Value>>) -> &mut Self {
        let mut values = values.into_iter();
        let Some(first) = values.next() else { return self.push("NULL") };
        self.bind(first);
        for value in values {
            self.push(", ").bind(value);
        }
        self
    }

    /// The rows of an INSERT: `VALUES ($1, $2), ($3, $4)`.
    pub fn bind_rows<const N: usize>(&mut self, rows: impl IntoIterator<Item = [Value; N]>) -> &mut Self {
        for (position, row) in rows.into_iter().enumerate() {
            self.push(if position == 0 { "VALUES (" } else { ", (" });
            self.bind_all(row).push(")");
        }
        self
    }

    /// Not kept prepared: its text is hardly ever the same twice.
    pub async fn execute(self, transaction: &mut Write) -> Result<()> {
        let mut query: Query<'static, Any, AnyArguments> = sqlx::query(AssertSqlSafe(self.sql)).persistent(false);
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            };
        }
        query.execute(&mut **transaction).await?;
        Ok(())
    }

    pub async fn fetch_all<'e, R, E>(self, executor: E) -> Result<Vec<R>>
    where
        R: for<'r> FromRow<'r, AnyRow> + Send + Unpin + 'e,
        E: sqlx::Executor<'e, Database = Any> + 'e,
    {
        let mut query: QueryAs<'static, Any, R, AnyArguments> = sqlx::query_as(AssertSqlSafe(self.sql));
        for value in self.values {
            query = match value {
                Value::Text(text) => query.bind(text),
                Value::Number(number) => query.bind(number),
            };
        }
        Ok(query.fetch_all(executor).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_gets_the_next_number() {
        let mut statement = Statement::new("INSERT INTO t (a, b) ");
        statement.bind_rows([["x".into(), 1.into()], [None.into(), 2.into()]]).push(" RETURNING ").bind("y");
        assert_eq!(statement.sql, "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4) RETURNING $5");
        assert_eq!(statement.values.len(), 5);
    }
}
