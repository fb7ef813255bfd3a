//! What a call can fail with, apart by what the caller can do about it.

use std::error::Error as StdError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the database URL must begin with sqlite:// or postgres://")]
    Url,
    #[error("cannot open the database; check its URL, that it runs and that it may be read and written")]
    Connect(#[source] Box<dyn StdError + Send + Sync>),
    /// Opened as it is, and it is not.
    #[error("there is no database {}", path.display())]
    Missing { path: std::path::PathBuf },
    #[error(
        "the database was written by a newer Mainstay (its schema has version {version}, unknown here); \
         run the newer binary or restore a backup from before the upgrade"
    )]
    Newer { version: i64 },
    /// What lies on the disk is not what was written.
    #[error(
        "the database is damaged ({reason}); nothing was changed in it. Put the last backup back with \
         `mainstay restore FILE`; machines go on with what they have meanwhile"
    )]
    Damaged { reason: String },
    #[error("cannot bring the database schema up to date")]
    Migrate(#[source] Box<dyn StdError + Send + Sync>),
    /// No such row in this organization.
    #[error("there is no {noun} `{key}`")]
    NotFound { noun: &'static str, key: String },
    /// What is there contradicts what was asked; nothing was changed.
    #[error("{0}")]
    Conflict(String),
    /// The row moved since it was read; read again.
    #[error("the {noun} changed meanwhile: expected {expected}, found {found}")]
    Stale { noun: &'static str, expected: String, found: String },
    #[error("the join token is not known; it may have been revoked")]
    TokenUnknown,
    #[error("the join token was used already; each is good for one machine")]
    TokenUsed,
    #[error("the join token has expired")]
    TokenExpired,
    #[error("all {} server numbers of the organization are taken; remove a server first", api::servers::SERVERS_LIMIT)]
    ServersFull,
    #[error("all addresses for containers on server {server} are taken; it can have 253 of them")]
    AddressesFull { server: String },
    /// A row that this version cannot read.
    #[error("a stored {noun} cannot be read")]
    Corrupt {
        noun: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Where a dump goes to or comes from.
    #[error("the dump cannot be written or read")]
    Stream(#[source] std::io::Error),
    /// No room is left where the database lies; nothing was changed.
    #[error("the disk of the database is full")]
    Full(#[source] sqlx::Error),
    /// The database is away or busy; trying again may help.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    #[error("a database statement failed")]
    Database(#[source] sqlx::Error),
}

impl Error {
    pub(crate) fn connect(source: sqlx::Error) -> Self {
        Self::Connect(Box::new(source))
    }

    pub(crate) fn not_found(noun: &'static str, key: impl Into<String>) -> Self {
        Self::NotFound { noun, key: key.into() }
    }

    pub(crate) fn corrupt(noun: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Corrupt { noun, source: source.into() }
    }

    /// Whether a unique index refused the row.
    pub(crate) fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(inner)) if inner.is_unique_violation())
    }

    /// Whether the row that a new one refers to is not there.
    pub(crate) fn is_foreign_key_violation(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(inner)) if inner.is_foreign_key_violation())
    }

    /// The same once more, for each of those whose commit failed with it.
    pub(crate) fn for_all(&self) -> Self {
        let reason = sqlx::Error::Protocol(self.source().map_or_else(|| self.to_string(), ToString::to_string));
        match self {
            Self::Full(_) => Self::Full(reason),
            _ => Self::Unavailable(reason),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(inner) = &error
            && inner.code().is_some_and(|code| is_full(&code))
        {
            return Self::Full(error);
        }
        let away = match &error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
                true
            }
            sqlx::Error::Database(inner) => inner.code().is_some_and(|code| may_pass(&code)),
            _ => false,
        };
        if away { Self::Unavailable(error) } else { Self::Database(error) }
    }
}

/// Whether a database's error code tells of its condition and not of the statement. PostgreSQL's have
/// five characters; SQLite's are numbers whose low byte is the kind.
fn may_pass(code: &str) -> bool {
    if code.len() == 5 {
        // Connection, resources, shutdown and timeouts; serialization and deadlock; lock and idle timeouts.
        return matches!(&code[..2], "08" | "53" | "57") || matches!(code, "40001" | "40P01" | "55P03" | "25P03");
    }
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const IO: u32 = 10;
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, BUSY | LOCKED | IO))
}

/// `disk_full` of PostgreSQL, `SQLITE_FULL` of SQLite.
fn is_full(code: &str) -> bool {
    code == "53100" || code == "13"
}
