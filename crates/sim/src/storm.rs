//! The middle of a story: people go on working while everything goes wrong.

use crate::chance::Chance;
use crate::machine::End;
use crate::people::People;
use crate::time::locked;
use crate::world::{Weather, World};
use api::ids::InstanceId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Of a thousand storms so many are long. Most bugs need two or three things that go wrong within seconds: many short
/// storms have more of these than few long ones in the same time, and what needs more is left to the long ones.
const LONG: u32 = 250;
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

pub async fn storm(world: &Arc<World>, people: &mut People, chance: &mut Chance) {
    *locked(&world.weather) = Weather::of(chance);
    world.story.tell("weather", format_args!("{:?}", world.weather()));
    let steps = if chance.happens(LONG) { chance.number(3..9) } else { chance.number(1..4) };
    let week_at = if chance.happens(40) { chance.number(0..steps) } else { u64::MAX };
    // Whoever joins only now joins while things go wrong, and first of all with whom it joins.
    if machine_is_late(world) && chance.happens(500) {
        if chance.happens(300) {
            die_soon(world, chance.number(0..6) as u32);
        }
        wake_late(world);
    }
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
        1 | 2 => die_soon(world, chance.number(0..12) as u32),
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

fn die_soon(world: &World, writes: u32) {
    world.story.tell("control", format_args!("will die before {writes} writes more"));
    world.door.die_before_write(writes);
}

fn wrong_by(chance: &mut Chance, limit_ms: u64) -> i64 {
    i64::try_from(chance.number(0..2 * limit_ms)).unwrap_or(0) - i64::try_from(limit_ms).unwrap_or(0)
}

fn machine_is_late(world: &World) -> bool {
    world.machines.iter().any(|machine| *machine.off.borrow())
}

pub fn wake_late(world: &World) {
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
