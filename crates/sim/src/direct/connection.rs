//! A connection: what sqlx's `Any` asks of one.

use super::sqlite::{Database, Statement};
use crate::time::locked;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, TryStreamExt};
use futures_util::{FutureExt, TryFutureExt};
use sqlx_core::any::{
    AnyArguments, AnyConnectionBackend, AnyQueryResult, AnyRow, AnyStatement, AnyTypeInfo, AnyValue, AnyValueKind,
};
use sqlx_core::migrate::{AppliedMigration, Migrate, MigrateError, Migration};
use sqlx_core::sql_str::SqlStr;
use sqlx_core::transaction::{begin_ansi_transaction_sql, commit_ansi_transaction_sql, rollback_ansi_transaction_sql};
use sqlx_core::{Either, Error};
use std::collections::{HashMap, HashSet};
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

/// Prepared statements that are kept. The store has fewer texts; when there are more, all go.
const STATEMENTS_LIMIT: usize = 256;

/// With this the store closes a connection to writing; here it is kept by the driver, because the file is shared.
const READS_ONLY: &str = "PRAGMA query_only = ON";

type Found = Vec<Either<AnyQueryResult, AnyRow>>;

/// A database, and who has it to itself while a transaction lasts.
#[derive(Debug)]
struct Shared {
    // Before the database, so that they go first.
    statements: HashMap<String, Statement>,
    /// What was set, and holds on the handle for good: each connection that the store opens sets the same once more,
    /// and SQLite would prepare every statement anew after that.
    settings: HashSet<String>,
    database: Database,
    within: Option<u64>,
}

impl Shared {
    fn new(database: Database) -> Arc<Mutex<Self>> {
        let (statements, settings) = Default::default();
        Arc::new(Mutex::new(Self { statements, settings, database, within: None }))
    }
}

/// What a disk would hold: it stays when nobody has it open. All connections of one path share what SQLite
/// knows of it: pages, schema and prepared statements.
type Disk = HashMap<PathBuf, Arc<Mutex<Shared>>>;

static DISK: LazyLock<Mutex<Disk>> = LazyLock::new(Mutex::default);
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A database in the place of `to`, with the content of `from`.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut disk = locked(&DISK);
    let Some(from) = disk.get(from) else {
        return Err(Error::Configuration(format!("there is no database {}", from.display()).into()));
    };
    let copy = Shared::new(locked(from).database.copy()?);
    disk.insert(to.to_owned(), copy);
    Ok(())
}

/// All databases below a directory are gone with it.
pub fn forget(directory: &Path) {
    locked(&DISK).retain(|path, _| !path.starts_with(directory));
}

#[derive(Debug)]
pub struct DirectConnection {
    shared: Arc<Mutex<Shared>>,
    number: u64,
    depth: usize,
    reads_only: bool,
}

impl DirectConnection {
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut disk = locked(&DISK);
        let shared = match disk.get(path) {
            Some(shared) => shared.clone(),
            None => {
                let shared = Shared::new(Database::new()?);
                disk.insert(path.to_owned(), shared.clone());
                shared
            }
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Self { shared, number, depth: 0, reads_only: false })
    }

    /// Runs a text to its end, or until it has answered so many rows.
    fn run(&mut self, sql: &str, values: &[AnyValueKind], limit: usize) -> Result<Found, Error> {
        if sql == READS_ONLY {
            self.reads_only = true;
            return Ok(Vec::new());
        }
        let mut shared = locked(&self.shared);
        if shared.within.is_some_and(|number| number != self.number) {
            // On connections of their own one would not see what the other has not committed, or wait for it.
            return Err(Error::Protocol(format!("another connection is within a transaction: {sql}")));
        }
        shared.run(sql, values, limit, self.reads_only)
    }

    fn command(&mut self, sql: &str) -> Result<(), Error> {
        self.run(sql, &[], usize::MAX).map(drop)
    }

    pub fn begin_now(&mut self, statement: Option<SqlStr>) -> Result<(), Error> {
        if self.depth > 0 && statement.is_some() {
            return Err(Error::InvalidSavePointStatement);
        }
        let sql = statement.unwrap_or_else(|| begin_ansi_transaction_sql(self.depth));
        self.command(sql.as_str())?;
        self.depth += 1;
        locked(&self.shared).within = Some(self.number);
        Ok(())
    }

    pub fn commit_now(&mut self) -> Result<(), Error> {
        if self.depth > 0 {
            self.command(commit_ansi_transaction_sql(self.depth).as_str())?;
            self.one_less();
        }
        Ok(())
    }

    pub fn rollback_now(&mut self) -> Result<(), Error> {
        if self.depth > 0 {
            self.command(rollback_ansi_transaction_sql(self.depth).as_str())?;
            self.one_less();
        }
        Ok(())
    }

    fn one_less(&mut self) {
        self.depth -= 1;
        if self.depth == 0 {
            locked(&self.shared).within = None;
        }
    }

    pub fn depth(&self) -> usize {
        self.depth
    }
}

impl Drop for DirectConnection {
    fn drop(&mut self) {
        if self.depth > 0 {
            // As SQLite does when a connection closes; a transaction that is not there need not be ended.
            self.depth = 1;
            let _ = self.command("ROLLBACK");
            locked(&self.shared).within = None;
        }
    }
}

impl Shared {
    fn run(&mut self, sql: &str, values: &[AnyValueKind], limit: usize, reads_only: bool) -> Result<Found, Error> {
        let mut found = Vec::new();
        if self.settings.contains(sql) {
            return Ok(found);
        }
        if let Some(statement) = self.statements.get_mut(sql) {
            run_one(&self.database, statement, values, limit, reads_only, &mut found)?;
            return Ok(found);
        }
        let (mut rest, mut only) = (sql, None);
        // One after the other: what follows may be about a table that the first one makes.
        while let Some((mut statement, after)) = self.database.prepare(rest)? {
            run_one(&self.database, &mut statement, values, limit, reads_only, &mut found)?;
            only = (rest.len() == sql.len() && after.trim().is_empty()).then_some(statement);
            rest = after;
        }
        if is_setting(sql) {
            self.settings.insert(sql.to_owned());
        } else if let Some(statement) = only {
            if self.statements.len() >= STATEMENTS_LIMIT {
                self.statements.clear();
            }
            self.statements.insert(sql.to_owned(), statement);
        }
        Ok(found)
    }
}

/// The store sets all that it wants of a connection in one text, and asks back with others.
fn is_setting(sql: &str) -> bool {
    sql.starts_with("PRAGMA ") && sql.contains('=') && sql.contains(';')
}

fn run_one(
    database: &Database,
    statement: &mut Statement,
    values: &[AnyValueKind],
    limit: usize,
    reads_only: bool,
    found: &mut Found,
) -> Result<(), Error> {
    if reads_only && !statement.only_reads() {
        return Err(Error::Protocol("a connection that reads is asked to write".into()));
    }
    let done = step_through(database, statement, values, limit, found);
    statement.reset();
    done
}

fn step_through(
    database: &Database,
    statement: &mut Statement,
    values: &[AnyValueKind],
    limit: usize,
    found: &mut Found,
) -> Result<(), Error> {
    statement.bind_all(values)?;
    while statement.step()? {
        let values = (0..statement.columns.len()).map(|column| Ok(AnyValue { kind: statement.value(column)? }));
        let values = values.collect::<Result<Vec<AnyValue>, Error>>()?;
        let column_names = statement.column_names.clone();
        found.push(Either::Right(AnyRow { column_names, columns: statement.columns.clone(), values }));
        if found.len() >= limit {
            return Ok(());
        }
    }
    found.push(Either::Left(AnyQueryResult { rows_affected: database.changes(), last_insert_id: None }));
    Ok(())
}

fn values(arguments: Option<AnyArguments>) -> Vec<AnyValueKind> {
    arguments.map(|arguments| arguments.values.0).unwrap_or_default()
}

impl AnyConnectionBackend for DirectConnection {
    fn name(&self) -> &str {
        super::formal::NAME
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        drop(self);
        ready(Ok(())).boxed()
    }

    fn close_hard(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        self.close()
    }

    fn ping(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        ready(Ok(())).boxed()
    }

    fn begin(&mut self, statement: Option<SqlStr>) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.begin_now(statement) })
    }

    fn commit(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.commit_now() })
    }

    fn rollback(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.rollback_now() })
    }

    fn start_rollback(&mut self) {
        // A transaction that SQLite ended by itself is not there to be rolled back.
        let _ = self.rollback_now();
    }

    fn get_transaction_depth(&self) -> usize {
        self.depth
    }

    fn shrink_buffers(&mut self) {}

    fn flush(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        ready(Ok(())).boxed()
    }

    fn should_flush(&self) -> bool {
        false
    }

    fn as_migrate(&mut self) -> Result<&mut (dyn Migrate + Send + 'static), Error> {
        Ok(self)
    }

    fn fetch_many(
        &mut self,
        query: SqlStr,
        _: bool,
        arguments: Option<AnyArguments>,
    ) -> BoxStream<'_, Result<Either<AnyQueryResult, AnyRow>, Error>> {
        let found = async move { self.run(query.as_str(), &values(arguments), usize::MAX) };
        Box::pin(found.map_ok(|found| stream::iter(found.into_iter().map(Ok))).try_flatten_stream().into_stream())
    }

    fn fetch_optional(
        &mut self,
        query: SqlStr,
        _: bool,
        arguments: Option<AnyArguments>,
    ) -> BoxFuture<'_, Result<Option<AnyRow>, Error>> {
        Box::pin(async move {
            let found = self.run(query.as_str(), &values(arguments), 1)?;
            Ok(found.into_iter().find_map(Either::right))
        })
    }

    fn prepare_with<'c, 'q: 'c>(
        &'c mut self,
        sql: SqlStr,
        _: &[AnyTypeInfo],
    ) -> BoxFuture<'c, Result<AnyStatement, Error>> {
        // It is prepared when it is run first.
        let column_names = Arc::default();
        ready(Ok(AnyStatement { sql, parameters: None, column_names, columns: Vec::new() })).boxed()
    }
}

/// As sqlx keeps its list of migrations, for those that only go forward.
impl Migrate for DirectConnection {
    fn create_schema_if_not_exists<'e>(&'e mut self, name: &'e str) -> BoxFuture<'e, Result<(), MigrateError>> {
        ready(Err(MigrateError::CreateSchemasNotSupported(format!("no schema {name} in an SQLite file")))).boxed()
    }

    fn ensure_migrations_table<'e>(&'e mut self, table: &'e str) -> BoxFuture<'e, Result<(), MigrateError>> {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {table} (version BIGINT PRIMARY KEY, description TEXT NOT NULL,
             installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, success BOOLEAN NOT NULL,
             checksum BLOB NOT NULL, execution_time BIGINT NOT NULL)"
        );
        ready(self.command(&sql).map_err(MigrateError::from)).boxed()
    }

    fn dirty_version<'e>(&'e mut self, table: &'e str) -> BoxFuture<'e, Result<Option<i64>, MigrateError>> {
        let sql = format!("SELECT version FROM {table} WHERE success = false ORDER BY version LIMIT 1");
        let found = self.run(&sql, &[], 1).map_err(MigrateError::from);
        ready(found.map(|found| found.into_iter().filter_map(Either::right).find_map(|row| version(&row)))).boxed()
    }

    fn list_applied_migrations<'e>(
        &'e mut self,
        table: &'e str,
    ) -> BoxFuture<'e, Result<Vec<AppliedMigration>, MigrateError>> {
        let sql = format!("SELECT version, checksum FROM {table} ORDER BY version");
        let found = self.run(&sql, &[], usize::MAX).map_err(MigrateError::from);
        ready(found.map(|found| found.into_iter().filter_map(Either::right).filter_map(|row| applied(&row)).collect()))
            .boxed()
    }

    fn lock(&mut self) -> BoxFuture<'_, Result<(), MigrateError>> {
        ready(Ok(())).boxed()
    }

    fn unlock(&mut self) -> BoxFuture<'_, Result<(), MigrateError>> {
        ready(Ok(())).boxed()
    }

    fn apply<'e>(
        &'e mut self,
        table: &'e str,
        migration: &'e Migration,
    ) -> BoxFuture<'e, Result<Duration, MigrateError>> {
        ready(self.apply_now(table, migration).map_err(|e| MigrateError::ExecuteMigration(e, migration.version)))
            .boxed()
    }

    fn revert<'e>(&'e mut self, _: &'e str, migration: &'e Migration) -> BoxFuture<'e, Result<Duration, MigrateError>> {
        ready(Err(MigrateError::VersionNotPresent(migration.version))).boxed()
    }
}

impl DirectConnection {
    fn apply_now(&mut self, table: &str, migration: &Migration) -> Result<Duration, Error> {
        self.begin_now(None)?;
        let done = self.command(migration.sql.as_str()).and_then(|()| self.note(table, migration));
        match done {
            Ok(()) => self.commit_now()?,
            Err(error) => {
                self.rollback_now()?;
                return Err(error);
            }
        }
        Ok(Duration::ZERO)
    }

    fn note(&mut self, table: &str, migration: &Migration) -> Result<(), Error> {
        let sql = format!(
            "INSERT INTO {table} (version, description, success, checksum, execution_time) VALUES (?1, ?2, TRUE, ?3, 0)"
        );
        let values = [
            AnyValueKind::BigInt(migration.version),
            AnyValueKind::Text(Arc::new(migration.description.to_string())),
            AnyValueKind::Blob(Arc::new(migration.checksum.to_vec())),
        ];
        self.run(&sql, &values, usize::MAX).map(drop)
    }
}

fn version(row: &AnyRow) -> Option<i64> {
    match row.values.first()?.kind {
        AnyValueKind::BigInt(version) => Some(version),
        _ => None,
    }
}

fn applied(row: &AnyRow) -> Option<AppliedMigration> {
    match &row.values.get(1)?.kind {
        AnyValueKind::Blob(checksum) => {
            Some(AppliedMigration { version: version(row)?, checksum: checksum.to_vec().into() })
        }
        _ => None,
    }
}
