//! One story from its seed.

use crate::chance::Chance;
use crate::machine::{self, End, Machine};
use crate::people::People;
use crate::plane::{Door, Plane};
use crate::referee::Referee;
use crate::story::Story;
use crate::time::{Surroundings, Time, locked};
use crate::world::{Repositories, Seen, Weather, World, plane_life};
use api::ids::InstanceId;
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
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
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

/// Where simulations happen: a thread for the control plane, and a database to begin with.
pub struct Stage {
    plane: Arc<Plane>,
    directory: tempfile::TempDir,
}

impl Stage {
    /// Best in memory: `/dev/shm` where there is one.
    pub fn new() -> anyhow::Result<Self> {
        crate::direct::install();
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("mainstay-sim-").tempdir_in(base)?;
        let plane = Arc::new(Plane::spawn()?);
        plane.make_template(&directory.path().join("template")).map_err(|error| anyhow::anyhow!(error))?;
        Ok(Self { plane, directory })
    }

    /// A world of its own, whose control plane is not yet started.
    pub(crate) fn world(&self, seed: u64, machines: usize, time: Time) -> std::io::Result<World> {
        Ok(new_world(&self.plane, seed, machines, time, self.fresh()?))
    }

    fn fresh(&self) -> std::io::Result<PathBuf> {
        let fresh = self.directory.path().join("now");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        copy(&self.directory.path().join("template"), &fresh)?;
        Ok(fresh)
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    let outcome = runtime.block_on(async {
        let time = Time::begin();
        let count = Chance::of(seed, "world").number(1..4) as usize;
        let world = Arc::new(stage.world(seed, count, time)?);
        let told = tell(&world).await;
        world.plane.end();
        if let Err(error) = told {
            world.story.never(format_args!("the simulation cannot go on: {error:#}"));
        }
        Ok(Outcome {
            violation: world.story.violation(),
            story: world.story.lines(),
            passed: Duration::from_millis(time.passed_ms().unsigned_abs()),
        })
    });
    runtime.shutdown_background();
    outcome
}

/// A world in calm weather, before anything has happened in it.
pub(crate) fn new_world(plane: &Arc<Plane>, seed: u64, machines: usize, time: Time, directory: PathBuf) -> World {
    let machines = NAMES[..machines].iter().map(|name| Arc::new(Machine::new(name, seed, time, &directory))).collect();
    World {
        seed,
        time,
        story: Story::begin(time),
        weather: Mutex::default(),
        plane: plane.clone(),
        door: Arc::new(Door::default()),
        around_plane: Arc::new(Surroundings::standing(Chance::of(seed, "control plane"))),
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

async fn tell(world: &Arc<World>) -> anyhow::Result<()> {
    let mut chance = Chance::of(world.seed, "story");
    anyhow::ensure!(world.start_plane(), "the control plane cannot start");
    let mut tasks = JoinSet::new();
    tasks.spawn(plane_life(world.clone()));
    tasks.spawn(printing(world.clone()));
    let services = &SERVICES[..chance.number(1..3) as usize];
    let mut people = People::new(world, services)?;
    // One may come later, in the storm.
    let late = (world.machines.len() > 1 && chance.happens(300)).then(|| world.machines.len() - 1);
    give_tokens(world, &people, &mut chance, late);
    for machine in &world.machines {
        tasks.spawn(machine::life(world.clone(), machine.clone()));
    }
    begin(world, &people, services, &mut chance, late).await?;
    if world.story.violation().is_none() {
        world.story.tell("weather", "a storm comes up");
        storm(world, &mut people, &mut chance).await;
    }
    if world.story.violation().is_none() {
        heal(world, &people).await;
    }
    world.over.store(true, Ordering::SeqCst);
    tasks.shutdown().await;
    Ok(())
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

async fn storm(world: &Arc<World>, people: &mut People, chance: &mut Chance) {
    *locked(&world.weather) = Weather::of(chance);
    world.story.tell("weather", format_args!("{:?}", world.weather()));
    let steps = chance.number(3..9);
    let week_at = if chance.happens(40) { chance.number(1..steps) } else { u64::MAX };
    for step in 0..steps {
        tokio::time::sleep(chance.ms(100..4_000)).await;
        if world.story.violation().is_some() {
            return;
        }
        if step == week_at {
            week(world, people, chance).await;
        } else if chance.happens(450) {
            people.act(world, chance);
        } else {
            strike(world, chance).await;
        }
        // The rows are looked at now and then; each look costs a little.
        drop(world.look_at_books());
    }
    tokio::time::sleep(chance.ms(0..4_000)).await;
}

/// Something breaks.
async fn strike(world: &Arc<World>, chance: &mut Chance) {
    let machine = chance.one_of(&world.machines).clone();
    let name = machine.name;
    let for_a_while = |pause: Duration, undo: Box<dyn FnOnce() + Send>| {
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            undo();
        });
    };
    match chance.number(0..16) {
        0 => {
            world.story.tell(name, "the agent is killed");
            machine.end(End::Agent);
        }
        1 => {
            world.story.tell(name, "the power fails");
            machine.end(End::Power);
        }
        2 => {
            let pause = chance.ms(5_000..300_000);
            world.story.tell(name, format_args!("is switched off for {} s", pause.as_secs()));
            machine.off.send_replace(true);
            machine.end(End::Power);
            let later = world.clone();
            let wake = move || {
                machine.off.send_replace(*later.resting.borrow());
            };
            for_a_while(pause, Box::new(wake));
        }
        3 => {
            let pause = chance.ms(500..60_000);
            world.story.tell("network", format_args!("{name} is cut off for {} s", pause.as_secs()));
            machine.cut_off(true);
            for_a_while(pause, Box::new(move || machine.cut_off(false)));
        }
        4 => {
            let pause = chance.ms(500..60_000);
            world.story.tell("network", format_args!("nothing reaches {name} for {} s", pause.as_secs()));
            machine.deafen(true);
            for_a_while(pause, Box::new(move || machine.deafen(false)));
        }
        5 => {
            let far = chance.happens(300);
            let skew_ms = wrong_by(chance, if far { 3_600_000 } else { 25_000 });
            world.story.tell(name, format_args!("its clock is wrong by {skew_ms} ms"));
            machine.around.skew(skew_ms);
        }
        6 => {
            let pause = chance.ms(500..30_000);
            world.story.tell(name, format_args!("its disk is full for {} s", pause.as_secs()));
            machine.disk_full.store(true, Ordering::SeqCst);
            for_a_while(pause, Box::new(move || machine.disk_full.store(false, Ordering::SeqCst)));
        }
        7 => {
            let instances = machine.workloads.instances();
            if !instances.is_empty() {
                let id = &chance.one_of(&instances).instance_id;
                world.story.tell(name, format_args!("the supervisor of {} is killed", world.referee.name_of(id)));
                world.referee.takes_away(world, &machine, std::slice::from_ref(id));
                machine.workloads.kill_supervisor(id);
            }
        }
        8 => {
            world.story.tell(name, "the gateway is killed");
            let asked: Vec<InstanceId> = machine.asked().into_iter().collect();
            world.referee.takes_away(world, &machine, &asked);
            machine.gateway.die();
        }
        9 => {
            world.story.tell("person", "the repositories are away");
            world.repositories.fail_next(chance.number(1..4));
        }
        _ => strike_plane(world, chance),
    }
    if machine_is_late(world) && chance.happens(500) {
        wake_late(world);
    }
}

/// Something breaks in the control plane.
fn strike_plane(world: &Arc<World>, chance: &mut Chance) {
    let later = world.clone();
    match chance.number(0..6) {
        0 => world.kill_plane("for no reason"),
        1 | 2 => {
            let writes = chance.number(0..12) as u32;
            world.story.tell("control", format_args!("will die before {writes} writes more"));
            world.door.die_before_write(writes);
        }
        3 => {
            let writes = chance.number(1..20) as u32;
            world.story.tell("control", format_args!("its database is busy for {writes} writes"));
            world.door.fail_next(writes);
        }
        4 => {
            let pause = chance.ms(500..20_000);
            world.story.tell("control", format_args!("its disk is full for {} s", pause.as_secs()));
            world.door.fill(true);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                later.door.fill(false);
            });
        }
        _ => {
            let far = chance.happens(300);
            let skew_ms = wrong_by(chance, if far { 3_600_000 } else { 25_000 });
            let pause = chance.ms(1_000..40_000);
            world.story.tell("control", format_args!("its clock is wrong by {skew_ms} ms for {} s", pause.as_secs()));
            world.around_plane.skew(skew_ms);
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                later.around_plane.skew(0);
            });
        }
    }
}

fn wrong_by(chance: &mut Chance, limit_ms: u64) -> i64 {
    i64::try_from(chance.number(0..2 * limit_ms)).unwrap_or(0) - i64::try_from(limit_ms).unwrap_or(0)
}

fn machine_is_late(world: &World) -> bool {
    world.machines.iter().any(|machine| *machine.off.borrow())
}

fn wake_late(world: &World) {
    for machine in world.machines.iter().filter(|machine| *machine.off.borrow()) {
        world.story.tell(machine.name, "is switched on");
        machine.off.send_replace(false);
    }
}

/// Everything is switched off for a week; one machine comes back later than the others.
async fn week(world: &Arc<World>, people: &mut People, chance: &mut Chance) {
    world.story.tell("weather", "everything is switched off for a week");
    world.resting.send_replace(true);
    world.kill_plane("switched off");
    for machine in &world.machines {
        machine.off.send_replace(true);
        machine.end(End::Power);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::sleep(WEEK).await;
    world.story.tell("weather", "a week later");
    world.resting.send_replace(false);
    let last = chance.number(0..world.machines.len() as u64) as usize;
    for (index, machine) in world.machines.iter().enumerate() {
        machine.off.send_replace(index == last);
    }
    for _ in 0..chance.number(1..4) {
        tokio::time::sleep(chance.ms(1_000..20_000)).await;
        people.act(world, chance);
    }
    wake_late(world);
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
    people.remove_ghosts(world);
    calm(world, HEALING_LIMIT, "after the storm").await;
    if world.story.violation().is_none() {
        world.look_at_promises();
    }
}

/// Whatever runs prints a line now and then.
async fn printing(world: Arc<World>) {
    let mut chance = Chance::of(world.seed, "printing");
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
