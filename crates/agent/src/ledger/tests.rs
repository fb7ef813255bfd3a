use super::*;
use api::cause::Cause;
use api::events::{Event, EventKind, EventLevel};
use api::ids::{DeploymentId, EventId, ServiceId};
use api::logs::LogSource;

async fn ledger(directory: &tempfile::TempDir) -> Ledger {
    Ledger::open(&directory.path().join("ledger.db")).await.unwrap().ledger
}

/// Where a ledger lies: opening it twice is a restart of the agent.
enum Place {
    File(tempfile::TempDir),
    Memory(MemoryDisk),
}

impl Place {
    /// What holds for a ledger holds for both.
    fn both() -> [Self; 2] {
        [Self::File(tempfile::tempdir().unwrap()), Self::Memory(MemoryDisk::default())]
    }

    async fn open(&self) -> Ledger {
        match self {
            Self::File(directory) => ledger(directory).await,
            Self::Memory(disk) => Ledger::Memory(MemoryLedger::new(disk.clone(), None)),
        }
    }
}

async fn append_bounded(ledger: &Ledger, events: &[Event], limit: i64) {
    match ledger {
        Ledger::File(ledger) => ledger.outbox_append_bounded(events, 5, limit).await.unwrap(),
        Ledger::Memory(ledger) => ledger.outbox_append_bounded(events, 5, limit).await.unwrap(),
    }
}

fn signed(generation: u64, content: &str) -> SignedDesiredState {
    SignedDesiredState {
        generation,
        document: content.into(),
        sha256: wire::sha256_hex(content.as_bytes()),
        signature: "s".into(),
        key_id: "k".into(),
    }
}

fn event(number: u128, level: EventLevel) -> Event {
    Event {
        id: EventId::from_uuid(uuid::Uuid::from_u128(number)),
        at_ms: 0,
        kind: EventKind::HealthChanged,
        level,
        message: format!("event {number}"),
        cause: Cause::system("test", "test"),
        stack_id: None,
        service_id: None,
        deployment_id: None,
        instance_id: None,
        server_id: None,
    }
}

#[tokio::test]
async fn the_generation_never_falls_even_after_a_restart() {
    for place in Place::both() {
        let first = place.open().await;
        assert_eq!(first.desired_accept(&signed(7, "seven"), 1).await.unwrap(), Acceptance::New);
        first.close().await;

        let second = place.open().await;
        assert_eq!(second.desired_load().await.unwrap(), Some(signed(7, "seven")));
        let refused = second.desired_accept(&signed(6, "six"), 2).await.unwrap();
        assert_eq!(refused, Acceptance::Refused(GenerationError::Fallen { given: 6, highest: 7 }));
        assert_eq!(second.desired_accept(&signed(7, "seven"), 2).await.unwrap(), Acceptance::Same);
        let forked = second.desired_accept(&signed(7, "other"), 2).await.unwrap();
        assert_eq!(forked, Acceptance::Refused(GenerationError::Forked { given: 7 }));
        assert_eq!(second.desired_load().await.unwrap(), Some(signed(7, "seven")));
        assert_eq!(second.desired_accept(&signed(8, "eight"), 2).await.unwrap(), Acceptance::New);
        assert_eq!(second.highest_generation().await.unwrap(), 8);
    }
}

#[tokio::test]
async fn a_broken_ledger_is_set_aside_and_a_new_one_begun() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger.db");
    std::fs::write(&path, b"this is not a database, whatever it once was, and long enough to be read").unwrap();
    let opened = Ledger::open(&path).await.unwrap();
    let (aside, _) = opened.set_aside.expect("the broken file is reported");
    assert!(std::fs::read(&aside).unwrap().starts_with(b"this is not"), "the broken file is kept");
    assert_eq!(opened.ledger.highest_generation().await.unwrap(), 0);
    assert_eq!(opened.ledger.desired_accept(&signed(1, "one"), 1).await.unwrap(), Acceptance::New);
}

#[tokio::test]
async fn a_ledger_of_a_newer_agent_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let first = ledger(&directory).await;
    let Ledger::File(FileLedger { pool }) = first.clone() else { panic!("it lies in a file") };
    sqlx::raw_sql("PRAGMA user_version = 99").execute(&pool).await.unwrap();
    first.close().await;
    let path = directory.path().join("ledger.db");
    let error = Ledger::open(&path).await.unwrap_err();
    assert!(matches!(error, LedgerError::Newer { found: 99, .. }), "{error}");
    assert!(path.exists());
}

#[tokio::test]
async fn a_full_outbox_drops_the_oldest_information_first_and_says_how_much() {
    for place in Place::both() {
        let ledger = place.open().await;
        let events: Vec<Event> =
            (1..=12).map(|n| event(n, if n == 1 { EventLevel::Error } else { EventLevel::Info })).collect();
        append_bounded(&ledger, &events[..8], 8).await;
        assert_eq!(ledger.outbox_pending().await.unwrap().len(), 8, "nothing is dropped while it fits");
        append_bounded(&ledger, &events[8..10], 8).await;
        append_bounded(&ledger, &events[10..], 8).await;

        let pending = ledger.outbox_pending().await.unwrap();
        assert_eq!(pending.len(), 8);
        assert_eq!(pending[0].message, "event 1", "an error outlives older information");
        let notices: Vec<_> = pending.iter().filter(|e| e.kind == EventKind::EventsDropped).collect();
        assert_eq!(notices.len(), 1);
        assert!(notices[0].message.starts_with("5 events dropped"), "{}", notices[0].message);
        assert!(pending.iter().any(|e| e.message == "event 12"), "the newest stays");
    }
}

#[tokio::test]
async fn an_event_waits_until_it_is_acknowledged() {
    for place in Place::both() {
        let first = place.open().await;
        first.outbox_append(&[event(1, EventLevel::Info), event(2, EventLevel::Info)], 0).await.unwrap();
        first.outbox_append(&[event(2, EventLevel::Info)], 0).await.unwrap();
        first.outbox_acknowledge(&[event(1, EventLevel::Info).id]).await.unwrap();
        first.close().await;
        let pending = place.open().await.outbox_pending().await.unwrap();
        assert_eq!(pending, vec![event(2, EventLevel::Info)]);
    }
}

#[tokio::test]
async fn a_service_keeps_its_loopback_port_while_others_come_and_go() {
    for place in Place::both() {
        let ledger = place.open().await;
        let id = |n| ServiceId::from_uuid(uuid::Uuid::from_u128(n));
        let first = ledger.service_ports(&[id(1), id(2)], 18_500, |port| port != 18_500).await.unwrap();
        assert_eq!((first[&id(1)], first[&id(2)]), (18_501, 18_502), "a port that is in use is passed over");
        let second = ledger.service_ports(&[id(2), id(3)], 18_999, |_| true).await.unwrap();
        assert_eq!(first[&id(2)], second[&id(2)]);
        assert_ne!(second[&id(2)], second[&id(3)]);
        assert!(second.values().all(|port| LOOPBACK_PORTS.contains(port)));
        ledger.service_port_forget(&id(2)).await.unwrap();
        let third = ledger.service_ports(&[id(2), id(3)], second[&id(2)], |port| port != second[&id(2)]).await.unwrap();
        assert_ne!(third[&id(2)], second[&id(2)], "a port that somebody took is exchanged");
        assert_eq!(third[&id(3)], second[&id(3)]);
    }
}

#[tokio::test]
async fn log_offsets_survive_a_restart_and_go_with_their_log() {
    for place in Place::both() {
        let source = |n| LogSource::Build { deployment_id: DeploymentId::from_uuid(uuid::Uuid::from_u128(n)) };
        let first = place.open().await;
        first.log_offset_put(&source(1), 100, 0).await.unwrap();
        first.log_offset_put(&source(2), 50, 0).await.unwrap();
        first.log_offset_put(&source(2), 60, 0).await.unwrap();
        first.close().await;
        let second = place.open().await;
        second.log_offsets_retain(&[source(2).key()]).await.unwrap();
        let offsets = second.log_offsets().await.unwrap();
        assert_eq!(offsets.into_iter().collect::<Vec<_>>(), vec![(source(2).key(), 60)]);
    }
}

#[tokio::test]
async fn a_power_cut_takes_what_was_not_synced_and_nothing_else() {
    struct Forgetful;
    impl Disk for Forgetful {
        fn before_write(&self, _: &'static str) -> futures_util::future::BoxFuture<'_, std::io::Result<()>> {
            Box::pin(async { Ok(()) })
        }
        fn after_write(&self, _: &'static str) -> futures_util::future::BoxFuture<'_, ()> {
            Box::pin(async {})
        }
        fn syncs(&self, operation: &'static str) -> bool {
            operation != "keeping events"
        }
    }
    let disk = MemoryDisk::default();
    let ledger = MemoryLedger::new(disk.clone(), Some(std::sync::Arc::new(Forgetful)));
    ledger.desired_accept(&signed(3, "three"), 0).await.unwrap();
    ledger.outbox_append(&[event(1, EventLevel::Info)], 0).await.unwrap();
    assert_eq!(ledger.outbox_pending().await.unwrap().len(), 1);
    disk.cut_power();
    assert_eq!(ledger.outbox_pending().await.unwrap(), []);
    assert_eq!(ledger.highest_generation().await.unwrap(), 3);
}
