//! Callers that are gone before they have their answer, as a request is whose client hangs up.

use crate::database::Database;
use crate::fixtures::*;
use sqlx::Connection;
use std::time::Duration;

on_every_database![what_is_written_after_a_caller_has_given_up_is_seen_by_everybody];

/// A transaction that nobody ends holds what others write on its connection, and never lets it go.
async fn what_is_written_after_a_caller_has_given_up_is_seen_by_everybody(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let mut beside = database.connect().await;
    // Given up at every moment of a call, from before its first statement to after its last.
    for attempt in 0..300u64 {
        let patience = Duration::from_micros(attempt * 20);
        let event = [event("x")];
        let _ = tokio::time::timeout(patience, store.event_append(&tenant.scope, &event)).await;

        let name = format!("n{attempt}");
        store.setting_put(&tenant.scope, &name, &attempt).await.unwrap();
        let seen = sqlx::query_as::<_, (i64,)>("SELECT count(*) FROM settings WHERE name = $1").bind(name);
        let (seen,) = seen.fetch_one(&mut beside).await.unwrap();
        assert_eq!(seen, 1, "setting {attempt} was acknowledged, and nobody else sees it");
    }
    beside.close().await.unwrap();
}
