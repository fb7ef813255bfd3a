use super::*;
use plan::disk::Space;

const GB: u64 = 1 << 30;

/// A machine on which nothing is missing.
fn whole() -> Facts {
    let port = |purpose, port| PortFact { purpose, port, state: PortState::Free };
    Facts {
        root: true,
        kernel: Some("6.1.0-18-amd64".into()),
        cgroups: "v2".into(),
        cgroup_limitations: vec![],
        wireguard: true,
        tun: true,
        nftables: true,
        ports: vec![port("the gateway", 80), port("the control plane", 4600)],
        git: Some("2.39.5".into()),
        git_lfs: true,
        engine: Ok("podman 4.3.1 answers at /run/podman/podman.sock".into()),
        systemd: true,
        time_service: Some("chronyd".into()),
        clock_difference_ms: Some(800),
        data_dir: "/var/lib/mainstay".into(),
        disk: Space { total_bytes: 100 * GB, available_bytes: 50 * GB },
        inodes: Some((900_000, 1_000_000)),
        open_files: (Some(1024), Some(1_048_576)),
        control_plane: ControlPlane::Answers { address: "https://m.example.com".into(), version: "0.1.0".into() },
        certificate_left_ms: Some(60 * 86_400_000),
        agent: joined(Some(true), Some("active"), false),
        names: Names::Resolves { name: "web.svc.internal".into() },
    }
}

fn joined(online: Option<bool>, unit: Option<&str>, with_up: bool) -> AgentFact {
    AgentFact::Joined { name: "web-1".into(), online, unit: unit.map(str::to_owned), with_up }
}

/// What one check says about a machine that is whole but for one thing.
fn says(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = whole();
    change(&mut facts);
    let others = |findings: Vec<Finding>| findings.into_iter().filter(|f| f.check != check).collect::<Vec<_>>();
    let found = judge(&facts);
    assert_eq!(others(found.clone()).len(), others(judge(&whole())).len());
    found.into_iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("nothing is said of {check}"))
}

#[track_caller]
fn check(finding: &Finding, verdict: Verdict, words: &str, mend: &str) {
    let said = finding.mend.as_deref().unwrap_or_default();
    assert!(finding.verdict == verdict && finding.message.contains(words) && said.contains(mend), "{finding:?}");
    assert_eq!(finding.mend.is_some(), verdict >= Verdict::Warning || !mend.is_empty(), "{finding:?}");
}

#[test]
fn on_a_machine_that_has_everything_all_is_good_and_nothing_is_to_be_mended() {
    for finding in judge(&whole()) {
        assert!(finding.verdict <= Verdict::Note && finding.mend.is_none(), "{finding:?}");
    }
}

#[test]
fn an_old_kernel_is_a_problem_and_one_that_does_not_say_is_a_warning() {
    check(&says("kernel", |f| f.kernel = Some("4.19.0".into())), Verdict::Problem, "older than 5.3", "newer kernel");
    check(&says("kernel", |f| f.kernel = None), Verdict::Warning, "cannot be read", "mount");
    check(&says("kernel", |f| f.kernel = Some("5.3.0".into())), Verdict::Good, "5.3.0", "");
}

#[test]
fn without_root_control_groups_or_systemd_it_is_said_what_does_without() {
    check(&says("rights", |f| f.root = false), Verdict::Warning, "no ports below 1024", "sudo mainstay agent install");
    let limited = |f: &mut Facts| {
        f.cgroups = "none".into();
        f.cgroup_limitations = vec!["Limits are not enforced.".into()];
    };
    check(&says("limits", limited), Verdict::Warning, "not enforced", "kernel's command line");
    check(&says("limits", |f| (limited(f), f.root = false).1), Verdict::Warning, "not enforced", "sudo");
    check(&says("limits", |f| f.cgroups = "v1".into()), Verdict::Good, "control groups v1", "");
    check(&says("systemd", |f| f.systemd = false), Verdict::Warning, "after a crash or a reboot", "mainstay agent");
}

#[test]
fn git_is_a_must_and_an_old_one_or_one_without_lfs_is_a_warning() {
    check(&says("git", |f| f.git = None), Verdict::Problem, "nothing can be fetched", "apt-get install git");
    check(&says("git", |f| f.git = Some("2.30.2".into())), Verdict::Warning, "older than 2.39", "newer");
    check(&says("git", |f| f.git_lfs = false), Verdict::Warning, "refused", "git-lfs");
    check(&says("containers", |_| {}), Verdict::Good, "podman 4.3.1", "");
    let away = Err("this server has no container engine: install Podman".to_owned());
    check(&says("containers", |f| f.engine = away), Verdict::Note, "no container engine", "apt-get install podman");
}

#[test]
fn a_disk_is_judged_by_what_mainstay_keeps_in_reserve_and_by_its_inodes() {
    let free = |bytes: u64| says("disk", move |f| f.disk.available_bytes = bytes);
    check(&free(GB), Verdict::Problem, "nothing new is taken", "du -xh");
    check(&free(3 * GB), Verdict::Warning, "nothing new will be taken", "du -xh");
    check(&free(5 * GB), Verdict::Good, "5 GiB of 100 GiB are free", "");
    check(&says("disk", |f| f.disk = Space::default()), Verdict::Warning, "cannot be found out", "df");
    check(&says("inodes", |f| f.inodes = Some((10, 1000))), Verdict::Problem, "(1 %)", "du -x --inodes");
    check(&says("inodes", |f| f.inodes = Some((50, 1000))), Verdict::Warning, "(5 %)", "du -x --inodes");
    check(&says("inodes", |f| f.inodes = Some((0, 0))), Verdict::Good, "as needed", "");
}

#[test]
fn few_open_files_are_a_warning_unless_the_gateway_may_raise_the_limit_itself() {
    check(&says("open files", |f| f.open_files = (Some(1024), Some(4096))), Verdict::Warning, "4096", "ulimit");
    check(&says("open files", |f| f.open_files = (Some(1024), None)), Verdict::Good, "any number", "");
}

#[test]
fn a_clock_is_compared_with_the_control_planes_and_else_judged_by_what_keeps_it_right() {
    let off = |difference| says("clock", move |f| f.clock_difference_ms = Some(difference));
    check(&off(-3_600_000), Verdict::Problem, "is 60 min behind the control plane's", "chrony");
    check(&off(20_000), Verdict::Warning, "is 20 s ahead of the control plane's", "chrony");
    check(&off(2_000), Verdict::Good, "chronyd keeps it right", "");
    let alone = |f: &mut Facts| (f.clock_difference_ms, f.time_service) = (None, None);
    check(&says("clock", alone), Verdict::Warning, "nothing keeps it right", "chrony");
}

#[test]
fn a_port_that_is_taken_is_named_with_who_has_it_and_one_of_our_own_is_good() {
    let gateway = |state| says("port 80", move |f| f.ports[0].state = state);
    let nginx = PortState::Taken(Some("pid 12 (nginx)".into()));
    check(&gateway(nginx.clone()), Verdict::Warning, "in use by pid 12 (nginx)", "--gateway-port 8080");
    check(&gateway(PortState::Taken(None)), Verdict::Warning, "is in use;", "--gateway-port");
    check(&gateway(PortState::Forbidden), Verdict::Warning, "may not", "above 1023");
    check(&gateway(PortState::Ours), Verdict::Good, "the gateway is there", "");
    check(&says("port 4600", |f| f.ports[1].state = nginx), Verdict::Warning, "pid 12", "--listen 127.0.0.1:4601");
}

#[test]
fn a_control_plane_is_there_refuses_is_silent_or_has_a_bad_certificate() {
    let is = |control_plane| says("control plane", move |f| f.control_plane = control_plane);
    let address = || "https://m.example.com".to_owned();
    check(&is(ControlPlane::Nowhere { address: address() }), Verdict::Note, "signed in to none", "mainstay up");
    let refuses = ControlPlane::Refuses { address: address(), reason: "the token is not good".into() };
    check(&is(refuses), Verdict::Problem, "refuses you: the token", "mainstay login --server https://m.example.com");
    let silent = |reason: &str| ControlPlane::Unreachable { address: address(), reason: reason.into() };
    check(&is(silent("connection refused")), Verdict::Problem, "does not answer: connection refused", "--server");
    check(
        &is(silent("invalid peer certificate: Expired")),
        Verdict::Problem,
        "does not trust",
        "update-ca-certificates",
    );
}

#[test]
fn a_certificate_that_ends_soon_is_a_warning_while_it_is_still_good() {
    let left = |days: i64| says("certificate", move |f| f.certificate_left_ms = Some(days * 86_400_000));
    check(&left(5), Verdict::Warning, "good for 5 days only", "renew it");
    check(&left(0), Verdict::Warning, "less than a day", "renew it");
    check(&left(30), Verdict::Good, "good for 30 days", "");
    let mut without_tls = whole();
    without_tls.certificate_left_ms = None;
    assert!(judge(&without_tls).iter().all(|finding| finding.check != "certificate"));
}

#[test]
fn an_agent_reports_is_stopped_or_would_not_come_back_after_a_reboot() {
    let is = |agent| says("agent", move |f| f.agent = agent);
    check(&is(AgentFact::NotJoined), Verdict::Note, "no server yet", "mainstay tokens create");
    check(&is(joined(Some(true), None, true)), Verdict::Good, "with `mainstay up`", "");
    check(&is(joined(Some(true), None, false)), Verdict::Warning, "after a reboot", "agent install");
    check(&is(joined(Some(false), Some("failed"), false)), Verdict::Problem, "its unit is failed", "journalctl");
    check(&is(joined(Some(false), Some("active"), false)), Verdict::Problem, "does not report", "log");
    check(&is(joined(None, Some("inactive"), false)), Verdict::Problem, "is inactive", "systemctl restart");
    check(&is(joined(None, Some("active"), false)), Verdict::Good, "cannot be asked", "");
    check(&is(joined(None, None, false)), Verdict::Warning, "cannot be found out", "pgrep");
}

#[test]
fn internal_names_resolve_fail_or_were_switched_off() {
    let are = |names| says("internal names", move |f| f.names = names);
    let name = || "web.svc.internal".to_owned();
    check(&are(Names::Fails { name: name() }), Verdict::Problem, "web.svc.internal does not resolve", "servers show");
    check(&are(Names::Impossible { reason: "needs root.".into() }), Verdict::Warning, "needs root", "SERVICE_");
    check(&are(Names::SwitchedOff { consequence: "are switched off".into() }), Verdict::Good, "are switched off", "");
    check(&are(Names::None), Verdict::Good, "yet", "");
    check(&are(Names::Unknown), Verdict::Note, "when an agent reports", "");
}

#[test]
fn what_only_tunnels_between_servers_need_is_a_note_either_way() {
    let without = |f: &mut Facts| (f.wireguard, f.tun, f.nftables) = (false, false, false);
    check(&says("mesh", without), Verdict::Note, "neither WireGuard nor /dev/net/tun: this", "");
    check(&says("mesh", without), Verdict::Note, "nftables is not installed", "");
    check(
        &says("mesh", |f| f.wireguard = false),
        Verdict::Note,
        "the gateway does that work; nftables is installed",
        "",
    );
}
