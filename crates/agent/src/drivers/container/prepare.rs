//! Preparations: the image is got, by digest, and what it says of itself is written down.

use super::Shared;
use super::engine::Engine;
use super::image::{self, ImageRecord, PullError};
use crate::clock::now_ms;
use crate::drivers::book::{Book, Records};
use crate::drivers::files::{Durability, read_json, write_json};
use crate::drivers::log::{LogWriter, tail};
use crate::drivers::process::{BuildKey, LOG_OWNER, build_key};
use crate::drivers::{PrepareError, PrepareRequest};
use api::desired::ResolvedImage;
use api::images::PullPolicy;
use api::observed::{PreparationObserved, PreparationState, PreparationStep};
use api::services::HealthCheck;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A slow network is not made faster by more of them.
const PULLS_AT_ONCE: usize = 3;
const TAIL_LINES: usize = 20;

/// Images that are here for us.
pub struct Images {
    shared: Arc<Shared>,
    book: Book,
    pulls: Semaphore,
    /// One turn per image.
    keys: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What went wrong, and whether trying again could help.
struct Problem {
    message: String,
    retryable: bool,
}

impl Problem {
    fn later(message: impl Into<String>) -> Self {
        Self { message: message.into(), retryable: true }
    }

    fn final_(message: impl Into<String>) -> Self {
        Self { message: message.into(), retryable: false }
    }
}

impl Images {
    pub fn open(shared: Arc<Shared>) -> Self {
        let ready = |key: &str| build_key(key).is_ok_and(|key| path_of(&shared, &key).exists());
        let book = Book::open(shared.folders.preparations(), shared.changes.clone(), ready);
        Self { book, pulls: Semaphore::new(PULLS_AT_ONCE), keys: Mutex::default(), shared }
    }

    pub fn observed(&self) -> Vec<PreparationObserved> {
        self.book.observed()
    }

    pub fn records(&self) -> Records {
        self.book.records()
    }

    pub fn forget(&self, keep: impl Fn(&api::ids::RevisionId) -> bool) {
        self.book.forget(keep);
    }

    /// What is known of the image of a build key; `None`: it has to be got.
    pub fn record(&self, key: &str) -> Option<ImageRecord> {
        let key = build_key(key).ok()?;
        read_json(&path_of(&self.shared, &key)).unwrap_or(None)
    }

    /// Somebody removed it from the engine: whoever needs it has to get it again.
    pub fn is_gone(&self, key: &str) {
        let Ok(parsed) = build_key(key) else { return };
        let _ = std::fs::remove_file(path_of(&self.shared, &parsed));
        for (revision, (_, of)) in self.book.records() {
            if of == key {
                self.book.cancelled(&revision);
            }
        }
    }

    /// Whether anything is being pulled now.
    pub fn is_busy(&self, key: &str) -> bool {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key).is_some_and(|turn| turn.try_lock().is_err())
    }

    fn key_turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, turn| Arc::strong_count(turn) > 1);
        keys.entry(key.to_owned()).or_default().clone()
    }

    pub async fn prepare(&self, request: PrepareRequest, cancel: CancellationToken) -> Result<(), PrepareError> {
        let turn = self.key_turn(&request.revision.build_key);
        let _turn = tokio::select! {
            turn = turn.lock() => turn,
            () = cancel.cancelled() => return Err(cancelled()),
        };
        let mut observed = self.book.fresh(&request, PreparationStep::Pull);
        self.book.note(&request, observed.clone());
        let folder = self.shared.folders.pull(&request.revision.deployment_id);
        let mut log = self.open_log(&folder, &request);
        // Dropping a pull ends it: the engine notices that nobody listens, and keeps the layers that it has.
        let result = tokio::select! {
            result = self.get(&request, &mut log) => result,
            () = cancel.cancelled() => {
                log.say("cancelled: nothing needs this any more");
                self.book.cancelled(&request.revision.revision_id);
                return Err(cancelled());
            }
        };
        observed.ended_at_ms = Some(now_ms());
        let error = result.err().map(|problem| {
            let log_tail = tail(&folder, TAIL_LINES);
            log.say(&problem.message);
            observed.state = PreparationState::Failed;
            observed.error = Some(problem.message.clone());
            observed.retryable = problem.retryable;
            observed.log_tail.clone_from(&log_tail);
            PrepareError {
                step: PreparationStep::Pull,
                message: problem.message,
                retryable: problem.retryable,
                cancelled: false,
                log_tail,
            }
        });
        if error.is_none() {
            observed.state = PreparationState::Ready;
        }
        self.book.keep(&request, observed);
        error.map_or(Ok(()), Err)
    }

    fn open_log(&self, folder: &std::path::Path, request: &PrepareRequest) -> PullLog {
        let opened = LogWriter::open(folder, self.shared.options.log_limits).and_then(|log| {
            write_json(&folder.join(LOG_OWNER), &request.service_id, Durability::Renamed)?;
            Ok(log)
        });
        // The image is good without.
        PullLog(opened.map_err(|error| tracing::warn!(%error, "the log of a pull cannot be written")).ok())
    }

    async fn get(&self, request: &PrepareRequest, log: &mut PullLog) -> Result<(), Problem> {
        let revision = &request.revision;
        let Some(wanted) = revision.source.image() else {
            return Err(Problem::final_(format!("{} is not run as a container", revision.source.label())));
        };
        let key = build_key(&revision.build_key).map_err(|error| Problem::final_(error.to_string()))?;
        let engine = self.shared.finder.engine().await.map_err(|error| Problem::later(error.to_string()))?;
        let before = self.record(key.as_str());
        let here = self.find(&engine, wanted).await?;
        let here_before = here.is_some();
        let found = match here {
            Some(found) if wanted.pull != PullPolicy::Always || wanted.digest.is_none() => {
                log.say(&format!("{} is here already", found.0));
                found
            }
            _ => self.pull(&engine, wanted, log).await?,
        };
        // What was here before we asked for it belongs to whoever brought it.
        let pulled = before.map_or(!here_before, |before| before.pulled);
        let record = image::record(request.service_id.clone(), found.0, &found.1, pulled, now_ms());
        if revision.health.check == HealthCheck::Image && record.check.is_none() {
            return Err(Problem::final_(
                "`health` is \"image\", and the image brings no health check (HEALTHCHECK); set `health` to a path, a command \
                 or tcp",
            ));
        }
        let path = path_of(&self.shared, &key);
        write_json(&path, &record, Durability::Synced)
            .map_err(|error| Problem::later(format!("could not write {}: {error}", path.display())))
    }

    async fn find(
        &self,
        engine: &Engine,
        wanted: &ResolvedImage,
    ) -> Result<Option<(String, super::answers::ImageInspect)>, Problem> {
        image::find(engine, wanted).await.map_err(|error| {
            if error.is_away() {
                self.shared.finder.lost();
            }
            Problem::later(error.to_string())
        })
    }

    async fn pull(
        &self,
        engine: &Engine,
        wanted: &ResolvedImage,
        log: &mut PullLog,
    ) -> Result<(String, super::answers::ImageInspect), Problem> {
        let Some(digest) = wanted.digest.as_ref().filter(|_| wanted.pull != PullPolicy::Never) else {
            return Err(Problem::later(format!(
                "the image {} is not on this server, and `pull` is \"never\": load it (`{} load`), or let it be pulled",
                wanted.image,
                engine.kind.as_str()
            )));
        };
        self.check_space()?;
        let name = image::reference(wanted);
        let _slot = match self.pulls.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                log.say("waiting for other images to be pulled");
                self.pulls.acquire().await.map_err(|_| Problem::later("the agent ends"))?
            }
        };
        log.say(&format!("pulling {name}"));
        let begun = std::time::Instant::now();
        image::pull(&engine.api, wanted, digest, |text| log.say(text)).await.map_err(|error| Problem {
            retryable: error.retryable(),
            message: match error {
                PullError::Api(error) if error.is_away() => {
                    self.shared.finder.lost();
                    error.to_string()
                }
                error => format!("{name} could not be pulled: {error}"),
            },
        })?;
        let found = self.find(engine, wanted).await?;
        let found = found.ok_or_else(|| {
            Problem::later(format!("{name} was pulled, and the container engine does not have it; see its own log"))
        })?;
        log.say(&format!("pulled in {:.1} s, {} MB", begun.elapsed().as_secs_f64(), found.1.size.div_ceil(1_000_000)));
        Ok(found)
    }

    fn check_space(&self) -> Result<(), Problem> {
        let root = self.shared.folders.root();
        let space = crate::resources::space(root);
        let reserve_bytes = plan::disk::reserve_bytes(space.total_bytes, self.shared.options.disk_reserve_bytes);
        if !plan::disk::is_low(space, reserve_bytes, false) {
            return Ok(());
        }
        let why = plan::disk::why_low(space.total_bytes, reserve_bytes, &root.display().to_string());
        Err(Problem::later(format!("{why}; free some of it, and it goes on by itself")))
    }
}

struct PullLog(Option<LogWriter>);

impl PullLog {
    fn say(&mut self, text: &str) {
        if let Some(log) = &mut self.0 {
            log.note(text);
        }
    }
}

fn path_of(shared: &Shared, key: &BuildKey) -> PathBuf {
    shared.folders.images().join(format!("{}.json", key.as_str()))
}

fn cancelled() -> PrepareError {
    PrepareError {
        step: PreparationStep::Pull,
        message: "the preparation was cancelled, because nothing needs it any more".into(),
        retryable: true,
        cancelled: true,
        log_tail: Vec::new(),
    }
}
