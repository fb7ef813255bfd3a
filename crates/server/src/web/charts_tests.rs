use super::*;
use api::ids::{DeploymentId, ServerId, ServiceId};

/// 2023-11-14 22:00 UTC.
const BEGIN_MS: UnixMillis = 1_699_999_200_000;

fn point(range: MetricsRange, n: i64) -> ServicePoint {
    let wave = ((n % 40) - 20).abs() as f64;
    ServicePoint {
        at_ms: BEGIN_MS + n * range.step_ms(),
        covered_ms: range.step_ms().unsigned_abs(),
        cpu_cores: 0.05 + wave / 50.0,
        memory_bytes: (90 + n.unsigned_abs() % 13) << 20,
        instances: 2.0,
        requests: 300 + wave as u64,
        requests_per_second: 10.0 + wave / 30.0,
        client_errors: n.unsigned_abs() % 3,
        server_errors: u64::from(n == 60),
        sent_bytes: 123_456,
        latency_p50_ms: Some(4.0 + wave / 10.0),
        latency_p99_ms: (n != 7).then_some(40.0 + wave),
        restarts: u64::from(n == 61) * 2,
    }
}

fn metrics(range: MetricsRange, points: Vec<ServicePoint>) -> ServiceMetrics {
    ServiceMetrics {
        service_id: ServiceId::from_uuid(uuid::Uuid::from_u128(2)),
        range,
        from_ms: BEGIN_MS,
        until_ms: BEGIN_MS + range.length_ms() + 12_000,
        step_ms: range.step_ms(),
        points,
        deployments: vec![DeploymentMark {
            deployment_id: DeploymentId::from_uuid(uuid::Uuid::from_u128(5)),
            revision_number: 7,
            at_ms: BEGIN_MS + range.length_ms() / 2,
        }],
    }
}

fn full(range: MetricsRange) -> ServiceMetrics {
    metrics(range, (0..=range.points()).map(|n| point(range, n)).collect())
}

/// One line for every element, so that a difference is easy to read.
fn lines(markup: Markup) -> String {
    markup.into_string().replace("><", ">\n<") + "\n"
}

/// The whole of it, as it was when somebody looked at it. `UPDATE_CHARTS=1 cargo test -p server charts` takes what is
/// drawn now; look at it then.
#[test]
fn charts_are_drawn_as_they_were_when_somebody_looked_at_them() {
    let mut half = full(MetricsRange::Hour);
    half.points.retain(|p| !(20..40).contains(&((p.at_ms - BEGIN_MS) / 30_000)));
    let drawn = lines(service(&half, "/stacks/shop/services/web"));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/charts_golden.html");
    if std::env::var_os("UPDATE_CHARTS").is_some() {
        std::fs::write(&path, &drawn).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    let different = kept.lines().zip(drawn.lines()).find(|(kept, drawn)| kept != drawn);
    assert!(kept == drawn, "UPDATE_CHARTS=1 takes what is drawn; first difference: {different:#?}");
}

#[test]
fn a_missing_point_lifts_the_pen_and_a_lone_one_is_a_dot() {
    let hour = MetricsRange::Hour;
    let path_of = |kept: &[i64]| {
        let drawn = lines(service(&metrics(hour, kept.iter().map(|n| point(hour, *n)).collect()), "/s"));
        let line = drawn.lines().find(|line| line.contains("class=\"line a\"")).unwrap().to_owned();
        (line.matches('M').count(), line.matches('l').count() - "class=\"line a\"".matches('l').count())
    };
    assert_eq!(path_of(&[1, 2, 3, 4]), (1, 3));
    assert_eq!(path_of(&[1, 2, 9, 10]), (2, 2));
    assert_eq!(path_of(&[5]), (1, 0));
}

#[test]
fn axes_end_at_round_numbers_that_reach_the_highest_figure() {
    let cases = [
        (Unit::Cores, 0.0, 0.01),
        (Unit::Cores, 0.13, 0.2),
        (Unit::Cores, 1.0, 1.0),
        (Unit::PerSecond, 230.0, 500.0),
        (Unit::Milliseconds, 51.0, 100.0),
        (Unit::Count, 1.0, 2.0),
        (Unit::Bytes, 100.0 * 1024.0 * 1024.0, 128.0 * 1024.0 * 1024.0),
        (Unit::Bytes, 0.0, 1024.0 * 1024.0),
        (Unit::Bytes, 1025.0 * 1024.0 * 1024.0, 2048.0 * 1024.0 * 1024.0),
    ];
    for (unit, figure, end) in cases {
        assert!((unit.ceiling(figure) - end).abs() <= end / 1e6, "{unit:?} {figure}: {}", unit.ceiling(figure));
    }
    for strange in [f64::NAN, f64::INFINITY, -1.0] {
        assert!(Unit::Cores.ceiling(strange).is_finite());
    }
    assert_eq!([0.25, 12.5, 1250.0, 0.0, 3.0].map(plain), ["0.25", "12.5", "1250", "0", "3"]);
    assert_eq!(Unit::Milliseconds.text(1500.0), "1.5 s");
}

#[test]
fn charts_of_every_range_are_small_and_say_what_they_show_without_a_picture() {
    for range in MetricsRange::ALL {
        let drawn = service(&full(range), "/stacks/shop/services/web").into_string();
        assert!(drawn.len() < 16_000, "{range}: {} bytes", drawn.len());
        assert_eq!(drawn.matches("role=\"img\"").count(), 6);
        assert_eq!(drawn.matches("<title ").count(), 6);
        for wanted in ["at the most", "The same as a table", "revision 7", "5xx", "aria-current=\"true\""] {
            assert!(drawn.contains(wanted), "{range}: {wanted}");
        }
        assert!(!drawn.contains("style="), "the policy forbids it");
    }
}

#[test]
fn of_several_points_averages_are_weighed_and_sums_are_added() {
    let hour = MetricsRange::Hour;
    let (mut a, mut b) = (point(hour, 0), point(hour, 1));
    (a.cpu_cores, a.covered_ms, b.cpu_cores, b.covered_ms) = (1.0, 30_000, 4.0, 10_000);
    (a.latency_p99_ms, b.latency_p99_ms) = (None, Some(9.0));
    let merged = merged_service(&[a.clone(), b.clone()]);
    assert!((merged.cpu_cores - 1.75).abs() < 1e-9);
    assert_eq!((merged.requests, merged.latency_p99_ms), (a.requests + b.requests, Some(9.0)));
}

#[test]
fn a_server_shows_how_much_there_is_and_one_that_is_not_known_yet_says_so() {
    let mut metrics = ServerMetrics {
        server_id: ServerId::from_uuid(uuid::Uuid::from_u128(1)),
        range: MetricsRange::Day,
        from_ms: BEGIN_MS,
        until_ms: BEGIN_MS + MetricsRange::Day.length_ms(),
        step_ms: MetricsRange::Day.step_ms(),
        points: Vec::new(),
    };
    let empty = server(&metrics, "/servers/one").into_string();
    assert!(empty.contains("Nothing is known of this time yet") && !empty.contains("<svg"), "{empty}");
    metrics.points = (0..288)
        .map(|n| ServerPoint {
            at_ms: BEGIN_MS + n * 300_000,
            covered_ms: 300_000,
            cpu_cores: (n > 100).then_some(1.0),
            cpu_count: 4.0,
            load_1m: 0.5,
            memory_used_bytes: 3 << 30,
            memory_total_bytes: 8 << 30,
            disk_used_bytes: 50 << 30,
            disk_total_bytes: 100 << 30,
        })
        .collect();
    let drawn = server(&metrics, "/servers/one").into_string();
    assert_eq!(drawn.matches("class=\"whole\"").count(), 3);
    for wanted in ["1 of 4", "3.0 GiB of 8.0 GiB", "50.0 GiB of 100.0 GiB", "?range=7d#metrics"] {
        assert!(drawn.contains(wanted), "{wanted}");
    }
    assert!(drawn.len() < 9_000, "{} bytes", drawn.len());
}
