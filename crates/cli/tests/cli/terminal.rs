//! What a person sees on a terminal of a certain width.

use crate::control_plane::{ControlPlane, deployment, id, service};
use crate::user::User;
use api::deployments::{Stage, StageEntry};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// A terminal that is so many columns wide, and the end of it that a program gets.
fn terminal(columns: u16) -> (File, File) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let path = std::ffi::OsStr::from_bytes(name.as_bytes());
    (File::from(terminal), OpenOptions::new().read(true).write(true).open(path).unwrap())
}

/// Everything that is written to a terminal, and a word each time that more came.
fn read(mut terminal: File, more: Sender<String>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut bytes = [0; 4096];
        // When nobody holds the other end any more, reading fails.
        while let Ok(length @ 1..) = terminal.read(&mut bytes) {
            text.extend_from_slice(&bytes[..length]);
            let _ = more.send(String::from_utf8_lossy(&text).into_owned());
        }
        String::from_utf8(text).unwrap()
    })
}

/// Runs a command with stdout on a terminal that is so many columns wide; stderr stays a pipe.
fn on_terminal(user: &User, columns: u16, arguments: &[&str]) -> (String, String) {
    let (terminal, other_end) = terminal(columns);
    let child = user.command(arguments).env("TERM", "xterm").stdout(Stdio::from(other_end)).spawn().unwrap();
    let reader = read(terminal, channel().0);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (reader.join().unwrap().replace("\r\n", "\n"), String::from_utf8(output.stderr).unwrap())
}

fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}

#[test]
fn a_table_fits_the_terminal_and_what_found_no_room_is_named() {
    let control_plane = ControlPlane::start();
    let stack = json!([{
        "id": id("stk", 1), "name": "shop", "project_id": id("prj", 1), "project": "default", "version": 4,
        "condition": "applied", "problems": [], "manifest": "", "created_at_ms": 0, "updated_at_ms": 0,
        "services": [service("shop", "web", 1)],
    }]);
    control_plane.answers("GET /api/v1/stacks", stack);
    let user = User::of(&control_plane);
    let (wide, said) = on_terminal(&user, 120, &["status"]);
    let whole = "web      running    3 (0123456789)        0/1  –        http://127.0.0.1:8080/\n";
    assert!(plain(&wide).ends_with(whole) && wide.contains("\x1b[32mrunning") && said.is_empty(), "{wide:?}");
    let (narrow, said) = on_terminal(&user, 56, &["status"]);
    let expected = "\
shop applied, version 4
SERVICE  CONDITION  INSTANCES  ADDRESS
web      running          0/1  http://127.0.0.1:8080/
";
    assert_eq!((plain(&narrow).as_str(), said.as_str()), (expected, "Left out for want of room: revision, changed.\n"));
    assert!(user.says(&["status"]).out.contains("3 (0123456789)"), "piped, everything is there");
}

#[test]
fn top_outlives_a_control_plane_that_goes_away_and_says_so() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/servers", json!([]));
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1)]));
    let (terminal, other_end) = terminal(100);
    let mut child =
        User::of(&control_plane).command(&["top"]).env("TERM", "xterm").stdout(Stdio::from(other_end)).spawn().unwrap();
    let (sender, more) = channel();
    let reader = read(terminal, sender);
    let until = |words: &str| while !more.recv_timeout(Duration::from_secs(60)).unwrap().contains(words) {};
    until("Ctrl-C ends this.");
    control_plane.goes_away();
    until("cannot reach the control plane");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let last = reader.join().unwrap().rsplit("\x1b[H").next().unwrap().to_owned();
    assert!(last.contains("shop/web"), "what was seen last stays: {last:?}");
}

#[test]
fn top_draws_on_a_screen_of_its_own_and_gives_the_old_one_back_on_ctrl_c() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/servers", json!([]));
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1)]));
    let (terminal, other_end) = terminal(50);
    let mut child =
        User::of(&control_plane).command(&["top"]).env("TERM", "xterm").stdout(Stdio::from(other_end)).spawn().unwrap();
    let (sender, more) = channel();
    let reader = read(terminal, sender);
    while !more.recv_timeout(Duration::from_secs(60)).unwrap().contains("Ctrl-C ends this.") {}
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let drawn = reader.join().unwrap();
    assert!(drawn.starts_with("\x1b[?1049h\x1b[?25l") && drawn.ends_with("\x1b[?25h\x1b[?1049l"), "{drawn:?}");
    assert!(drawn.contains("shop/web"), "{drawn:?}");
    let row = drawn.split("\x1b[K").find(|row| row.contains("shop/web")).unwrap();
    assert!(plain(row.trim()).chars().count() <= 50 && !drawn.contains("LATENCY"), "{drawn:?}");
}

#[test]
fn a_deployment_leaves_a_line_per_stage_with_its_time_and_nothing_that_turns() {
    let control_plane = ControlPlane::start();
    let mut running = deployment(Stage::Running);
    let stage = |stage, at_ms| StageEntry { stage, at_ms };
    running.stages = vec![stage(Stage::Pending, 0), stage(Stage::Building, 20), stage(Stage::Running, 1220)];
    control_plane.deploys(&running);
    let user = User::of(&control_plane);
    user.write("mainstay.toml", "name = \"shop\"\n\n[services.web]\nrun = \"./run\"\n").commits();
    let deploys = |term: &str| {
        let (terminal, other_end) = terminal(80);
        let child = user.command(&["deploy"]).env("TERM", term).stderr(Stdio::from(other_end)).spawn().unwrap();
        let reader = read(terminal, channel().0);
        let output = child.wait_with_output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("web is running revision 3"));
        reader.join().unwrap()
    };
    let screen = left_on_screen(&deploys("xterm"));
    assert_eq!(screen[1], "stack shop (new): 1 to create");
    assert_eq!(screen[2..], ["✓ web  building         1.2s", "✓ web  running          1.2s in all"], "{screen:#?}");
    for plain in ["", "dumb"] {
        let written = deploys(plain);
        assert!(!written.contains('\x1b'), "{written:?}");
        assert!(written.contains("web  building (0.0s)\r\nweb  running (1.2s)\r\n"), "{written:?}");
    }
}

/// The lines of a terminal of 80 columns after everything that was written and taken away again.
fn left_on_screen(written: &str) -> Vec<String> {
    let mut rows: Vec<Vec<char>> = vec![Vec::new()];
    let (mut row, mut column) = (0_usize, 0_usize);
    let mut letters = written.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\n' => row += 1,
            '\r' => column = 0,
            '\x1b' => {
                // A letter ends a sequence; before it stand a bracket and a number.
                let mut number = String::new();
                let end = letters.find(|letter| {
                    number.extend(letter.is_ascii_digit().then_some(*letter));
                    letter.is_ascii_alphabetic()
                });
                match end {
                    Some('A') => row = row.saturating_sub(number.parse().unwrap_or(1)),
                    Some('K') => rows[row].clear(),
                    _ => {}
                }
            }
            letter => {
                if column == 80 {
                    (row, column) = (row + 1, 0);
                    rows.resize(rows.len().max(row + 1), Vec::new());
                }
                let length = rows[row].len().max(column + 1);
                rows[row].resize(length, ' ');
                rows[row][column] = letter;
                column += 1;
            }
        }
        rows.resize(rows.len().max(row + 1), Vec::new());
    }
    let lines = rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn metrics_are_lines_as_wide_as_the_terminal_and_a_gap_is_a_gap() {
    let control_plane = ControlPlane::start();
    control_plane.answers("GET /api/v1/services", json!([service("shop", "web", 1)]));
    let point = |n: i64| api::metrics::ServicePoint {
        at_ms: n * 30_000,
        covered_ms: 30_000,
        cpu_cores: n as f64 / 100.0,
        memory_bytes: 96 << 20,
        requests: 60,
        requests_per_second: 2.0,
        server_errors: u64::from(n == 119) * 3,
        latency_p99_ms: Some(12.5),
        ..Default::default()
    };
    let points: Vec<_> = (0..=120).filter(|n| !(30..60).contains(n)).map(point).collect();
    let answer = json!({
        "service_id": id("svc", 1), "range": "1h", "from_ms": 0, "until_ms": 3_610_000, "step_ms": 30_000,
        "points": points, "deployments": [],
    });
    control_plane.answers(&format!("GET /api/v1/stacks/{}/services/{}/metrics", id("stk", 1), id("svc", 1)), answer);
    let user = User::of(&control_plane);
    let (shown, said) = on_terminal(&user, 74, &["metrics", "web"]);
    let expected = "
             THE LAST HOUR                            NOW     HIGHEST
cpu          ▁▁▂▂▂▂▃▃       ▅▅▅▅▅▆▆▆▆▆▇▇▇▇███  1.20 cores  1.20 cores
memory       ████████       █████████████████      96 MiB      96 MiB
requests     ████████       █████████████████      2.00/s      2.00/s
latency p50                                             –           –
latency p99  ████████       █████████████████     12.5 ms     12.5 ms
errors 4xx   ▁▁▁▁▁▁▁▁       ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁         0/s         0/s
errors 5xx   ▁▁▁▁▁▁▁▁       ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁█         0/s      0.10/s
restarts     ▁▁▁▁▁▁▁▁       ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁           0           0
";
    assert_eq!(
        (format!("\n{}", plain(&shown)).as_str(), said.trim()),
        (expected, "Left out for want of room: highest at.")
    );
    let json = user.says(&["metrics", "web", "--json"]).json();
    assert_eq!(json["points"].as_array().map(Vec::len), Some(91));
    let refused = user.says(&["metrics", "web", "--range", "2h"]);
    assert!(refused.code == 2 && refused.err.contains("there are 1h, 24h and 7d"), "{}", refused.err);
}

#[test]
fn a_sentence_breaks_between_words_on_a_terminal_and_is_one_line_elsewhere() {
    let control_plane = ControlPlane::start();
    let reason =
        "shop was not deployed: it was not healthy within 5 s: GET http://127.0.0.1:23364/healthz answered 500";
    let stack = json!([{
        "id": id("stk", 1), "name": "shop", "project_id": id("prj", 1), "project": "default", "version": 4,
        "condition": "degraded", "problems": [reason], "manifest": "", "created_at_ms": 0, "updated_at_ms": 0,
        "services": [],
    }]);
    control_plane.answers("GET /api/v1/stacks", stack);
    let user = User::of(&control_plane);
    let (shown, _) = on_terminal(&user, 60, &["status"]);
    let expected = "
  ! shop was not deployed: it was not healthy within 5 s:
    GET http://127.0.0.1:23364/healthz answered 500
";
    assert!(plain(&shown).contains(expected), "{}", plain(&shown));
    let piped = user.says(&["status"]).out;
    assert!(piped.contains(&format!("\n  ! {reason}\n")), "{piped}");
}
