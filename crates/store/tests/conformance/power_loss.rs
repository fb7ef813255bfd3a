//! The power goes while the SQLite database is being written, at every byte; and a disk that did not keep
//! what it had. PostgreSQL is its own affair.

use crate::fixtures::*;
use crate::power_cut::{Case, Cut, Files};
use api::events::Event;
use sqlx::{Connection, SqliteConnection};
use std::path::{Path, PathBuf};
use store::{Error, Scope, Store};

/// Every row of every table, in words: whatever differs, differs here.
async fn contents(path: &Path) -> String {
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let tables: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.name, group_concat('quote(\"' || c.name || '\")', '||'',''||')
         FROM sqlite_schema t JOIN pragma_table_info(t.name) c WHERE t.type = 'table' GROUP BY t.name ORDER BY t.name",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut text = String::new();
    for (table, columns) in tables {
        let sql = format!("SELECT {columns} FROM \"{table}\" ORDER BY 1");
        let rows: Vec<(String,)> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        text.push_str(&format!("{table}\n"));
        rows.iter().for_each(|(row,)| text.push_str(&format!("  {row}\n")));
    }
    connection.close().await.unwrap();
    text
}

struct Scene {
    folder: tempfile::TempDir,
    store: Store,
    scope: Scope,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("mainstay.db")).await.unwrap();
        let tenant = tenant(&store, "acme").await;
        shop(&store, &tenant).await;
        joined(&store, &tenant.scope, "web").await;
        Self { folder, store, scope: tenant.scope }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("mainstay.db")
    }

    async fn beside(&self, sql: &'static str) {
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", self.path().display())).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    async fn append(&self, events: &[Event]) {
        self.store.event_append(&self.scope, events).await.unwrap();
    }

    /// The files and what is in them, before and after a transaction of these events.
    async fn around(&self, events: &[Event]) -> Moments {
        let (before, first) = (Files::copy(&self.path()), contents(&self.path()).await);
        self.append(events).await;
        let (after, second) = (Files::copy(&self.path()), contents(&self.path()).await);
        assert_ne!(first, second);
        Moments { cut: Cut { before, after }, before: first, after: second }
    }
}

struct Moments {
    cut: Cut,
    before: String,
    after: String,
}

impl Moments {
    async fn check_all(&self, cases: impl IntoIterator<Item = Case>) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let mut count = 0;
        for case in cases {
            let path = folder.path().join(format!("{count}.db"));
            case.files.lay(&path);
            let opened = Store::open_sqlite(&path).await.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
            opened.close().await;
            let expected = if case.whole { &self.after } else { &self.before };
            // Not `assert_eq`: two whole databases side by side help nobody.
            assert!(&contents(&path).await == expected, "{}: neither before nor after, or the wrong one", case.name);
            count += 1;
        }
        count
    }
}

#[tokio::test]
async fn a_database_cut_off_anywhere_in_a_transaction_is_the_one_before_it() {
    let scene = Scene::new().await;
    let moments = scene.around(&[event("one")]).await;
    let (from, to) = moments.cut.written();
    let all = std::env::var_os("MAINSTAY_TEST_EVERY_BYTE").is_some();
    let lengths = (from..=to).filter(|n| all || n - from < 40 || to - n < 24 || n % 512 == 0 || n % 97 == 0);
    assert!(moments.check_all(lengths.map(|length| moments.cut.prefix(length))).await > 200);
}

#[tokio::test]
async fn a_database_survives_torn_sectors_and_a_lost_index() {
    let scene = Scene::new().await;
    let moments = scene.around(&[event("one"), event("two")]).await;
    assert!(moments.check_all(moments.cut.torn_sectors()).await > 100);
    moments.check_all(moments.cut.lost_index()).await;
}

#[tokio::test]
async fn a_database_survives_a_cut_when_its_log_begins_anew_over_old_content() {
    let scene = Scene::new().await;
    scene.beside("PRAGMA wal_checkpoint(RESTART)").await;
    let moments = scene.around(&[event("one")]).await;
    let (from, to) = moments.cut.written();
    assert!(from < 32 && to < moments.cut.after.wal.len(), "the log begins anew, and old content lies behind");
    moments.check_all(moments.cut.torn_sectors()).await;
    moments.check_all((from + 1..to).step_by(101).map(|length| moments.cut.prefix(length))).await;
}

#[tokio::test]
async fn a_database_survives_a_cut_while_its_log_is_copied_into_the_file() {
    let scene = Scene::new().await;
    let moments = scene.around(&[event("one")]).await;
    scene.beside("PRAGMA wal_checkpoint(PASSIVE)").await;
    let copied = std::fs::read(scene.path()).unwrap();
    assert!(moments.check_all(moments.cut.torn_checkpoint(&copied)).await > 50);
}

#[tokio::test]
async fn a_database_that_was_cut_short_is_refused_and_names_the_way_back() {
    let scene = Scene::new().await;
    scene.beside("PRAGMA wal_checkpoint(TRUNCATE)").await;
    let moments = scene.around(&[event("one")]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for (number, case) in moments.cut.shortened_files().into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.db"));
        case.files.lay(&path);
        match Store::open_sqlite(&path).await {
            Ok(store) => {
                store.close().await;
                assert!(contents(&path).await == moments.after, "{}: opened, and not whole", case.name);
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, Error::Damaged { .. }), "{}: {error:?}", case.name);
                assert!(error.to_string().contains("mainstay restore"), "{error}");
                let left = Files::copy(&path);
                // Not `assert_eq`: a whole database in numbers helps nobody.
                assert!(left.main == case.files.main, "{}: the file was changed", case.name);
                assert!(left.wal == case.files.wal, "{}: the log was changed", case.name);
            }
        }
    }
    assert!(refused >= 10, "{refused}");
}

#[tokio::test]
async fn a_rotten_page_is_refused_also_in_a_database_that_is_too_large_to_be_read_whole() {
    let scene = Scene::new().await;
    scene.store.close().await;
    let path = scene.path();
    // The page that a table begins on, by SQLite's own word.
    let root = async |table: &str| {
        let mut connection = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        let (page,): (i64,) = sqlx::query_as("SELECT rootpage FROM sqlite_schema WHERE name = $1")
            .bind(table)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        page as usize
    };
    let page = root("servers").await;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[(page - 1) * 4096..page * 4096].fill(0xa7);
    for size in [bytes.len(), 200 * 1024 * 1024] {
        std::fs::write(&path, &bytes).unwrap();
        if size > bytes.len() {
            // Free pages at the end, which no table refers to, without a byte of them on the disk.
            std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(size as u64).unwrap();
            let pages = u32::try_from(size / 4096).unwrap();
            let mut large = std::fs::read(&path).unwrap();
            large[28..32].copy_from_slice(&pages.to_be_bytes());
            std::fs::write(&path, &large).unwrap();
        }
        let error = Store::open_sqlite(&path).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{size}: {error:?}");
    }
}

#[tokio::test]
async fn a_database_cut_off_before_it_had_a_log_takes_its_last_transaction_back() {
    let scene = Scene::new().await;
    scene.store.close().await;
    scene.beside("PRAGMA journal_mode = DELETE").await;
    let before = contents(&scene.path()).await;
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", scene.path().display())).await.unwrap();
    // Without room to keep pages, they are written into the file before the end of the transaction.
    let half_done = "PRAGMA cache_size = 1; BEGIN; UPDATE servers SET name = name || hex(zeroblob(20000))";
    sqlx::raw_sql(half_done).execute(&mut connection).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mainstay.db");
    for suffix in ["", "-journal"] {
        let from = format!("{}{suffix}", scene.path().display());
        std::fs::copy(from, format!("{}{suffix}", path.display())).unwrap();
    }
    Store::open_sqlite(&path).await.unwrap().close().await;
    assert!(contents(&path).await == before, "the transaction was not taken back");
}
