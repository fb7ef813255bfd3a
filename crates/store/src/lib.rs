//! The only SQL of the control plane: SQLite and PostgreSQL behind one set of queries.
//!
//! **Scope.** Every call takes a [`Scope`], and every statement names its organization: another
//! tenant's row does not exist. The few calls that come before a scope is known (looking up who
//! holds a token, a session or a machine's secret; first start; retention) are together in
//! [`unscoped`].
//!
//! **One writer per organization.** A write transaction first touches its organization's row. On
//! SQLite there is one writer anyway (`BEGIN IMMEDIATE`, so that a transaction never reads first and
//! then finds it may not write); on PostgreSQL the row lock puts the organization's writers in line.
//! What is read inside is therefore still true when it is written, on both, without retries. Hot
//! single-statement writes (reports, nonces) do not take it.
//!
//! **Order.** Events and log lines get their sequence from a counter row inside the transaction, not
//! from a database sequence: whoever reads "after 17" never misses a 16 that commits later.
//!
//! **Portability.** Through sqlx's `Any` driver, with TEXT and BIGINT only; see docs/rfd/0004.

mod codec;
mod credentials;
mod deployments;
mod desired;
mod error;
mod events;
mod instances;
mod logs;
mod observed;
mod projects;
mod revisions;
mod servers;
mod services;
mod stacks;
mod tokens;
pub mod unscoped;
mod users;

pub use credentials::Credential;
pub use deployments::{DeploymentCreate, RevisionCreate};
pub use desired::DesiredRow;
pub use error::Error;
pub use events::EventFilter;
pub use instances::{Instance, InstanceChange, RolloutWrite};
pub use logs::{LogFilter, LogKind};
pub use observed::ObservedRow;
pub use projects::Project;
pub use servers::{Server, ServerBinding, ServerJoin};
pub use services::Service;
pub use stacks::{RevisionChange, ServiceDeploy, ServiceRemoval, Stack, StackDeploy, StackDeployed};
pub use tokens::TokenCreate;
pub use unscoped::{Retention, User};

use api::cause::Actor;
use api::ids::OrganizationId;
use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyPool, Executor, Transaction};
use std::path::Path;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Error>;

/// For whom a call is made, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub organization: OrganizationId,
    pub actor: Actor,
}

impl Scope {
    /// Mainstay itself, on behalf of one organization.
    pub fn system(organization: OrganizationId, part: &str) -> Self {
        Self { organization, actor: Actor::system(part) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

/// A handle to the database; clones share the connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    dialect: Dialect,
}

/// How long a caller waits for a free connection, and SQLite for its lock.
const WAIT: Duration = Duration::from_secs(10);

impl Store {
    /// The embedded database in one file, made if it is not there.
    pub async fn open_sqlite(path: &Path) -> Result<Self> {
        let text = path.to_string_lossy().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
        Self::open(&format!("sqlite://{text}?mode=rwc")).await
    }

    /// By URL: `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`. Brings the schema up to date.
    pub async fn open(url: &str) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let dialect = match url.split(':').next() {
            Some("sqlite") => Dialect::Sqlite,
            Some("postgres" | "postgresql") => Dialect::Postgres,
            _ => return Err(Error::Url),
        };
        let pool = AnyPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(WAIT)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if dialect == Dialect::Sqlite {
                        for pragma in PRAGMAS {
                            connection.execute(pragma).await?;
                        }
                    }
                    Ok(())
                })
            })
            .connect(url)
            .await
            .map_err(Error::connect)?;
        let store = Self { pool, dialect };
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<()> {
        sqlx::migrate!().run(&self.pool).await.map_err(|e| match e {
            sqlx::migrate::MigrateError::VersionMissing(version) => Error::Newer { version },
            other => Error::Migrate(Box::new(other)),
        })
    }

    /// `sqlite` or `postgres`.
    pub fn dialect_name(&self) -> &'static str {
        match self.dialect {
            Dialect::Sqlite => "sqlite",
            Dialect::Postgres => "postgres",
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// A transaction that is the organization's only writer until it ends.
    async fn write(&self, organization: &OrganizationId) -> Result<Transaction<'static, Any>> {
        let begin = match self.dialect {
            Dialect::Sqlite => "BEGIN IMMEDIATE",
            Dialect::Postgres => "BEGIN",
        };
        let mut transaction = self.pool.begin_with(begin).await?;
        let touched = sqlx::query("UPDATE organizations SET writes = writes + 1 WHERE id = $1")
            .bind(organization.as_str())
            .execute(&mut *transaction)
            .await?;
        if touched.rows_affected() == 0 {
            return Err(Error::not_found("organization", organization.as_str()));
        }
        Ok(transaction)
    }
}

const PRAGMAS: [&str; 4] = [
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 10000",
    "PRAGMA foreign_keys = ON",
];

/// Takes `count` numbers from a counter and answers the first. The counter's row stays locked until
/// the transaction ends, so numbers become visible in their order.
async fn take_numbers(
    transaction: &mut Transaction<'static, Any>,
    organization: &OrganizationId,
    name: &str,
    count: i64,
) -> Result<i64> {
    let row = sqlx::query_as::<_, (i64,)>(
        "INSERT INTO counters (organization_id, name, value) VALUES ($1, $2, $3)
         ON CONFLICT (organization_id, name) DO UPDATE SET value = counters.value + excluded.value
         RETURNING value",
    )
    .bind(organization.as_str())
    .bind(name)
    .bind(count)
    .fetch_one(&mut **transaction)
    .await?;
    Ok(row.0 - count + 1)
}
