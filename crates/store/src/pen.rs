//! Who writes on SQLite, and how many writes share one wait for the disk.
//!
//! A commit waits until the disk has it, and there is one writer at a time: each write by itself, a store
//! does no more of them in a second than the disk has syncs, and with a thousand machines everybody stands
//! in line for them. So writes that come at the same time are committed together. The turn to write is one
//! *pen* that goes from hand to hand, in the order in which people asked for it:
//!
//! ```text
//! first    BEGIN … work … others wait: hands the pen on, the transaction stays open, waits for the commit
//! second   SAVEPOINT … work … hands the pen on, waits for the commit
//! third    RELEASE, SAVEPOINT … work … fails: hands the pen on
//! fourth   ROLLBACK TO … work … hands the pen on, waits for the commit
//! the one that commits, who got in line when the first handed the pen on: COMMIT, and everybody is told
//! ```
//!
//! **Alone**, a write waits for nobody and costs what it would without any of this: it commits by itself, and
//! a single statement is not even a transaction.
//!
//! **Nothing is answered before the commit**, a refusal neither: what it was refused for may have been written
//! by another of the same group and is not there until it is committed.
//!
//! **Whoever fails, fails alone.** A savepoint stands before each write but the first, and the first has the
//! transaction to itself until it is done. A caller that is gone in the middle (its client hung up) takes
//! nothing along: [`Mark`] says what the next one has to take back, and the commit is done by a task, which
//! nobody can hang up on.
//!
//! **What ends the transaction ends it for all.** If SQLite rolls back by itself (its disk is full), the
//! savepoint is gone with everything else; the next one notices, and the group is told that nothing was kept.
//!
//! **Only when it pays.** Who shares a commit waits for the work of others and saves syncs. Where work takes longer
//! than a sync (a fast disk, busy processors), all would wait longer for it; so both are measured all the time, and
//! the pen is handed on with the transaction open only while a write's work is shorter than a commit.
//!
//! **A group ends**: it is committed when its turn comes in the same line, and before that when it is large, or as
//! old as a commit takes ([`Bounds`]).
//!
//! Deliberately absent: waiting for others to come, which would make the first slower; and all of this on
//! PostgreSQL, whose connections share their flushes by themselves.

use crate::connect::WAIT;
use crate::{Error, Result};
use sqlx::{Any, AnyConnection, AnyPool, Executor, Transaction};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio::time::{Instant, timeout};

/// When a group ends, whoever still waits.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// So many share a commit at most.
    members: usize,
    /// After this time nobody else joins: the first has waited long enough. `None`: as long as a commit takes, and
    /// nobody shares one while that is shorter than the work of a write.
    open: Option<Duration>,
}

const BOUNDS: Bounds = Bounds { members: 64, open: None };
/// However slow the disk is.
const OPEN_LIMIT: Duration = Duration::from_millis(25);
/// How long one waits for the commit of its group; then it is not known whether it was kept.
const COMMIT_WAIT: Duration = Duration::from_secs(60);

/// Its mutex is fair: whoever asks first writes first.
#[derive(Debug, Clone)]
pub struct Pen {
    group: Arc<Mutex<Option<Group>>>,
    /// Those who wait to write.
    waiting: Arc<AtomicUsize>,
    bounds: Bounds,
    pace: Arc<Pace>,
}

impl Default for Pen {
    fn default() -> Self {
        Self { group: Arc::default(), waiting: Arc::default(), bounds: BOUNDS, pace: Arc::default() }
    }
}

/// What things take, in nanoseconds, on average over the last few.
#[derive(Debug, Default)]
struct Pace {
    work: AtomicU64,
    commit: AtomicU64,
}

impl Pace {
    /// The average comes nearer by an eighth. Two at once may lose one: then it is a little older.
    fn note(average: &AtomicU64, since: Instant) {
        let taken = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX / 8);
        let before = average.load(Ordering::Relaxed);
        average.store(before - before / 8 + taken / 8, Ordering::Relaxed);
    }

    fn of(average: &AtomicU64) -> Duration {
        Duration::from_nanos(average.load(Ordering::Relaxed))
    }

    async fn commit(&self, transaction: Transaction<'static, Any>) -> sqlx::Result<()> {
        let since = Instant::now();
        let committed = transaction.commit().await;
        Self::note(&self.commit, since);
        committed
    }
}

/// The pen in one's hand.
#[derive(Debug)]
pub struct Turn {
    pen: Pen,
    /// What others have written and nobody has committed yet.
    group: OwnedMutexGuard<Option<Group>>,
}

#[derive(Debug)]
struct Group {
    transaction: Transaction<'static, Any>,
    mark: Mark,
    /// Those who wait for the commit.
    members: Vec<oneshot::Sender<Result<()>>>,
    opened_at: Instant,
}

/// What stands in an open transaction after what is whole.
///
/// Changed so that a caller that is gone at any moment leaves it true: before a statement that may be done or
/// not to what holds either way, and after it to what holds then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Nothing.
    Clear,
    /// A savepoint, and work after it that is whole.
    Whole,
    /// A savepoint, and perhaps work after it that is to be taken back.
    Half,
}

impl Pen {
    /// Waits for the pen, but not for ever.
    pub async fn turn(&self) -> Result<Turn> {
        let _waiting = Waiting::among(&self.waiting);
        let group = timeout(WAIT, self.group.clone().lock_owned()).await.map_err(|_| sqlx::Error::PoolTimedOut)?;
        Ok(Turn { pen: self.clone(), group })
    }

    /// Commits what is open when its turn comes.
    async fn commit_in_line(self) {
        let mut group = self.group.lock_owned().await;
        if let Some(open) = group.take() {
            open.commit(&self.pace).await;
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turn {
    /// Whether a commit is shared: others have written and not committed, or will join.
    pub fn is_shared(&self) -> bool {
        self.group.is_some() || self.is_awaited()
    }

    /// Whether somebody waits to whom the pen had better be handed on with the transaction open.
    fn is_awaited(&self) -> bool {
        let Pen { waiting, bounds, pace, .. } = &self.pen;
        let pays = bounds.open.is_some() || Pace::of(&pace.work) < Pace::of(&pace.commit);
        pays && waiting.load(Ordering::Relaxed) > 0
    }

    /// Joins what is open, or begins.
    pub async fn begin(mut self, pool: &AnyPool) -> Result<Write> {
        if let Some(open) = self.group.as_mut() {
            match open.join().await {
                Ok(()) => return Ok(Write::begun(Place::Shared(self))),
                Err(error) => self.group.take().into_iter().for_each(|lost| lost.tell(&Err(ended_early(&error)))),
            }
        }
        let transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Write::begun(Place::Own { transaction, turn: Some(self) }))
    }

    /// Hands the pen on with the transaction open.
    fn leave_open(mut self, transaction: Transaction<'static, Any>) -> oneshot::Receiver<Result<()>> {
        let (member, told) = oneshot::channel();
        let opened_at = Instant::now();
        *self.group = Some(Group { transaction, mark: Mark::Clear, members: vec![member], opened_at });
        // Whoever is next may be gone before its turn: this one never is.
        tokio::spawn(self.pen.clone().commit_in_line());
        told
    }

    /// Hands the pen on after having joined. What is not whole is taken back by the next.
    fn leave(mut self, is_whole: bool) -> oneshot::Receiver<Result<()>> {
        let (member, told) = oneshot::channel();
        let open = self.group.as_mut().expect("who has joined has the turn, and the group stays open meanwhile");
        if is_whole {
            open.mark = Mark::Whole;
        }
        open.members.push(member);
        let Pen { bounds, pace, .. } = &self.pen;
        let open_for = bounds.open.unwrap_or_else(|| Pace::of(&pace.commit).min(OPEN_LIMIT));
        if open.members.len() >= bounds.members || open.opened_at.elapsed() >= open_for {
            let full = self.group.take();
            tokio::spawn(async move {
                // The pen is handed on only after the commit.
                let turn = self;
                if let Some(full) = full {
                    full.commit(&turn.pen.pace).await;
                }
            });
        }
        told
    }
}

impl Group {
    async fn join(&mut self) -> sqlx::Result<()> {
        let statement = match self.mark {
            Mark::Clear => "SAVEPOINT member",
            Mark::Whole => {
                // Wherever this is broken off, there is nothing to be taken back.
                self.mark = Mark::Clear;
                "RELEASE member; SAVEPOINT member"
            }
            Mark::Half => "ROLLBACK TO member",
        };
        self.transaction.execute(statement).await?;
        self.mark = Mark::Half;
        Ok(())
    }

    async fn commit(mut self, pace: &Pace) {
        let Self { transaction, mark, .. } = &mut self;
        let taken_back = match mark {
            Mark::Half => transaction.execute("ROLLBACK TO member").await.map_err(|error| ended_early(&error)),
            Mark::Clear | Mark::Whole => Ok(Default::default()),
        };
        let Self { transaction, members, .. } = self;
        let committed = match taken_back {
            Ok(_) => pace.commit(transaction).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        tell(members, &committed);
    }

    fn tell(self, outcome: &Result<()>) {
        tell(self.members, outcome);
    }
}

fn tell(members: Vec<oneshot::Sender<Result<()>>>, outcome: &Result<()>) {
    for member in members {
        // Who asked may have hung up.
        let _ = member.send(outcome.as_ref().map(|_| ()).map_err(Error::for_all));
    }
}

/// The transaction of a group is not there any more.
fn ended_early(error: &sqlx::Error) -> Error {
    let reason = format!("another write ended the transaction that they shared ({error})");
    Error::Unavailable(sqlx::Error::Protocol(reason))
}

/// A transaction that writes. Dropped without [`Write::end`], it has written nothing.
#[derive(Debug)]
pub struct Write {
    place: Place,
    begun_at: Instant,
}

#[derive(Debug)]
enum Place {
    /// Nobody else has written in it. On SQLite the turn goes on after it has ended.
    Own { transaction: Transaction<'static, Any>, turn: Option<Turn> },
    /// Others have, and wait for its commit.
    Shared(Turn),
}

impl Write {
    /// On PostgreSQL.
    pub fn alone(transaction: Transaction<'static, Any>) -> Self {
        Self::begun(Place::Own { transaction, turn: None })
    }

    fn begun(place: Place) -> Self {
        Self { place, begun_at: Instant::now() }
    }

    /// Keeps what was written if it is `Ok`, else takes it back. Answers when the commit is through.
    pub async fn end<T>(self, done: Result<T>) -> Result<T> {
        let Self { place, begun_at } = self;
        if let Place::Shared(turn) | Place::Own { turn: Some(turn), .. } = &place {
            Pace::note(&turn.pen.pace.work, begun_at);
        }
        let told = match place {
            Place::Shared(turn) => turn.leave(done.is_ok()),
            // Dropped, it is rolled back.
            Place::Own { .. } if done.is_err() => return done,
            Place::Own { transaction, turn: Some(turn) } if turn.is_awaited() => turn.leave_open(transaction),
            Place::Own { transaction, turn } => {
                match &turn {
                    Some(turn) => turn.pen.pace.commit(transaction).await?,
                    None => transaction.commit().await?,
                }
                return done;
            }
        };
        match timeout(COMMIT_WAIT, told).await {
            Ok(Ok(committed)) => committed.and(done),
            Ok(Err(_)) => Err(Error::Unavailable(sqlx::Error::WorkerCrashed)),
            Err(_) => Err(Error::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }
}

impl Deref for Write {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        match &self.place {
            Place::Own { transaction, .. } => transaction,
            Place::Shared(turn) => &turn.group.as_ref().expect("a group stays open while one writes in it").transaction,
        }
    }
}

impl DerefMut for Write {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        match &mut self.place {
            Place::Own { transaction, .. } => transaction,
            Place::Shared(turn) => {
                &mut turn.group.as_mut().expect("a group stays open while one writes in it").transaction
            }
        }
    }
}

#[cfg(test)]
mod tests;
