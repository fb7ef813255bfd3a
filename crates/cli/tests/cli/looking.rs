//! Reading commands: the same facts for people and for programs.

use crate::control_plane::{ControlPlane, id, service};
use crate::user::User;
use serde_json::json;

fn stacks() -> serde_json::Value {
    json!([{
        "id": id("stk", 1), "name": "shop", "project_id": id("prj", 1), "project": "default", "version": 4,
        "condition": "degraded", "problems": ["web: port 80 is in use"], "manifest": "", "created_at_ms": 0, "updated_at_ms": 0,
        "services": [service("shop", "web", 1)],
    }])
}

#[test]
fn status_piped_is_a_plain_table_with_words_for_every_condition() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/stacks", stacks());
    let said = User::of(&control_plane).says(&["status"]);
    let expected = "\
shop degraded, version 4
  ! web: port 80 is in use
SERVICE  CONDITION  REVISION        INSTANCES  CHANGED  ADDRESS
web      running    3 (0123456789)        0/1  –        http://127.0.0.1:8080/
";
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (0, expected, ""));
}

#[test]
fn colour_comes_when_it_is_asked_for_and_changes_no_word() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/stacks", stacks());
    let user = User::of(&control_plane);
    let (plain, coloured) = (user.says(&["status"]).out, user.says(&["--color", "always", "status"]).out);
    assert!(coloured.contains("\x1b["));
    let mut stripped = String::new();
    for (index, part) in coloured.split("\x1b[").enumerate() {
        stripped.push_str(if index == 0 { part } else { part.split_once('m').unwrap().1 });
    }
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(&stripped), words(&plain));
}

#[test]
fn json_is_the_answer_of_the_api_as_it_is() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/stacks", stacks());
    let said = User::of(&control_plane).says(&["status", "--json"]).json();
    let read: Vec<api::stacks::StackView> = serde_json::from_value(said).unwrap();
    assert_eq!(read, serde_json::from_value::<Vec<api::stacks::StackView>>(stacks()).unwrap());
}

/// No answer of the control plane holds all of them.
#[test]
fn very_many_are_read_page_by_page_and_are_all_there() {
    let control_plane = ControlPlane::start();
    let stack = |number: u32| {
        let mut stack = stacks()[0].clone();
        stack["name"] = json!(format!("s{number}"));
        stack["id"] = json!(id("stk", number));
        stack
    };
    control_plane.answers_where("after=s50", json!([stack(51)]));
    control_plane.answers("GET /api/v1/stacks", (1..=50).map(stack).collect());
    let of = |number: u32| service("shop", &format!("web{number}"), number);
    control_plane.answers_where("search=web3&limit=500", (3..=3).chain(30..=39).map(of).collect());
    control_plane.answers_where("after=shop%2Fweb500", json!([of(501)]));
    control_plane.answers("GET /api/v1/services", (1..=500).map(of).collect());
    control_plane.answers("GET /api/v1/servers", json!([]));
    control_plane.answers(&format!("GET /api/v1/stacks/{}/services/{}", id("stk", 1), id("svc", 3)), of(3));
    let deployments = format!("GET /api/v1/stacks/{}/services/{}/deployments", id("stk", 1), id("svc", 3));
    control_plane.answers(&deployments, json!([]));
    let user = User::of(&control_plane);
    let all = user.says(&["status", "--json"]).json();
    assert_eq!((all.as_array().unwrap().len(), &all[50]["name"]), (51, &json!("s51")));
    let top = user.says(&["top", "--once", "--json"]).json();
    assert_eq!(top["services"].as_array().unwrap().len(), 501);
    let one = user.says(&["status", "shop/web3", "--json"]).json();
    assert_eq!(one["name"], "web3", "looked for by the control plane, not among all");
}

#[test]
fn log_lines_lose_the_control_sequences_of_the_program_that_wrote_them() {
    let control_plane = ControlPlane::start();
    let line = json!([{
        "sequence": 1, "service_id": id("svc", 1), "service": "web", "source": {"kind": "run", "instance_id": id("ins", 1)},
        "at_ms": 0, "stream": "stdout", "text": "\u{1b}[2Jgone\u{1b}]0;title\u{7} and here",
    }]);
    control_plane.answers("GET /api/v1/logs", line);
    let said = User::of(&control_plane).says(&["logs"]);
    assert!(said.out.ends_with("web[00000001] gone and here\n") && !said.out.contains('\x1b'), "{:?}", said.out);
}

#[test]
fn who_stops_reading_ends_the_command_without_a_complaint() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/stacks", stacks());
    let mut child = User::of(&control_plane).command(&["status"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_value_from_stdin_reaches_the_control_plane_and_nothing_else() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1)]));
    let path = format!("PATCH /api/v1/stacks/{}/services/{}/env", id("stk", 1), id("svc", 1));
    control_plane.answers(&path, serde_json::Value::Null);
    let said = User::of(&control_plane).says_with_input(&["env", "set", "web", "KEY=-", "--no-deploy"], "swordfish\n");
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(control_plane.asked(&path)[0].body, json!({"variables": {"KEY": "swordfish"}, "deploy": false}));
    assert!(!said.out.contains("swordfish") && !said.err.contains("swordfish"));
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let said = User::alone().says(&["--help"]);
    assert_eq!(said.code, 0);
    for command in [
        "up", "down", "deploy", "plan", "init", "status", "logs", "rollback", "scale", "env", "tokens", "server",
        "agent",
    ] {
        assert!(
            said.out.lines().any(|line| line.trim_start().starts_with(&format!("{command} "))),
            "no {command} in {}",
            said.out
        );
    }
    assert!(!said.out.contains("\n  shim"), "what only the agent starts is hidden");
    assert!(said.out.contains("6 the plan is stale"));
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let said = User::alone().says(&["completions", shell]);
        assert!(said.code == 0 && said.out.contains("rollback"), "{shell}: {}", said.err);
    }
}
