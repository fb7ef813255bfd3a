//! Preparations: fetch, check out, build, and remember how it ended.
//!
//! A build lives in `builds/<build key>/`. Its `.ready` marker is written last, after everything is on
//! disk; a folder without one is half-done and thrown away before the next try. So a kill at any
//! point costs time, never correctness. How each revision's preparation ended is kept in a file of its
//! own, because several revisions may share one build.
//!
//! One preparation per service at a time (they share mirror and cache), and at most as many builds at
//! once as the options say.

use super::build::{Build, BuildError, lock, sweep_leftovers};
use super::cache::Cache;
use super::cgroup::Cgroups;
use super::directory::{git_source, inside};
use super::layout::{BuildKey, Layout, build_key};
use super::problem::{Problem, describe};
use super::sources;
use super::surroundings;
use crate::clock::now_ms;
use crate::drivers::book::{Book, Records};
use crate::drivers::files::{Durability, private_directory, remove_tree, sync_directory, write_json};
use crate::drivers::log::{self, LogLimits, LogWriter};
use crate::drivers::{PrepareError, PrepareRequest};
use api::desired::RevisionDesired;
use api::ids::{RevisionId, ServiceId};
use api::observed::{PreparationObserved, PreparationState, PreparationStep};
use git::run::Git;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

pub const TAIL_LINES: usize = 20;
pub const READY_MARKER: &str = ".ready";
pub const SOURCE: &str = "source";
pub const LOG_OWNER: &str = "service.json";

pub struct Preparations {
    layout: Layout,
    git: git::Environment,
    cgroups: Cgroups,
    log_limits: LogLimits,
    git_timeout: Duration,
    disk_reserve_bytes: Option<u64>,
    builds: Semaphore,
    services: Mutex<BTreeMap<ServiceId, Arc<tokio::sync::Mutex<()>>>>,
    /// One turn per build: services of one repository may share it.
    keys: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    book: Book,
}

impl Preparations {
    pub fn open(
        layout: Layout,
        git: git::Environment,
        cgroups: Cgroups,
        options: &super::ProcessOptions,
        changes: watch::Sender<u64>,
    ) -> Self {
        let ready = |key: &str| build_key(key).is_ok_and(|key| layout.build(&key).join(READY_MARKER).exists());
        let book = Book::open(layout.preparations(), changes, ready);
        Self {
            layout,
            git,
            cgroups,
            log_limits: options.log_limits,
            git_timeout: options.git_timeout,
            disk_reserve_bytes: options.disk_reserve_bytes,
            builds: Semaphore::new(options.concurrent_builds.max(1)),
            services: Mutex::default(),
            keys: Mutex::default(),
            book,
        }
    }

    pub fn observed(&self) -> Vec<PreparationObserved> {
        self.book.observed()
    }

    /// Which service and which build each known revision has.
    pub fn records(&self) -> Records {
        self.book.records()
    }

    pub fn is_ready(&self, key: &BuildKey) -> bool {
        self.layout.build(key).join(READY_MARKER).exists()
    }

    /// Whether anything of this service is being prepared now; then nothing of it may be collected.
    pub fn is_busy(&self, service: &ServiceId) -> bool {
        self.services().get(service).is_some_and(|lock| lock.try_lock().is_err())
    }

    pub fn is_any_busy(&self) -> bool {
        self.services().values().any(|lock| lock.try_lock().is_err())
    }

    /// Forget how preparations ended, except of those in work and those to keep.
    pub fn forget(&self, keep: impl Fn(&RevisionId) -> bool) {
        self.book.forget(keep);
    }

    /// Give back what mirrors hold of commits that no build here is of.
    pub async fn tidy_mirrors(&self) {
        let Ok(url) = "file:///".parse() else { return };
        let cancel = CancellationToken::new();
        let git = Git { environment: &self.git, url: &url, credential: None, timeout: self.git_timeout, cancel };
        let folders = |place| std::fs::read_dir(place).into_iter().flatten().flatten();
        // A checkout's HEAD is the commit itself.
        let needed: BTreeSet<String> = folders(self.layout.builds())
            .filter_map(|build| std::fs::read_to_string(build.path().join(SOURCE).join(".git/HEAD")).ok())
            .map(|head| head.trim().to_owned())
            .collect();
        for mirror in folders(self.layout.sources()) {
            let Some(service) = mirror.file_name().to_str().and_then(|name| name.parse::<ServiceId>().ok()) else {
                continue;
            };
            let turn = self.services().entry(service.clone()).or_default().clone();
            let Ok(_turn) = turn.try_lock() else { continue };
            if let Err(error) = sources::tidy(&git, &mirror.path(), &needed).await {
                tracing::warn!(%service, %error, "a mirror could not be tidied; trying again later");
            }
        }
    }

    pub async fn prepare(&self, request: PrepareRequest, cancel: CancellationToken) -> Result<(), PrepareError> {
        let service = self.services().entry(request.service_id.clone()).or_default().clone();
        let _turn = tokio::select! {
            turn = service.lock() => turn,
            () = cancel.cancelled() => return Err(cancelled(PreparationStep::Sync)),
        };
        let key = self.key_turn(&request.revision.build_key);
        let _build_turn = tokio::select! {
            turn = key.lock() => turn,
            () = cancel.cancelled() => return Err(cancelled(PreparationStep::Sync)),
        };
        let mut work = match Work::begin(self, &request, cancel) {
            Ok(work) => work,
            Err(problem) => return Err(self.failed_before(&request, problem)),
        };
        self.book.note(&request, work.observed.clone());
        let result = work.run().await;
        let error = result.err().map(|problem| work.conclude(problem));
        work.observed.ended_at_ms = Some(now_ms());
        match &error {
            None => work.observed.state = PreparationState::Ready,
            Some(error) if error.cancelled => {
                self.book.cancelled(&request.revision.revision_id);
                return Err(error.clone());
            }
            Some(error) => {
                work.observed.state = PreparationState::Failed;
                work.observed.error = Some(error.message.clone());
                work.observed.retryable = error.retryable;
                work.observed.log_tail = error.log_tail.clone();
            }
        }
        self.book.keep(&request, work.observed.clone());
        error.map_or(Ok(()), Err)
    }

    /// The lock of one build; those that nobody holds any more are forgotten.
    fn key_turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, lock| Arc::strong_count(lock) > 1);
        keys.entry(key.to_owned()).or_default().clone()
    }

    fn failed_before(&self, request: &PrepareRequest, problem: Problem) -> PrepareError {
        let error = PrepareError {
            step: PreparationStep::Sync,
            message: describe(&problem),
            retryable: problem.retryable(),
            cancelled: false,
            log_tail: Vec::new(),
        };
        let mut observed = self.book.fresh(request, PreparationStep::Sync);
        observed.state = PreparationState::Failed;
        observed.error = Some(error.message.clone());
        observed.retryable = error.retryable;
        observed.ended_at_ms = Some(now_ms());
        self.book.note(request, observed);
        error
    }

    fn services(&self) -> std::sync::MutexGuard<'_, BTreeMap<ServiceId, Arc<tokio::sync::Mutex<()>>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cancelled(step: PreparationStep) -> PrepareError {
    PrepareError {
        step,
        message: "the preparation was cancelled, because nothing needs it any more".into(),
        retryable: true,
        cancelled: true,
        log_tail: Vec::new(),
    }
}

/// One preparation while it is worked on.
struct Work<'a> {
    owner: &'a Preparations,
    request: &'a PrepareRequest,
    key: BuildKey,
    observed: PreparationObserved,
    log: Arc<Mutex<LogWriter>>,
    cancel: CancellationToken,
}

impl<'a> Work<'a> {
    fn begin(owner: &'a Preparations, request: &'a PrepareRequest, cancel: CancellationToken) -> Result<Self, Problem> {
        let revision = &request.revision;
        let key = build_key(&revision.build_key).map_err(|error| Problem::Refused(error.to_string()))?;
        let directory = owner.layout.build_log(&revision.deployment_id);
        let failed = |source| Problem::Io { operation: "open the build log", path: directory.clone(), source };
        let log = LogWriter::open(&directory, owner.log_limits).map_err(failed)?;
        write_json(&directory.join(LOG_OWNER), &request.service_id, Durability::Renamed).map_err(failed)?;
        let observed = owner.book.fresh(request, PreparationStep::Sync);
        Ok(Self { owner, request, key, observed, log: Arc::new(Mutex::new(log)), cancel })
    }

    fn revision(&self) -> &'a RevisionDesired {
        &self.request.revision
    }

    fn say(&self, text: &str) {
        lock(&self.log).note(text);
    }

    async fn run(&mut self) -> Result<(), Problem> {
        let revision = self.revision();
        if self.owner.is_ready(&self.key) {
            self.say(&format!("{} is built already", revision.source.label()));
            self.observed.step = PreparationStep::Build;
            return Ok(());
        }
        self.check_space()?;
        let place = self.owner.layout.build(&self.key);
        self.clear(&place).await?;
        let result = self.fetch_and_build(&place).await;
        if result.is_err() {
            let _ = tokio::task::spawn_blocking(move || remove_tree(&place)).await;
        }
        result
    }

    async fn fetch_and_build(&mut self, place: &Path) -> Result<(), Problem> {
        let source = place.join(SOURCE);
        self.sync(&source).await?;
        let directory = inside(&source, &git_source(self.revision())?.directory)?;
        self.observed.step = PreparationStep::Build;
        self.owner.book.note(self.request, self.observed.clone());
        if let Some(spec) = &self.revision().build {
            self.build(spec, &directory).await?;
        }
        self.seal(place).await
    }

    /// A half-done build of the same key, and whatever still works on it.
    async fn clear(&self, place: &Path) -> Result<(), Problem> {
        let (place, key, group) = (place.to_owned(), self.key.as_str().to_owned(), self.group());
        let failed = |source| Problem::Io { operation: "make the folder for the build", path: place.clone(), source };
        let cleared = tokio::task::spawn_blocking({
            let place = place.clone();
            move || {
                if place.exists() {
                    sweep_leftovers(&key, group);
                    remove_tree(&place)?;
                }
                private_directory(&place)
            }
        });
        cleared.await.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)
    }

    fn group(&self) -> Option<super::cgroup::Group> {
        self.owner.cgroups.group(&format!("build-{}", &self.key.as_str()[..self.key.as_str().len().min(16)]))
    }

    async fn sync(&self, target: &Path) -> Result<(), Problem> {
        let source = git_source(self.revision())?;
        self.say(&format!("fetching {} at {}", source.git, source.commit));
        let git = Git {
            environment: &self.owner.git,
            url: &source.git,
            credential: source.credential.as_ref(),
            timeout: self.owner.git_timeout,
            cancel: self.cancel.clone(),
        };
        let mirror = self.owner.layout.source(&self.request.service_id);
        let mut say = |line: &str| self.say(line);
        sources::fetch(&git, &mirror, &source.commit, source.reference.as_ref(), &mut say).await?;
        sources::check_out(&git, &mirror, &source.commit, target, source.submodules, &mut say).await?;
        Ok(())
    }

    async fn build(&self, spec: &api::services::BuildSpec, directory: &Path) -> Result<(), Problem> {
        let _slot = match self.owner.builds.try_acquire() {
            Ok(slot) => slot,
            Err(_) => {
                self.say("waiting for another build to end");
                tokio::select! {
                    slot = self.owner.builds.acquire() => slot.map_err(|_| BuildError::Cancelled)?,
                    () = self.cancel.cancelled() => return Err(BuildError::Cancelled.into()),
                }
            }
        };
        let kept = self.owner.layout.cache(&self.request.service_id);
        let home = kept.join("home");
        private_directory(&home).map_err(|source| Problem::Io {
            operation: "make the home of the build",
            path: home.clone(),
            source,
        })?;
        let cache = Cache::move_in(&kept.join("folders"), directory, &spec.cache)
            .map_err(|e| Problem::Refused(describe(&e)))?;
        let build = Build {
            key: self.key.as_str().to_owned(),
            command: spec.command.clone(),
            directory: directory.to_owned(),
            env: self.environment(&home)?,
            limits: spec.limits.clone(),
            timeout: Duration::from_millis(spec.timeout_ms.max(1)),
            group: self.group(),
        };
        self.say(&format!("building: {}", spec.command));
        let begun = std::time::Instant::now();
        let result = build.run(self.log.clone(), self.cancel.clone()).await;
        match &result {
            Ok(()) => self.say(&format!("built in {:.1} s", begun.elapsed().as_secs_f64())),
            Err(_) => cache.move_back(),
        }
        result?;
        let copied = tokio::task::spawn_blocking(move || cache.copy_out()).await;
        // The release is good without; only the next build is slower.
        match copied {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.say(&format!("warning: {}", describe(&error))),
            Err(error) => self.say(&format!("warning: the cache could not be kept: {error}")),
        }
        Ok(())
    }

    fn environment(&self, home: &Path) -> Result<BTreeMap<String, String>, Problem> {
        let mut env = surroundings::base(home);
        env.insert("CI".into(), "true".into());
        env.insert("MAINSTAY_SERVICE".into(), self.request.service.to_string());
        env.insert("MAINSTAY_COMMIT".into(), git_source(self.revision())?.commit.to_string());
        surroundings::overlay(&mut env, &self.request.env, &self.revision().env).map_err(Problem::Refused)?;
        Ok(env)
    }

    /// Everything on disk, then the marker.
    async fn seal(&self, place: &Path) -> Result<(), Problem> {
        let path = place.to_owned();
        let sealed = tokio::task::spawn_blocking(move || {
            let folder = std::fs::File::open(&path)?;
            rustix::fs::syncfs(&folder)?;
            std::fs::File::create(path.join(READY_MARKER))?.sync_all()?;
            folder.sync_all()?;
            path.parent().map_or(Ok(()), sync_directory)
        });
        let failed = |source| Problem::Io { operation: "finish the build in", path: place.to_owned(), source };
        sealed.await.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)
    }

    /// The loop asks for nothing while there is no room; much may have happened since it looked.
    fn check_space(&self) -> Result<(), Problem> {
        let root = self.owner.layout.root();
        let space = crate::resources::space(root);
        let reserve_bytes = plan::disk::reserve_bytes(space.total_bytes, self.owner.disk_reserve_bytes);
        if !plan::disk::is_low(space, reserve_bytes, false) {
            return Ok(());
        }
        Err(Problem::DiskFull(plan::disk::why_low(space.total_bytes, reserve_bytes, &root.display().to_string())))
    }

    /// The end of a preparation that did not succeed, also told in its log.
    fn conclude(&self, problem: Problem) -> PrepareError {
        if problem.cancelled() || self.cancel.is_cancelled() {
            self.say("cancelled: nothing needs this any more");
            return cancelled(self.observed.step);
        }
        let message = describe(&problem);
        let log_tail = log::tail(&self.owner.layout.build_log(&self.revision().deployment_id), TAIL_LINES);
        self.say(&message);
        PrepareError { step: self.observed.step, retryable: problem.retryable(), message, cancelled: false, log_tail }
    }
}
