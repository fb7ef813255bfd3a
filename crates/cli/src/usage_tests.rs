use super::*;
use serde_json::{Value, json};

fn id(prefix: &str, number: u32) -> String {
    format!("{prefix}_{number:032x}")
}

/// What machine 1 reports: one instance and the counters of its gateway.
fn report(at_ms: i64, cpu_ms: u64, requests: u64, gateway_pid: u32) -> Vec<ServerView> {
    let server = json!({
        "id": id("srv", 1), "name": "one", "index": 1, "condition": "online", "security_mode": "closed",
        "facts": api::servers::ServerFacts::default(), "agent_version": "0.1.0", "registered_at_ms": 0,
        "last_seen_at_ms": at_ms, "desired_generation": 1, "observed": {
            "server_id": id("srv", 1), "generation": 1, "observed_at_ms": at_ms,
            "agent": {"version": "0.1.0", "state": "idle", "started_at_ms": 0},
            "stacks": [], "preparations": [], "blocked": [], "dns": {"method": "none", "names": [], "problem": null},
            "instances": [{
                "instance_id": id("ins", 1), "service_id": id("svc", 1), "revision_id": id("rev", 1),
                "state": "healthy", "restarts": 2, "memory_bytes": 1000, "cpu_ms": cpu_ms,
            }],
            "gateway": {
                "running": true, "pid": gateway_pid, "version": null, "digest": null, "listening": [], "active": [],
                "open": [{"instance_id": id("ins", 1), "requests": 3}], "problem": null,
                "services": [{
                    "service_id": id("svc", 1), "requests": requests, "errors": requests / 10,
                    "latency_sum_micros": requests * 2500,
                }],
            },
            "resources": {
                "cpu_count": 2, "load_1m": 0.5, "memory_total_bytes": 100, "memory_available_bytes": 60,
                "disk_total_bytes": 10, "disk_available_bytes": 5,
            },
        },
    });
    vec![serde_json::from_value(server).unwrap()]
}

fn services() -> Vec<ServiceView> {
    let instance = |number: u32, server: u32| {
        json!({
            "id": id("ins", number), "server_id": id("srv", server), "server": if server == 1 { "one" } else { "two" },
            "revision_id": id("rev", 1), "revision_number": 1, "deployment_id": id("dep", 1), "ordinal": 0,
            "intent": "run", "traffic": "active",
        })
    };
    let service: Value = json!({
        "id": id("svc", 1), "name": "web", "stack_id": id("stk", 1), "stack": "shop", "project_id": id("prj", 1),
        "intent": "run", "condition": "running", "replicas": 2, "routes": [], "urls": [],
        "instances": [instance(1, 1), instance(2, 2)],
    });
    vec![serde_json::from_value(service).unwrap()]
}

#[test]
fn rates_are_the_difference_of_two_reports_over_the_time_between_them() {
    let mut reports = Reports::default();
    assert!(reports.take(&report(10_000, 1_000, 100, 7)));
    let now = report(20_000, 3_500, 400, 7);
    assert!(!reports.complete(&now) && reports.take(&now) && reports.complete(&now));
    assert!(!reports.take(&now), "the same report is no news, and takes no rate away");
    let usage = reports.usage(&now, &services(), 20_000);
    let web = &usage.services[0];
    assert_eq!((web.cpu_percent, web.memory_bytes), (Some(25.0), Some(1000)));
    assert_eq!((web.requests_per_second, web.errors_per_second), (Some(30.0), Some(3.0)));
    assert_eq!(web.latency_ms.map(|ms| (ms * 10.0).round()), Some(25.0));
    let machine = &usage.servers[0];
    assert_eq!((machine.requests_per_second, machine.memory_used_bytes), (Some(30.0), Some(40)));
    assert_eq!((web.instances[0].restarts, web.instances[0].open_requests), (Some(2), Some(3)));
}

#[test]
fn what_is_not_known_is_absent_and_never_zero() {
    let mut reports = Reports::default();
    let first = report(10_000, 1_000, 100, 7);
    reports.take(&first);
    let usage = reports.usage(&first, &services(), 10_000);
    let web = &usage.services[0];
    assert_eq!((web.cpu_percent, web.requests_per_second, web.latency_ms), (None, None, None), "one report is no rate");
    let elsewhere = &web.instances[1];
    assert_eq!((elsewhere.memory_bytes, elsewhere.restarts, elsewhere.open_requests), (None, None, None));
    assert!(elsewhere.state.is_none());
}

#[test]
fn a_sum_that_began_anew_gives_no_rate() {
    let mut reports = Reports::default();
    reports.take(&report(10_000, 5_000, 500, 7));
    let now = report(20_000, 100, 600, 8);
    reports.take(&now);
    let usage = reports.usage(&now, &services(), 20_000);
    let web = &usage.services[0];
    assert_eq!((web.cpu_percent, web.requests_per_second), (None, None), "the process and the gateway are new ones");
    let quiet = report(30_000, 100, 600, 8);
    reports.take(&quiet);
    let usage = reports.usage(&quiet, &services(), 30_000);
    let web = &usage.services[0];
    assert_eq!((web.cpu_percent, web.requests_per_second), (Some(0.0), Some(0.0)), "and zero is a figure");
    assert_eq!(web.latency_ms, None, "without requests there is nothing to wait for");
}

#[test]
fn a_machine_that_is_gone_is_forgotten() {
    let mut reports = Reports::default();
    reports.take(&report(10_000, 0, 0, 7));
    reports.take(&[]);
    assert!(reports.of.is_empty() && reports.complete(&[]));
}
