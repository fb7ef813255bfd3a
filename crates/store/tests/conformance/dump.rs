//! A dump holds everything, as of one moment, and goes into either database.

use crate::database::Database;
use crate::fixtures::*;
use sqlx::{AnyConnection, AssertSqlSafe};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use store::{DumpSummary, Error, Store};

on_every_database![
    what_was_dumped_and_loaded_is_what_was_there,
    a_dump_made_while_others_write_is_of_one_moment,
    every_table_of_the_schema_is_in_a_dump,
    loading_into_a_database_that_is_not_empty_changes_nothing,
    a_dump_that_breaks_off_or_does_not_fit_leaves_an_empty_database,
    a_dump_of_a_newer_schema_is_refused,
    a_setting_is_kept_replaced_and_forgotten,
];

async fn dumped(store: &Store, with_logs: bool) -> (Vec<u8>, DumpSummary) {
    let mut bytes = Vec::new();
    let summary = store.dump(&mut bytes, with_logs, &mut |_| {}).await.unwrap();
    (bytes, summary)
}

/// Lines in any order: a database answers rows in the order that it likes.
fn sorted(bytes: &[u8]) -> Vec<&str> {
    let mut lines: Vec<&str> = std::str::from_utf8(bytes).unwrap().lines().collect();
    lines.sort_unstable();
    lines
}

/// Something in every kind of column: nothing, text with everything in it, negative and large numbers.
async fn filled(store: &Store) -> Tenant {
    let tenant = tenant(store, "acme").await;
    let server = joined(store, &tenant.scope, "web").await.id;
    store
        .token_create(&tenant.scope, &token("unused \"quoted\" \\ \u{1F980} \u{1}\n", Some(i64::MAX)), &[], NOW)
        .await
        .unwrap();
    shop(store, &tenant).await;
    store.desired_state_put(&tenant.scope, &server, &desired(5)).await.unwrap();
    store.report_take(&tenant.scope, &server, &saw(&observed(&server, 5)), -1).await.unwrap();
    store.nonce_claim(&server, "a nonce", NOW).await.unwrap();
    store
        .event_append(&tenant.scope, &(0..1_700).map(|_| event("something happened")).collect::<Vec<_>>())
        .await
        .unwrap();
    tenant
}

async fn what_was_dumped_and_loaded_is_what_was_there(database: Database) {
    let store = database.open().await;
    let tenant = filled(&store).await;
    let (bytes, summary) = dumped(&store, true).await;
    assert_eq!(summary.rows["events"], 1_700, "{summary:?}");
    assert_eq!(summary.rows, store.row_counts().await.unwrap());
    // Into SQLite, from whichever it was: the form is one for both.
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("copy.db").display());
    assert!(store::is_empty(&url).await.unwrap());
    let loaded = store::load(&url, summary.schema, &mut bytes.as_slice(), &mut |_| {}).await.unwrap();
    assert_eq!(loaded, summary);
    assert!(!store::is_empty(&url).await.unwrap());
    let copy = Store::open(&url).await.unwrap();
    copy.integrity_check().await.unwrap();
    let (again, _) = dumped(&copy, true).await;
    assert_eq!(sorted(&again), sorted(&bytes));
    assert_eq!(copy.server_list(&tenant.scope).await.unwrap(), store.server_list(&tenant.scope).await.unwrap());
    copy.close().await;
    // And back into one of the kind that it came from, once that is empty.
    empty(&mut database.connect().await).await;
    assert!(store::is_empty(&database.url).await.unwrap());
    store::load(&database.url, summary.schema, &mut again.as_slice(), &mut |_| {}).await.unwrap();
    assert_eq!(sorted(&dumped(&database.open().await, true).await.0), sorted(&bytes));
}

async fn empty(connection: &mut AnyConnection) {
    for table in store::TABLES.iter().chain(&store::LOG_TABLES).rev() {
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {table}"))).execute(&mut *connection).await.unwrap();
    }
}

async fn a_dump_made_while_others_write_is_of_one_moment(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, scope, stop) = (store.clone(), tenant.scope.clone(), stop.clone());
        tokio::spawn(async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                // The counter and the events change in one transaction: a torn dump has them apart.
                store
                    .event_append(&scope, &(0..7).map(|_| event("something happened")).collect::<Vec<_>>())
                    .await
                    .unwrap();
                written += 7;
            }
            written
        })
    };
    let mut sizes = Vec::new();
    // Twenty, and on until something was written between two of them.
    while sizes.len() < 20 || (sizes.first() == sizes.last() && sizes.len() < 2_000) {
        let (bytes, summary) = dumped(&store, false).await;
        let text = String::from_utf8(bytes).unwrap();
        let line = text.lines().find(|line| line.contains("\"events\",") && !line.contains("table"));
        let counted = line.map_or(0, |line| serde_json::from_str::<(String, String, u64)>(line).unwrap().2);
        assert_eq!(counted, summary.rows["events"], "the counter and the rows are of two moments");
        sizes.push(counted);
    }
    stop.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    assert!(written > 0 && sizes.first() < sizes.last(), "nothing was written meanwhile: {sizes:?}");
}

async fn every_table_of_the_schema_is_in_a_dump(database: Database) {
    let store = database.open().await;
    let sql = if store.dialect_name() == "sqlite" {
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    } else {
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = current_schema()"
    };
    let rows = sqlx::query_as::<_, (String,)>(sql).fetch_all(&mut database.connect().await).await.unwrap();
    let mut tables: Vec<String> = rows.into_iter().map(|(name,)| name).filter(|n| n != "_sqlx_migrations").collect();
    tables.sort();
    let (_, summary) = dumped(&store, true).await;
    assert_eq!(summary.rows.into_keys().collect::<Vec<_>>(), tables);
}

async fn loading_into_a_database_that_is_not_empty_changes_nothing(database: Database) {
    let store = database.open().await;
    filled(&store).await;
    let (bytes, summary) = dumped(&store, true).await;
    let refused = store::load(&database.url, summary.schema, &mut bytes.as_slice(), &mut |_| {}).await.unwrap_err();
    assert!(matches!(&refused, Error::Conflict(message) if message.contains("not empty")), "{refused:?}");
    assert_eq!(dumped(&store, true).await.1, summary);
}

async fn a_dump_that_breaks_off_or_does_not_fit_leaves_an_empty_database(database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let source = Store::open_sqlite(&folder.path().join("source.db")).await.unwrap();
    filled(&source).await;
    let (bytes, summary) = dumped(&source, true).await;
    let text = String::from_utf8(bytes).unwrap();
    let half: String = text.chars().take(text.chars().count() / 2).collect();
    for broken in [
        half,
        text.replacen("\"organizations\"", "\"organisations\"", 1),
        text.replacen("\"created_at_ms\"", "\"created_at_ms; DROP TABLE users\"", 1),
        text.replacen("\"acme\"", "17", 1),
        text.lines().skip(1).collect::<Vec<_>>().join("\n"),
    ] {
        store::load(&database.url, summary.schema, &mut broken.as_bytes(), &mut |_| {}).await.unwrap_err();
        assert!(store::is_empty(&database.url).await.unwrap());
    }
    store::load(&database.url, summary.schema, &mut text.as_bytes(), &mut |_| {}).await.unwrap();
}

async fn a_dump_of_a_newer_schema_is_refused(database: Database) {
    let refused = store::load(&database.url, 9_999, &mut &b""[..], &mut |_| {}).await.unwrap_err();
    assert!(matches!(refused, Error::Newer { version: 9_999 }), "{refused:?}");
    assert!(store::is_empty(&database.url).await.unwrap());
}

async fn a_setting_is_kept_replaced_and_forgotten(database: Database) {
    let store = database.open().await;
    let (ours, theirs) = (tenant(&store, "acme").await.scope, tenant(&store, "other").await.scope);
    let all =
        async |scope| store.setting_list::<i64>(scope, "a/").await.unwrap().into_iter().collect::<BTreeMap<_, _>>();
    for (name, value) in [("a/x", 1), ("a/y", 2), ("b/x", 3), ("a/x", 4)] {
        store.setting_put(&ours, name, &value).await.unwrap();
    }
    assert_eq!(all(&ours).await, BTreeMap::from([("x".to_owned(), 4), ("y".to_owned(), 2)]));
    store.setting_delete(&theirs, "a/x").await.unwrap();
    assert!(all(&theirs).await.is_empty());
    store.setting_delete(&ours, "a/x").await.unwrap();
    assert_eq!(all(&ours).await, BTreeMap::from([("y".to_owned(), 2)]));
}
