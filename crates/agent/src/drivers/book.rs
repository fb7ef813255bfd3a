//! How the preparation of each revision stands or ended: in memory while it is worked on, and in a file of its own once it
//! has ended, because several revisions may share one build or image.

use super::PrepareRequest;
use crate::clock::now_ms;
use crate::drivers::files::{Durability, read_json, write_json};
use api::ids::{RevisionId, ServiceId};
use api::observed::{PreparationObserved, PreparationState, PreparationStep};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

pub struct Book {
    directory: PathBuf,
    states: Mutex<BTreeMap<RevisionId, Stored>>,
    changes: watch::Sender<u64>,
}

/// As it lies on disk.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    build_key: String,
    #[serde(flatten)]
    observed: PreparationObserved,
}

/// Which service and which build each known revision has.
pub type Records = BTreeMap<RevisionId, (ServiceId, String)>;

impl Book {
    /// How preparations ended before this agent began. A ready one counts only while what it made is there; one that was
    /// in work ended with the agent, unfinished.
    pub fn open(directory: PathBuf, changes: watch::Sender<u64>, is_ready: impl Fn(&str) -> bool) -> Self {
        let mut states = BTreeMap::new();
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(Some(stored)) = read_json::<Stored>(&entry.path()) else { continue };
            let stays = match stored.observed.state {
                PreparationState::Ready => is_ready(&stored.build_key),
                PreparationState::Failed => true,
                PreparationState::Working | PreparationState::Absent => false,
            };
            if stays {
                states.insert(stored.observed.revision_id.clone(), stored);
            }
        }
        Self { directory, states: Mutex::new(states), changes }
    }

    pub fn observed(&self) -> Vec<PreparationObserved> {
        self.states().values().map(|stored| stored.observed.clone()).collect()
    }

    pub fn records(&self) -> Records {
        let states = self.states();
        let records = states.iter().map(|(revision, stored)| {
            (revision.clone(), (stored.observed.service_id.clone(), stored.build_key.clone()))
        });
        records.collect()
    }

    /// One that begins now.
    pub fn fresh(&self, request: &PrepareRequest, step: PreparationStep) -> PreparationObserved {
        let before = self.states().get(&request.revision.revision_id).map_or(0, |stored| stored.observed.attempts);
        PreparationObserved {
            service_id: request.service_id.clone(),
            revision_id: request.revision.revision_id.clone(),
            deployment_id: request.revision.deployment_id.clone(),
            state: PreparationState::Working,
            step,
            started_at_ms: Some(now_ms()),
            ended_at_ms: None,
            error: None,
            retryable: false,
            attempts: before + 1,
            log_tail: Vec::new(),
        }
    }

    pub fn note(&self, request: &PrepareRequest, observed: PreparationObserved) {
        let stored = Stored { build_key: request.revision.build_key.clone(), observed };
        self.states().insert(request.revision.revision_id.clone(), stored);
        self.changed();
    }

    /// As [`Self::note`], of one that ended: also on disk.
    pub fn keep(&self, request: &PrepareRequest, observed: PreparationObserved) {
        let path = self.path(&request.revision.revision_id);
        let stored = Stored { build_key: request.revision.build_key.clone(), observed: observed.clone() };
        if let Err(error) = write_json(&path, &stored, Durability::Synced) {
            tracing::warn!(%error, path = %path.display(), "how a preparation ended could not be written down");
        }
        self.note(request, observed);
    }

    /// It was cancelled: as if it had never begun.
    pub fn cancelled(&self, revision: &RevisionId) {
        self.states().remove(revision);
        self.changed();
    }

    /// Forget how preparations ended, except of those in work and those to keep.
    pub fn forget(&self, keep: impl Fn(&RevisionId) -> bool) {
        self.states().retain(|revision, stored| {
            let stays = stored.observed.state == PreparationState::Working || keep(revision);
            if !stays {
                let _ = std::fs::remove_file(self.path(revision));
            }
            stays
        });
    }

    fn path(&self, revision: &RevisionId) -> PathBuf {
        self.directory.join(format!("{revision}.json"))
    }

    pub fn changed(&self) {
        self.changes.send_modify(|number| *number = number.wrapping_add(1));
    }

    fn states(&self) -> std::sync::MutexGuard<'_, BTreeMap<RevisionId, Stored>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
