//! From a URL to a database that is ready: its file private, its schema up to date, its pools set.
//!
//! The first connection is made outside of a pool. A pool takes a failing start for a database that
//! is still coming up: it tries on until its patience ends and then says only that time ran out. Here
//! the reason itself is wanted (`file is not a database`, `connection refused`), and at once.
//!
//! **SQLite** gets two pools. All writes go through one connection, whose waiters stand in line;
//! otherwise they would poll for the file's lock against each other, and the unlucky one for long.
//! Readers see the last commit and wait for nobody; `query_only` keeps a forgotten write out of them.
//! On **PostgreSQL** both are the same pool.
//!
//! Deliberately absent: a database in memory. Each connection would have one of its own.

use crate::{Dialect, Error, Result, damage, migrations};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, AnyPool, Connection, Executor};
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

/// How long a caller waits for a free connection, and SQLite for a lock that another process holds.
pub const WAIT: Duration = Duration::from_secs(10);

const CONNECTIONS: u32 = 8;

/// The time to wait comes first, so that it already holds for what follows.
const SQLITE_SETTINGS: &str = "PRAGMA busy_timeout = 10000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                               PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 67108864";

/// A writer that died holding a lock, or a network that lost it, must not hold up the others for ever.
const POSTGRES_SETTINGS: &str = "SET lock_timeout = '10s'; SET statement_timeout = '60s'; \
                                 SET idle_in_transaction_session_timeout = '60s'";

/// A migration may take long, and a second control plane waits for it.
const POSTGRES_MIGRATION_SETTINGS: &str = "SET lock_timeout = '5min'";

const NO_MEMORY: &str = "a database in memory would be another one for every connection; name a file";

/// sqlx takes its drivers once per process.
static DRIVERS: Once = Once::new();

/// Before the first database is opened, by whoever brings drivers of its own: the simulation, whose SQLite
/// works without threads.
pub fn drivers_are_installed() {
    DRIVERS.call_once(|| {});
}

pub struct Pools {
    pub dialect: Dialect,
    pub reader: AnyPool,
    pub writer: AnyPool,
}

/// The URL of a database file; every unusual character of its path is escaped.
pub fn sqlite_url(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|e| cannot("find", path, &e))?;
    let text = absolute
        .to_str()
        .ok_or_else(|| Error::Connect(format!("the path {} is not Unicode text", absolute.display()).into()))?;
    let escaped = text.bytes().fold(String::with_capacity(text.len()), |mut url, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
        url
    });
    Ok(format!("sqlite://{escaped}"))
}

/// What is done about the schema on opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrate {
    ToNewest,
    /// As it was then, to load what was dumped then.
    UpTo(i64),
    /// Nothing is made and nothing is changed.
    No,
}

pub async fn open(url: &str, migrate: Migrate) -> Result<Pools> {
    DRIVERS.call_once(sqlx::any::install_default_drivers);
    let dialect = match url.split_once("://") {
        Some(("sqlite", _)) => Dialect::Sqlite,
        Some(("postgres" | "postgresql", _)) => Dialect::Postgres,
        _ => return Err(Error::Url),
    };
    if dialect == Dialect::Sqlite && url.contains(":memory:") {
        return Err(Error::Connect(NO_MEMORY.into()));
    }
    let options: AnyConnectOptions = url.parse().map_err(Error::connect)?;
    if dialect == Dialect::Sqlite {
        damage::refuse_damaged(&prepare_file(&options, migrate)?).await?;
    }
    bring_up_to_date(dialect, &options, migrate).await?;
    Ok(match dialect {
        Dialect::Sqlite => Pools {
            dialect,
            reader: pool(&options, CONNECTIONS, [SQLITE_SETTINGS, "PRAGMA query_only = ON"]),
            writer: pool(&options, 1, [SQLITE_SETTINGS, ""]),
        },
        Dialect::Postgres => {
            let pool = pool(&options, CONNECTIONS, [POSTGRES_SETTINGS, ""]);
            Pools { dialect, reader: pool.clone(), writer: pool }
        }
    })
}

fn pool(options: &AnyConnectOptions, connections: u32, settings: [&'static str; 2]) -> AnyPool {
    AnyPoolOptions::new()
        .max_connections(connections)
        // A file does not hang up; to ask it first would double the time of most statements.
        .test_before_acquire(options.database_url.scheme() != "sqlite")
        .acquire_timeout(WAIT)
        // When the disk is full, SQLite ends a transaction by itself, and the rollback that follows fails
        // for want of one. The driver then believes for ever that it is still in it: such a connection is
        // of no use any more.
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for sql in settings.into_iter().filter(|sql| !sql.is_empty()) {
                    connection.execute(sql).await?;
                }
                Ok(())
            })
        })
        .connect_lazy_with(options.clone())
}

async fn bring_up_to_date(dialect: Dialect, options: &AnyConnectOptions, migrate: Migrate) -> Result<()> {
    let connecting = tokio::time::timeout(WAIT, AnyConnection::connect_with(options));
    let mut connection = match connecting.await {
        Ok(connected) => connected.map_err(Error::connect)?,
        Err(_) => return Err(Error::Connect(format!("no answer within {} s", WAIT.as_secs()).into())),
    };
    let settings = match dialect {
        Dialect::Sqlite => SQLITE_SETTINGS,
        Dialect::Postgres => POSTGRES_MIGRATION_SETTINGS,
    };
    connection.execute(settings).await.map_err(Error::connect)?;
    let migrator = match migrate {
        Migrate::ToNewest => migrations::migrator(),
        Migrate::UpTo(version) => migrations::migrator_up_to(version),
        Migrate::No => return connection.close().await.map_err(Error::connect),
    };
    let migrated = migrator.run_direct(None, &mut connection, false).await;
    // Also after a failure: the lock that PostgreSQL holds for the migration goes with the connection.
    let closed = connection.close().await;
    migrated.map_err(migrate_error)?;
    closed.map_err(Error::connect)
}

fn migrate_error(error: MigrateError) -> Error {
    match error {
        MigrateError::VersionMissing(version) if version > migrations::NEWEST => Error::Newer { version },
        other => Error::Migrate(Box::new(other)),
    }
}

/// Makes the file if it may be made, readable by its owner alone: it holds secrets. SQLite gives the
/// files that it puts beside it the same mode.
fn prepare_file(options: &AnyConnectOptions, migrate: Migrate) -> Result<PathBuf> {
    let url = &options.database_url;
    let parsed: SqliteConnectOptions = url.as_str().parse().map_err(Error::connect)?;
    let path = parsed.get_filename();
    let mode = url.query_pairs().find(|(name, _)| name == "mode").map(|(_, value)| value.into_owned());
    if mode.as_deref() == Some("memory") {
        return Err(Error::Connect(NO_MEMORY.into()));
    }
    if migrate == Migrate::No && !path.exists() {
        return Err(Error::Missing { path: path.to_owned() });
    }
    damage::refuse_emptied(path)?;
    if matches!(mode.as_deref(), None | Some("rwc")) {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        opened.map_err(|e| cannot("open", path, &e))?;
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        make_private(&PathBuf::from(name))?;
    }
    Ok(path.to_owned())
}

fn make_private(path: &Path) -> Result<()> {
    let mode = match path.metadata() {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("look at", path, &error)),
    };
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o700)).map_err(|e| cannot("make private", path, &e))
}

fn cannot(verb: &str, path: &Path, error: &io::Error) -> Error {
    Error::Connect(format!("cannot {verb} {}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_reads_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let pools = open(&sqlite_url(&folder.path().join("mainstay.db")).unwrap(), Migrate::ToNewest).await.unwrap();
        let sql = "INSERT INTO organizations (id, name, created_at_ms) VALUES ('a', 'a', 0)";
        let refused = sqlx::query(sql).execute(&pools.reader).await.unwrap_err();
        assert!(refused.to_string().contains("readonly"), "{refused}");
        sqlx::query(sql).execute(&pools.writer).await.unwrap();
    }
}
