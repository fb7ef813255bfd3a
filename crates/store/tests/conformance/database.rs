//! Every test runs on SQLite, in a folder of its own, and on PostgreSQL, in a schema of its own, when
//! `MAINSTAY_TEST_POSTGRES_URL` names a server. Both are removed afterwards, whatever the test did.
//! `MAINSTAY_REQUIRE_POSTGRES=1` makes a missing PostgreSQL a failure instead of a sentence.

use sqlx::{AnyConnection, Connection, Executor};
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;
use store::Store;

/// A test that waits longer than this waits for ever.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// Makes each named `async fn(Database)` a test on every database: `name::sqlite` and `name::postgres`.
macro_rules! on_every_database {
    [$($name:ident),+ $(,)?] => {$(
        mod $name {
            #[test]
            fn sqlite() {
                crate::database::run_on_sqlite(super::$name);
            }

            #[test]
            fn postgres() {
                crate::database::run_on_postgres(super::$name);
            }
        }
    )+};
}

/// An empty database. It may be opened more than once, as by two processes.
#[derive(Debug, Clone)]
pub struct Database {
    pub url: String,
    /// The file, on SQLite.
    pub file: Option<PathBuf>,
}

impl Database {
    pub async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }

    /// A connection beside the store, to see or to change what the store would not.
    pub async fn connect(&self) -> AnyConnection {
        sqlx::any::install_default_drivers();
        AnyConnection::connect(&self.url).await.unwrap()
    }
}

pub fn run_on_sqlite<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Database) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mainstay.db");
    let database = Database { url: format!("sqlite://{}", file.display()), file: Some(file) };
    let outcome = runtime().block_on(limited(test(database)));
    drop(folder);
    finish(outcome);
}

pub fn run_on_postgres<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Database) -> F) {
    let Some(server) = postgres_url() else { return };
    let schema = format!("mainstay_{}", uuid::Uuid::now_v7().simple());
    let joiner = if server.contains('?') { '&' } else { '?' };
    let database = Database { url: format!("{server}{joiner}options=-c%20search_path%3D{schema}"), file: None };
    let outcome = runtime().block_on(async {
        sqlx::any::install_default_drivers();
        run_there(&server, format!("CREATE SCHEMA {schema}")).await;
        let outcome = limited(test(database)).await;
        run_there(&server, format!("DROP SCHEMA {schema} CASCADE")).await;
        outcome
    });
    finish(outcome);
}

async fn run_there(server: &str, sql: String) {
    let mut connection = AnyConnection::connect(server).await.expect("MAINSTAY_TEST_POSTGRES_URL must answer");
    connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    connection.close().await.unwrap();
}

fn postgres_url() -> Option<String> {
    let url = std::env::var("MAINSTAY_TEST_POSTGRES_URL").ok().filter(|url| !url.is_empty());
    let required = std::env::var("MAINSTAY_REQUIRE_POSTGRES").is_ok_and(|value| value == "1");
    if url.is_none() {
        assert!(!required, "MAINSTAY_REQUIRE_POSTGRES is 1, but MAINSTAY_TEST_POSTGRES_URL names no server");
        static SAID: Once = Once::new();
        // Past the test harness, which keeps what a passing test prints to itself.
        SAID.call_once(|| {
            let _ = writeln!(
                std::io::stderr().lock(),
                "PostgreSQL was skipped: set MAINSTAY_TEST_POSTGRES_URL to test it too"
            );
        });
    }
    url
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

type Outcome = Result<Result<(), tokio::time::error::Elapsed>, tokio::task::JoinError>;

/// In a task of its own, so that a test that panics is still cleaned up after.
async fn limited(test: impl Future<Output = ()> + Send + 'static) -> Outcome {
    tokio::spawn(tokio::time::timeout(TEST_LIMIT, test)).await
}

fn finish(outcome: Outcome) {
    match outcome {
        Ok(within) => within.expect("the test did not end in time"),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => panic!("{error}"),
    }
}
