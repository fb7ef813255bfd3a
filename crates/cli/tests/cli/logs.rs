//! Lines of several services as one stream.

use crate::control_plane::{ControlPlane, id, service};
use crate::user::User;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};

fn line(sequence: i64, service: (&str, u32), at_ms: i64, text: &str) -> Value {
    json!({
        "sequence": sequence, "service_id": id("svc", service.1), "service": service.0,
        "source": {"kind": "run", "instance_id": id("ins", service.1)}, "at_ms": at_ms, "stream": "stdout", "text": text,
    })
}

const WEB: (&str, u32) = ("web", 1);
const WORKER: (&str, u32) = ("worker", 2);

/// Two services whose lines arrived in another order than they were written.
fn two_services() -> ControlPlane {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1), service("shop", "worker", 2)]));
    let of = |number| format!("service={}", id("svc", number));
    control_plane.answers_where(&of(1), json!([line(1, WEB, 1000, "web began"), line(2, WEB, 3000, "GET / Timeout")]));
    control_plane.answers_where(&of(2), json!([line(3, WORKER, 2000, "worker began"), line(4, WORKER, 4000, "done")]));
    control_plane.keeps(&of(1), vec![line(2, WEB, 3000, "GET / Timeout"), line(1, WEB, 1000, "web began")]);
    control_plane.keeps(&of(2), vec![line(4, WORKER, 4000, "done"), line(3, WORKER, 2000, "worker began")]);
    control_plane.streams(&of(1), vec![line(5, WEB, 5000, "a new line")]);
    control_plane.streams(&of(2), vec![line(6, WORKER, 6000, "another timeout")]);
    control_plane
}

/// What follows the time, which is of the reader's zone.
fn without_times(out: &str) -> Vec<String> {
    let words = |line: &str| line.split(' ').skip(2).collect::<Vec<_>>().join(" ");
    out.lines().map(words).collect()
}

#[test]
fn lines_of_several_services_are_in_the_order_of_time_each_with_its_name() {
    let control_plane = two_services();
    let user = User::of(&control_plane);
    let both = [
        "web[00000001] web began",
        "worker[00000002] worker began",
        "web[00000001] GET / Timeout",
        "worker[00000002] done",
    ];
    let said = user.says(&["logs", "web", "worker"]);
    assert_eq!((said.code, without_times(&said.out)), (0, both.map(str::to_owned).to_vec()), "{}", said.err);
    assert_eq!(without_times(&user.says(&["logs", "shop"]).out), both, "a stack is all of its services");
    assert_eq!(without_times(&user.says(&["logs", "web", "shop", "--lines", "3"]).out), both[1..]);
    assert_eq!(without_times(&user.says(&["logs", "web"]).out), ["[00000001] web began", "[00000001] GET / Timeout"]);
    let unknown = user.says(&["logs", "web", "wroker"]);
    assert!(unknown.code == 1 && unknown.err.contains("did you mean `worker`?"), "{}", unknown.err);
}

#[test]
fn each_service_has_a_colour_of_its_own_and_what_was_searched_for_stands_out() {
    let control_plane = two_services();
    let said = User::of(&control_plane).says(&["--color", "always", "logs", "web", "worker", "--search", "TIMEOUT"]);
    assert_eq!((said.code, said.out.as_str()), (0, ""), "capitals matter if there is one");
    assert!(said.err.starts_with("No line contains `TIMEOUT`."), "{}", said.err);
    let said = User::of(&control_plane).says(&["--color", "always", "logs", "web", "worker"]);
    assert!(said.out.contains("\x1b[36mweb[") && said.out.contains("\x1b[35mworker["), "{:?}", said.out);
    let said = User::of(&control_plane).says(&["--color", "always", "logs", "web", "worker", "--search", "timeout"]);
    assert!(said.out.ends_with("GET / \x1b[1;7mTimeout\x1b[0m\n") && said.out.lines().count() == 1, "{:?}", said.out);
}

#[test]
fn only_what_was_written_lately_is_shown_with_since() {
    let control_plane = ControlPlane::start();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let now = i64::try_from(now).unwrap();
    let (old, new) = (line(1, WEB, now - 3_600_000, "an hour ago"), line(2, WEB, now - 1_000, "just now"));
    control_plane.answers("GET /api/v1/logs", json!([old, new]));
    control_plane.keeps("since_ms=", vec![new.clone(), old.clone()]);
    control_plane.keeps("until_ms=", vec![new, old]);
    let said = User::of(&control_plane).says(&["logs", "--since", "10m"]);
    assert!(said.out.ends_with("just now\n") && said.out.lines().count() == 1, "{}", said.out);
    let said = User::of(&control_plane).says(&["logs", "--until", "10m"]);
    assert!(said.out.ends_with("an hour ago\n") && said.out.lines().count() == 1, "{}", said.out);
    let json = User::of(&control_plane).says(&["logs", "--json"]);
    let records: Vec<Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records.len(), &records[1]["text"]), (2, &json!("just now")), "one line per record");
}

/// More than one answer of the API holds, and what is searched for is the oldest of all.
#[test]
fn the_whole_log_is_searched_and_no_more_of_it_is_kept_than_is_shown() {
    let control_plane = ControlPlane::start();
    let newest = 25_000;
    let all: Vec<Value> = (1..=newest).rev().map(|n| line(n, WEB, n, if n < 3 { "Needle" } else { "hay" })).collect();
    control_plane.keeps("newest_first=true", all);
    control_plane.answers("GET /api/v1/logs", json!([line(newest, WEB, newest, "hay")]));
    let user = User::of(&control_plane);
    let said = user.says(&["logs", "--search", "needle"]);
    assert_eq!((said.code, said.out.lines().count(), said.err.as_str()), (0, 2, ""), "{}", said.out);
    assert_eq!(user.says(&["logs", "--search", "hay", "-n", "3"]).out.lines().count(), 3);
    assert_eq!(user.says(&["logs", "-n", "24000", "--json"]).out.lines().count(), 24_000);
}

#[test]
fn following_goes_on_with_the_new_lines_of_all_services_and_those_only_that_are_searched_for() {
    let control_plane = two_services();
    let read = |arguments: &[&str], count: usize| {
        let mut child = User::of(&control_plane).command(arguments).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(count);
        let mut lines: Vec<String> = lines.map(Result::unwrap).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        lines.sort();
        lines
    };
    let lines = read(&["logs", "web", "worker", "--follow", "--lines", "0"], 2);
    assert!(lines[0].ends_with("a new line") && lines[1].ends_with("another timeout"), "{lines:?}");
    let lines = read(&["logs", "shop", "-f", "-n", "0", "--search", "timeout"], 1);
    assert!(lines[0].ends_with("another timeout"), "{lines:?}");
}
