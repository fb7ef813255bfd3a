//! Logs arrive whole, once, and go on where they stopped.

use crate::world::{Service, World, document, rarely_polled};
use std::time::{Duration, Instant};

async fn arrived(world: &World, key: &str, last: &str) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let lines = world.control_plane.log(key);
        if lines.iter().any(|line| line == last) {
            return lines;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{last:?} did not arrive; there is {lines:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_log_goes_on_at_the_acknowledged_offset_after_a_kill_and_an_outage() {
    let world = World::new().await;
    let agent = world.agent().await;
    let web = Service::new("web", 1);
    world.apply(&document(1, std::slice::from_ref(&web))).await;
    let id = web.instance_id(1).parse().unwrap();
    let key = format!("run:{id}");
    world.machine.print(&id, "one");
    arrived(&world, &key, "one").await;
    // The acknowledgement reaches the ledger a moment after the lines reached the other end.
    tokio::time::sleep(Duration::from_millis(200)).await;
    agent.kill().await;
    world.machine.print(&id, "two");
    world.control_plane.set_down(true);
    let agent = world.agent().await;
    world.machine.print(&id, "three");
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.control_plane.set_down(false);
    let lines = arrived(&world, &key, "three").await;
    assert_eq!(lines, ["started with pid 1", "one", "two", "three"]);
    let offsets: Vec<u64> =
        world.control_plane.log_uploads().into_iter().filter(|(k, _)| *k == key).map(|(_, o)| o).collect();
    assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "no offset was sent twice: {offsets:?}");
    assert_eq!(world.control_plane.problems(), Vec::<String>::new());
    assert_eq!(world.control_plane.log(&format!("build:dep_{:08x}{:024x}", 1, 1)), ["building"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_line_is_on_its_way_without_waiting_for_the_next_look_at_the_machine() {
    let world = World::new().await;
    let agent = world.agent().await;
    let web = Service::new("web", 1);
    world.apply(&rarely_polled(document(1, std::slice::from_ref(&web)))).await;
    let id = web.instance_id(1).parse().unwrap();
    let key = format!("run:{id}");
    world.machine.print(&id, "warm");
    arrived(&world, &key, "warm").await;
    world.machine.print(&id, "now");
    arrived(&world, &key, "now").await;
    agent.stop().await;
}

#[tokio::test]
async fn the_last_lines_of_an_instance_arrive_before_it_is_removed() {
    let world = World::new().await;
    let agent = world.agent().await;
    let web = Service::new("web", 1);
    world.apply(&document(1, std::slice::from_ref(&web))).await;
    let id = web.instance_id(1).parse().unwrap();
    for n in 0..50 {
        world.machine.print(&id, &format!("line {n}"));
    }
    world.apply(&document(2, &[])).await;
    let lines = world.control_plane.log(&format!("run:{id}"));
    assert_eq!(lines.last().map(String::as_str), Some("line 49"));
    agent.stop().await;
}
