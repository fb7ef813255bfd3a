//! What sqlx wants of a database before it lets one stand below `Any`: types for rows, values and statements.
//! Below `Any` nobody ever sees one, so there is none of them: [`Nothing`] has no values.

use super::connection::DirectConnection;
use sqlx_core::any::{AnyConnectOptions, AnyQueryResult, AnyTypeInfo};
use sqlx_core::arguments::Arguments;
use sqlx_core::column::{Column, ColumnIndex};
use sqlx_core::connection::{ConnectOptions, Connection};
use sqlx_core::database::Database;
use sqlx_core::encode::Encode;
use sqlx_core::error::BoxDynError;
use sqlx_core::row::Row;
use sqlx_core::sql_str::SqlStr;
use sqlx_core::statement::Statement;
use sqlx_core::transaction::{Transaction, TransactionManager};
use sqlx_core::types::Type;
use sqlx_core::value::{Value, ValueRef};
use sqlx_core::{Either, Error};
use std::borrow::Cow;
use std::future::ready;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub const NAME: &str = "SQLite";

#[derive(Debug)]
pub struct Direct;

impl Database for Direct {
    type Connection = DirectConnection;
    type TransactionManager = Transactions;
    type Row = Nothing;
    type QueryResult = AnyQueryResult;
    type Column = Nothing;
    type TypeInfo = AnyTypeInfo;
    type Value = Nothing;
    type ValueRef<'r> = Nothing;
    type Arguments = NoArguments;
    type ArgumentBuffer = ();
    type Statement = Nothing;
    const NAME: &'static str = NAME;
    const URL_SCHEMES: &'static [&'static str] = &["sqlite"];
}

impl Connection for DirectConnection {
    type Database = Direct;
    type Options = DirectOptions;

    fn close(self) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        drop(self);
        ready(Ok(()))
    }

    fn close_hard(self) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        Connection::close(self)
    }

    fn ping(&mut self) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        ready(Ok(()))
    }

    fn begin(&mut self) -> impl Future<Output = Result<Transaction<'_, Direct>, Error>> + Send + '_ {
        Transaction::begin(self, None)
    }

    fn shrink_buffers(&mut self) {}

    fn flush(&mut self) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        ready(Ok(()))
    }

    fn should_flush(&self) -> bool {
        false
    }
}

pub struct Transactions;

impl TransactionManager for Transactions {
    type Database = Direct;

    fn begin(
        connection: &mut DirectConnection,
        statement: Option<SqlStr>,
    ) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        ready(connection.begin_now(statement))
    }

    fn commit(connection: &mut DirectConnection) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        ready(connection.commit_now())
    }

    fn rollback(connection: &mut DirectConnection) -> impl Future<Output = Result<(), Error>> + Send + '_ {
        ready(connection.rollback_now())
    }

    fn start_rollback(connection: &mut DirectConnection) {
        let _ = connection.rollback_now();
    }

    fn get_transaction_depth(connection: &DirectConnection) -> usize {
        connection.depth()
    }
}

/// Which file. What holds on a connection is set by the store.
#[derive(Debug, Clone)]
pub struct DirectOptions(PathBuf);

impl ConnectOptions for DirectOptions {
    type Connection = DirectConnection;

    fn from_url(url: &url::Url) -> Result<Self, Error> {
        let options: sqlx::sqlite::SqliteConnectOptions = url.as_str().parse()?;
        Ok(Self(options.get_filename().to_owned()))
    }

    fn connect(&self) -> impl Future<Output = Result<DirectConnection, Error>> + Send + '_ {
        ready(DirectConnection::open(&self.0))
    }

    fn log_statements(self, _: log::LevelFilter) -> Self {
        self
    }

    fn log_slow_statements(self, _: log::LevelFilter, _: Duration) -> Self {
        self
    }
}

impl FromStr for DirectOptions {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::from_url(&text.parse().map_err(Error::config)?)
    }
}

impl TryFrom<&AnyConnectOptions> for DirectOptions {
    type Error = Error;

    fn try_from(options: &AnyConnectOptions) -> Result<Self, Error> {
        Self::from_url(&options.database_url)
    }
}

#[derive(Debug, Default)]
pub struct NoArguments;

impl Arguments for NoArguments {
    type Database = Direct;

    fn reserve(&mut self, _: usize, _: usize) {}

    fn add<'t, T>(&mut self, _: T) -> Result<(), BoxDynError>
    where
        T: Encode<'t, Direct> + Type<Direct>,
    {
        Err("this driver takes the arguments of `Any` alone".into())
    }

    fn len(&self) -> usize {
        0
    }
}

/// There is none.
#[derive(Debug, Clone, Copy)]
pub enum Nothing {}

impl Row for Nothing {
    type Database = Direct;

    fn columns(&self) -> &[Nothing] {
        match *self {}
    }

    fn try_get_raw<I: ColumnIndex<Self>>(&self, _: I) -> Result<Nothing, Error> {
        match *self {}
    }
}

impl Column for Nothing {
    type Database = Direct;

    fn ordinal(&self) -> usize {
        match *self {}
    }

    fn name(&self) -> &str {
        match *self {}
    }

    fn type_info(&self) -> &AnyTypeInfo {
        match *self {}
    }
}

impl Value for Nothing {
    type Database = Direct;

    fn as_ref(&self) -> Nothing {
        match *self {}
    }

    fn type_info(&self) -> Cow<'_, AnyTypeInfo> {
        match *self {}
    }

    fn is_null(&self) -> bool {
        match *self {}
    }
}

impl ValueRef<'_> for Nothing {
    type Database = Direct;

    fn to_owned(&self) -> Nothing {
        match *self {}
    }

    fn type_info(&self) -> Cow<'_, AnyTypeInfo> {
        match *self {}
    }

    fn is_null(&self) -> bool {
        match *self {}
    }
}

impl Statement for Nothing {
    type Database = Direct;

    fn into_sql(self) -> SqlStr {
        match self {}
    }

    fn sql(&self) -> &SqlStr {
        match *self {}
    }

    fn parameters(&self) -> Option<Either<&[AnyTypeInfo], usize>> {
        match *self {}
    }

    fn columns(&self) -> &[Nothing] {
        match *self {}
    }

    sqlx_core::impl_statement_query!(NoArguments);
}
