//! From a folder to a request, and from its result to an exit code.

use crate::control_plane::{COMMIT, ControlPlane, deployment, failed_deployment, id, info, plan, service};
use crate::user::User;
use api::deployments::{Deployment, Stage};
use api::services::{HealthCheck, HealthSpec, RestartSpec, RolloutSpec, StopSpec};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

const MANIFEST: &str = "name = \"shop\"\n\n[services.web]\nrun = \"./run\"\n";

#[test]
fn on_this_machine_the_last_commit_is_deployed_and_what_is_not_committed_is_named() {
    let control_plane = ControlPlane::start();
    control_plane.deploys(&deployment(Stage::Running));
    let user = User::of(&control_plane);
    user.write("mainstay.toml", MANIFEST).write("run", "#!/bin/sh").commits();
    user.write("run", "#!/bin/sh\nchanged").write("new", "");
    let said = user.says(&["deploy"]);
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.err.contains("2 uncommitted files are not deployed"), "{}", said.err);
    let body = control_plane.asked("POST /api/v1/deploy")[0].body.clone();
    let top = user.folder().canonicalize().unwrap();
    let source = json!({"git": format!("file://{}", top.display()), "reference": user.git(&["rev-parse", "HEAD"]), "directory": ""});
    assert_eq!((&body["default_source"], &body["manifest"]), (&source, &json!(MANIFEST)));
    assert!(said.out.contains("web is running revision 3 (0123456789)\n  http://127.0.0.1:8080/\n"), "{}", said.out);
}

#[test]
fn elsewhere_the_branch_of_origin_is_deployed_and_what_is_not_pushed_is_named() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/info", info(false));
    control_plane.deploys(&deployment(Stage::Running));
    let user = User::of(&control_plane);
    user.write("mainstay.toml", MANIFEST).commits();
    let no_origin = user.says(&["deploy"]);
    assert_eq!(no_origin.code, 1);
    assert!(
        no_origin.err.contains("no remote called origin") && no_origin.err.contains("git remote add origin"),
        "{}",
        no_origin.err
    );
    user.git(&["remote", "add", "origin", "https://git.example.com/shop.git"]);
    let said = user.says(&["deploy"]);
    assert!(said.err.contains("is not pushed to https://git.example.com/shop.git"), "{}", said.err);
    let source = control_plane.asked("POST /api/v1/deploy")[0].body["default_source"].clone();
    assert_eq!(source, json!({"git": "https://git.example.com/shop.git", "reference": "main", "directory": ""}));
}

#[test]
fn a_folder_that_cannot_be_deployed_is_refused_with_the_mend_and_nothing_is_asked() {
    let control_plane = ControlPlane::start();
    let user = User::of(&control_plane);
    let unknown = user.says(&["deploy"]);
    assert!(unknown.code == 1 && unknown.err.contains("write a mainstay.toml"), "{}", unknown.err);
    user.write("mainstay.toml", MANIFEST);
    let no_repository = user.says(&["deploy"]);
    assert!(no_repository.code == 1 && no_repository.err.contains("git init"), "{}", no_repository.err);
    user.git(&["init", "--quiet"]);
    let no_commit = user.says(&["deploy"]);
    assert!(no_commit.code == 1 && no_commit.err.contains("no commit yet"), "{}", no_commit.err);
    for bad in ["ext::sh -c x", "--upload-pack=x", "https://u:pw@h/x", "/does/not/exist"] {
        assert_eq!(user.says(&["deploy", "--", bad]).code, 2, "{bad}");
    }
    assert!(control_plane.asked("POST /api/v1/deploy").is_empty());
}

#[test]
fn a_complaint_about_the_manifest_shows_the_line_and_the_mend() {
    let control_plane = ControlPlane::start();
    let detail = json!({"field": "services.web.rum", "line": 4, "column": 1, "message": "unknown field `rum`", "help": "did you mean `run`?"});
    let error = json!({"code": "invalid_manifest", "message": "the manifest has 1 problem; nothing was changed", "details": [detail]});
    control_plane.answers_with("POST /api/v1/deploy", 400, error);
    let user = User::of(&control_plane);
    user.write("mainstay.toml", "name = \"shop\"\n\n[services.web]\nrum = \"./run\"\n").commits();
    let said = user.says(&["deploy"]);
    assert_eq!(said.code, 1);
    let expected = "  mainstay.toml:4:1\n  4 | rum = \"./run\"\n    | ^ services.web.rum: unknown field `rum`\n  help: did you mean `run`?\n";
    assert!(said.err.contains(expected), "{}", said.err);
}

#[test]
fn a_deployment_that_fails_ends_with_3_and_shows_the_stage_the_probe_and_the_log() {
    let control_plane = ControlPlane::start();
    control_plane.deploys(&failed_deployment(&["boom\u{1b}[0m"]));
    let user = User::of(&control_plane);
    user.write("mainstay.toml", MANIFEST).commits();
    let said = user.says(&["deploy"]);
    assert_eq!(said.code, 3, "{}", said.err);
    for part in [
        "the deploy of web failed while starting after 1.2s",
        "web never became healthy",
        "GET /health answered 500",
        "| boom\n",
        "mainstay logs web",
    ] {
        assert!(said.err.contains(part), "no {part:?} in {}", said.err);
    }
    let json = user.says(&["--json", "deploy"]);
    assert_eq!((json.code, json.json()["deployments"][0]["stage"].as_str()), (3, Some("failed")));
}

#[test]
fn waiting_ends_with_7_when_the_time_is_over_and_does_not_begin_with_no_wait() {
    let control_plane = ControlPlane::start();
    let mut building = deployment(Stage::Building);
    building.waits_for = vec!["its release is being prepared".into(), "it is late".into()];
    control_plane.deploys(&building);
    let user = User::of(&control_plane);
    user.write("mainstay.toml", MANIFEST).commits();
    let said = user.says(&["deploy", "--timeout", "300ms"]);
    let why = "web is building (waits: its release is being prepared; it is late)";
    assert!(said.code == 7 && said.err.contains(why), "{} {}", said.code, said.err);
    let accepted = user.says(&["deploy", "--no-wait"]);
    assert!(accepted.code == 0 && accepted.out.contains("is accepted"), "{} {}", accepted.out, accepted.err);
}

#[test]
fn a_plan_says_by_its_exit_code_whether_there_is_a_difference() {
    let control_plane = ControlPlane::start();
    let user = User::of(&control_plane);
    user.write("mainstay.toml", MANIFEST).commits();
    control_plane.answers("POST /api/v1/plan", plan("create"));
    let some = user.says(&["plan", "--detailed-exitcode"]);
    assert_eq!(some.code, 2, "{}", some.err);
    assert!(some.out.contains("+ web will be created") && some.out.ends_with("Plan: 1 to create\n"), "{}", some.out);
    assert_eq!(user.says(&["plan"]).code, 0);
    control_plane.answers("POST /api/v1/plan", plan("keep"));
    assert_eq!(user.says(&["plan", "--detailed-exitcode"]).code, 0);
}

#[test]
fn an_agreed_plan_is_sent_with_its_fingerprint_and_a_stale_one_ends_with_6() {
    let control_plane = ControlPlane::start();
    let user = User::of(&control_plane);
    user.write("mainstay.toml", MANIFEST).commits();
    control_plane.answers("POST /api/v1/plan", plan("create"));
    assert_eq!(user.says(&["plan", "--out", "agreed.json"]).code, 0);
    let file = user.folder().join("agreed.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "a manifest may hold secrets");
    // What was agreed to is what is sent, whatever the folder says by then.
    user.write("mainstay.toml", "name = \"other\"\n");
    control_plane.answers_with(
        "POST /api/v1/deploy",
        409,
        json!({"code": "stale_plan", "message": "the plan no longer holds"}),
    );
    let said = user.says(&["deploy", "--plan", "agreed.json"]);
    assert_eq!(said.code, 6, "{}", said.err);
    let body = control_plane.asked("POST /api/v1/deploy")[0].body.clone();
    assert_eq!((&body["fingerprint"], &body["manifest"]), (&json!("print-1"), &json!(MANIFEST)));
    user.write("agreed.json", "{}");
    assert_eq!(user.says(&["deploy", "--plan", "agreed.json"]).code, 2);
}

#[test]
fn init_writes_what_it_detects_and_never_over_a_manifest_that_is_there() {
    let user = User::alone();
    user.write("index.html", "<h1>hi</h1>");
    let said = user.says(&["init"]);
    assert!(said.code == 0 && said.err.contains("static"), "{}", said.err);
    let file = user.folder().join("mainstay.toml");
    let written = std::fs::read_to_string(&file).unwrap();
    let source = serde_json::from_value(json!({"git": "file:///srv/shop"})).unwrap();
    manifest::parse(&written, Some(&source)).unwrap();
    user.write("mainstay.toml", MANIFEST);
    assert_eq!(user.says(&["init"]).code, 1);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), MANIFEST);
    assert_eq!(user.says(&["init", "--force"]).code, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);
}

#[test]
fn who_goes_back_to_what_was_never_healthy_is_told_so_before() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1)]));
    let ran = deployment(Stage::Running);
    let failed = Deployment { revision_number: 2, ..deployment(Stage::Failed) };
    let of = format!("/api/v1/stacks/{}/services/{}", id("stk", 1), id("svc", 1));
    let revision = |number: u32| {
        json!({
            "id": id("rev", number), "service_id": id("svc", 1), "number": number, "commit": COMMIT, "hash": "h",
            "created_at_ms": 0, "spec": {
                "name": "web", "source": {"git": "https://git.example.com/shop.git"},
                "run": {"kind": "command", "command": "serve"}, "port": {"kind": "injected"},
                "health": HealthSpec::with(HealthCheck::Http { path: "/".into() }), "restart": RestartSpec::default(),
                "stop": StopSpec::default(), "rollout": RolloutSpec::default(),
            },
        })
    };
    control_plane.answers(&format!("GET {of}/revisions"), json!([revision(3), revision(2)]));
    control_plane.answers(&format!("GET {of}/deployments"), json!([failed, ran]));
    control_plane.answers(&format!("POST {of}/rollback"), json!(deployment(Stage::Pending)));
    let user = User::of(&control_plane);
    let back = |to: &str| user.says(&["rollback", "web", "--to", to, "--no-wait"]);
    let (never, once) = (back("2"), back("3"));
    assert_eq!((never.code, once.code), (0, 0), "{} {}", never.err, once.err);
    assert!(never.err.starts_with("No release of revision 2 was ever healthy here"), "{}", never.err);
    assert_eq!(once.err, "");
    assert!(back("9").err.contains("web has no revision 9"));
}
