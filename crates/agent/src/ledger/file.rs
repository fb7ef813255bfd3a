//! The ledger on disk. This is the only SQL outside of the `store` crate; why, is said one level up.

use super::private;
use super::{Acceptance, GenerationError, Ledger, LedgerError, Opened, SCHEMA_VERSION};
use api::desired::SignedDesiredState;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The smallest database of SQLite is one page of this many bytes.
const PAGE_AT_LEAST_BYTES: u64 = 512;

const SCHEMA: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE desired (
    slot INTEGER PRIMARY KEY CHECK (slot = 1),
    generation INTEGER NOT NULL, sha256 TEXT NOT NULL, envelope TEXT NOT NULL, accepted_at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE outbox (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE, level INTEGER NOT NULL, body TEXT NOT NULL
) STRICT;
CREATE TABLE log_offset (
    source TEXT PRIMARY KEY, next_offset INTEGER NOT NULL, acknowledged_at_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE failure (subject TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE service_port (service_id TEXT PRIMARY KEY, port INTEGER NOT NULL UNIQUE) STRICT;
";

#[derive(Debug, Clone)]
pub struct FileLedger {
    pub(super) pool: SqlitePool,
}

impl FileLedger {
    pub async fn open(path: &Path) -> Result<Opened, LedgerError> {
        match Self::open_checked(path).await {
            Ok(ledger) => Ok(Opened { ledger: Ledger::File(ledger), set_aside: None }),
            Err(Unusable::Failed(error)) => Err(error),
            Err(Unusable::Corrupt(reason)) => {
                let aside = set_aside(path)?;
                tracing::error!(ledger = %path.display(), set_aside = %aside.display(), %reason,
                    "the ledger is broken; it was set aside and a new one begun. Running services are adopted and \
                     the desired state is fetched again");
                match Self::open_checked(path).await {
                    Ok(ledger) => Ok(Opened { ledger: Ledger::File(ledger), set_aside: Some((aside, reason)) }),
                    Err(Unusable::Failed(error)) => Err(error),
                    Err(Unusable::Corrupt(reason)) => {
                        let source = sqlx::Error::Protocol(format!("a new ledger is broken as well: {reason}"));
                        Err(LedgerError::Open { path: path.to_owned(), source })
                    }
                }
            }
        }
    }

    async fn open_checked(path: &Path) -> Result<Self, Unusable> {
        let judge = |source: sqlx::Error| Unusable::judge(path, source);
        private::make_private(path).map_err(|error| judge(sqlx::Error::Io(error)))?;
        // SQLite takes a file without its first page for a new database and throws the log away, without a word.
        let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        match (length(path), length(&with_suffix(path, "-wal"))) {
            (0, 0) | (PAGE_AT_LEAST_BYTES.., _) => {}
            (bytes, of_log) => {
                let reason = format!("the file has {bytes} bytes, and its log has {of_log}");
                return Err(Unusable::Corrupt(reason));
            }
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        // One connection: the agent is the only user, and a write never meets another.
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options)
            .await
            .map_err(judge)?;
        let ledger = Self { pool };
        match ledger.check(path).await {
            Ok(()) => Ok(ledger),
            Err(unusable) => {
                ledger.pool.close().await;
                Err(unusable)
            }
        }
    }

    async fn check(&self, path: &Path) -> Result<(), Unusable> {
        let judge = |source: sqlx::Error| Unusable::judge(path, source);
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&self.pool).await.map_err(judge)?;
        if verdict != "ok" {
            return Err(Unusable::Corrupt(verdict));
        }
        let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&self.pool).await.map_err(judge)?;
        match found {
            0 => self.create_schema().await.map_err(judge),
            SCHEMA_VERSION => Ok(()),
            found if found > SCHEMA_VERSION => {
                Err(Unusable::Failed(LedgerError::Newer { path: path.to_owned(), found }))
            }
            found => Err(Unusable::Corrupt(format!("schema version {found} never existed"))),
        }
    }

    async fn create_schema(&self) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await?;
        sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut *transaction).await?;
        transaction.commit().await
    }

    /// Waits for writes and lets go of the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// The envelope as it was received. The caller verifies it again: what lies on a disk can be altered.
    pub async fn desired_load(&self) -> Result<Option<SignedDesiredState>, LedgerError> {
        let operation = "reading the kept desired state";
        let row: Option<String> = sqlx::query_scalar("SELECT envelope FROM desired WHERE slot = 1")
            .fetch_optional(&self.pool)
            .await
            .map_err(|source| LedgerError::Query { operation, source })?;
        row.map(|text| serde_json::from_str(&text).map_err(|source| LedgerError::Content { operation, source }))
            .transpose()
    }

    pub async fn fleet_load(&self) -> Result<Option<SignedDesiredState>, LedgerError> {
        let operation = "reading the kept fleet state";
        let text = self.meta_get("fleet").await?;
        text.map(|text| serde_json::from_str(&text).map_err(|source| LedgerError::Content { operation, source }))
            .transpose()
    }

    pub async fn fleet_keep(&self, signed: &SignedDesiredState) -> Result<(), LedgerError> {
        let operation = "keeping a fleet state";
        let failed = |source| LedgerError::Query { operation, source };
        let text = serde_json::to_string(signed).map_err(|source| LedgerError::Content { operation, source })?;
        let mut connection = self.pool.acquire().await.map_err(failed)?;
        meta_put(&mut connection, "fleet", &text).await.map_err(failed)
    }

    /// The highest generation ever accepted; it never falls, even if the document itself is lost.
    pub async fn highest_generation(&self) -> Result<u64, LedgerError> {
        let text = self.meta_get("highest_generation").await?;
        Ok(text.and_then(|t| t.parse().ok()).unwrap_or(0))
    }

    /// Keeps a verified document if it is newer than all before it.
    pub async fn desired_accept(&self, signed: &SignedDesiredState, now_ms: i64) -> Result<Acceptance, LedgerError> {
        let operation = "keeping a desired state";
        let failed = |source| LedgerError::Query { operation, source };
        let highest = self.highest_generation().await?;
        if signed.generation < highest {
            let given = signed.generation;
            return Ok(Acceptance::Refused(GenerationError::Fallen { given, highest }));
        }
        let kept: Option<(i64, String)> = sqlx::query_as("SELECT generation, sha256 FROM desired WHERE slot = 1")
            .fetch_optional(&self.pool)
            .await
            .map_err(failed)?;
        if let Some((generation, sha256)) = kept
            && u64::try_from(generation) == Ok(signed.generation)
        {
            let same = sha256 == signed.sha256;
            let refused = GenerationError::Forked { given: signed.generation };
            return Ok(if same { Acceptance::Same } else { Acceptance::Refused(refused) });
        }
        let envelope = serde_json::to_string(signed).map_err(|source| LedgerError::Content { operation, source })?;
        let mut transaction = self.pool.begin().await.map_err(failed)?;
        sqlx::query(
            "INSERT INTO desired (slot, generation, sha256, envelope, accepted_at_ms) VALUES (1, $1, $2, $3, $4)
             ON CONFLICT (slot) DO UPDATE SET generation = $1, sha256 = $2, envelope = $3, accepted_at_ms = $4",
        )
        .bind(i64::try_from(signed.generation).unwrap_or(i64::MAX))
        .bind(&signed.sha256)
        .bind(&envelope)
        .bind(now_ms)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        meta_put(&mut transaction, "highest_generation", &signed.generation.to_string()).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Acceptance::New)
    }

    pub(super) async fn meta_get(&self, key: &'static str) -> Result<Option<String>, LedgerError> {
        sqlx::query_scalar("SELECT value FROM meta WHERE key = $1")
            .bind(key)
            .fetch_optional(&self.pool)
            .await
            .map_err(|source| LedgerError::Query { operation: "reading a setting", source })
    }
}

pub(super) async fn meta_put(
    connection: &mut sqlx::SqliteConnection,
    key: &str,
    value: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2")
        .bind(key)
        .bind(value)
        .execute(connection)
        .await
        .map(|_| ())
}

/// Tells a broken file, which is set aside, from a machine that cannot open one, which is not.
enum Unusable {
    Corrupt(String),
    Failed(LedgerError),
}

impl Unusable {
    fn judge(path: &Path, source: sqlx::Error) -> Self {
        const CORRUPT: &str = "11";
        const NOT_A_DATABASE: &str = "26";
        let code = source.as_database_error().and_then(|e| e.code()).map(|c| c.into_owned());
        match code.as_deref() {
            Some(CORRUPT | NOT_A_DATABASE) => Self::Corrupt(source.to_string()),
            _ => Self::Failed(LedgerError::Open { path: path.to_owned(), source }),
        }
    }
}

fn with_suffix(base: &Path, suffix: &str) -> PathBuf {
    let mut name = base.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn set_aside(path: &Path) -> Result<PathBuf, LedgerError> {
    let aside = with_suffix(path, &format!(".broken-{}", crate::clock::now_ms()));
    std::fs::rename(path, &aside).map_err(|source| LedgerError::SetAside { path: path.to_owned(), source })?;
    for suffix in ["-wal", "-shm"] {
        let companion = with_suffix(path, suffix);
        match std::fs::rename(&companion, with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(LedgerError::SetAside { path: companion, source: error });
            }
            _ => {}
        }
    }
    Ok(aside)
}
