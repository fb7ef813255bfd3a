//! Groups made on purpose: whoever holds the pen lets others stand in line, in a known order.

use super::*;
use crate::{Scope, Store};
use api::ids::OrganizationId;
use sqlx::{Connection, SqliteConnection};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use uuid::Uuid;

/// What takes longer than this never comes.
const LIMIT: Duration = Duration::from_secs(60);

struct World {
    store: Store,
    scope: Scope,
    folder: tempfile::TempDir,
}

/// One that writes by hand: begins when told to, and has ended when it is awaited.
struct ByHand {
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
    done: JoinHandle<Result<()>>,
}

/// So large and so long that no test comes near them.
const WIDE: Bounds = Bounds { members: 10_000, open: Some(Duration::from_secs(3_600)) };

impl World {
    async fn new() -> Self {
        Self::bounded(WIDE).await
    }

    async fn bounded(bounds: Bounds) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open_sqlite(&folder.path().join("mainstay.db")).await.unwrap();
        store.pen.bounds = bounds;
        let id = OrganizationId::from_uuid(Uuid::now_v7());
        let organization = store.organization_ensure(&id, "acme", 0).await.unwrap();
        Self { store, scope: Scope::system(organization, "test"), folder }
    }

    /// The pen, so that everybody else has to stand in line.
    async fn turn(&self) -> Turn {
        self.store.pen.turn().await.unwrap()
    }

    /// Until so many stand in line.
    async fn line_of(&self, length: usize) {
        let full = async {
            while self.store.pen.waiting.load(Ordering::Relaxed) != length {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, full).await.unwrap();
    }

    /// Writes a setting of that name.
    fn put(&self, name: &str) -> JoinHandle<Result<()>> {
        let (store, scope, name) = (self.store.clone(), self.scope.clone(), name.to_owned());
        tokio::spawn(async move { store.setting_put(&scope, &name, &1).await })
    }

    /// Runs the statement in a transaction of its own, waits until it may go on, and ends with that outcome.
    fn by_hand(&self, statement: &'static str, outcome: Result<()>) -> ByHand {
        let (store, organization) = (self.store.clone(), self.scope.organization.clone());
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (begun.clone(), go_on.clone());
        let done = tokio::spawn(async move {
            let mut write = store.write(&organization).await?;
            let done = write.execute(statement).await.map_err(Error::from);
            tell.notify_one();
            wait.notified().await;
            write.end(done.and(outcome)).await
        });
        ByHand { begun, go_on, done }
    }

    async fn names(&self) -> Vec<String> {
        let settings = self.store.setting_list::<u32>(&self.scope, "").await.unwrap();
        settings.into_iter().map(|(name, _)| name).collect()
    }
}

impl ByHand {
    async fn begun(&self) {
        timeout(LIMIT, self.begun.notified()).await.unwrap();
    }

    async fn end(self) -> Result<()> {
        self.go_on.notify_one();
        answered(self.done).await
    }
}

async fn answered(task: JoinHandle<Result<()>>) -> Result<()> {
    timeout(LIMIT, task).await.unwrap().unwrap()
}

const HALF: &str = "INSERT INTO settings (organization_id, name, value) SELECT id, 'half', '1' FROM organizations";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_together_is_seen_and_answered_only_when_it_is_committed() {
    let world = World::new().await;
    let turn = world.turn().await;
    let first = world.put("first");
    world.line_of(1).await;
    let second = world.by_hand("SELECT 1", Ok(()));
    world.line_of(2).await;
    drop(turn);

    second.begun().await;
    assert!(world.names().await.is_empty(), "the first is through, but the second has not ended");
    assert!(!first.is_finished());
    second.end().await.unwrap();
    answered(first).await.unwrap();
    assert_eq!(world.names().await, ["first"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fails_in_a_group_fails_alone() {
    let world = World::new().await;
    let turn = world.turn().await;
    let before = world.put("before");
    world.line_of(1).await;
    let failing = world.by_hand(HALF, Err(Error::Conflict("no".into())));
    world.line_of(2).await;
    let after = world.put("after");
    world.line_of(3).await;
    drop(turn);

    failing.begun().await;
    let failed = failing.end().await;
    assert!(matches!(failed, Err(Error::Conflict(_))), "{failed:?}");
    answered(before).await.unwrap();
    answered(after).await.unwrap();
    assert_eq!(world.names().await, ["after", "before"]);
}

/// In the middle of its work, as the last or not; while it waits for its turn; while it waits for the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_takes_nothing_along_and_holds_nobody_up() {
    let world = World::new().await;
    let turn = world.turn().await;
    let before = world.put("before");
    world.line_of(1).await;
    let gone = world.by_hand(HALF, Ok(()));
    world.line_of(2).await;
    let after = world.put("after");
    world.line_of(3).await;
    drop(turn);
    gone.begun().await;
    gone.done.abort();
    answered(before).await.unwrap();
    answered(after).await.unwrap();
    assert_eq!(world.names().await, ["after", "before"]);

    let turn = world.turn().await;
    let alone = world.put("alone");
    world.line_of(1).await;
    let last = world.by_hand(HALF, Ok(()));
    world.line_of(2).await;
    drop(turn);
    last.begun().await;
    last.done.abort();
    answered(alone).await.unwrap();
    assert_eq!(world.names().await, ["after", "alone", "before"]);

    let turn = world.turn().await;
    let committed = world.put("committed");
    world.line_of(1).await;
    let other = world.by_hand("SELECT 1", Ok(()));
    world.line_of(2).await;
    let in_line = world.put("in line");
    world.line_of(3).await;
    drop(turn);
    other.begun().await;
    committed.abort();
    in_line.abort();
    world.line_of(0).await;
    other.end().await.unwrap();
    assert_eq!(world.names().await, ["after", "alone", "before", "committed"]);
}

/// Wherever somebody is gone: between any two of its statements, those that join and end among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_gone_at_any_moment_leaves_the_others_whole() {
    let world = World::new().await;
    let kept = Arc::new(AtomicU32::new(0));
    let writers: Vec<_> = (0..6u64)
        .map(|writer| {
            let (store, scope, kept) = (world.store.clone(), world.scope.clone(), kept.clone());
            tokio::spawn(async move {
                for round in 0..60u64 {
                    let patience = Duration::from_micros((round * 97 + writer * 31) % 3_000);
                    let name = format!("given up {writer} {round}");
                    let _ = timeout(patience, store.setting_put(&scope, &name, &1)).await;
                    let name = format!("kept {writer} {round}");
                    store.setting_put(&scope, &name, &1).await.unwrap();
                    kept.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for writer in writers {
        timeout(LIMIT, writer).await.unwrap().unwrap();
    }
    let there = world.names().await.iter().filter(|name| name.starts_with("kept")).count();
    assert_eq!(there, kept.load(Ordering::Relaxed) as usize);
}

/// Each commit is one wait for the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_wait_for_few_commits() {
    const WRITERS: usize = 100;
    let world = World::new().await;
    let commits = Commits::from_now_on(world.folder.path().join("mainstay.db")).await;
    let turn = world.turn().await;
    let writers: Vec<_> = (0..WRITERS).map(|number| world.put(&number.to_string())).collect();
    world.line_of(WRITERS).await;
    drop(turn);
    for writer in writers {
        answered(writer).await.unwrap();
    }
    assert_eq!(world.names().await.len(), WRITERS);
    assert_eq!(commits.count(), 1);
}

/// The commits that SQLite writes into its log.
struct Commits {
    file: PathBuf,
    before: usize,
    /// Reads the whole time, so that the log does not begin anew.
    _reader: SqliteConnection,
}

impl Commits {
    async fn from_now_on(file: PathBuf) -> Self {
        let mut reader = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
        reader.execute("BEGIN; SELECT count(*) FROM organizations").await.unwrap();
        Self { before: Self::in_log(&file), file, _reader: reader }
    }

    fn count(&self) -> usize {
        Self::in_log(&self.file) - self.before
    }

    /// The last frame of a commit says how many pages the database has then; every other says 0.
    fn in_log(file: &Path) -> usize {
        const HEADER_BYTES: usize = 32;
        const FRAME_HEADER_BYTES: usize = 24;
        let log = std::fs::read(file.with_extension("db-wal")).unwrap();
        let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
        let (page_bytes, salts) = (number(8) as usize, &log[16..24]);
        let frames = log[HEADER_BYTES..].chunks_exact(FRAME_HEADER_BYTES + page_bytes);
        frames.take_while(|frame| &frame[8..16] == salts).filter(|frame| frame[4..8] != [0; 4]).count()
    }
}

/// What refers to nothing is found out by the commit, if it is told to wait with that.
const COMMIT_FAILS: &str = "PRAGMA defer_foreign_keys = ON;
    INSERT INTO nonces (server_id, nonce, expires_at_ms) VALUES ('nobody', 'n', 0)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_fails_fails_all_of_its_group() {
    let world = World::new().await;
    let turn = world.turn().await;
    let before = world.put("before");
    world.line_of(1).await;
    let cause = world.by_hand(COMMIT_FAILS, Ok(()));
    world.line_of(2).await;
    let refused = world.by_hand("SELECT 1", Err(Error::Conflict("`before` is there".into())));
    world.line_of(3).await;
    drop(turn);

    cause.begun().await;
    cause.go_on.notify_one();
    refused.begun().await;
    // It was refused for what is not there in the end.
    let refused = refused.end().await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    for member in [before, cause.done] {
        let failed = answered(member).await;
        assert!(matches!(failed, Err(Error::Unavailable(_))), "{failed:?}");
    }
    assert!(world.names().await.is_empty());
    answered(world.put("later")).await.unwrap();
    assert_eq!(world.names().await, ["later"]);
}

/// SQLite takes everything back by itself then, what others wrote before as well.
const FULL: &str = "PRAGMA max_page_count = 1; INSERT INTO settings (organization_id, name, value)
    VALUES ((SELECT id FROM organizations), 'half', hex(zeroblob(1000000)))";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_for_one_is_told_to_all_of_its_group() {
    let world = World::new().await;
    let turn = world.turn().await;
    let before = world.put("before");
    world.line_of(1).await;
    let full = world.by_hand(FULL, Ok(()));
    world.line_of(2).await;
    let after = world.put("after");
    world.line_of(3).await;
    drop(turn);

    full.begun().await;
    let full = full.end().await;
    assert!(matches!(full, Err(Error::Full(_) | Error::Unavailable(_))), "{full:?}");
    let before = answered(before).await;
    assert!(matches!(before, Err(Error::Unavailable(_))), "{before:?}");
    answered(after).await.unwrap();
    assert_eq!(world.names().await, ["after"], "what was acknowledged is there, and nothing else");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_ends_when_it_is_large_whoever_still_waits() {
    let world = World::bounded(Bounds { members: 8, ..WIDE }).await;
    let turn = world.turn().await;
    let members: Vec<_> = (0..8).map(|number| world.put(&number.to_string())).collect();
    world.line_of(8).await;
    let slow = world.by_hand(HALF, Ok(()));
    world.line_of(9).await;
    drop(turn);

    slow.begun().await;
    for member in members {
        answered(member).await.unwrap();
    }
    assert_eq!(world.names().await.len(), 8);
    slow.end().await.unwrap();
    assert_eq!(world.names().await.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_ends_when_it_is_old_whoever_still_waits() {
    let world = World::bounded(Bounds { open: Some(Duration::ZERO), ..WIDE }).await;
    let turn = world.turn().await;
    let first = world.put("first");
    world.line_of(1).await;
    let slow = world.by_hand("SELECT 1", Ok(()));
    world.line_of(2).await;
    let slower = world.by_hand(HALF, Ok(()));
    world.line_of(3).await;
    drop(turn);

    slow.begun().await;
    slow.end().await.unwrap();
    slower.begun().await;
    answered(first).await.unwrap();
    assert_eq!(world.names().await, ["first"]);
    slower.end().await.unwrap();
}

/// Whether the first shares its commit with the second, at that pace.
async fn is_shared(work: Duration, commit: Duration) -> bool {
    let world = World::bounded(BOUNDS).await;
    let turn = world.turn().await;
    let first = world.put("first");
    world.line_of(1).await;
    let second = world.by_hand(HALF, Ok(()));
    world.line_of(2).await;
    world.store.pen.pace.work.store(work.as_nanos() as u64, Ordering::Relaxed);
    world.store.pen.pace.commit.store(commit.as_nanos() as u64, Ordering::Relaxed);
    drop(turn);
    second.begun().await;
    let shared = world.names().await.is_empty();
    second.end().await.unwrap();
    answered(first).await.unwrap();
    assert_eq!(world.names().await, ["first", "half"]);
    shared
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_shared_only_while_that_is_shorter_than_to_wait_for_the_work_of_others() {
    let (short, long) = (Duration::from_micros(1), Duration::from_secs(100));
    assert!(is_shared(short, long).await);
    assert!(!is_shared(long, short).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pace_of_work_and_commits_is_measured() {
    let world = World::new().await;
    let pace = world.store.pen.pace.clone();
    let slow = world.by_hand(HALF, Ok(()));
    slow.begun().await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    slow.end().await.unwrap();
    // An eighth of the way from nothing.
    assert!(Pace::of(&pace.work) >= Duration::from_millis(10));
    assert!(Pace::of(&pace.commit) > Duration::ZERO);
}
