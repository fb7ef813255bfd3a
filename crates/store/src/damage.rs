//! Whether an SQLite file is what was written, looked at before anything is done with it.
//!
//! A power cut leaves a whole database: SQLite's log sees to that. What this finds is what a power cut
//! does not do: a disk that lost or changed what it had, a file that was copied while it was written, a
//! log that lies beside another file. Going on with such a file means deciding about machines by rows that
//! are wrong; SQLite itself takes a file of no bytes for a new database.
//!
//! The structure of every table and index is checked, at a bounded cost: the few tables that grow with
//! time (events and log lines) only while the file is small. What is in the rows is not: a letter that
//! flipped inside a text is found by whoever reads it, as [`Error::Corrupt`].
//!
//! It looks through a connection that may not write. One that may would copy the log into the file when it
//! is closed, and so change a file that is refused: what can still be saved from it is then less.

use crate::{Error, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Up to this size everything is read at the start, which takes about a second on a slow disk.
const WHOLE_UP_TO_BYTES: i64 = 128 * 1024 * 1024;

/// Grow with time, and nothing is decided by what they say.
const GROWING: [&str; 2] = ["events", "log_lines"];

/// The smallest database is one page of this many bytes.
const PAGE_AT_LEAST_BYTES: u64 = 512;

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A file that is shorter than its first page is no new database, unless neither it nor a log has a byte.
pub fn refuse_emptied(path: &Path) -> Result<()> {
    let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    match (length(path), length(&PathBuf::from(log))) {
        (0, 0) | (PAGE_AT_LEAST_BYTES.., _) => Ok(()),
        (bytes, of_log) => {
            Err(Error::Damaged { reason: format!("{} has {bytes} bytes, and its log has {of_log}", path.display()) })
        }
    }
}

/// Reads the structure of the database and refuses one that does not hold together, without changing it.
pub async fn refuse_damaged(path: &Path) -> Result<()> {
    match look(path, true).await {
        // A transaction that was cut off while the file was made is to be taken back first: then there is
        // no log yet that could be copied.
        Err(Error::Connect(source)) if needs_rollback(&*source) => look(path, false).await,
        looked => looked,
    }
}

async fn look(path: &Path, read_only: bool) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(path).read_only(read_only).busy_timeout(BUSY_TIMEOUT);
    let mut connection = options.connect().await.map_err(damaged)?;
    let verdict = check_all(&mut connection).await;
    // Waited for: whoever is told of the refusal may take the file away.
    let closed = connection.close().await.map_err(Error::connect);
    verdict.and(closed)
}

fn needs_rollback(error: &(dyn std::error::Error + 'static)) -> bool {
    const READ_ONLY_ROLLBACK: &str = "776";
    let error = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    error.and_then(|error| error.code()).is_some_and(|code| code == READ_ONLY_ROLLBACK)
}

async fn check_all(connection: &mut SqliteConnection) -> Result<()> {
    let pages = number(connection, "PRAGMA page_count").await?;
    let page_bytes = number(connection, "PRAGMA page_size").await?;
    if pages.saturating_mul(page_bytes) <= WHOLE_UP_TO_BYTES {
        return check(connection, "PRAGMA quick_check(1)").await;
    }
    let tables = sqlx::query_as::<_, (String,)>("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .fetch_all(&mut *connection)
        .await
        .map_err(damaged)?;
    for (table,) in tables.iter().filter(|(table,)| !GROWING.contains(&table.as_str())) {
        // Names of the schema's own tables; quoted all the same.
        check(connection, &format!("PRAGMA quick_check('{}')", table.replace('\'', "''"))).await?;
    }
    Ok(())
}

async fn number(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64> {
    let (number,) = sqlx::query_as::<_, (i64,)>(sql).fetch_one(connection).await.map_err(damaged)?;
    Ok(number)
}

async fn check(connection: &mut SqliteConnection, sql: &str) -> Result<()> {
    let verdicts = sqlx::query_as::<_, (String,)>(AssertSqlSafe(sql)).fetch_all(connection).await.map_err(damaged)?;
    match verdicts.into_iter().map(|(verdict,)| verdict).find(|verdict| verdict != "ok") {
        None => Ok(()),
        Some(reason) => Err(Error::Damaged { reason }),
    }
}

/// An error of the check itself: of the file, or of the way to it.
fn damaged(error: sqlx::Error) -> Error {
    const CORRUPT: u32 = 11;
    const NOT_A_DATABASE: u32 = 26;
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(CORRUPT | NOT_A_DATABASE) => Error::Damaged { reason: error.to_string() },
        _ => Error::connect(error),
    }
}
