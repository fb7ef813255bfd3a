//! The only SQL of the control plane: SQLite and PostgreSQL behind one set of queries.
//!
//! **Scope.** Every call takes a [`Scope`], and every statement names its organization: another
//! tenant's row does not exist. The few calls that come before a scope is known (looking up who
//! holds a token, a session or a machine's secret; first start; retention) are together in
//! [`unscoped`].
//!
//! **One writer per organization.** A write transaction first touches its organization's row. On
//! SQLite there is one writer anyway (one connection, and `BEGIN IMMEDIATE` for the case of another
//! process, so that a transaction never reads first and then finds it may not write), and writes that come
//! at the same time share a commit ([`pen`]); on PostgreSQL the row lock puts the organization's writers in line.
//! What is read inside is therefore still true when it is written, on both, without retries. Single
//! statements (nonces) and reports without events do not take it.
//!
//! **Told with it.** A change and the events that tell of it are one transaction.
//!
//! **Order.** Events and log lines get their sequence from a counter row inside the transaction, not
//! from a database sequence: whoever reads "after 17" never misses a 16 that commits later.
//!
//! **Portability.** Through sqlx's `Any` driver, with TEXT and BIGINT only; see docs/rfd/0004. So a
//! [`Store::dump`] of one database can be [`load`]ed into the other.

mod addresses;
mod certificate_orders;
mod certificates;
mod codec;
mod connect;
mod credentials;
mod damage;
mod deployments;
mod desired;
mod documents;
mod dump;
mod error;
mod events;
mod fleet;
mod gate;
mod instances;
mod log_streams;
mod logs;
mod metrics;
mod migrations;
mod names;
mod nonces;
mod observed;
mod pen;
mod projects;
mod reports;
mod retention;
mod revisions;
mod servers;
mod service_pages;
mod services;
mod settings;
mod stacks;
mod statement;
mod tokens;
pub mod unscoped;
mod users;

pub use certificate_orders::{CertificateOrder, OrderBegun};
pub use certificates::Certificate;
pub use connect::drivers_are_installed;
pub use credentials::Credential;
pub use deployments::{Begun, DeploymentCreate, RevisionCreate, Tell};
pub use desired::DesiredRow;
pub use dump::{DumpSummary, LOG_TABLES, TABLES, is_empty, load};
pub use error::Error;
pub use events::EventFilter;
pub use gate::Gate;
pub use instances::{Instance, InstanceChange, RolloutWrite};
pub use logs::{LogFilter, LogKind};
pub use metrics::{ChunkTime, MetricChunk};
pub use migrations::NEWEST as NEWEST_SCHEMA;
pub use observed::ObservedRow;
pub use projects::Project;
pub use reports::ReportWrite;
pub use retention::Retention;
pub use servers::{LeastLoaded, Server, ServerBinding, ServerJoin};
pub use service_pages::{ServiceCursor, ServiceFilter};
pub use services::Service;
pub use stacks::{RevisionChange, ServiceDeploy, ServiceRemoval, Stack, StackDeploy, StackDeployed, StackRemove};
pub use tokens::TokenCreate;
pub use unscoped::User;

use api::cause::Actor;
use api::ids::OrganizationId;
use pen::{Pen, Write};
use sqlx::any::{Any, AnyArguments, AnyQueryResult};
use sqlx::query::Query;
use sqlx::{AnyPool, Transaction};
use std::path::Path;
use std::sync::Arc;

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
    /// For reading. On SQLite it refuses to write.
    pool: AnyPool,
    /// For whatever writes, a transaction or a single statement.
    writer: AnyPool,
    dialect: Dialect,
    /// Who writes on SQLite.
    pen: Pen,
    gate: Option<Arc<dyn Gate>>,
}

impl Store {
    /// The embedded database in one file, made if it is not there, readable by its owner alone.
    pub async fn open_sqlite(path: &Path) -> Result<Self> {
        Self::open(&connect::sqlite_url(path)?).await
    }

    /// By URL: `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`. Brings the schema up to date.
    pub async fn open(url: &str) -> Result<Self> {
        Ok(Self::on(connect::open(url, connect::Migrate::ToNewest).await?))
    }

    fn on(connect::Pools { dialect, reader, writer }: connect::Pools) -> Self {
        Self { pool: reader, writer, dialect, pen: Pen::default(), gate: None }
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

    /// What holds on the connection that writes, for diagnosis; nothing on PostgreSQL, whose server decides.
    pub async fn sqlite_settings(&self) -> Result<Vec<(&'static str, String)>> {
        if self.dialect == Dialect::Postgres {
            return Ok(Vec::new());
        }
        let mut connection = self.writer.acquire().await?;
        let (journal,) = sqlx::query_as::<_, (String,)>("PRAGMA journal_mode").fetch_one(&mut *connection).await?;
        let mut settings = vec![("journal_mode", journal)];
        for (name, sql) in [
            ("synchronous", "PRAGMA synchronous"),
            ("foreign_keys", "PRAGMA foreign_keys"),
            ("busy_timeout", "PRAGMA busy_timeout"),
        ] {
            let (value,) = sqlx::query_as::<_, (i64,)>(sql).fetch_one(&mut *connection).await?;
            settings.push((name, value.to_string()));
        }
        Ok(settings)
    }

    pub async fn close(&self) {
        self.writer.close().await;
        self.pool.close().await;
    }

    /// A transaction that only reads, and all of it at one moment.
    async fn read(&self) -> Result<Transaction<'static, Any>> {
        let begin = match self.dialect {
            Dialect::Sqlite => "BEGIN",
            Dialect::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        };
        self.begin(&self.pool, begin).await
    }

    /// A transaction that is the organization's only writer until it ends.
    async fn write(&self, organization: &OrganizationId) -> Result<Write> {
        let mut transaction = self.write_beside_others().await?;
        let touched = sqlx::query("UPDATE organizations SET writes = writes + 1 WHERE id = $1")
            .bind(organization.as_str())
            .execute(&mut *transaction)
            .await?;
        if touched.rows_affected() == 0 {
            return Err(Error::not_found("organization", organization.as_str()));
        }
        Ok(transaction)
    }

    /// A transaction for rows that nobody else writes.
    async fn write_beside_others(&self) -> Result<Write> {
        self.pass_gate()?;
        match self.dialect {
            Dialect::Sqlite => self.pen.turn().await?.begin(&self.writer).await,
            Dialect::Postgres => Ok(Write::alone(self.begin(&self.writer, "BEGIN").await?)),
        }
    }

    /// A single statement that writes.
    async fn execute(&self, statement: Query<'_, Any, AnyArguments>) -> Result<AnyQueryResult> {
        self.pass_gate()?;
        let turn = match self.dialect {
            Dialect::Sqlite => Some(self.pen.turn().await?),
            Dialect::Postgres => None,
        };
        match turn {
            Some(turn) if turn.is_shared() => {
                let mut write = turn.begin(&self.writer).await?;
                let done = statement.execute(&mut *write).await.map_err(Error::from);
                write.end(done).await
            }
            // Kept until the statement is through.
            _turn => Ok(statement.execute(&self.writer).await?),
        }
    }

    /// Begins a transaction that is ended whatever becomes of the caller.
    ///
    /// A caller is dropped when its client hangs up. On PostgreSQL, whoever is dropped between `BEGIN` and
    /// its answer leaves a transaction that sqlx knows nothing of on a connection that the pool gives to
    /// the next: what that one writes looks done and is never committed, or everything on it fails. So
    /// `BEGIN` runs to its end in a task of its own; if nobody waits for it any more, the transaction is
    /// dropped there and rolled back. (SQLite's driver takes care of this by itself.)
    async fn begin(&self, pool: &AnyPool, statement: &'static str) -> Result<Transaction<'static, Any>> {
        if self.dialect == Dialect::Sqlite {
            return Ok(pool.begin_with(statement).await?);
        }
        let pool = pool.clone();
        match tokio::spawn(async move { pool.begin_with(statement).await }).await {
            Ok(begun) => Ok(begun?),
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends, and its connections with it.
                Err(_) => Err(sqlx::Error::PoolClosed.into()),
            },
        }
    }
}

/// The number last taken from a counter; 0 before the first. It does not fall when rows are forgotten.
async fn newest_number(store: &Store, organization: &OrganizationId, name: &str) -> Result<i64> {
    let row = sqlx::query_as::<_, (i64,)>("SELECT value FROM counters WHERE organization_id = $1 AND name = $2")
        .bind(organization.as_str())
        .bind(name)
        .fetch_optional(&store.pool)
        .await?;
    Ok(row.map_or(0, |(value,)| value))
}

/// Takes `count` numbers from a counter and answers the first. The counter's row stays locked until
/// the transaction ends, so numbers become visible in their order.
async fn take_numbers(transaction: &mut Write, organization: &OrganizationId, name: &str, count: i64) -> Result<i64> {
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
