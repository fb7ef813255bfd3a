//! The power goes while the ledger is being written, at every byte.
//!
//! Either the last write is there or it is not; what was acknowledged before it always is; and a ledger
//! that cannot be read any more is set aside and said so. Never something else.

#[path = "../../../store/tests/conformance/power_cut.rs"]
mod power_cut;

use agent::ledger::{FailureRecord, Ledger};
use api::cause::Cause;
use api::desired::SignedDesiredState;
use api::events::{Event, EventKind, EventLevel};
use api::ids::{DeploymentId, EventId};
use api::logs::LogSource;
use power_cut::{Case, Cut, Files};
use sqlx::{Connection, SqliteConnection};
use std::collections::BTreeMap;
use std::path::Path;

/// Everything that the ledger knows.
#[derive(Debug, Clone, PartialEq)]
struct Contents {
    desired: Option<SignedDesiredState>,
    highest_generation: u64,
    events: Vec<Event>,
    log_offsets: BTreeMap<String, u64>,
    failures: BTreeMap<String, FailureRecord>,
}

impl Contents {
    async fn of(ledger: &Ledger) -> Self {
        Self {
            desired: ledger.desired_load().await.unwrap(),
            highest_generation: ledger.highest_generation().await.unwrap(),
            events: ledger.outbox_pending().await.unwrap(),
            log_offsets: ledger.log_offsets().await.unwrap(),
            failures: ledger.failures_load().await.unwrap(),
        }
    }
}

fn signed(generation: u64, bytes: usize) -> SignedDesiredState {
    let document = format!("{generation}:{}", "x".repeat(bytes));
    SignedDesiredState {
        generation,
        sha256: wire::sha256_hex(document.as_bytes()),
        document,
        signature: "s".into(),
        key_id: "k".into(),
    }
}

fn event(number: u128) -> Event {
    Event {
        id: EventId::from_uuid(uuid::Uuid::from_u128(number)),
        at_ms: 0,
        kind: EventKind::HealthChanged,
        level: EventLevel::Info,
        message: format!("event {number}"),
        cause: Cause::system("test", "test"),
        stack_id: None,
        service_id: None,
        deployment_id: None,
        instance_id: None,
        server_id: None,
    }
}

fn log() -> LogSource {
    LogSource::Build { deployment_id: DeploymentId::from_uuid(uuid::Uuid::from_u128(1)) }
}

/// A ledger with something of everything in it.
async fn used(path: &Path) -> Ledger {
    let ledger = Ledger::open(path).await.unwrap().ledger;
    ledger.desired_accept(&signed(6, 3_000), 1).await.unwrap();
    ledger.outbox_append(&[event(1), event(2)], 1).await.unwrap();
    ledger.log_offset_put(&log(), 100, 1).await.unwrap();
    let failure = FailureRecord {
        attempts: 2,
        error: "no".into(),
        retryable: true,
        failed_at_ms: 1,
        retry_at_ms: 2,
        target: "t".into(),
    };
    ledger.failure_put("service web", &failure).await.unwrap();
    ledger
}

/// Two moments of one ledger and what it knew at each.
struct Moments {
    cut: Cut,
    before: Contents,
    after: Contents,
}

impl Moments {
    async fn around(ledger: &Ledger, path: &Path, write: impl AsyncFnOnce(&Ledger)) -> Self {
        let (before, files) = (Contents::of(ledger).await, Files::copy(path));
        write(ledger).await;
        let after = Contents::of(ledger).await;
        assert_ne!(before, after, "the test writes something");
        Self { cut: Cut { before: files, after: Files::copy(path) }, before, after }
    }

    /// The ledger is the one of before or of after, and goes on from there.
    async fn check(&self, case: &Case) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        case.files.lay(&path);
        let opened = Ledger::open(&path).await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(opened.set_aside, None, "{}: nothing acknowledged may be lost", case.name);
        let found = Contents::of(&opened.ledger).await;
        let expected = if case.whole { &self.after } else { &self.before };
        assert_eq!(&found, expected, "{}", case.name);
        opened.ledger.close().await;
    }

    async fn check_all(&self, cases: impl IntoIterator<Item = Case>) -> usize {
        let mut count = 0;
        for case in cases {
            self.check(&case).await;
            count += 1;
        }
        count
    }
}

#[tokio::test]
async fn a_ledger_cut_off_at_any_byte_of_a_small_write_is_the_one_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = used(&path).await;
    let write = async |ledger: &Ledger| ledger.log_offset_put(&log(), 260, 2).await.unwrap();
    let moments = Moments::around(&ledger, &path, write).await;
    let (from, to) = moments.cut.written();
    assert!(to - from > 4096, "a page with its header");
    // In debug builds and beside other tests: every byte of the frame's header and around each sector, and
    // every third of the rest, unless all are asked for.
    let all = std::env::var_os("MAINSTAY_TEST_EVERY_BYTE").is_some();
    let lengths = (from..=to).filter(|n| all || n - from < 64 || to - n < 64 || n % 512 < 2 || n % 3 == 0);
    assert!(moments.check_all(lengths.map(|length| moments.cut.prefix(length))).await > 1_000);
}

#[tokio::test]
async fn a_ledger_survives_torn_sectors_and_a_lost_index_of_a_large_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = used(&path).await;
    let write = async |ledger: &Ledger| {
        ledger.desired_accept(&signed(7, 40_000), 2).await.unwrap();
    };
    let moments = Moments::around(&ledger, &path, write).await;
    let (from, to) = moments.cut.written();
    assert!(to - from > 40_000);
    assert!(moments.check_all(moments.cut.torn_sectors()).await > 200);
    moments.check_all((from..to).step_by(509).map(|length| moments.cut.prefix(length))).await;
    moments.check_all(moments.cut.lost_index()).await;
}

#[tokio::test]
async fn a_ledger_survives_a_cut_when_its_log_begins_anew_over_old_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = used(&path).await;
    let mut beside = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::raw_sql("PRAGMA wal_checkpoint(RESTART)").execute(&mut beside).await.unwrap();
    let write = async |ledger: &Ledger| ledger.outbox_append(&[event(3)], 2).await.unwrap();
    let moments = Moments::around(&ledger, &path, write).await;
    let (from, to) = moments.cut.written();
    assert!(from < 32, "the log's own header is written anew");
    assert!(to < moments.cut.after.wal.len(), "old content lies behind");
    moments.check_all(moments.cut.torn_sectors()).await;
    let lengths = (from + 1..to).filter(|n| *n < 200 || n % 61 == 0);
    moments.check_all(lengths.map(|length| moments.cut.prefix(length))).await;
}

#[tokio::test]
async fn a_ledger_survives_a_cut_while_its_log_is_copied_into_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = used(&path).await;
    let write = async |ledger: &Ledger| {
        ledger.desired_accept(&signed(7, 20_000), 2).await.unwrap();
    };
    let moments = Moments::around(&ledger, &path, write).await;
    let mut beside = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::raw_sql("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut beside).await.unwrap();
    let copied = std::fs::read(&path).unwrap();
    assert!(moments.check_all(moments.cut.torn_checkpoint(&copied)).await > 20);
}

#[tokio::test]
async fn a_ledger_whose_file_was_cut_short_is_whole_or_set_aside_and_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    let ledger = used(&path).await;
    let mut beside = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut beside).await.unwrap();
    let write = async |ledger: &Ledger| ledger.log_offset_put(&log(), 260, 2).await.unwrap();
    let moments = Moments::around(&ledger, &path, write).await;
    let mut set_aside = 0;
    for case in moments.cut.shortened_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        case.files.lay(&path);
        let opened = Ledger::open(&path).await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let found = Contents::of(&opened.ledger).await;
        match opened.set_aside {
            None => assert_eq!(found, moments.after, "{}", case.name),
            Some((aside, reason)) => {
                set_aside += 1;
                assert!(!reason.is_empty());
                let kept = std::fs::read(aside).unwrap();
                // SQLite may have completed it from its log while it looked.
                assert!(kept.len() >= case.files.main.len(), "{}: what is left is kept", case.name);
                assert_eq!((found.desired, found.highest_generation), (None, 0), "{}: begun anew", case.name);
            }
        }
        opened.ledger.close().await;
    }
    assert!(set_aside > 0);
}
