//! What helps before anything is asked of a control plane: manual pages, completions, `doctor`, `top`.

use crate::control_plane::{ControlPlane, id, service};
use crate::user::User;
use serde_json::{Value, json};

#[test]
fn a_manual_page_is_printed_for_any_command_and_an_unknown_one_gets_a_suggestion() {
    let user = User::alone();
    let page = user.says(&["man", "servers", "remove"]);
    assert_eq!(page.code, 0, "{}", page.err);
    assert!(page.out.contains(".TH mainstay-servers-remove 1") && page.out.contains("\\-\\-force"), "{}", page.out);
    assert!(user.says(&["man"]).out.contains(".TH mainstay 1"));
    let unknown = user.says(&["man", "depoly"]);
    assert!(unknown.code == 1 && unknown.err.contains("did you mean `deploy`?"), "{}", unknown.err);
}

#[test]
fn all_manual_pages_are_written_for_a_package_and_none_is_of_a_hidden_command() {
    let user = User::alone();
    let said = user.says(&["man", "--output", "pages"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let pages: Vec<String> = std::fs::read_dir(user.folder().join("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for page in ["mainstay.1", "mainstay-logs.1", "mainstay-agent-install.1", "mainstay-doctor.1"] {
        assert!(pages.iter().any(|found| found == page), "no {page} in {pages:?}");
    }
    assert!(!pages.iter().any(|page| page.contains("shim")), "{pages:?}");
}

#[test]
fn completions_go_where_the_shell_looks_for_them() {
    // As root they are for everybody, outside of a home that a test may write to.
    if std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
        let other = User::alone().says(&["completions", "elvish", "--install"]);
        assert!(other.code == 2 && other.err.contains("mainstay completions elvish"), "{}", other.err);
        return;
    }
    let user = User::alone();
    let said = user.says(&["completions", "bash", "--install"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let file = user.home().join(".local/share/bash-completion/completions/mainstay");
    assert!(std::fs::read_to_string(file).unwrap().contains("rollback"));
}

#[test]
fn doctor_says_of_each_thing_how_it_is_and_ends_with_1_if_something_does_not_work() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /healthz", json!({}));
    let said = User::of(&control_plane).says(&["doctor", "--json"]);
    let examination = said.json();
    let findings = examination["findings"].as_array().unwrap();
    let of = |check: &str| {
        findings.iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("no {check}: {findings:#?}"))
    };
    for check in ["kernel", "rights", "limits", "systemd", "git", "disk", "inodes", "open files", "clock", "agent"] {
        assert!(of(check)["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    let answers = format!("0.1.0 answers at {}", control_plane.address);
    assert_eq!((&of("control plane")["verdict"], &of("control plane")["message"]), (&json!("good"), &json!(answers)));
    let problems = examination["problems"].as_u64().unwrap();
    assert_eq!(said.code, i32::from(problems > 0), "{findings:#?}");

    control_plane.answers_with("GET /api/v1/info", 401, json!({"code": "unauthenticated", "message": "not good"}));
    let refused = User::of(&control_plane).says(&["doctor"]);
    assert_eq!(refused.code, 1, "{}", refused.out);
    let expected = format!("✗ control plane   {} refuses you: not good", control_plane.address);
    assert!(refused.out.contains(&expected), "{}", refused.out);
    assert!(
        refused.out.contains(&format!("next: mainstay login --server {}", control_plane.address)),
        "{}",
        refused.out
    );
}

#[test]
fn top_once_shows_what_is_used_and_a_dash_for_what_is_not_known() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1)]));
    let offline: Value = json!({
        "id": id("srv", 1), "name": "one", "index": 1, "condition": "offline", "security_mode": "closed",
        "facts": api::servers::ServerFacts::default(), "agent_version": "0.1.0", "registered_at_ms": 0,
        "last_seen_at_ms": null, "desired_generation": 1, "observed": null,
    });
    control_plane.answers("GET /api/v1/servers", json!([offline]));
    let said = User::of(&control_plane).says(&["top"]);
    let expected = "\
SERVER  REPORTED  LOAD  MEMORY  DISK FREE  INSTANCES  REQUESTS  ERRORS
one     never        –       –          –          –         –       –

SERVICE   SERVER  STATE        CPU  MEMORY  REQUESTS  ERRORS  LATENCY  RESTARTS
shop/web          0/0 healthy    –       –         –       –        –
";
    assert_eq!((said.code, said.out.as_str()), (0, expected), "{}", said.err);
    let json = User::of(&control_plane).says(&["top", "--once", "--json"]).json();
    assert_eq!((&json["servers"][0]["server"], &json["services"][0]["cpu_percent"]), (&json!("one"), &Value::Null));
}
