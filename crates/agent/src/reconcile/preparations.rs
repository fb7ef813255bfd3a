//! Preparations in flight: one task per revision, each with its own cancellation.

use crate::clock::now_ms;
use crate::drivers::PrepareError;
use api::ids::RevisionId;
use api::observed::PreparationStep;
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// How long cancelled preparations may take to tidy up when the agent ends.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Preparations {
    tasks: JoinSet<Result<(), PrepareError>>,
    running: BTreeMap<RevisionId, Running>,
}

struct Running {
    task: Id,
    cancel: CancellationToken,
    began_at_ms: i64,
}

pub struct Ended {
    pub revision_id: RevisionId,
    pub result: Result<(), PrepareError>,
}

impl Preparations {
    pub fn contains(&self, revision_id: &RevisionId) -> bool {
        self.running.contains_key(revision_id)
    }

    pub fn began_at_ms(&self, revision_id: &RevisionId) -> Option<i64> {
        self.running.get(revision_id).map(|r| r.began_at_ms)
    }

    pub fn begin<F>(&mut self, revision_id: RevisionId, work: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), PrepareError>> + Send + 'static,
    {
        let cancel = CancellationToken::new();
        let task = self.tasks.spawn(ambient::inherit(work(cancel.clone()))).id();
        self.running.insert(revision_id, Running { task, cancel, began_at_ms: now_ms() });
    }

    /// The next one that ended; waits for ever without any. Dropping the wait loses nothing.
    pub async fn ended(&mut self) -> Ended {
        loop {
            let Some(joined) = self.tasks.join_next_with_id().await else {
                std::future::pending::<()>().await;
                continue;
            };
            if let Some(ended) = self.take(joined) {
                return ended;
            }
        }
    }

    pub fn try_ended(&mut self) -> Option<Ended> {
        while let Some(joined) = self.tasks.try_join_next_with_id() {
            if let Some(ended) = self.take(joined) {
                return Some(ended);
            }
        }
        None
    }

    fn take(&mut self, joined: Result<(Id, Result<(), PrepareError>), JoinError>) -> Option<Ended> {
        let (id, result) = match joined {
            Ok((id, result)) => (id, result),
            Err(error) => {
                let message = format!("the preparation ended abnormally: {error}");
                let failed = PrepareError {
                    step: PreparationStep::Sync,
                    message,
                    retryable: true,
                    cancelled: error.is_cancelled(),
                    log_tail: Vec::new(),
                };
                (error.id(), Err(failed))
            }
        };
        let revision_id = self.running.iter().find(|(_, r)| r.task == id).map(|(revision, _)| revision.clone())?;
        self.running.remove(&revision_id);
        Some(Ended { revision_id, result })
    }

    /// Cancels those that are no longer needed; they end on their own.
    pub fn retain(&mut self, needed: impl Fn(&RevisionId) -> bool) {
        for (revision_id, running) in &self.running {
            if !needed(revision_id) {
                running.cancel.cancel();
            }
        }
    }

    pub async fn cancel_all(&mut self) {
        for running in self.running.values() {
            running.cancel.cancel();
        }
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CANCEL_TIMEOUT, all).await.is_err() {
            self.tasks.abort_all();
        }
        self.running.clear();
    }
}
