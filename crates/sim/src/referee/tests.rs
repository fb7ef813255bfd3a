//! The referee is what every seed is judged by, so it is tried itself: each thing that it excuses, in
//! exactly the case in which nobody within the fleet could know better, and beside it what it must still say.

use super::*;
use crate::chance::Seed;
use crate::machine::Switching;
use crate::people::People;
use crate::plane::Plane;
use crate::scenario::new_world;
use crate::time::Time;
use agent::drivers::fake::FakeDriver;
use agent::drivers::{Config, PrepareRequest, Workloads};
use agent::ledger::MemoryLedger;
use agent::transport::Outgoing;
use api::desired::{InstanceIntent, SignedDesiredState, Traffic};
use api::gateway::{GatewayService, Upstream};
use api::services::{HealthSpec, PortSpec};
use nouns::id;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[allow(dead_code, reason = "not all of the samples are needed here")]
#[path = "../../../plan/src/samples/nouns.rs"]
mod nouns;

/// Two machines and nobody on them; the control plane is away, so that no answer comes.
struct Scene {
    world: World,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn begin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("server")).unwrap();
        std::fs::write(directory.path().join("server").join("cli-token"), "token").unwrap();
        let plane = Arc::new(Plane::default());
        let world = new_world(&plane, Seed::new(0), 2, Time::begin(), directory.path().to_owned());
        Self { world, _directory: directory }
    }

    /// An instance of `service` that runs and is well, without requests.
    async fn runs(&self, machine: usize, service: &str, number: u64) -> InstanceId {
        runs(&self.world, machine, service, number).await
    }

    /// The gateway of a machine asks these from now on, and the referee looks.
    async fn asks(&self, machine: usize, service: &str, instances: &[&InstanceId]) {
        let upstream = |id: &&InstanceId| Upstream {
            instance_id: (*id).clone(),
            address: ([127, 0, 0, 1], 20_000).into(),
            draining: false,
        };
        let gateway = &self.world.machines[machine].gateway;
        let mut config = gateway.config().unwrap_or_default();
        config.services.retain(|known| known.name.as_str() != service);
        config.services.push(GatewayService {
            service_id: service_id(service),
            name: service.parse().unwrap(),
            upstreams: instances.iter().map(upstream).collect(),
            unavailable_reason: String::new(),
        });
        gateway.apply(&config).await.unwrap();
        self.looks();
    }

    fn looks(&self) {
        self.world.referee.look(&self.world, "something");
    }

    fn supervisor_is_killed(&self, machine: usize, id: &InstanceId) {
        let machine = &self.world.machines[machine];
        self.world.referee.takes_away(&self.world, machine, std::slice::from_ref(id));
        machine.workloads.kill_supervisor(id);
    }

    fn power_fails(&self, machine: usize) {
        let machine = &self.world.machines[machine];
        self.world.referee.power_fails(&self.world, machine);
        machine.workloads.reboot();
        machine.gateway.die();
    }

    /// The machine hears that an instance is to have requests, or to drain.
    async fn is_told(&self, machine: usize, generation: u64, instance: u64, traffic: Traffic) {
        let machine = &self.world.machines[machine];
        let mut web = nouns::service(1, "web");
        web.instances.push(nouns::wanted(instance, instance, InstanceIntent::Run, traffic));
        let document = serde_json::to_string(&nouns::desired(generation, vec![web])).unwrap();
        let signed = SignedDesiredState {
            generation,
            document,
            sha256: String::new(),
            signature: String::new(),
            key_id: String::new(),
        };
        MemoryLedger::new(machine.disk.clone(), None).desired_accept(&signed, 0).await.unwrap();
        machine.has_accepted();
    }

    /// The machine says that it goes by a document.
    fn says(&self, machine: usize, generation: u64) {
        let request = Outgoing {
            method: http::Method::POST,
            url: "http://control/api/v1/agent/status".parse().unwrap(),
            headers: http::HeaderMap::new(),
            body: format!(r#"{{"observed":{{"generation":{generation}}}}}"#).into(),
        };
        self.world.machines[machine].referee_looks_at_letter(&self.world, &request);
    }

    fn is_to_run(&self, service: &str, running: usize) {
        self.world.referee.look_at_running(&self.world.story, service, running);
    }

    #[track_caller]
    fn keeps_its_promises(&self) {
        assert_eq!(self.world.story.violation(), None);
    }

    #[track_caller]
    fn must_never_be(&self, what: &str) {
        assert_eq!(self.world.story.violation().as_deref(), Some(what));
    }
}

async fn runs(world: &World, machine: usize, service: &str, number: u64) -> InstanceId {
    let machine = &world.machines[machine];
    let driver = FakeDriver::new(machine.workloads.clone());
    let mut revision = nouns::revision(number, PortSpec::Injected);
    revision.health = HealthSpec::with(HealthCheck::Command { command: "good".into() });
    let request = StartRequest {
        project_id: api::ids::ProjectId::from_uuid(uuid::Uuid::from_u128(1)),
        service_id: service_id(service),
        service: service.parse().unwrap(),
        instance: nouns::wanted(number, number, InstanceIntent::Run, Traffic::Candidate),
        revision: revision.clone(),
        env: BTreeMap::new(),
    };
    let (service_id, service) = (request.service_id.clone(), request.service.clone());
    let prepare = PrepareRequest { service_id, service, revision, env: BTreeMap::new() };
    driver.prepare(prepare, CancellationToken::new()).await.unwrap();
    world.referee.learn(&request, world.time.passed_ms());
    let id = request.instance.instance_id.clone();
    driver.start(request).await.unwrap();
    id
}

fn service_id(service: &str) -> api::ids::ServiceId {
    id("svc", service.bytes().map(u64::from).sum())
}

/// `web` has two instances on the first machine, which serve; two of the next release are there as well.
async fn before_a_switch() -> (Scene, [InstanceId; 2], [InstanceId; 2]) {
    let scene = Scene::begin();
    scene.world.referee.want("web", 2);
    let old = [scene.runs(0, "web", 1).await, scene.runs(0, "web", 2).await];
    let new = [scene.runs(0, "web", 3).await, scene.runs(0, "web", 4).await];
    scene.asks(0, "web", &[&old[0], &old[1]]).await;
    scene.keeps_its_promises();
    (scene, old, new)
}

#[tokio::test(start_paused = true)]
async fn fewer_than_served_before_is_said() {
    let (scene, old, _) = before_a_switch().await;
    scene.asks(0, "web", &[&old[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn what_serves_only_until_a_switch_lands_is_not_counted_on() {
    let (scene, old, _) = before_a_switch().await;
    scene.world.referee.want("web", 1);
    scene.asks(0, "web", &[&old[0]]).await;
    // Decided when one was wanted, and still on its way when two are.
    let switching = Switching::begin(&scene.world.machines[0]);
    scene.world.referee.want("web", 2);
    scene.asks(0, "web", &[&old[0], &old[1]]).await;
    drop(switching);
    scene.asks(0, "web", &[&old[0]]).await;
    scene.keeps_its_promises();
    scene.asks(0, "web", &[]).await;
    scene.must_never_be("0 of 1 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn what_a_machine_was_just_told_to_let_go_of_is_not_counted_on() {
    let (scene, old, _) = before_a_switch().await;
    scene.world.referee.want("web", 1);
    scene.asks(0, "web", &[&old[0]]).await;
    // Routes of a document from before, put in place when the newest, which asks the first alone, is there already.
    scene.is_told(0, 7, 1, Traffic::Active).await;
    scene.world.referee.want("web", 2);
    scene.asks(0, "web", &[&old[0], &old[1]]).await;
    scene.asks(0, "web", &[&old[0]]).await;
    scene.keeps_its_promises();
    scene.asks(0, "web", &[]).await;
    scene.must_never_be("0 of 1 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn a_switch_to_an_instance_that_died_by_itself_is_said() {
    let (scene, _, new) = before_a_switch().await;
    scene.world.machines[0].workloads.kill_supervisor(&new[0]);
    scene.asks(0, "web", &[&new[0], &new[1]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn a_switch_to_an_instance_whose_supervisor_somebody_killed_is_excused() {
    let (scene, old, new) = before_a_switch().await;
    scene.supervisor_is_killed(0, &new[0]);
    // The old serve on, and that does not make up for it.
    scene.asks(0, "web", &[&old[0], &old[1]]).await;
    scene.asks(0, "web", &[&new[0], &new[1]]).await;
    scene.keeps_its_promises();
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_away_excuses_until_it_is_back_and_no_longer() {
    let (scene, _, new) = before_a_switch().await;
    scene.supervisor_is_killed(0, &new[0]);
    scene.asks(0, "web", &[&new[0], &new[1]]).await;
    scene.runs(0, "web", 3).await;
    scene.looks();
    scene.keeps_its_promises();
    scene.asks(0, "web", &[&new[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_away_and_removed_excuses_nothing_any_more() {
    let (scene, old, new) = before_a_switch().await;
    scene.supervisor_is_killed(0, &new[0]);
    FakeDriver::new(scene.world.machines[0].workloads.clone()).remove(&new[0]).await.unwrap();
    scene.looks();
    scene.asks(0, "web", &[&old[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_from_one_service_does_not_excuse_another() {
    let (scene, old, _) = before_a_switch().await;
    scene.world.referee.want("api", 1);
    let other = scene.runs(1, "api", 5).await;
    scene.asks(1, "api", &[&other]).await;
    scene.supervisor_is_killed(1, &other);
    scene.asks(0, "web", &[&old[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

/// `web` has one instance on the first machine, which serves, and its successor on the second has been asked
/// as well: the first may let go now.
async fn before_the_old_let_go() -> (Scene, InstanceId, InstanceId) {
    let scene = Scene::begin();
    scene.world.referee.want("web", 1);
    let (old, new) = (scene.runs(0, "web", 1).await, scene.runs(1, "web", 2).await);
    scene.is_told(1, 1, 2, Traffic::Active).await;
    scene.asks(0, "web", &[&old]).await;
    scene.asks(1, "web", &[&new]).await;
    scene.keeps_its_promises();
    (scene, old, new)
}

#[tokio::test(start_paused = true)]
async fn the_old_let_go_while_the_power_of_their_successors_is_away_and_that_is_excused() {
    let (scene, old, _) = before_the_old_let_go().await;
    scene.power_fails(1);
    scene.asks(0, "web", &[&old]).await;
    scene.asks(0, "web", &[]).await;
    scene.keeps_its_promises();
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_runs_again_and_is_not_asked_again_is_not_yet_back() {
    let (scene, old, _) = before_the_old_let_go().await;
    scene.power_fails(1);
    scene.runs(1, "web", 2).await;
    scene.asks(0, "web", &[&old]).await;
    scene.asks(0, "web", &[]).await;
    scene.keeps_its_promises();
}

#[tokio::test(start_paused = true)]
async fn a_successor_that_is_asked_again_is_back() {
    let (scene, _, new) = before_the_old_let_go().await;
    scene.power_fails(1);
    scene.runs(1, "web", 2).await;
    scene.asks(1, "web", &[&new]).await;
    scene.asks(1, "web", &[]).await;
    scene.keeps_its_promises();
    scene.asks(0, "web", &[]).await;
    scene.must_never_be("0 of 1 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn a_successor_whose_machine_knows_that_it_drains_excuses_nothing() {
    let (scene, _, _) = before_the_old_let_go().await;
    scene.power_fails(1);
    scene.runs(1, "web", 2).await;
    scene.is_told(1, 2, 2, Traffic::Draining).await;
    scene.looks();
    scene.asks(0, "web", &[]).await;
    scene.must_never_be("0 of 1 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn the_old_let_go_of_before_their_successors_are_asked_is_said() {
    let (scene, old, _) = before_the_old_let_go().await;
    scene.asks(1, "web", &[]).await;
    scene.asks(0, "web", &[&old]).await;
    scene.asks(0, "web", &[]).await;
    scene.must_never_be("0 of 1 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_any_more_is_not_waited_for_and_the_fault_is_excused_all_the_same() {
    let (scene, old, _) = before_the_old_let_go().await;
    scene.is_told(0, 1, 1, Traffic::Draining).await;
    scene.asks(1, "web", &[]).await;
    scene.power_fails(0);
    scene.runs(0, "web", 1).await;
    scene.looks();
    scene.keeps_its_promises();
    scene.is_told(0, 2, 1, Traffic::Active).await;
    scene.asks(0, "web", &[&old]).await;
    scene.asks(0, "web", &[]).await;
    scene.must_never_be("0 of 1 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_well_when_the_power_failed_excuses_nothing() {
    let (scene, old, _) = before_a_switch().await;
    let broken = scene.runs(1, "web", 5).await;
    scene.world.machines[1].workloads.kill_supervisor(&broken);
    scene.power_fails(1);
    scene.asks(0, "web", &[&old[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_though_all_is_well_excuses_until_one_succeeds() {
    let (scene, old, _) = before_a_switch().await;
    scene.world.referee.casts_doubt_on(&old[1]);
    scene.looks();
    scene.asks(0, "web", &[&old[0]]).await;
    scene.keeps_its_promises();
    scene.world.referee.checked(&old[1]);
    scene.asks(0, "web", &[&old[0], &old[1]]).await;
    scene.asks(0, "web", &[&old[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn more_than_two_releases_of_what_was_asked_for_are_said() {
    let scene = Scene::begin();
    scene.world.referee.want("web", 2);
    scene.is_to_run("web", 4);
    scene.keeps_its_promises();
    scene.is_to_run("web", 5);
    scene.must_never_be("5 instances of web are to run, at most 4 may");
}

#[tokio::test(start_paused = true)]
async fn who_scaled_and_got_no_answer_may_have_scaled() {
    let scene = Scene::begin();
    scene.world.referee.want("web", 1);
    let people = People::new(&scene.world, &["web"]).unwrap();
    assert!(!people.scale(&scene.world, "web", 3), "nobody answers");
    scene.is_to_run("web", 6);
    scene.keeps_its_promises();
    scene.is_to_run("web", 7);
    scene.must_never_be("7 instances of web are to run, at most 6 may");
}

#[tokio::test(start_paused = true)]
async fn who_scaled_one_service_and_got_no_answer_did_not_scale_another() {
    let scene = Scene::begin();
    scene.world.referee.want("web", 1);
    scene.world.referee.want("api", 1);
    let people = People::new(&scene.world, &["web", "api"]).unwrap();
    assert!(!people.scale(&scene.world, "web", 3), "nobody answers");
    scene.is_to_run("api", 3);
    scene.must_never_be("3 instances of api are to run, at most 2 may");
}

#[tokio::test(start_paused = true)]
async fn who_scaled_up_and_got_no_answer_was_not_promised_more() {
    let (scene, old, _) = before_a_switch().await;
    let people = People::new(&scene.world, &["web"]).unwrap();
    assert!(!people.scale(&scene.world, "web", 3), "nobody answers");
    scene.looks();
    scene.keeps_its_promises();
    scene.asks(0, "web", &[&old[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn who_scaled_down_and_got_no_answer_is_promised_what_is_left() {
    let (scene, old, _) = before_a_switch().await;
    let people = People::new(&scene.world, &["web"]).unwrap();
    assert!(!people.scale(&scene.world, "web", 1), "nobody answers");
    scene.asks(0, "web", &[&old[0]]).await;
    scene.keeps_its_promises();
    scene.asks(0, "web", &[]).await;
    scene.must_never_be("0 of 1 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_could_not_keep_what_it_goes_by_may_go_back_to_less() {
    let (scene, old, _) = before_a_switch().await;
    scene.world.machines[0].kept_in_vain.store(true, std::sync::atomic::Ordering::SeqCst);
    scene.says(0, 7);
    scene.looks();
    scene.asks(0, "web", &[&old[0]]).await;
    scene.keeps_its_promises();
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_kept_what_it_goes_by_does_not_go_back() {
    let (scene, old, _) = before_a_switch().await;
    scene.is_told(0, 7, 1, Traffic::Active).await;
    scene.says(0, 7);
    scene.looks();
    scene.asks(0, "web", &[&old[0]]).await;
    scene.must_never_be("1 of 2 instances of web serve after something");
}

#[tokio::test(start_paused = true)]
async fn who_scaled_and_was_refused_has_not_scaled() {
    let stage = crate::Stage::new().unwrap();
    let world = stage.world(Seed::new(0), 1, Time::begin(), "now").unwrap();
    assert!(world.start_plane(), "{:#?}", world.story.lines());
    world.referee.want("web", 1);
    let people = People::new(&world, &["web"]).unwrap();
    assert!(!people.scale(&world, "web", 3), "there is no such service yet");
    assert!(world.story.lines().iter().any(|line| line.contains("scales web to 3: 404")), "{:#?}", world.story.lines());
    world.referee.look_at_running(&world.story, "web", 3);
    assert_eq!(world.story.violation().as_deref(), Some("3 instances of web are to run, at most 2 may"));
    world.plane.end();
}

#[tokio::test(start_paused = true)]
async fn what_runs_and_is_in_no_book_was_forgotten() {
    let stage = crate::Stage::new().unwrap();
    let world = stage.world(Seed::new(0), 1, Time::begin(), "now").unwrap();
    assert!(world.start_plane(), "{:#?}", world.story.lines());
    drop(world.look_at_books());
    assert_eq!(world.story.violation(), None);
    let id = runs(&world, 0, "web", 1).await;
    drop(world.look_at_books());
    let what = format!("web 1 ({}) runs on m1 and was forgotten", id.short());
    assert_eq!(world.story.violation(), Some(what));
    world.plane.end();
}
