use super::super::samples::{self, METRICS_BEGIN_MS};
use super::*;

fn point(range: MetricsRange, n: i64) -> ServicePoint {
    samples::service_point(range, n)
}

fn metrics(range: MetricsRange, points: Vec<ServicePoint>) -> ServiceMetrics {
    ServiceMetrics { points, ..samples::service_metrics(range) }
}

/// One line for every element, so that a difference is easy to read.
fn lines(markup: Markup) -> String {
    markup.into_string().replace("><", ">\n<") + "\n"
}

/// The whole of it, as it was when somebody looked at it. `UPDATE_CHARTS=1 cargo test -p server web::metrics` takes what is
/// drawn now; look at it then.
#[test]
fn charts_are_drawn_as_they_were_when_somebody_looked_at_them() {
    let mut half = samples::service_metrics(MetricsRange::Hour);
    half.points.retain(|p| !(20..40).contains(&((p.at_ms - METRICS_BEGIN_MS) / 30_000)));
    let drawn = lines(service(&half, "/stacks/shop/services/web"));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/web/metrics_golden.html");
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
        let line = drawn.lines().find(|line| line.contains("class=\"curve a\"")).unwrap().to_owned();
        (line.matches('M').count(), line.matches('l').count() - "class=\"curve a\"".matches('l').count())
    };
    assert_eq!(path_of(&[1, 2, 3, 4]), (1, 3));
    assert_eq!(path_of(&[1, 2, 9, 10]), (2, 2));
    assert_eq!(path_of(&[5]), (1, 0));
}

#[test]
fn charts_of_every_range_are_small_and_say_what_they_show_without_a_picture() {
    for range in MetricsRange::ALL {
        let drawn = service(&samples::service_metrics(range), "/stacks/shop/services/web").into_string();
        assert!(drawn.len() < 16_000, "{range}: {} bytes", drawn.len());
        assert_eq!(drawn.matches("role=\"img\" aria-label=\"").count(), 6);
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
    let full = samples::server_metrics(MetricsRange::Day);
    let metrics = ServerMetrics { points: Vec::new(), ..full.clone() };
    let empty = server(&metrics, "/servers/one").into_string();
    assert!(empty.contains("Nothing is known of this time yet") && !empty.contains("<svg"), "{empty}");
    let drawn = server(&full, "/servers/one").into_string();
    assert_eq!(drawn.matches("class=\"whole\"").count(), 3);
    for wanted in ["1 of 4", "3.0 GiB of 8.0 GiB", "50.0 GiB of 100.0 GiB", "?range=7d#metrics"] {
        assert!(drawn.contains(wanted), "{wanted}");
    }
    assert!(drawn.len() < 9_000, "{} bytes", drawn.len());
}
