use super::between::increase;
use super::rings::{self, COARSE, MIDDLE};
use super::sums::{ServerFigure, ServiceFigure};
use super::*;
use crate::samples;
use api::ids::ProjectId;
use store::Store;

/// On an hour, so that rows are easy to tell.
const BEGIN_MS: UnixMillis = 1_699_999_200_000;
const LONGEST_MS: i64 = 60_000;

fn organization() -> OrganizationId {
    OrganizationId::from_uuid(uuid::Uuid::from_u128(1))
}

fn machine(number: u128) -> ServerId {
    ServerId::from_uuid(uuid::Uuid::from_u128(number))
}

/// A machine that uses a quarter of a core for its one instance and answers two requests a second.
fn report(number: u128, at_ms: i64) -> ObservedState {
    let mut report = samples::observed_nothing();
    report.server_id = machine(number);
    report.observed_at_ms = BEGIN_MS + at_ms;
    report.resources.cpu_count = 2;
    let mut instance = samples::observed_instance(number);
    instance.started_at_ms = Some(BEGIN_MS - 3_600_000);
    instance.cpu_ms = Some((at_ms + 3_600_000).unsigned_abs() / 4);
    instance.memory_bytes = Some(64 << 20);
    report.instances = vec![instance];
    report
}

/// Reports of some machines every ten seconds, of each at a moment of its own.
fn tell(recorder: &Recorder, machines: &[u128], from_ms: i64, until_ms: i64) {
    for at_ms in (from_ms..=until_ms).step_by(10_000) {
        for number in machines {
            let shift_ms = 1_000 * i64::try_from(*number).unwrap();
            let (before, after) = (report(*number, at_ms - 10_000), report(*number, at_ms));
            let now_ms = BEGIN_MS + at_ms + shift_ms;
            recorder.record(&organization(), &machine(*number), (&before, &after), now_ms, LONGEST_MS);
        }
    }
}

fn service() -> String {
    samples::observed_instance(1).service_id.to_string()
}

#[test]
fn machines_of_one_service_are_added_up_and_cover_the_same_time() {
    let recorder = Recorder::default();
    tell(&recorder, &[1, 2], 0, 90_000);
    let points = recorder.of(&organization(), &service());
    let second = &points[&(BEGIN_MS + 30_000)];
    assert_eq!(second.covered_ms, 30_000);
    assert_eq!(second.get(ServiceFigure::InstanceMs), 60_000);
    assert_eq!(second.get(ServiceFigure::CpuMs), 15_000, "two quarters of a core");
    let server = &recorder.of(&organization(), machine(2).as_str())[&(BEGIN_MS + 30_000)];
    assert_eq!((server.covered_ms, server.get(ServerFigure::CoreMs)), (30_000, 60_000));
}

#[test]
fn reports_that_come_early_and_late_cover_what_they_are_about_and_averages_stay_true() {
    let recorder = Recorder::default();
    for n in 0..30_i64 {
        let (before, after) = (report(1, n * 10_000), report(1, (n + 1) * 10_000));
        let now_ms = BEGIN_MS + n * 10_000 + [0, 700, 150, 2_900][usize::try_from(n % 4).unwrap()];
        recorder.record(&organization(), &machine(1), (&before, &after), now_ms, LONGEST_MS);
    }
    let points = recorder.of(&organization(), &service());
    assert!(points.values().any(|point| point.covered_ms > 30_000), "they overlap");
    for (at_ms, point) in points {
        assert_eq!(point.get(ServiceFigure::InstanceMs), point.covered_ms, "one instance, at {at_ms}");
    }
}

#[test]
fn the_first_report_after_a_start_and_one_after_a_long_silence_record_nothing() {
    let recorder = Recorder::default();
    recorder.record(&organization(), &machine(1), (&report(1, 0), &report(1, 10_000)), BEGIN_MS + 10_000, LONGEST_MS);
    assert!(recorder.of(&organization(), &service()).is_empty());
    recorder.record(&organization(), &machine(1), (&report(1, 10_000), &report(1, 80_000)), BEGIN_MS, LONGEST_MS);
    assert!(recorder.of(&organization(), &service()).is_empty());
    recorder.record(&organization(), &machine(1), (&report(1, 80_000), &report(1, 90_000)), BEGIN_MS, LONGEST_MS);
    assert!(!recorder.of(&organization(), &service()).is_empty());
}

#[test]
fn what_cannot_be_written_waits_with_a_bound_and_only_rows_that_are_over_are_taken() {
    let recorder = Recorder::default();
    tell(&recorder, &[1], 0, 400_000);
    assert!(recorder.due(BEGIN_MS + 300_000, false).is_empty(), "reports about it may be on their way");
    let late_ms = BEGIN_MS + 300_000 + GRACE_MS + SPREAD_MS;
    let (organization, subjects) = recorder.due(late_ms, false).pop().unwrap();
    let taken = recorder.take(&organization, subjects, late_ms, false);
    assert_eq!(taken.keys().map(String::as_str).collect::<Vec<_>>(), [machine(1).as_str(), &service()]);
    assert!(taken.values().all(|points| points.keys().all(|at_ms| *at_ms < BEGIN_MS + 300_000)));
    assert!(recorder.due(late_ms, false).is_empty());
    recorder.give_back(&organization, taken);
    assert_eq!(recorder.of(&organization, &service()).len(), 14, "half minutes of 400 s");
    tell(&recorder, &[1], 410_000, 10_000_000);
    assert_eq!(recorder.of(&organization, &service()).len(), POINTS_WAITING);
}

/// A store with one server, which is enough of a subject.
async fn store() -> (tempfile::TempDir, Store, Scope, String) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&directory.path().join("mainstay.db")).await.unwrap();
    let organization = store.organization_ensure(&organization(), "acme", BEGIN_MS).await.unwrap();
    let scope = Scope::system(organization, "test");
    let project = ProjectId::from_uuid(uuid::Uuid::from_u128(1));
    store.project_ensure(&scope, &project, &"default".parse().unwrap(), BEGIN_MS).await.unwrap();
    let server = join(&store, &scope).await;
    (directory, store, scope, server)
}

async fn join(store: &Store, scope: &Scope) -> String {
    let token = store::TokenCreate {
        id: api::ids::TokenId::from_uuid(uuid::Uuid::from_u128(1)),
        hash: "hash".into(),
        name: "join".into(),
        purpose: api::tokens::TokenPurpose::Join { project: None, stack: None },
        expires_at_ms: None,
    };
    store.token_create(scope, &token, &[], BEGIN_MS).await.unwrap();
    let join = store::ServerJoin {
        id: machine(1),
        name: "one".parse().unwrap(),
        public_key: "key".into(),
        secret: api::secret::Secret::new("secret"),
        facts: Default::default(),
        agent_version: "0".into(),
        security_mode: api::desired::SecurityMode::Open,
    };
    let (_, joined) = store.server_join("hash", &join, |_| Vec::new(), BEGIN_MS).await.unwrap();
    joined.id.to_string()
}

fn point(cpu_ms: u64) -> Sums {
    let mut sums = Sums::covering(30_000);
    sums.increase(ServerFigure::CpuBusyMs, cpu_ms);
    sums
}

/// Half minutes from then on, each with its number as busy time.
fn half_minutes(from: i64, until: i64) -> Points {
    (from..until).map(|n| (BEGIN_MS + n * 30_000, point(n.unsigned_abs()))).collect()
}

async fn busy(store: &Store, scope: &Scope, ring: rings::Ring, subject: &str, from_ms: i64) -> Vec<(i64, u64, u64)> {
    let points = rings::history(store, scope, ring, subject, from_ms, Points::new()).await.unwrap();
    let told = points
        .iter()
        .map(|(at, sums)| ((at - BEGIN_MS) / ring.step_ms, sums.get(ServerFigure::CpuBusyMs), sums.covered_ms));
    told.collect()
}

#[tokio::test]
async fn half_minutes_add_up_to_five_minutes_and_hours_however_often_and_in_what_pieces_they_are_written() {
    let (_directory, store, scope, server) = store().await;
    for (from, until) in [(0, 7), (7, 23), (23, 130)] {
        let mut taken = BTreeMap::from([(server.clone(), half_minutes(from, until))]);
        rings::write(&store, &scope, &mut taken).await.unwrap();
        assert!(taken.is_empty());
    }
    let fine = busy(&store, &scope, FINE, &server, BEGIN_MS + 60 * 30_000).await;
    assert_eq!(fine, (60..130_i64).map(|n| (n, n.unsigned_abs(), 30_000)).collect::<Vec<_>>());
    let middle = busy(&store, &scope, MIDDLE, &server, BEGIN_MS).await;
    assert_eq!(middle.len(), 13);
    assert_eq!(middle[1], (1, (10..20).sum(), 300_000));
    let coarse = busy(&store, &scope, COARSE, &server, BEGIN_MS).await;
    assert_eq!(coarse, [(0, (0..120).sum(), 3_600_000), (1, (120..130).sum(), 300_000)]);
}

#[tokio::test]
async fn the_rings_of_a_subject_take_no_more_room_after_three_weeks_than_after_eight_days() {
    let (_directory, store, scope, server) = store().await;
    let rows = async || {
        let mut rows = 0;
        for ring in [FINE, MIDDLE, COARSE] {
            rows += store.metric_history(&scope, &server, ring.step_ms, 0).await.unwrap().len();
        }
        rows
    };
    // Ten minutes of each half day, so that every place comes round.
    for half_day in 0..42_i64 {
        let begin = half_day * 1_440;
        let mut taken = BTreeMap::from([(server.clone(), half_minutes(begin, begin + 20))]);
        rings::write(&store, &scope, &mut taken).await.unwrap();
        assert!(rows().await <= 13 + 25 + 15);
    }
    assert_eq!(rows().await, 13 + 25 + 15);
    let week_ago_ms = BEGIN_MS + 28 * 43_200_000;
    let coarse = busy(&store, &scope, COARSE, &server, week_ago_ms).await;
    assert_eq!(coarse.first().map(|(hour, ..)| *hour), Some(28 * 12), "the oldest of them is the one asked for");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_a_gap_and_is_written_over() {
    let (_directory, store, scope, server) = store().await;
    let mut taken = BTreeMap::from([(server.clone(), half_minutes(0, 20))]);
    rings::write(&store, &scope, &mut taken).await.unwrap();
    let torn = store::MetricChunk { subject: server.clone(), time: FINE.time(BEGIN_MS), points: "[[0,30".into() };
    store.metric_chunk_put(&scope, &[torn]).await.unwrap();
    assert_eq!(busy(&store, &scope, FINE, &server, BEGIN_MS).await.len(), 10);
    let mut again = BTreeMap::from([(server.clone(), half_minutes(3, 4))]);
    rings::write(&store, &scope, &mut again).await.unwrap();
    assert_eq!(busy(&store, &scope, FINE, &server, BEGIN_MS).await.len(), 11);
}

#[tokio::test]
async fn after_a_failed_write_what_was_not_written_is_still_there_and_counts_once() {
    let (_directory, store, scope, server) = store().await;
    store.close().await;
    let mut taken = BTreeMap::from([(server.clone(), half_minutes(0, 20))]);
    assert!(rings::write(&store, &scope, &mut taken).await.is_err());
    assert_eq!(taken[&server], half_minutes(0, 20));
}

#[test]
fn a_sum_that_fell_grew_by_what_it_is_now() {
    assert_eq!([increase(5, 9), increase(9, 9), increase(9, 4)], [4, 0, 4]);
}

/// Text of the full rings of one subject, each point of which is this one for half a minute.
fn room(half_minute: &Sums) -> usize {
    let rings = [(FINE, 1), (MIDDLE, 10), (COARSE, 120)];
    let sizes = rings.map(|(ring, half_minutes)| {
        let mut point = Sums::default();
        (0..half_minutes).for_each(|_| point.add(half_minute));
        let row: Points = (0..ring.points).map(|n| (BEGIN_MS + n * ring.step_ms, point.clone())).collect();
        usize::try_from(ring.places).unwrap() * ring.encode(BEGIN_MS, &row).len()
    });
    sizes.iter().sum()
}

#[test]
fn a_quiet_service_takes_twenty_kilobytes_for_good_and_a_busy_one_seven_times_as_much() {
    let mut quiet = Sums::covering(30_000);
    for (figure, sum) in [
        (ServiceFigure::CpuMs, 15),
        (ServiceFigure::MemoryKibSeconds, 96 * 1024 * 30),
        (ServiceFigure::InstanceMs, 30_000),
    ] {
        quiet.increase(figure, sum);
    }
    let mut busy = quiet.clone();
    for (figure, sum) in [
        (ServiceFigure::CpuMs, 20_000),
        (ServiceFigure::Requests, 30_000),
        (ServiceFigure::ClientErrors, 300),
        (ServiceFigure::ServerErrors, 3),
        (ServiceFigure::SentBytes, 300_000_000),
    ] {
        busy.increase(figure, sum);
    }
    // From a quarter of a millisecond to two seconds.
    (9..61).step_by(3).for_each(|cell| busy.latency.count(cell, 1_800));
    let mut server = Sums::covering(30_000);
    for (figure, sum) in [
        (ServerFigure::CpuBusyMs, 9_000),
        (ServerFigure::CpuTotalMs, 240_000),
        (ServerFigure::CoreMs, 240_000),
        (ServerFigure::LoadMilliSeconds, 21_000),
        (ServerFigure::MemoryUsedKibSeconds, 30 * (10 << 20)),
        (ServerFigure::MemoryTotalKibSeconds, 30 * (16 << 20)),
        (ServerFigure::DiskUsedKibSeconds, 30 * (100 << 20)),
        (ServerFigure::DiskTotalKibSeconds, 30 * (400 << 20)),
    ] {
        server.increase(figure, sum);
    }
    let rooms = [room(&quiet), room(&busy), room(&server)];
    println!("quiet service {}, busy service {}, server {} bytes", rooms[0], rooms[1], rooms[2]);
    assert!(rooms[0] < 20_000 && rooms[1] < 140_000 && rooms[2] < 60_000, "{rooms:?}");
}

/// `cargo test -p server --lib what_writing -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn what_writing_the_rings_of_a_subject_costs() {
    let (directory, store, scope, server) = store().await;
    let mut subjects = vec![server];
    for number in 2..=1_000_u128 {
        let hash = format!("hash-{number}");
        let token = store::TokenCreate {
            id: api::ids::TokenId::from_uuid(uuid::Uuid::from_u128(number)),
            hash: hash.clone(),
            name: "join".into(),
            purpose: api::tokens::TokenPurpose::Join { project: None, stack: None },
            expires_at_ms: None,
        };
        store.token_create(&scope, &token, &[], BEGIN_MS).await.unwrap();
        let join = store::ServerJoin {
            id: machine(number),
            name: format!("m{number}").parse().unwrap(),
            public_key: "key".into(),
            secret: api::secret::Secret::new("secret"),
            facts: Default::default(),
            agent_version: "0".into(),
            security_mode: api::desired::SecurityMode::Open,
        };
        store.server_join(&hash, &join, |_| Vec::new(), BEGIN_MS).await.unwrap();
        subjects.push(machine(number).to_string());
    }
    let size = || std::fs::metadata(directory.path().join("mainstay.db")).map_or(0, |file| file.len());
    let before = size();
    for round in 0..26_i64 {
        let began = std::time::Instant::now();
        for some in subjects.chunks(SUBJECTS_AT_ONCE) {
            let mut taken: BTreeMap<String, Points> =
                some.iter().map(|subject| (subject.clone(), half_minutes(round * 10, round * 10 + 10))).collect();
            rings::write(&store, &scope, &mut taken).await.unwrap();
        }
        let grew = (size() - before) / 1_000;
        println!("five minutes of 1,000 subjects: {:?}; {grew} bytes per subject so far", began.elapsed());
    }
}
