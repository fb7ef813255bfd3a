//! What a person reads and a script gets when something is wrong.

use crate::control_plane::{ControlPlane, service};
use crate::user::User;
use serde_json::json;

fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_control_plane_that_is_not_there_ends_with_4_and_says_how_to_start_one() {
    let address = nowhere();
    let said = User::alone().says(&["--server", &address, "status"]);
    assert_eq!((said.code, said.out.as_str()), (4, ""));
    let expected = format!(
        "error: cannot reach the control plane at {address}: connection refused\n\nnext: is it running? start it with `mainstay up` or name another with --server\n"
    );
    assert_eq!(said.err, expected);
}

#[test]
fn with_json_an_error_is_one_json_object_on_stderr() {
    let address = nowhere();
    let said = User::alone().says(&["--json", "--server", &address, "status"]);
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!((error["exit_code"].as_i64(), said.out.as_str()), (Some(4), ""));
    assert!(error["error"]["message"].as_str().unwrap().contains(&address));
}

#[test]
fn a_word_that_is_no_command_gets_a_suggestion_and_ends_with_2() {
    let said = User::alone().says(&["stauts"]);
    assert_eq!(said.code, 2);
    assert!(said.err.contains("'status'"), "{}", said.err);
}

#[test]
fn a_refused_token_ends_with_5_and_says_how_to_sign_in() {
    let control_plane = ControlPlane::start();
    control_plane.answers_with(
        "GET /api/v1/stacks",
        401,
        json!({"code": "unauthenticated", "message": "the token is not good"}),
    );
    let said = User::of(&control_plane).says(&["--token", "s3cret", "status"]);
    assert_eq!(said.code, 5);
    assert!(said.err.contains("mainstay login") && !said.err.contains("s3cret"), "{}", said.err);
    assert_eq!(control_plane.asked("GET /api/v1/stacks")[0].authorization.as_deref(), Some("Bearer s3cret"));
}

#[test]
fn a_name_that_is_nearly_right_gets_the_right_one_and_an_ambiguous_one_the_choices() {
    let control_plane = ControlPlane::start();
    let services = json!([service("shop", "web", 1), service("blog", "web", 2), service("shop", "worker", 3)]);
    control_plane.answers("GET /api/v1/services", services);
    let user = User::of(&control_plane);
    let unknown = user.says(&["restart", "wroker"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.err.contains("did you mean `worker`?"), "{}", unknown.err);
    let ambiguous = user.says(&["restart", "web"]);
    assert!(ambiguous.err.contains("shop/web or blog/web"), "{}", ambiguous.err);
}

#[test]
fn the_name_of_a_server_is_not_taken_for_the_address_of_the_control_plane() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/servers", json!([]));
    let said = User::of(&control_plane).says(&["servers", "show", "vm"]);
    assert_eq!((said.code, said.err.contains("there is no server `vm`")), (1, true), "{}", said.err);
}
