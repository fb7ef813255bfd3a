//! Errors as a person reads them: stdout, stderr and exit code, whole. A change of one word shows here, and whoever
//! makes it reads the whole message once more.

use crate::control_plane::{ControlPlane, failed_deployment, info, plan, service};
use crate::user::{Said, User};
use serde_json::json;

/// Everything that came, with what differs from run to run under a name.
#[track_caller]
fn check(said: &Said, names: &[(&str, &str)], expected: &str) {
    let mut text = format!("[exit {}]\n", said.code);
    for (stream, content) in [("stdout", &said.out), ("stderr", &said.err)] {
        if !content.is_empty() {
            text.push_str(&format!("[{stream}]\n{content}"));
        }
    }
    for (value, name) in names {
        text = text.replace(value, name);
    }
    assert!(text == expected, "\n--- expected\n{expected}\n--- found\n{text}");
}

fn refuses(control_plane: &ControlPlane, what: &str, code: &str, message: &str) {
    control_plane.answers_with(what, 401, json!({"code": code, "message": message}));
}

#[test]
fn not_signed_in() {
    let control_plane = ControlPlane::start();
    let message = "this needs an API token or a signed-in session";
    refuses(&control_plane, "GET /api/v1/stacks", "unauthenticated", message);
    let said = User::of(&control_plane).says(&["status"]);
    let expected = "\
[exit 5]
[stderr]
error: you are not signed in to ADDRESS

next: mainstay login --server ADDRESS; in a script, set MAINSTAY_TOKEN
";
    check(&said, &[(&control_plane.address, "ADDRESS")], expected);
}

#[test]
fn a_wrong_token() {
    let control_plane = ControlPlane::start();
    let message = "the API token is not good: unknown, revoked or expired";
    refuses(&control_plane, "GET /api/v1/stacks", "unauthenticated", message);
    let user = User::of(&control_plane);
    let expected = "\
[exit 5]
[stderr]
error: ADDRESS does not take the token that --token gives: the API token is not good: unknown, revoked or expired

next: sign in again with `mainstay login --server ADDRESS`; who is signed in makes a token with `mainstay tokens create --api`
";
    check(&user.says(&["--token", "s3cret", "status"]), &[(&control_plane.address, "ADDRESS")], expected);
    let output = user.command(&["status"]).env("MAINSTAY_TOKEN", "s3cret").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("does not take the token in MAINSTAY_TOKEN") && !said.contains("s3cret"), "{said}");
}

#[test]
fn no_control_plane() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let user = User::alone();
    let expected = "\
[exit 4]
[stderr]
error: cannot reach the control plane at ADDRESS: connection refused

next: is it running? start it with `mainstay up` or name another with --server
";
    check(&user.says(&["--server", &address, "deploy", "https://example.com/a"]), &[(&address, "ADDRESS")], expected);
    let expected = "\
[exit 4]
[stderr]
{\"error\":{\"code\":null,\"message\":\"cannot reach the control plane at ADDRESS: connection refused\",\"details\":[],\"evidence\":[],\"help\":\"is it running? start it with `mainstay up` or name another with --server\",\"request_id\":null},\"exit_code\":4}
";
    check(&user.says(&["--server", &address, "status", "--json"]), &[(&address, "ADDRESS")], expected);
}

#[test]
fn an_unknown_service() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1), service("shop", "worker", 2)]));
    let user = User::of(&control_plane);
    let expected = "\
[exit 1]
[stderr]
error: there is no service `wroker`

next: did you mean `worker`?
";
    check(&user.says(&["restart", "wroker"]), &[], expected);
    let expected = "\
[exit 1]
[stderr]
error: there is no service `database`

next: these are deployed: shop/web, shop/worker
";
    check(&user.says(&["logs", "database"]), &[], expected);
}

#[test]
fn an_invalid_manifest() {
    let control_plane = ControlPlane::start();
    let details = json!([
        {"field": "services.web.rum", "line": 4, "column": 1, "message": "unknown field `rum`", "help": "did you mean `run`?"},
        {"field": "services.web.replicas", "line": 5, "column": 12, "message": "must be at least 1", "help": null},
    ]);
    let message = "the manifest has 2 problems; nothing was changed";
    let error = json!({"code": "invalid_manifest", "message": message, "details": details});
    control_plane.answers_with("POST /api/v1/deploy", 400, error);
    let user = User::of(&control_plane);
    user.write("mainstay.toml", "name = \"shop\"\n\n[services.web]\nrum = \"./run\"\nreplicas = 0\n").commits();
    let folder = user.folder().canonicalize().unwrap().display().to_string();
    let head = user.git(&["rev-parse", "--short=10", "HEAD"]);
    let expected = "\
[exit 1]
[stderr]
from file://FOLDER at HEAD
error: the manifest has 2 problems; nothing was changed

  mainstay.toml:4:1
  4 | rum = \"./run\"
    | ^ services.web.rum: unknown field `rum`
  help: did you mean `run`?

  mainstay.toml:5:12
  5 | replicas = 0
    |            ^ services.web.replicas: must be at least 1
";
    check(&user.says(&["deploy"]), &[(&folder, "FOLDER"), (&head, "HEAD")], expected);
}

#[test]
fn a_port_that_is_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (address_text, next_port) = (address.to_string(), (address.port() + 1).to_string());
    let user = User::alone();
    let data = user.home().join("data");
    let data_text = data.display().to_string();
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    let us = format!("pid {} ({})", std::process::id(), comm.trim());
    // The name of a test's process is that of its main thread, whichever thread asks.
    let main = std::fs::read_to_string(format!("/proc/{}/comm", std::process::id())).unwrap();
    let us_by_main = format!("pid {} ({})", std::process::id(), main.trim());
    let said = user.says(&["up", "--data-dir", &data_text, "--listen", &address_text, "--gateway-port", "18081"]);
    let expected = "\
[exit 1]
[stderr]
Starting Mainstay VERSION in DATA
error: cannot listen on ADDRESS: the port is in use by US

next: if that is another Mainstay, deploy to it with `mainstay deploy --server http://ADDRESS`; else stop it, or choose another port: --listen 127.0.0.1:NEXT
";
    let names = [
        (data_text.as_str(), "DATA"),
        (address_text.as_str(), "ADDRESS"),
        (next_port.as_str(), "NEXT"),
        (us.as_str(), "US"),
        (us_by_main.as_str(), "US"),
        (env!("CARGO_PKG_VERSION"), "VERSION"),
    ];
    check(&said, &names, expected);
}

#[test]
fn a_deployment_that_failed() {
    let control_plane = ControlPlane::start();
    control_plane.deploys(&failed_deployment(&["listening", "cannot read config.json"]));
    let user = User::of(&control_plane);
    user.write("mainstay.toml", "name = \"shop\"\n\n[services.web]\nrun = \"./run\"\n").commits();
    let folder = user.folder().canonicalize().unwrap().display().to_string();
    let head = user.git(&["rev-parse", "--short=10", "HEAD"]);
    let expected = "\
[exit 3]
[stderr]
from file://FOLDER at HEAD
stack shop (new): 1 to create
web  pending (0.0s)
web  failed (1.2s)
error: the deploy of web failed while starting after 1.2s

  web never became healthy
  last probe: GET /health answered 500
  last lines of its log:
    | listening
    | cannot read config.json

next: mend it, commit and deploy again; all of its log: `mainstay logs web --deployment dep_00000000000000000000000000000001`
";
    check(&user.says(&["deploy"]), &[(&folder, "FOLDER"), (&head, "HEAD")], expected);
}

#[test]
fn a_full_disk() {
    let control_plane = ControlPlane::start();
    let error = json!({
        "code": "disk_full",
        "message": "this deployment cannot be kept: the control plane's disk is nearly full: less than 8 MiB of 64 MiB are free under /var/lib/mainstay/server, which are kept for what runs already",
        "help": "free some space on the control plane's machine or give it a larger disk, and repeat it; what runs on the servers is not touched",
    });
    control_plane.answers_with("POST /api/v1/deploy", 507, error);
    let user = User::of(&control_plane);
    user.write("mainstay.toml", "name = \"shop\"\n\n[services.web]\nrun = \"./run\"\n").commits();
    let expected = "\
[exit 1]
[stderr]
error: this deployment cannot be kept: the control plane's disk is nearly full: less than 8 MiB of 64 MiB are free under /var/lib/mainstay/server, which are kept for what runs already

next: free some space on the control plane's machine or give it a larger disk, and repeat it; what runs on the servers is not touched
";
    check(&user.says(&["--quiet", "deploy"]), &[], expected);
}

#[test]
fn a_control_plane_of_another_version() {
    let control_plane = ControlPlane::start();
    let mut older = info(true);
    older["version"] = json!("0.0.9");
    control_plane.answers("GET /api/v1/info", older.clone());
    let unknown = json!({"code": "not_found", "message": "there is no page or endpoint `/api/v1/stacks`", "help": "GET /docs lists what there is"});
    control_plane.answers_with("GET /api/v1/stacks", 404, unknown);
    let user = User::of(&control_plane);
    let names = [(control_plane.address.as_str(), "ADDRESS"), (env!("CARGO_PKG_VERSION"), "VERSION")];
    let expected = "\
[exit 1]
[stderr]
error: the control plane at ADDRESS is of version 0.0.9, older than this command (VERSION), and they do not understand each other here

  there is no page or endpoint `/api/v1/stacks`

next: upgrade the control plane: replace its binary and start it again; what runs goes on meanwhile
";
    check(&user.says(&["status"]), &names, expected);
    older["version"] = json!("9.0.0");
    control_plane.answers("GET /api/v1/info", older);
    control_plane.answers("GET /api/v1/stacks", json!({"another": "shape"}));
    let said = user.says(&["status"]);
    assert_eq!(said.code, 4);
    assert!(
        said.err.contains("9.0.0, newer than this command") && said.err.contains("upgrade this command"),
        "{}",
        said.err
    );
}

#[test]
fn a_plan_that_was_refused_and_words_that_are_no_command() {
    let user = User::alone();
    let expected = "\
[exit 2]
[stderr]
error: unrecognized subcommand 'stauts'

  tip: a similar subcommand exists: 'status'

Usage: mainstay [OPTIONS] <COMMAND>

For more information, try '--help'.
";
    check(&user.says(&["stauts"]), &[], expected);
    let control_plane = ControlPlane::start();
    control_plane.answers("POST /api/v1/plan", plan("create"));
    let user = User::of(&control_plane);
    user.write("mainstay.toml", "name = \"shop\"\n\n[services.web]\nrun = \"./run\"\n").commits();
    user.says(&["plan", "--out", "agreed.json"]);
    let stale = json!({"code": "stale_plan", "message": "the plan no longer holds: shop is at version 5 now"});
    control_plane.answers_with("POST /api/v1/deploy", 409, stale);
    let expected = "\
[exit 6]
[stderr]
error: the plan no longer holds: shop is at version 5 now

next: make a new plan with `mainstay plan`, look at it again and apply that one
";
    check(&user.says(&["deploy", "--plan", "agreed.json"]), &[], expected);
}
