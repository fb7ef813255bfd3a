//! The whole database as lines of JSON, and back: one form for SQLite and PostgreSQL.
//!
//! A copy of the SQLite file or a `pg_dump` would each be quicker to make, and each would bind a
//! backup to its kind of database and to its version. The schema is TEXT and BIGINT only, so that a
//! row is a short JSON array on either; what was dumped from one is loaded into the other, which is
//! also how to move between them.
//!
//! ```text
//! {"table":"servers","columns":["id","organization_id",…]}
//! ["srv_01…","org_01…",…]
//! {"table":"nonces",…
//! ```
//!
//! **Consistent.** Everything is read in one transaction that sees one moment, while others write.
//! **Whole.** Columns come from the database's own catalogue, so a new column cannot be forgotten; tables
//! are named here in the order in which references let them be loaded, and a test compares that list
//! with the schema.
//! **Old dumps.** A dump is loaded into the schema that it was made with, and that schema is then brought
//! up to date like that of any older database.
//!
//! Deliberately absent: hashes, files and compression. Whoever calls knows where the bytes go.

use crate::connect::{self, Migrate};
use crate::{Dialect, Error, Result, Store};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row, Transaction};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};

/// Every table, each after those that it refers to.
pub const TABLES: [&str; 25] = [
    "organizations",
    "counters",
    "projects",
    "users",
    "sessions",
    "tokens",
    "credentials",
    "settings",
    "certificates",
    "certificate_orders",
    "certificate_order_log",
    "challenges",
    "acme_accounts",
    "servers",
    "nonces",
    "desired_states",
    "observed_states",
    "fleet_states",
    "stacks",
    "services",
    "service_env",
    "revisions",
    "deployments",
    "instances",
    "events",
];

/// As well, unless they are left out: they are most of what there is, and the least needed.
pub const LOG_TABLES: [&str; 3] = ["log_streams", "log_lines", "metric_chunks"];

/// Values in one INSERT: below the parameter limits of both databases.
const VALUES_PER_STATEMENT: usize = 10_000;
/// A longer line is no row of ours.
const LINE_LIMIT_BYTES: u64 = 256 * 1024 * 1024;
/// How often the caller hears how far it is.
const ROWS_PER_WORD: u64 = 1_000;

/// What a dump holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpSummary {
    /// Version of the schema that it was made with.
    pub schema: i64,
    /// Rows per table.
    pub rows: BTreeMap<String, u64>,
}

/// Hears how many rows were done so far.
pub type Progress<'a> = &'a mut (dyn FnMut(u64) + Send);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
}

type Columns = Vec<(String, Kind)>;

#[derive(Serialize, Deserialize)]
struct TableLine {
    table: String,
    columns: Vec<String>,
}

/// One value on its way in.
enum Field {
    Text(Option<String>),
    Number(Option<i64>),
}

impl Store {
    /// A database as it is, to read it: nothing is made and no schema is changed, so that a newer
    /// program can look at what an older one is still working on.
    pub async fn open_as_is(url: &str) -> Result<Self> {
        let store = Self::on(connect::open(url, Migrate::No).await?);
        store.schema_version().await?;
        Ok(store)
    }

    /// The newest migration that was applied; one from the future is refused.
    pub async fn schema_version(&self) -> Result<i64> {
        let row = sqlx::query_as::<_, (Option<i64>,)>("SELECT MAX(version) FROM _sqlx_migrations")
            .fetch_one(&self.pool)
            .await
            .map_err(|source| match source {
                sqlx::Error::Database(inner) => {
                    Error::Connect(format!("it holds no database of Mainstay ({inner})").into())
                }
                other => other.into(),
            })?;
        match row.0 {
            Some(version) if version > crate::migrations::NEWEST => Err(Error::Newer { version }),
            Some(version) => Ok(version),
            None => Err(Error::Connect("it holds no database of Mainstay: its schema was never finished".into())),
        }
    }

    /// Writes every row down, as of one moment.
    pub async fn dump(
        &self,
        out: &mut (dyn Write + Send),
        with_logs: bool,
        progress: Progress<'_>,
    ) -> Result<DumpSummary> {
        let schema = self.schema_version().await?;
        let mut transaction = self.read().await?;
        if self.dialect == Dialect::Postgres {
            // A large table takes as long as it takes, and its reader may be a slow disk.
            for sql in ["SET LOCAL statement_timeout = 0", "SET LOCAL idle_in_transaction_session_timeout = 0"] {
                sqlx::query(sql).execute(&mut *transaction).await?;
            }
        }
        let mut summary = DumpSummary { schema, rows: BTreeMap::new() };
        let mut total = 0;
        let logs: &[&str] = if with_logs { &LOG_TABLES } else { &[] };
        for table in TABLES.iter().chain(logs) {
            let columns = columns(&mut transaction, self.dialect, table).await?;
            if columns.is_empty() {
                // A schema from before this table.
                continue;
            }
            let rows = dump_table(&mut transaction, table, &columns, out, &mut total, progress).await?;
            summary.rows.insert((*table).to_owned(), rows);
        }
        transaction.commit().await?;
        progress(total);
        Ok(summary)
    }

    /// Whether the file of a SQLite database is whole, by its own judgement; PostgreSQL checks its pages itself.
    pub async fn integrity_check(&self) -> Result<()> {
        if self.dialect == Dialect::Postgres {
            return Ok(());
        }
        let (verdict,) = sqlx::query_as::<_, (String,)>("PRAGMA integrity_check(1)").fetch_one(&self.pool).await?;
        if verdict == "ok" { Ok(()) } else { Err(Error::corrupt("database", verdict)) }
    }

    /// Rows per table, as [`Store::dump`] counts them.
    pub async fn row_counts(&self) -> Result<BTreeMap<String, u64>> {
        let mut transaction = self.read().await?;
        let mut counts = BTreeMap::new();
        for table in TABLES.iter().chain(&LOG_TABLES) {
            let sql = format!("SELECT COUNT(*) FROM {table}");
            let (rows,) = sqlx::query_as::<_, (i64,)>(AssertSqlSafe(sql)).fetch_one(&mut *transaction).await?;
            counts.insert((*table).to_owned(), rows as u64);
        }
        transaction.commit().await?;
        Ok(counts)
    }

    /// Moves the numbers of events and log lines on, for a database that may be older than what people
    /// have seen of it: who asks for what came after number 500 must not wait for a second 500.
    pub async fn counters_advance(&self, by: i64) -> Result<()> {
        self.execute(sqlx::query("UPDATE counters SET value = value + $1").bind(by)).await?;
        Ok(())
    }
}

/// Whether a database holds nothing yet. Reads only; a SQLite file that is not there is empty.
pub async fn is_empty(url: &str) -> Result<bool> {
    let pools = match connect::open(url, Migrate::No).await {
        Ok(pools) => pools,
        Err(Error::Missing { .. }) => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut transaction = pools.reader.begin().await?;
    let there = !columns(&mut transaction, pools.dialect, "organizations").await?.is_empty();
    let rows = match there {
        true => sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM organizations").fetch_one(&mut *transaction).await?.0,
        false => 0,
    };
    transaction.commit().await?;
    pools.writer.close().await;
    pools.reader.close().await;
    Ok(rows == 0)
}

/// Fills an empty database from a dump, all or nothing, and brings its schema up to date.
pub async fn load(
    url: &str,
    schema: i64,
    input: &mut (dyn BufRead + Send),
    progress: Progress<'_>,
) -> Result<DumpSummary> {
    if schema > crate::migrations::NEWEST {
        return Err(Error::Newer { version: schema });
    }
    let store = Store::on(connect::open(url, Migrate::UpTo(schema)).await?);
    let found = store.schema_version().await?;
    if found != schema {
        store.close().await;
        let message =
            format!("the database has schema {found} already, the dump {schema}: begin with an empty database");
        return Err(Error::Conflict(message));
    }
    let loaded = load_rows(&store, input, progress).await;
    store.close().await;
    let rows = loaded?;
    Store::open(url).await?.close().await;
    Ok(DumpSummary { schema, rows })
}

async fn load_rows(
    store: &Store,
    input: &mut (dyn BufRead + Send),
    progress: Progress<'_>,
) -> Result<BTreeMap<String, u64>> {
    let begin = match store.dialect {
        Dialect::Sqlite => "BEGIN IMMEDIATE",
        Dialect::Postgres => "BEGIN",
    };
    let mut transaction = store.writer.begin_with(begin).await?;
    let (rows,) =
        sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM organizations").fetch_one(&mut *transaction).await?;
    if rows > 0 {
        return Err(Error::Conflict("the database is not empty; nothing was loaded into it".into()));
    }
    let mut counts = BTreeMap::new();
    let mut table: Option<Loading> = None;
    let mut total = 0;
    let mut line = String::new();
    loop {
        line.clear();
        let length = std::io::Read::take(&mut *input, LINE_LIMIT_BYTES).read_line(&mut line).map_err(Error::Stream)?;
        if length == 0 {
            break;
        }
        match serde_json::from_str(&line).map_err(|e| Error::corrupt("line of the dump", e))? {
            Value::Array(values) => {
                let table =
                    table.as_mut().ok_or_else(|| Error::corrupt("line of the dump", "a row before any table"))?;
                table.take(values)?;
                total += 1;
                if total % ROWS_PER_WORD == 0 {
                    progress(total);
                }
                if table.is_full() {
                    table.write(&mut transaction).await?;
                }
            }
            head => {
                finish(&mut transaction, table.take(), &mut counts).await?;
                let head: TableLine =
                    serde_json::from_value(head).map_err(|e| Error::corrupt("line of the dump", e))?;
                table = Some(Loading::begin(&mut transaction, store.dialect, head).await?);
            }
        }
    }
    finish(&mut transaction, table, &mut counts).await?;
    transaction.commit().await?;
    progress(total);
    Ok(counts)
}

async fn finish(
    transaction: &mut Transaction<'static, Any>,
    table: Option<Loading>,
    counts: &mut BTreeMap<String, u64>,
) -> Result<()> {
    if let Some(mut table) = table {
        table.write(transaction).await?;
        counts.insert(table.name, table.rows);
    }
    Ok(())
}

/// A table while its rows come in.
struct Loading {
    name: String,
    columns: Columns,
    waiting: Vec<Vec<Field>>,
    rows: u64,
}

impl Loading {
    /// Names become part of a statement, so they are taken only if the schema has them.
    async fn begin(transaction: &mut Transaction<'static, Any>, dialect: Dialect, head: TableLine) -> Result<Self> {
        let unknown = |what: String| Error::corrupt("line of the dump", format!("{what} is not known"));
        if !TABLES.iter().chain(&LOG_TABLES).any(|table| *table == head.table) {
            return Err(unknown(format!("the table `{}`", head.table)));
        }
        let known = columns(transaction, dialect, &head.table).await?;
        let kind = |name: &String| known.iter().find(|(known, _)| known == name).map(|(_, kind)| *kind);
        let columns = head.columns.into_iter().map(|name| match kind(&name) {
            Some(kind) => Ok((name, kind)),
            None => Err(unknown(format!("the column `{name}` of {}", head.table))),
        });
        Ok(Self { columns: columns.collect::<Result<_>>()?, name: head.table, waiting: Vec::new(), rows: 0 })
    }

    fn take(&mut self, values: Vec<Value>) -> Result<()> {
        let wrong = || Error::corrupt("row of the dump", format!("a row of {} does not fit its columns", self.name));
        if values.len() != self.columns.len() {
            return Err(wrong());
        }
        let fields = values.into_iter().zip(&self.columns).map(|(value, (_, kind))| match (value, kind) {
            (Value::Null, Kind::Text) => Ok(Field::Text(None)),
            (Value::Null, Kind::Number) => Ok(Field::Number(None)),
            (Value::String(text), Kind::Text) => Ok(Field::Text(Some(text))),
            (Value::Number(number), Kind::Number) => number.as_i64().map(|n| Field::Number(Some(n))).ok_or_else(wrong),
            _ => Err(wrong()),
        });
        let fields = fields.collect::<Result<_>>()?;
        self.waiting.push(fields);
        self.rows += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        (self.waiting.len() + 1) * self.columns.len() > VALUES_PER_STATEMENT
    }

    async fn write(&mut self, transaction: &mut Transaction<'static, Any>) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let mut sql = format!("INSERT INTO {} ({}) VALUES ", self.name, names.join(", "));
        let mut number = 0;
        for row in 0..self.waiting.len() {
            let places: Vec<String> = (1..=names.len()).map(|place| format!("${}", number + place)).collect();
            number += names.len();
            sql.push_str(if row == 0 { "(" } else { ", (" });
            sql.push_str(&places.join(", "));
            sql.push(')');
        }
        let mut query: Query<'static, Any, AnyArguments> = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        for field in self.waiting.drain(..).flatten() {
            query = match field {
                Field::Text(text) => query.bind(text),
                Field::Number(number) => query.bind(number),
            };
        }
        query.execute(&mut **transaction).await?;
        Ok(())
    }
}

async fn dump_table(
    transaction: &mut Transaction<'static, Any>,
    table: &str,
    columns: &Columns,
    out: &mut (dyn Write + Send),
    total: &mut u64,
    progress: Progress<'_>,
) -> Result<u64> {
    let names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
    let sql = format!("SELECT {} FROM {table}", names.join(", "));
    write_line(out, &TableLine { table: table.to_owned(), columns: names })?;
    let mut rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(&mut **transaction);
    let mut count = 0;
    while let Some(row) = rows.try_next().await? {
        write_line(out, &values(&row, columns)?)?;
        count += 1;
        *total += 1;
        if total.is_multiple_of(ROWS_PER_WORD) {
            progress(*total);
        }
    }
    Ok(count)
}

fn values(row: &AnyRow, columns: &Columns) -> Result<Vec<Value>> {
    let value = |(position, (_, kind)): (usize, &(String, Kind))| -> Result<Value> {
        Ok(match kind {
            Kind::Text => row.try_get::<Option<String>, _>(position)?.map_or(Value::Null, Value::String),
            Kind::Number => row.try_get::<Option<i64>, _>(position)?.map_or(Value::Null, Value::from),
        })
    };
    columns.iter().enumerate().map(value).collect()
}

fn write_line(out: &mut (dyn Write + Send), line: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(line).map_err(|e| Error::corrupt("row", e))?;
    out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(Error::Stream)
}

/// A table's columns in their order; none if there is no such table.
async fn columns(transaction: &mut Transaction<'static, Any>, dialect: Dialect, table: &str) -> Result<Columns> {
    let sql = match dialect {
        Dialect::Sqlite => "SELECT name, type FROM pragma_table_info($1) ORDER BY cid",
        Dialect::Postgres => {
            "SELECT column_name::text, data_type::text FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position"
        }
    };
    let rows = sqlx::query_as::<_, (String, String)>(sql).bind(table).fetch_all(&mut **transaction).await?;
    rows.into_iter()
        .map(|(name, kind)| match kind.to_ascii_lowercase().as_str() {
            "text" => Ok((name, Kind::Text)),
            "bigint" => Ok((name, Kind::Number)),
            other => Err(Error::corrupt("schema", format!("{table}.{name} is of the unknown type {other}"))),
        })
        .collect()
}
