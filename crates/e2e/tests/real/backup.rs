//! Backups are checked by really restoring them: elsewhere, over what is there, from yesterday.

use crate::parts::{Parts, answers, joined, parts, servers};
use crate::{Load, SHORT, answering, get, start_agent, start_server, version_is, word_after};
use e2e::{Machine, Repository, eventually};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Old instances go as soon as they may, so that the end of a replacement is seen soon.
const QUICK: &str = "[services.web.rollout]\nwarm = \"0s\"\nbake = \"0s\"\n";

fn back_up(machine: &Machine, name: &str) -> PathBuf {
    let file = machine.folder().join(name);
    machine.run(&["backup", "--output", &file.to_string_lossy()]).ok();
    file
}

async fn deploy(machine: &Machine, repository: &Repository, version: &str) {
    repository.write_app(version, QUICK).unwrap();
    repository.commit(version).unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(machine, version).await;
}

/// The state of the recovery of the first server, or `none`.
fn recovery(machine: &Machine) -> String {
    let servers = servers(machine);
    servers[0]["recovery"]["state"].as_str().unwrap_or("none").to_owned()
}

async fn recovery_is(machine: &Machine, state: &str) {
    eventually(&format!("the first server is `{state}`"), SHORT * 2, || async {
        (recovery(machine) == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_made_while_much_is_written_is_restored_elsewhere_and_agents_of_before_work_on() {
    let Parts { machine, repository, mut server, agent: _agent } = parts(QUICK).await;
    let load = Load::start(&machine.gateway_url(), 2);
    // Writes all the while: events of a service that is scaled up and down, and log lines.
    let url = format!("{}/log/a-line", machine.gateway_url());
    let writing = tokio::spawn(async move {
        loop {
            get(&url).await;
        }
    });
    machine.run(&["scale", "web=2", "--no-wait"]).ok();
    let file = back_up(&machine, "first.backup");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let again = machine.run(&["backup", "--output", &file.to_string_lossy()]);
    assert_ne!(again.code, 0);
    again.says("not overwritten");
    machine
        .run(&["restore", "--check", &file.to_string_lossy()])
        .ok()
        .says("is whole")
        .says("1 server, 1 stack, 1 service");
    let file = back_up(&machine, "second.backup");
    writing.abort();
    let running = machine.run(&["restore", &file.to_string_lossy(), "--replace"]);
    assert_ne!(running.code, 0, "{}", running.all());
    running.says("already runs");
    server.crash();

    // Another data directory, as on another machine under the same address.
    let elsewhere = machine.folder().join("elsewhere");
    let other = elsewhere.to_string_lossy().into_owned();
    machine.run(&["--data-dir", &other, "restore", &file.to_string_lossy()]).ok();
    for (name, mode) in [("server", 0o700), ("server/signing.key", 0o600), ("server/mainstay.db", 0o600)] {
        let found = std::fs::metadata(elsewhere.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    let listen = format!("127.0.0.1:{}", machine.control_port);
    let gateway = machine.gateway_port.to_string();
    let arguments =
        ["--data-dir", &other, "server", "--listen", &listen, "--gateway-port", &gateway, "--allow-local-sources"];
    let _server = machine.start("server.log", &arguments);
    answers(&machine).await;
    std::fs::remove_dir_all(machine.data().join("server")).unwrap();
    // The token of the command line was restored, too.
    let machine = WithToken::new(&machine, &elsewhere);
    eventually("the agent of before reports to the restored control plane", SHORT, || async {
        let servers = machine.servers();
        (servers[0]["condition"] == "online" && servers[0]["recovery"]["state"].is_null()).then_some(())
    })
    .await;
    repository.write_app("v2", QUICK).unwrap();
    repository.commit("second").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(machine.machine, "v2").await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
}

/// Commands against a control plane on another data directory.
struct WithToken<'a> {
    machine: &'a Machine,
    token: String,
}

impl<'a> WithToken<'a> {
    fn new(machine: &'a Machine, data: &Path) -> Self {
        let token = std::fs::read_to_string(data.join("server/cli-token")).unwrap().trim().to_owned();
        Self { machine, token }
    }

    fn run_in(&self, folder: &Path, arguments: &[&str]) -> e2e::Answer {
        let url = self.machine.control_url();
        let mut all = vec!["--server", &url, "--token", &self.token];
        all.extend(arguments);
        self.machine.run_in(folder, &all)
    }

    fn servers(&self) -> Value {
        let answer = self.run_in(self.machine.folder(), &["--json", "servers"]);
        if answer.code == 0 { answer.json() } else { Value::Null }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_from_yesterday_what_runs_goes_on_until_one_command_replaces_it_without_a_gap() {
    let Parts { machine, repository, mut server, agent: _agent } = parts(QUICK).await;
    let yesterday = back_up(&machine, "yesterday.backup");
    deploy(&machine, &repository, "v2").await;
    let new_service = format!(
        "{QUICK}\n[services.extra]\nrun = \"exec {} extra\"\nroute = \"/extra\"\n",
        e2e::binary("e2e-app").display()
    );
    repository.write_app("v3", &new_service).unwrap();
    repository.commit("third").unwrap();
    machine.run_in(&repository.path, &["deploy"]).ok();
    version_is(&machine, "v3").await;
    let pid = word_after(&answering(&machine).await, "pid");
    let load = Load::start(&machine.gateway_url(), 4);

    server.crash();
    let refused = machine.run(&["restore", &yesterday.to_string_lossy()]);
    assert_ne!(refused.code, 0);
    refused.says("--replace");
    let restored = machine.run(&["restore", &yesterday.to_string_lossy(), "--replace"]).ok();
    restored.says("what was there before is in");
    let aside = std::fs::read_dir(machine.data())
        .unwrap()
        .flatten()
        .find(|e| e.file_name().to_string_lossy().starts_with("server.before-restore-"));
    assert!(aside.unwrap().path().join("mainstay.db").exists(), "what was there is kept");
    let mut server = start_server(&machine, &[]);
    answers(&machine).await;
    recovery_is(&machine, "ahead").await;

    // Loud, in all the places where a person looks, and nothing has changed.
    machine.run(&["servers"]).ok().says("ahead of this control plane").says("mainstay servers accept-restore");
    eventually("both sides say it in the events", SHORT, || async {
        let events = machine.run(&["events"]);
        (events.stdout.contains("holds generation") && events.stdout.contains("an older document")).then_some(())
    })
    .await;
    let shown = eventually("the machine shows what it holds", SHORT, || async {
        let servers = servers(&machine);
        (servers[0]["recovery"]["document_known"] == true).then(|| servers[0]["recovery"].clone())
    })
    .await;
    let changes: Vec<(&str, &str)> = shown["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["action"].as_str().unwrap(), c["service"].as_str().unwrap()))
        .collect();
    assert_eq!(changes, [("stop", "shop/extra"), ("replace", "shop/web")], "{shown:#}");

    // What is asked for meanwhile does not reach the machine by the back door, also not after a restart.
    for round in 0..6 {
        machine.run(&["env", "set", "web", &format!("ROUND={round}"), "--no-wait"]);
    }
    server.crash();
    let _server = start_server(&machine, &[]);
    answers(&machine).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(word_after(&answering(&machine).await, "pid"), pid, "nothing is replaced before somebody agrees");
    recovery_is(&machine, "ahead").await;
    let nobody = machine.run(&["servers", "accept-restore"]);
    assert_eq!(nobody.code, 2, "{}", nobody.all());
    nobody.says("--yes").says("shop/extra").says("is replaced by");
    recovery_is(&machine, "ahead").await;

    machine.run(&["servers", "accept-restore", "--yes"]).ok().says("accepted for");
    let after = version_is(&machine, "v1").await;
    assert_ne!(word_after(&after, "pid"), pid);
    recovery_is(&machine, "none").await;
    eventually("what came after the backup is gone from the machine", SHORT * 2, || async {
        (machine.pids_of(&["e2e-app v3"]).is_empty() && machine.pids_of(&["e2e-app extra"]).is_empty()).then_some(())
    })
    .await;
    let report = load.finish().await;
    assert!(report.failures.is_empty(), "{report:#?}");
    // And it is an ordinary control plane again.
    deploy(&machine, &repository, "v4").await;
    assert_eq!(machine.status("web")["condition"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_joined_after_the_backup_is_refused_with_the_way_back_in_and_serves_on() {
    let Parts { machine, repository: _repository, mut server, agent: _agent } = parts(QUICK).await;
    let yesterday = back_up(&machine, "yesterday.backup");
    let _second = joined(&machine, "second", "second.log", "two").await;
    server.crash();
    machine.run(&["restore", &yesterday.to_string_lossy(), "--replace"]).ok();
    let _server = start_server(&machine, &[]);
    answers(&machine).await;
    recovery_is(&machine, "none").await;
    eventually("the second agent says why it is refused and what to do", SHORT, || async {
        let log = machine.log("second.log");
        (log.contains("joined after the backup") && log.contains("identity.json")).then_some(())
    })
    .await;
    assert_eq!(servers(&machine).as_array().map(Vec::len), Some(1));
    assert!(answering(&machine).await.starts_with("version v1 "));
}

#[tokio::test]
async fn a_backup_that_was_cut_off_or_altered_at_any_place_is_refused_and_nothing_is_touched() {
    let machine = Machine::new().unwrap();
    let mut server = start_server(&machine, &[]);
    answers(&machine).await;
    let file = back_up(&machine, "good.backup");
    server.crash();
    let good = std::fs::read(&file).unwrap();
    let damaged = machine.folder().join("damaged.backup");
    let target = machine.folder().join("target");
    let restore = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        let answer = machine.run(&["--data-dir", &target.to_string_lossy(), "restore", &damaged.to_string_lossy()]);
        assert_ne!(answer.code, 0, "{}", answer.all());
        answer.says("damaged");
        assert!(!target.exists(), "something was touched: {}", answer.all());
    };
    // The library's own test tries every byte; here the real command tries places of every kind.
    let places =
        [0, 30, 100, 150, 400, good.len() / 2, good.len() - 1_000, good.len() - 120, good.len() - 40, good.len() - 1];
    for place in places {
        let mut altered = good.clone();
        altered[place] ^= 0x10;
        restore(&altered);
        restore(&good[..place]);
    }
    restore(&[good.as_slice(), b"x"].concat());
    machine.run(&["--data-dir", &target.to_string_lossy(), "restore", &file.to_string_lossy()]).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_moves_from_sqlite_to_postgresql_and_back_with_its_agents() {
    let Some(postgres) = e2e::Postgres::start().unwrap() else {
        eprintln!("PostgreSQL is not installed: moving between the databases was not tried");
        return;
    };
    let Parts { machine, repository, mut server, agent: _agent } = parts(QUICK).await;
    let file = back_up(&machine, "sqlite.backup");
    server.crash();
    let url = postgres.url();
    machine.run(&["restore", &file.to_string_lossy(), "--replace", "--database", &url]).ok();
    assert!(!machine.data().join("server/mainstay.db").exists());
    let twice = machine.run(&["restore", &file.to_string_lossy(), "--replace", "--database", &url]);
    assert_ne!(twice.code, 0);
    twice.says("not empty");
    let mut server = start_server(&machine, &["--database", &url]);
    answers(&machine).await;
    deploy(&machine, &repository, "v2").await;
    let wrong = machine.run(&["backup"]);
    assert_ne!(wrong.code, 0);
    wrong.says("postgres").says("--database");
    let back = machine.folder().join("postgres.backup");
    machine.run(&["backup", "--database", &url, "--output", &back.to_string_lossy()]).ok();
    server.crash();
    machine.run(&["restore", &back.to_string_lossy(), "--replace"]).ok();
    let _server = start_server(&machine, &[]);
    answers(&machine).await;
    deploy(&machine, &repository, "v3").await;
    recovery_is(&machine, "none").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_restarted_while_it_is_ahead_still_refuses_and_still_serves() {
    let Parts { machine, repository, mut server, mut agent } = parts(QUICK).await;
    let yesterday = back_up(&machine, "yesterday.backup");
    deploy(&machine, &repository, "v2").await;
    server.crash();
    agent.crash();
    machine.run(&["restore", &yesterday.to_string_lossy(), "--replace"]).ok();
    let _server = start_server(&machine, &[]);
    answers(&machine).await;
    let _agent = start_agent(&machine);
    recovery_is(&machine, "ahead").await;
    assert!(answering(&machine).await.starts_with("version v2 "));
    machine.run(&["servers", "accept-restore", "--yes"]).ok();
    version_is(&machine, "v1").await;
}
