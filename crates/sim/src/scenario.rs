//! One story from its seed.

use crate::chance::{Chance, Seed};
use crate::direct;
use crate::machine::{self, Machine};
use crate::people::People;
use crate::plane::{self, Door, Plane};
use crate::referee::Referee;
use crate::storm::{storm, wake_late};
use crate::story::Story;
use crate::time::{Surroundings, Time, locked};
use crate::world::{Repositories, Seen, Weather, World, plane_life};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// In calm weather everything is done within this (virtual) time.
const CALM_LIMIT: Duration = Duration::from_secs(60);
/// After a storm: backoffs of up to two minutes have to run out first.
const HEALING_LIMIT: Duration = Duration::from_secs(300);
const NAMES: [&str; 3] = ["m1", "m2", "m3"];
const SERVICES: [&str; 2] = ["api", "web"];

/// How a simulation ended.
#[derive(Debug)]
pub struct Outcome {
    /// A promise that was broken.
    pub violation: Option<String>,
    pub story: Vec<String>,
    /// Virtual time that passed.
    pub passed: Duration,
}

/// Beginnings that stories share.
const BEGINNINGS: u64 = 64;
/// Of a thousand stories so many have a beginning of their own, because beginnings go wrong, too.
const OWN_BEGINNINGS: u32 = 63;

/// How a story begins: up to the storm it is decided by this number, and from there on by its seed.
///
/// Two fifths of a story's cost are its beginning, and there are not so many different ones: some machines, some
/// services, some instances of each, and calm weather. So most stories begin in one of a few ways, each of which
/// is told once, and then all its stories from there (see `narrator`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Beginning {
    Shared(u64),
    Own(u64),
}

impl Beginning {
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed, "beginning");
        if chance.happens(OWN_BEGINNINGS) { Self::Own(seed) } else { Self::Shared(chance.number(0..BEGINNINGS)) }
    }

    fn number(self) -> u64 {
        match self {
            Self::Shared(number) | Self::Own(number) => number,
        }
    }
}

/// Where simulations happen: a thread for the control plane, and a database to begin with.
pub struct Stage {
    plane: Arc<Plane>,
    directory: tempfile::TempDir,
}

impl Stage {
    /// Best in memory: `/dev/shm` where there is one.
    pub fn new() -> anyhow::Result<Self> {
        direct::install();
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("mainstay-sim-").tempdir_in(base)?;
        let plane = Arc::new(Plane::default());
        plane.make_template(&directory.path().join("template")).map_err(|error| anyhow::anyhow!(error))?;
        Ok(Self { plane, directory })
    }

    /// A world of its own, whose control plane is not yet started, with its part of the disk in a directory of this
    /// name.
    pub(crate) fn world(&self, seed: Seed, machines: usize, time: Time, name: &str) -> anyhow::Result<World> {
        Ok(new_world(&self.plane, seed, machines, time, self.fresh(name)?))
    }

    /// What a story has of the disk, begun anew.
    fn fresh(&self, name: &str) -> anyhow::Result<PathBuf> {
        let (template, fresh) = (self.directory.path().join("template"), self.directory.path().join(name));
        direct::forget(&fresh);
        copy(&template, &fresh)?;
        let database = |directory: &Path| plane::options(directory).directory().join("mainstay.db");
        direct::copy(&database(&template), &database(&fresh))?;
        Ok(fresh)
    }

    /// No thread but the one that asks is about.
    pub(crate) fn rest(&self) {
        self.plane.rest();
    }
}

/// Copies a directory to the place of another one.
pub(crate) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Keeps this thread, and those that it starts, on one core: the threads of a simulation wait for each
/// other all the time, and to wake one on the same core costs a fraction.
pub fn stay_on_core(number: usize) {
    let Ok(allowed) = rustix::thread::sched_getaffinity(None) else { return };
    let cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    let Some(core) = cores.get(number % cores.len().max(1)) else { return };
    let mut only = rustix::thread::CpuSet::new();
    only.set(*core);
    // Where it is not allowed, it is merely slower.
    let _ = rustix::thread::sched_setaffinity(None, &only);
}

/// Tells the story of a seed.
pub fn run(stage: &Stage, seed: u64) -> anyhow::Result<Outcome> {
    in_virtual_time(async {
        let mut story = Begun::tell(stage, Beginning::of(seed), "now").await?;
        let outcome = story.go_on(seed).await;
        story.end().await;
        Ok(outcome)
    })
}

/// Under a clock that jumps from one event to the next. There is nothing else in it that a process which is
/// doubled would have to share with its double.
pub(crate) fn in_virtual_time<R>(work: impl Future<Output = anyhow::Result<R>>) -> anyhow::Result<R> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// A world in calm weather, before anything has happened in it.
pub(crate) fn new_world(plane: &Arc<Plane>, seed: Seed, machines: usize, time: Time, directory: PathBuf) -> World {
    let machine = |name: &&'static str| Arc::new(Machine::new(name, &seed, time, &directory));
    let machines = NAMES[..machines].iter().map(machine).collect();
    let around_plane = Arc::new(Surroundings::standing(seed.chance("control plane")));
    World {
        seed,
        time,
        story: Story::begin(time),
        weather: Mutex::default(),
        plane: plane.clone(),
        door: Arc::new(Door::default()),
        around_plane,
        directory,
        machines,
        referee: Referee::default(),
        seen: watch::Sender::new(Seen::default()),
        news: Notify::new(),
        resting: watch::Sender::new(false),
        repositories: Arc::new(Repositories::default()),
        over: AtomicBool::new(false),
    }
}

/// A story that is told up to the storm.
pub(crate) struct Begun {
    world: Arc<World>,
    people: People,
    chance: Chance,
    tasks: JoinSet<()>,
}

impl Begun {
    /// Tells a beginning, with what it has of the disk in a directory of this name.
    pub async fn tell(stage: &Stage, beginning: Beginning, directory: &str) -> anyhow::Result<Self> {
        let time = Time::begin();
        let seed = Seed::new(beginning.number());
        let count = seed.chance("world").number(1..4) as usize;
        let world = Arc::new(stage.world(seed, count, time, directory)?);
        let mut chance = world.seed.chance("story");
        anyhow::ensure!(world.start_plane(), "the control plane cannot start");
        let mut tasks = JoinSet::new();
        tasks.spawn(plane_life(world.clone()));
        tasks.spawn(printing(world.clone()));
        let services = &SERVICES[..chance.number(1..3) as usize];
        let people = People::new(&world, services)?;
        // One may come later, in the storm.
        let late = (world.machines.len() > 1 && chance.happens(300)).then(|| world.machines.len() - 1);
        give_tokens(&world, &people, &mut chance, late);
        for machine in &world.machines {
            tasks.spawn(machine::life(world.clone(), machine.clone()));
        }
        if let Err(error) = begin(&world, &people, services, &mut chance, late).await {
            world.story.never(format_args!("the simulation cannot go on: {error:#}"));
        }
        Ok(Self { world, people, chance, tasks })
    }

    pub fn directory(&self) -> &Path {
        &self.world.directory
    }

    /// The rest of the story, decided by this seed from here on.
    pub async fn go_on(&mut self, seed: u64) -> Outcome {
        let Self { world, people, chance, .. } = self;
        world.seed.change(seed);
        if world.story.violation().is_none() {
            world.story.tell("weather", "a storm comes up");
            storm(world, people, chance).await;
        }
        if world.story.violation().is_none() {
            heal(world, people).await;
        }
        world.over.store(true, Ordering::SeqCst);
        Outcome {
            violation: world.story.violation(),
            story: world.story.lines(),
            passed: Duration::from_millis(world.time.passed_ms().unsigned_abs()),
        }
    }

    /// Everybody leaves. Nobody has to where the process ends with the story.
    async fn end(&mut self) {
        self.tasks.shutdown().await;
        self.world.plane.end();
    }
}

/// Each machine gets a token; some try one that another may have used.
fn give_tokens(world: &World, people: &People, chance: &mut Chance, late: Option<usize>) {
    let mut former = None;
    for (index, machine) in world.machines.iter().enumerate() {
        let token = people.make_token(world);
        let mut tokens = locked(&machine.tokens);
        if chance.happens(300) {
            tokens.extend(former.clone());
        }
        tokens.extend(token.clone());
        former = token;
        drop(tokens);
        if late == Some(index) {
            machine.off.send_replace(true);
        }
    }
}

/// Who has no token left that might be good gets another.
fn give_tokens_again(world: &World, people: &People) {
    if !world.seen.borrow().up {
        return;
    }
    for machine in world.machines.iter().filter(|machine| machine.server_id().is_none()) {
        let empty = locked(&machine.tokens).is_empty();
        if empty {
            let token = people.make_token(world);
            locked(&machine.tokens).extend(token);
        }
    }
}

/// The calm before: all join, all is deployed and serves.
async fn begin(
    world: &World,
    people: &People,
    services: &[&'static str],
    chance: &mut Chance,
    late: Option<usize>,
) -> anyhow::Result<()> {
    let expected = world.machines.len() - usize::from(late.is_some());
    let joined = || world.machines.iter().filter(|machine| machine.server_id().is_some()).count();
    for _ in 0..300 {
        if joined() >= expected {
            break;
        }
        give_tokens_again(world, people);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::ensure!(joined() >= expected, "only {} of {expected} machines joined", joined());
    for service in services {
        world.referee.want(service, 1);
    }
    anyhow::ensure!(people.deploy(world), "the first deployment is refused");
    calm(world, CALM_LIMIT, "in the calm before the storm").await;
    for service in services {
        if chance.happens(500) && world.story.violation().is_none() {
            people.scale(world, service, chance.number(2..4) as u32);
            calm(world, CALM_LIMIT, "after scaling in the calm").await;
        }
    }
    Ok(())
}

/// Waits until everything is as it should be.
async fn calm(world: &World, limit: Duration, when: &str) {
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        if world.story.violation().is_some() {
            return;
        }
        match world.unfinished() {
            None => {
                world.referee.calm();
                return world.story.tell("referee", "everything is as it should be");
            }
            Some(why) if tokio::time::Instant::now() > deadline => {
                let limit = limit.as_secs();
                return world.story.never(format_args!("not done {limit} s {when}: {why}"));
            }
            Some(_) => {}
        }
    }
}

/// The calm after: nothing fails any more, and everything has to come right by itself.
async fn heal(world: &Arc<World>, people: &People) {
    world.story.tell("weather", "clears up");
    *locked(&world.weather) = Weather::default();
    world.door.calm();
    world.around_plane.skew(0);
    world.repositories.fail_next(0);
    world.resting.send_replace(false);
    for machine in &world.machines {
        machine.cut_off(false);
        machine.deafen(false);
        machine.around.skew(0);
        machine.disk_full.store(false, Ordering::SeqCst);
        if machine.server_id().is_none() {
            // Its token may have been spent by a registration whose answer was lost.
            locked(&machine.tokens).clear();
        }
    }
    wake_late(world);
    for _ in 0..600 {
        if world.machines.iter().all(|machine| machine.server_id().is_some()) || world.story.violation().is_some() {
            break;
        }
        give_tokens_again(world, people);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Before anybody tidies up: one token may have let in two, and one of them is not there any more.
    drop(world.look_at_books());
    people.remove_ghosts(world);
    calm(world, HEALING_LIMIT, "after the storm").await;
    if world.story.violation().is_none() {
        world.look_at_promises();
    }
}

/// Whatever runs prints a line now and then.
async fn printing(world: Arc<World>) {
    let mut chance = world.seed.chance("printing");
    let mut number = 0_u64;
    let mut resting = world.resting.subscribe();
    while !world.is_over() {
        let _awake = resting.wait_for(|resting| !resting).await.is_ok();
        tokio::time::sleep(chance.ms(1_000..8_000)).await;
        let stormy = world.weather().delay_limit_ms > 0 || number < 20;
        for machine in &world.machines {
            for instance in machine.workloads.instances() {
                if stormy && instance.pid.is_some() && chance.happens(400) {
                    number += 1;
                    machine.workloads.print(&instance.instance_id, &format!("line {number}"));
                }
            }
        }
    }
}
