//! Which control plane is meant, and with which token.

use crate::control_plane::{ControlPlane, id, info};
use crate::user::User;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

#[test]
fn login_keeps_a_token_that_works_for_its_owner_alone_and_later_commands_use_it() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/stacks", json!([]));
    let user = User::alone();
    let said = user.says(&["login", "--server", &control_plane.address, "--token", "s3cret"]);
    assert_eq!(said.code, 0, "{}", said.err);
    let file = user.home().join(".config/mainstay/config.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(user.says(&["status"]).code, 0);
    assert_eq!(control_plane.asked("GET /api/v1/stacks")[0].authorization.as_deref(), Some("Bearer s3cret"));
}

#[test]
fn a_token_that_does_not_work_is_not_kept() {
    let control_plane = ControlPlane::start();
    control_plane.answers_with(
        "GET /api/v1/info",
        401,
        json!({"code": "unauthenticated", "message": "the token is not good"}),
    );
    let user = User::alone();
    assert_eq!(user.says(&["login", "--server", &control_plane.address, "--token", "bad"]).code, 5);
    assert!(!user.home().join(".config/mainstay/config.json").exists());
}

#[test]
fn a_password_on_stdin_becomes_a_token() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /healthz", json!({}));
    control_plane.answers("GET /api/v1/info", info(false));
    // Without a cookie there is no session: said as such, nothing is kept.
    control_plane.answers("POST /api/v1/session", json!({}));
    let user = User::alone();
    let said = user.says_with_input(&["login", "--server", &control_plane.address, "--password-stdin"], "hunter2\n");
    assert_eq!(control_plane.asked("POST /api/v1/session")[0].body, json!({"user": "admin", "password": "hunter2"}));
    assert!(said.code == 4 && said.err.contains("no session cookie") && !said.err.contains("hunter2"), "{}", said.err);
}

#[test]
fn a_join_token_is_shown_as_the_one_line_to_run() {
    let control_plane = ControlPlane::start();
    let created = json!({
        "token": "join-me", "id": id("tok", 1), "name": "web 1", "purpose": {"kind": "join"}, "state": "usable",
        "created_at_ms": 0, "expires_at_ms": null,
    });
    control_plane.answers("POST /api/v1/tokens", created);
    let said = User::of(&control_plane).says(&["tokens", "create", "web 1"]);
    assert_eq!(said.out, format!("mainstay agent --join {} --token join-me\n", control_plane.address));
    assert_eq!(control_plane.asked("POST /api/v1/tokens")[0].body["name"], "web 1");
}
