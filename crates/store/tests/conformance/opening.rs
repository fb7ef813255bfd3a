//! Opening a database: privately, safely, as often as wanted, and never one from the future.

use crate::database::Database;
use crate::fixtures::*;
use sqlx::{Connection, SqliteConnection};
use std::error::Error as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use store::{Error, Store};

/// Less than the store waits for a database that says nothing.
const AT_ONCE: Duration = Duration::from_secs(9);

on_every_database![
    opening_again_changes_nothing,
    opening_at_once_from_several_places_works,
    a_database_of_a_newer_version_is_refused,
    the_store_says_which_database_it_is,
];

async fn opening_again_changes_nothing(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (stack, _) = shop(&store, &tenant).await;
    store.close().await;
    assert!(matches!(store.ping().await, Err(Error::Unavailable(_))));
    let store = database.open().await;
    assert_eq!(store.stack_list(&tenant.scope).await.unwrap(), [stack]);
    let mut connection = database.connect().await;
    let (migrations,) =
        sqlx::query_as::<_, (i64,)>("SELECT COUNT(*) FROM _sqlx_migrations").fetch_one(&mut connection).await.unwrap();
    assert_eq!(migrations, std::fs::read_dir("migrations").unwrap().count() as i64);
}

async fn opening_at_once_from_several_places_works(database: Database) {
    database.open().await;
    let opens: Vec<_> = (0..4)
        .map(|n| {
            let database = database.clone();
            tokio::spawn(async move { tenant(&database.open().await, &format!("tenant{n}")).await })
        })
        .collect();
    for open in opens {
        open.await.unwrap();
    }
    assert_eq!(database.open().await.organization_list().await.unwrap().len(), 4);
}

async fn a_database_of_a_newer_version_is_refused(database: Database) {
    database.open().await.close().await;
    let mut connection = database.connect().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         SELECT 9999, 'from the future', installed_on, success, checksum, 0 FROM _sqlx_migrations WHERE version = 1",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    // Twice: the first refusal holds no lock.
    for _ in 0..2 {
        let error = Store::open(&database.url).await.unwrap_err();
        assert!(matches!(error, Error::Newer { version: 9999 }), "{error:?}");
        assert!(error.to_string().contains("newer Mainstay"), "{error}");
    }
}

async fn the_store_says_which_database_it_is(database: Database) {
    let store = database.open().await;
    store.ping().await.unwrap();
    assert_eq!(store.dialect_name(), if database.file.is_some() { "sqlite" } else { "postgres" });
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

/// All that an error says, source by source.
fn said(error: &Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[tokio::test]
async fn a_database_file_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mainstay.db");
    let store = Store::open_sqlite(&file).await.unwrap();
    tenant(&store, "acme").await;
    for name in ["mainstay.db", "mainstay.db-wal", "mainstay.db-shm"] {
        assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_database_file_that_others_may_read_is_made_private() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mainstay.db");
    Store::open_sqlite(&file).await.unwrap().close().await;
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = Store::open_sqlite(&file).await.unwrap();
    tenant(&store, "acme").await;
    assert_eq!((mode(&file), mode(&folder.path().join("mainstay.db-wal"))), (0o600, 0o600));
}

#[tokio::test]
async fn an_unusual_path_is_opened_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("a b#c?d%20ü&mode=memory");
    std::fs::create_dir(&inside).unwrap();
    let file = inside.join("main stay.db");
    let store = Store::open_sqlite(&file).await.unwrap();
    tenant(&store, "acme").await;
    assert!(file.metadata().unwrap().len() > 0);
    let link = folder.path().join("link.db");
    symlink(&file, &link).unwrap();
    assert_eq!(Store::open_sqlite(&link).await.unwrap().organization_list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_named_as_such_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mainstay.db");
    std::fs::write(&file, "This is a letter, and a rather long one. ".repeat(100)).unwrap();
    let started = Instant::now();
    let error = Store::open_sqlite(&file).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(said(&error).contains("file is not a database"), "{}", said(&error));
    assert!(started.elapsed() < AT_ONCE);
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("This is a letter"), "it is left as it was");
}

#[tokio::test]
async fn what_cannot_be_opened_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open_sqlite(&folder.path().join("nowhere/mainstay.db")).await.unwrap_err();
    assert!(said(&error).contains("nowhere/mainstay.db"), "{}", said(&error));
    let error = Store::open_sqlite(folder.path()).await.unwrap_err();
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    for url in ["mysql://localhost/x", "mainstay.db", "", "sqlite:mainstay.db"] {
        let error = Store::open(url).await.unwrap_err();
        assert!(matches!(error, Error::Url), "{url}: {error:?}");
    }
    for url in ["sqlite://:memory:", "sqlite://x.db?mode=memory"] {
        let error = Store::open(url).await.unwrap_err();
        assert!(said(&error).contains("name a file"), "{url}: {}", said(&error));
    }
}

#[tokio::test]
async fn a_postgres_that_is_not_there_is_said_at_once_without_its_password() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let started = Instant::now();
    let error = Store::open(&format!("postgres://user:hunter2@127.0.0.1:{port}/x")).await.unwrap_err();
    assert!(matches!(error, Error::Connect(_)), "{error:?}");
    assert!(said(&error).contains("refused"), "{}", said(&error));
    assert!(!format!("{error:?}").contains("hunter2"));
    assert!(started.elapsed() < AT_ONCE);
}

/// The settings are of each connection, so the store's own are looked at: what it commits is
/// written through to the disk, and into a log that readers do not wait for.
#[tokio::test]
async fn sqlite_keeps_what_it_committed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mainstay.db");
    let store = Store::open_sqlite(&file).await.unwrap();
    let settings = store.sqlite_settings().await.unwrap();
    let of = |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
    assert_eq!(of("journal_mode"), Some("wal"));
    assert_eq!(of("synchronous"), Some("2"), "FULL");
    assert_eq!(of("foreign_keys"), Some("1"));
    assert_eq!(of("busy_timeout"), Some("10000"));
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    let (mode,) = sqlx::query_as::<_, (String,)>("PRAGMA journal_mode").fetch_one(&mut connection).await.unwrap();
    assert_eq!(mode, "wal");
}
