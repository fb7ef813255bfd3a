//! Logs on their way to the control plane: read by offset from where the last acknowledgement ended,
//! sent in small compressed batches, and never kept in memory beyond one batch.
//!
//! The log on disk is the queue. That makes the guarantees simple: an acknowledged offset is in the
//! ledger before the next batch is read, so it is never sent again; what is not acknowledged is still
//! on disk, so it is never lost but by rotation, which bounds the disk; a control plane that is slow
//! or away slows the reading and nothing else. A driver may tell that a log grew; then the logs are looked at at once,
//! and seldom while nothing is told. What a driver does not tell is found by looking: ten times a second while
//! something flows or changes, and less often when nothing does.

use crate::backoff::Backoff;
use crate::clock::now_ms;
use crate::control_plane::{ControlPlane, ControlPlaneError};
use crate::drivers::{LogActivity, LogState, Workloads};
use crate::ledger::Ledger;
use api::logs::{LogBatch, LogSource, LogUpload, LogUploadAnswer};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// One upload holds about so much text, however many logs share it.
const UPLOAD_BYTES: usize = 256 * 1024;
/// A chatty log leaves at least this much room for each of the others.
const SHARE_BYTES: usize = 16 * 1024;
const BUSY: Duration = Duration::from_millis(80);
const QUIET: Duration = Duration::from_millis(400);
/// The same where every log is watched.
const QUIET_AND_WATCHED: Duration = Duration::from_secs(5);
/// Lines come in groups: this long after the first one they are sent together.
const TOGETHER: Duration = Duration::from_millis(10);
/// How long after the last line the logs are still looked at often.
const QUIET_AFTER: Duration = Duration::from_secs(15);

/// Where log uploads go.
pub trait LogSink: Send + Sync + 'static {
    fn upload(&self, upload: &LogUpload) -> impl Future<Output = Result<LogUploadAnswer, ControlPlaneError>> + Send;
}

impl LogSink for ControlPlane {
    async fn upload(&self, upload: &LogUpload) -> Result<LogUploadAnswer, ControlPlaneError> {
        self.logs(upload).await
    }
}

/// Up to where each log is kept by the control plane. Shared with the loop, which does not remove an
/// instance while its last lines are on their way.
#[derive(Debug, Clone, Default)]
pub struct Shipped {
    offsets: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Shipped {
    pub fn offset(&self, source: &LogSource) -> Option<u64> {
        self.lock().get(&source.key()).copied()
    }

    fn set(&self, source: &LogSource, offset: u64) {
        self.lock().insert(source.key(), offset);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        self.offsets.lock().unwrap_or_else(|e| e.into_inner())
    }
}

pub struct LogShipping<W, S> {
    pub workloads: Arc<W>,
    pub sink: Arc<S>,
    pub ledger: Ledger,
    pub shipped: Shipped,
}

/// What may end the time between two rounds.
struct Signals {
    activity: Option<watch::Receiver<LogActivity>>,
    changes: watch::Receiver<u64>,
}

enum Heard {
    /// Something was written to a log.
    Lines,
    /// Something began or ended, so there may be a log that is not watched yet.
    Change,
}

impl Signals {
    fn quiet_pause(&self) -> Duration {
        let watched = self.activity.as_ref().is_some_and(|activity| activity.borrow().complete);
        if watched { QUIET_AND_WATCHED } else { QUIET }
    }

    /// Never, where nothing is told.
    async fn next(&mut self) -> Heard {
        let Some(activity) = &mut self.activity else { return std::future::pending().await };
        let heard = tokio::select! {
            biased;
            heard = activity.changed() => heard.map(|()| Heard::Lines),
            heard = self.changes.changed() => heard.map(|()| Heard::Change),
        };
        match heard {
            Ok(heard) => heard,
            // The driver is gone, and so is this soon.
            Err(_) => std::future::pending().await,
        }
    }
}

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    Nothing,
    Sent,
}

impl<W: Workloads, S: LogSink> LogShipping<W, S> {
    pub async fn run(self, shutdown: CancellationToken) {
        match self.ledger.log_offsets().await {
            Ok(offsets) => *self.shipped.lock() = offsets,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "log offsets cannot be read; logs are sent from their beginning"
                );
            }
        }
        let mut attempts = 0;
        let mut first = 0;
        let mut last_line = Instant::now();
        let mut signals = Signals { activity: self.workloads.log_activity(), changes: self.workloads.changes() };
        loop {
            // Dropping a round halfway is safe: what was not acknowledged is sent again.
            let round = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                round = self.round(&mut first) => round,
            };
            let pause = match round {
                Ok(Round::Sent) => {
                    attempts = 0;
                    last_line = Instant::now();
                    BUSY / 8
                }
                Ok(Round::Nothing) if last_line.elapsed() < QUIET_AFTER => BUSY,
                Ok(Round::Nothing) => signals.quiet_pause(),
                Err(error) => {
                    attempts += 1;
                    if attempts == 1 {
                        tracing::warn!(%error, "logs stay on this machine and are sent later");
                    }
                    Backoff { limit_ms: 10_000, ..Backoff::CONTROL_PLANE }.delay(attempts)
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                // A control plane that does not answer is left alone for as long as was decided.
                heard = signals.next(), if attempts == 0 => match heard {
                    Heard::Lines => tokio::time::sleep(TOGETHER).await,
                    Heard::Change => last_line = Instant::now(),
                },
            }
        }
    }

    /// Sends what is new, at most one upload. `first` moves on so that each log gets its turn.
    pub async fn round(&self, first: &mut usize) -> Result<Round, ControlPlaneError> {
        let logs: Vec<(String, LogState)> =
            self.workloads.logs().await.into_iter().map(|log| (log.source.key(), log)).collect();
        self.forget(&logs).await;
        let due: Vec<LogState> = {
            let offsets = self.shipped.lock();
            let grown = |(key, log): (String, LogState)| {
                (log.end_offset > offsets.get(&key).copied().unwrap_or(0)).then_some(log)
            };
            logs.into_iter().filter_map(grown).collect()
        };
        if due.is_empty() {
            return Ok(Round::Nothing);
        }
        *first = first.wrapping_add(1);
        let batches = self.batches(&due, *first).await;
        if batches.is_empty() {
            return Ok(Round::Nothing);
        }
        let upload = LogUpload { batches };
        let answer = self.sink.upload(&upload).await?;
        self.acknowledge(&upload, &answer).await;
        Ok(Round::Sent)
    }

    async fn batches(&self, due: &[LogState], first: usize) -> Vec<LogBatch> {
        let share = (UPLOAD_BYTES / due.len()).max(SHARE_BYTES);
        let mut left = UPLOAD_BYTES;
        let mut batches = Vec::new();
        for index in 0..due.len() {
            let log = &due[(first + index) % due.len()];
            if left < SHARE_BYTES {
                break;
            }
            let offset = self.shipped.offset(&log.source).unwrap_or(0);
            match self.workloads.read_log(&log.source, offset, share.min(left)).await {
                Ok(Some(batch)) if batch.next_offset > offset => {
                    left = left.saturating_sub(usize::try_from(batch.next_offset - batch.offset).unwrap_or(usize::MAX));
                    batches.push(batch);
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(source = %log.source.key(), error = %error.describe(), "a log cannot be read")
                }
            }
        }
        batches
    }

    async fn acknowledge(&self, upload: &LogUpload, answer: &LogUploadAnswer) {
        for batch in &upload.batches {
            let said = answer.acknowledged.iter().find(|a| a.source == batch.source).map(|a| a.next_offset);
            // A control plane that lost its database asks for lower ones again; higher than sent makes no sense.
            let Some(next_offset) = said.map(|offset| offset.min(batch.next_offset)) else { continue };
            if self.shipped.offset(&batch.source) == Some(next_offset) {
                continue;
            }
            if let Err(error) = self.ledger.log_offset_put(&batch.source, next_offset, now_ms()).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a log offset cannot be kept; its lines may be sent twice"
                );
            }
            self.shipped.set(&batch.source, next_offset);
        }
    }

    /// Forgets the offsets of logs that are gone. There are none mostly, and this is asked many times a second.
    async fn forget(&self, logs: &[(String, LogState)]) {
        let gone = {
            let mut offsets = self.shipped.lock();
            let gone = logs.iter().filter(|(key, _)| offsets.contains_key(key)).count() < offsets.len();
            if gone {
                let here: BTreeSet<&str> = logs.iter().map(|(key, _)| key.as_str()).collect();
                offsets.retain(|key, _| here.contains(key.as_str()));
            }
            gone
        };
        if gone {
            let keys: Vec<String> = self.shipped.lock().keys().cloned().collect();
            if let Err(error) = self.ledger.log_offsets_retain(&keys).await {
                tracing::debug!(%error, "offsets of removed logs stay in the ledger");
            }
        }
    }
}
