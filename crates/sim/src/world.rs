//! Everything that one simulation consists of, and the weather in it.

use crate::chance::{Chance, Seed};
use crate::machine::Machine;
use crate::plane::{self, Answer, Door, Heads, Plane};
use crate::referee::Referee;
use crate::story::Story;
use crate::time::{Surroundings, Time, locked};
use api::ids::ServerId;
use api::services::{GitRef, GitUrl};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use git::{GitError, ResolvedReference};
use server::Edges;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How bad it is; numbers are cases in a thousand. Each seed has its own mixture, in which some things
/// never happen: a fault that is rare among many others is frequent where it is nearly alone.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    pub lost_requests: u32,
    pub lost_answers: u32,
    /// Of letters that are lost so many are lost without a word, and whoever sent them waits for half a minute.
    pub silent: u32,
    pub doubled: u32,
    /// A proxy on the way answers with a document that it kept.
    pub stale: u32,
    /// Delayed by up to this many milliseconds, and so reordered.
    pub delay_limit_ms: u64,
    /// At each gate: before and after every change on the machine and every write to the ledger.
    pub agent_dies_at_gate: u32,
    /// At the same gates: the whole machine, and whatever it had not synced.
    pub power_fails_at_gate: u32,
    pub ledger_fails: u32,
    pub driver_fails: u32,
    pub driver_hangs: u32,
    pub gateway_refuses: u32,
    pub checks_fail: u32,
}

/// Of a thousand stories in so many a lost letter is mostly lost without a word. What these show is that somebody
/// gives up waiting at last, and they are longer for it than all others.
const SILENT: u32 = 250;

impl Weather {
    pub fn of(chance: &mut Chance) -> Self {
        let silent = if chance.happens(SILENT) { 800 } else { 0 };
        let mut maybe = |limit: u64| if chance.happens(500) { chance.number(1..limit) as u32 } else { 0 };
        Self {
            lost_requests: maybe(150),
            lost_answers: maybe(150),
            silent,
            doubled: maybe(150),
            stale: maybe(100),
            delay_limit_ms: u64::from(maybe(4_000)),
            agent_dies_at_gate: maybe(40),
            power_fails_at_gate: maybe(25),
            ledger_fails: maybe(100),
            driver_fails: maybe(150),
            driver_hangs: maybe(60),
            gateway_refuses: maybe(200),
            checks_fail: maybe(20),
        }
    }
}

/// What waiting requests and the rollout look at.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Rises with each start of the control plane.
    pub epoch: u64,
    pub up: bool,
    pub generations: BTreeMap<ServerId, u64>,
}

pub struct World {
    pub seed: Seed,
    pub time: Time,
    pub story: Story,
    pub weather: Mutex<Weather>,
    pub plane: Arc<Plane>,
    pub door: Arc<Door>,
    pub around_plane: Arc<Surroundings>,
    pub directory: PathBuf,
    pub machines: Vec<Arc<Machine>>,
    pub referee: Referee,
    pub seen: watch::Sender<Seen>,
    pub news: Notify,
    /// Everything is switched off and stays so until somebody allows a start.
    pub resting: watch::Sender<bool>,
    pub repositories: Arc<Repositories>,
    /// Tells whoever repeats something that the simulation is over.
    pub over: AtomicBool,
}

/// Repositories whose branches stand where people have pushed.
#[derive(Default)]
pub struct Repositories {
    pushed: Mutex<BTreeMap<String, u64>>,
    failing: AtomicU64,
}

impl Repositories {
    pub fn push(&self, url: &str) {
        *locked(&self.pushed).entry(url.to_owned()).or_default() += 1;
    }

    pub fn fail_next(&self, times: u64) {
        self.failing.store(times, Ordering::SeqCst);
    }
}

impl server::actions::sources::Repositories for Repositories {
    fn resolve<'a>(
        &'a self,
        _: &'a git::Environment,
        url: &'a GitUrl,
        _: Option<&'a GitRef>,
        _: Option<&'a api::desired::GitCredential>,
    ) -> BoxFuture<'a, Result<ResolvedReference, GitError>> {
        Box::pin(async move {
            let fails = self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if fails.is_ok() {
                return Err(GitError::Unreachable { url: url.to_string(), detail: "no route to host".into() });
            }
            let number = locked(&self.pushed).get(&url.to_string()).copied().unwrap_or(0);
            let mut name = Chance::of(number, &url.to_string());
            let commit = format!("{:016x}{:016x}{:08x}", name.any(), name.any(), number);
            let commit = commit.parse().expect("forty hexadecimal digits are a commit");
            Ok(ResolvedReference { commit, reference: None, subject: Some(format!("push {number}")) })
        })
    }
}

impl World {
    pub fn weather(&self) -> Weather {
        locked(&self.weather).clone()
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst) || self.story.violation().is_some()
    }

    /// Starts the control plane from what its disk holds.
    pub fn start_plane(&self) -> bool {
        self.around_plane.set(self.time.true_ms());
        let edges = Edges {
            repositories: self.repositories.clone(),
            registries: None,
            gate: Some(self.door.clone()),
            // The waiting of a long-poll is done by the network, in virtual time.
            poll_limit: Duration::ZERO,
        };
        let started =
            self.plane.start(plane::options(&self.directory), edges, self.around_plane.clone(), Instant::now());
        match started {
            Ok(()) => {
                self.story.tell("control", "starts");
                self.seen.send_modify(|seen| {
                    seen.epoch += 1;
                    seen.up = true;
                });
                true
            }
            Err(error) => {
                self.door.take_death();
                self.story.tell("control", format_args!("cannot start: {error}"));
                false
            }
        }
    }

    /// The control plane dies; what was not committed is gone.
    pub fn kill_plane(&self, why: &str) {
        if !self.seen.borrow().up {
            return;
        }
        self.plane.end();
        self.door.take_death();
        self.story.tell("control", format_args!("dies: {why}"));
        self.seen.send_modify(|seen| seen.up = false);
        self.news.notify_one();
    }

    /// A request reaches the control plane. `None`: nobody listens, or it died before it could answer.
    pub fn ask_plane(&self, request: http::Request<Bytes>) -> Option<Answer> {
        if !self.seen.borrow().up {
            return None;
        }
        self.around_plane.set(self.time.true_ms());
        let (answer, heads) = self.plane.request(request, self.around_plane.clone(), self.joined())?;
        self.after_step(heads);
        self.seen.borrow().up.then_some(answer)
    }

    /// A round of the rollout; answers when the next is due.
    pub fn round(&self) -> Instant {
        self.around_plane.set(self.time.true_ms());
        match self.plane.round(Instant::now(), self.around_plane.clone(), self.joined()) {
            Some((due, heads)) => {
                self.after_step(heads);
                due
            }
            None => Instant::now() + Duration::from_secs(1),
        }
    }

    pub fn look_who_is_there(&self) {
        self.around_plane.set(self.time.true_ms());
        if let Some(heads) = self.plane.presence(self.around_plane.clone(), self.joined()) {
            self.after_step(heads);
        }
    }

    fn joined(&self) -> Vec<ServerId> {
        self.machines.iter().filter_map(|machine| machine.server_id()).collect()
    }

    /// What a step left behind: a death, newer documents, services to look at.
    fn after_step(&self, heads: Heads) {
        if self.door.take_death() {
            self.kill_plane("between two writes");
            return;
        }
        self.seen.send_if_modified(|seen| std::mem::replace(&mut seen.generations, heads.clone()) != heads);
        self.news.notify_one();
    }
}

/// The life of the control plane: it is started again some time after each death, moves deployments
/// and looks who is there.
pub async fn plane_life(world: Arc<World>) {
    let mut chance = world.seed.chance("life of the control plane");
    let presence_every = Duration::from_millis(plane::POLL_INTERVAL_MS / 4);
    let mut look_at = Instant::now() + presence_every;
    let mut round_at = Instant::now();
    let mut resting = world.resting.subscribe();
    while !world.is_over() {
        if !world.seen.borrow().up {
            let _awake = resting.wait_for(|resting| !resting).await.is_ok();
            let mut pause = chance.ms(50..3_000);
            if chance.happens(100) {
                pause = chance.ms(3_000..45_000);
            }
            tokio::time::sleep(pause).await;
            if !*world.resting.borrow() && world.start_plane() {
                round_at = Instant::now();
            }
            continue;
        }
        if Instant::now() >= look_at {
            look_at = Instant::now() + presence_every;
            world.look_who_is_there();
            continue;
        }
        tokio::select! {
            biased;
            () = world.news.notified() => {
                // What comes together is looked at together.
                tokio::time::sleep(Duration::from_millis(2)).await;
                round_at = Instant::now();
            }
            () = tokio::time::sleep_until(round_at.min(look_at)) => {}
        }
        if world.seen.borrow().up && Instant::now() >= round_at {
            // A round wakes this task by itself; news that come while it runs are in it already.
            let due = world.round();
            let _taken = futures_util::FutureExt::now_or_never(world.news.notified());
            round_at = due.max(Instant::now() + Duration::from_millis(1));
        }
    }
}
