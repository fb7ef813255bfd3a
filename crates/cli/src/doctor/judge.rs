//! From facts to findings: pure, so that every finding is tested both ways.

use super::{AgentFact, ControlPlane, Facts, Finding, Names, PortFact, PortState, Verdict};
use crate::words;
use api::words::count;
use plan::disk;

/// Processes of Mainstay are watched by descriptors of theirs (`pidfd_open`), which are this old.
const KERNEL_MIN: (u32, u32) = (5, 3);
/// Older ones were not tried.
const GIT_TESTED: (u32, u32) = (2, 39);
/// Where requests are signed with the time, the control plane accepts this much difference.
const CLOCK_LIMIT_MS: u64 = 60_000;
/// Beyond this a difference is worth a word.
const CLOCK_NOTICEABLE_MS: u64 = 5_000;
/// What to do about a certificate that is not trusted.
pub const MEND_CERTIFICATE: &str =
    "renew it where TLS ends, or add its authority to those of this machine: update-ca-certificates";
/// Whoever renews certificates by itself does so earlier than that.
const CERTIFICATE_DAYS_MIN: i64 = 14;
/// Fewer open files than this and a gateway with some traffic runs out.
const OPEN_FILES_MIN: u64 = 65_536;

/// All findings, in the order in which a person would mend them.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings =
        vec![kernel(facts), rights(facts), cgroups(facts), systemd(facts), git(facts), containers(facts)];
    findings.extend([disk_space(facts), inodes(facts), open_files(facts), clock(facts)]);
    findings.extend(facts.ports.iter().map(port));
    findings.push(control_plane(facts));
    findings.extend(facts.certificate_left_ms.map(certificate));
    findings.extend([agent(facts), names(facts), network(facts)]);
    findings
}

fn finding(check: &str, verdict: Verdict, message: impl Into<String>) -> Finding {
    Finding { check: check.into(), verdict, message: message.into(), mend: None }
}

fn good(check: &str, message: impl Into<String>) -> Finding {
    finding(check, Verdict::Good, message)
}

impl Finding {
    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

/// The first two numbers of a version: `6.1.0-18-amd64` is (6, 1).
fn two_numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(facts: &Facts) -> Finding {
    let Some(version) = &facts.kernel else {
        return finding("kernel", Verdict::Warning, "its version cannot be read; is /proc mounted?")
            .mend("mount -t proc proc /proc");
    };
    match two_numbers(version) {
        Some(numbers) if numbers < KERNEL_MIN => {
            let (major, minor) = KERNEL_MIN;
            let message = format!("{version} is older than {major}.{minor}, and processes cannot be supervised");
            finding("kernel", Verdict::Problem, message).mend("install a newer kernel, and start the machine again")
        }
        _ => good("kernel", version.as_str()),
    }
}

fn rights(facts: &Facts) -> Finding {
    if facts.root {
        return good("rights", "this is root");
    }
    let message =
        "not root: no ports below 1024, and internal names do not resolve (SERVICE_<NAME>_URL works all the same)";
    finding("rights", Verdict::Warning, message).mend("run the agent as root: sudo mainstay agent install --join URL")
}

fn cgroups(facts: &Facts) -> Finding {
    match (facts.cgroups.as_str(), facts.cgroup_limitations.first()) {
        ("v2", _) => good("limits", "control groups v2 enforce memory, CPU and process limits"),
        (version, None) => good("limits", format!("control groups {version} enforce memory, CPU and process limits")),
        (_, Some(limitation)) => {
            let finding = finding("limits", Verdict::Warning, limitation.trim_end_matches('.'));
            if facts.root {
                finding.mend("start the machine with control groups v2: systemd.unified_cgroup_hierarchy=1 on the kernel's command line")
            } else {
                finding.mend("sudo mainstay agent install --join URL")
            }
        }
    }
}

fn systemd(facts: &Facts) -> Finding {
    if facts.systemd {
        return good("systemd", "runs; `mainstay agent install` is possible");
    }
    finding("systemd", Verdict::Warning, "does not run here: nothing starts the agent after a crash or a reboot")
        .mend("let what starts programs on this machine run: mainstay agent")
}

fn git(facts: &Facts) -> Finding {
    let Some(version) = &facts.git else {
        return finding("git", Verdict::Problem, "is not installed: nothing can be fetched")
            .mend("apt-get install git");
    };
    if two_numbers(version).is_some_and(|numbers| numbers < GIT_TESTED) {
        let (major, minor) = GIT_TESTED;
        return finding(
            "git",
            Verdict::Warning,
            format!("{version} is older than {major}.{minor}, the oldest one tried"),
        )
        .mend("install a newer one");
    }
    if !facts.git_lfs {
        let message = format!("{version}, without git-lfs: repositories that keep files in Git LFS are refused");
        return finding("git", Verdict::Warning, message).mend("apt-get install git-lfs");
    }
    good("git", format!("{version}, with git-lfs"))
}

fn containers(facts: &Facts) -> Finding {
    match &facts.engine {
        Ok(engine) => good("containers", engine.as_str()),
        // Who runs no images needs none.
        Err(reason) => {
            let short = reason.split("; looked").next().unwrap_or(reason);
            finding("containers", Verdict::Note, short).mend("apt-get install podman netavark")
        }
    }
}

fn disk_space(facts: &Facts) -> Finding {
    let place = facts.data_dir.display();
    let space = facts.disk;
    if space.total_bytes == 0 {
        return finding("disk", Verdict::Warning, format!("how much is free under {place} cannot be found out"))
            .mend(format!("look at it: df -h {place}"));
    }
    let free = format!("{} of {} are free", words::size(space.available_bytes), words::size(space.total_bytes));
    let reserve = disk::reserve_bytes(space.total_bytes, None);
    if disk::is_low(space, reserve, false) {
        let message = format!("{free} under {place}; below {} nothing new is taken", words::size(reserve));
        return finding("disk", Verdict::Problem, message)
            .mend(format!("see what uses it: du -xh --max-depth 2 {place}"));
    }
    if space.available_bytes < reserve.saturating_mul(2) {
        let message = format!("{free} under {place}; below {} nothing new will be taken", words::size(reserve));
        return finding("disk", Verdict::Warning, message)
            .mend(format!("see what uses it: du -xh --max-depth 2 {place}"));
    }
    good("disk", format!("{free} under {place}"))
}

fn inodes(facts: &Facts) -> Finding {
    let Some((free, total)) = facts.inodes.filter(|(_, total)| *total > 0) else {
        return good("inodes", "this file system makes them as needed");
    };
    let share = free.saturating_mul(100) / total;
    let message = format!("{free} of {total} are free ({share} %)");
    let mend = format!("see where the many small files are: du -x --inodes --max-depth 2 {}", facts.data_dir.display());
    match share {
        0..2 => {
            finding("inodes", Verdict::Problem, format!("{message}: files cannot be made, however much room there is"))
                .mend(mend)
        }
        2..10 => finding("inodes", Verdict::Warning, format!("{message}; without them no file can be made")).mend(mend),
        _ => good("inodes", message),
    }
}

fn open_files(facts: &Facts) -> Finding {
    // The gateway raises its own limit as far as it may; systemd's unit sets it.
    let (_, hard) = facts.open_files;
    match hard {
        Some(hard) if hard < OPEN_FILES_MIN => {
            let message = format!("a process may hold {hard} at most; each connection of a visitor takes two");
            finding("open files", Verdict::Warning, message)
                .mend(format!("raise the limit: ulimit -Hn {OPEN_FILES_MIN}, or LimitNOFILE= in a unit of your own"))
        }
        Some(hard) => good("open files", format!("a process may hold {hard}")),
        None => good("open files", "a process may hold any number"),
    }
}

fn clock(facts: &Facts) -> Finding {
    let keeper = facts
        .time_service
        .as_ref()
        .map_or("nothing keeps it right".to_owned(), |name| format!("{name} keeps it right"));
    let mend = "let something keep it right: apt-get install systemd-timesyncd, or chrony";
    match facts.clock_difference_ms.map(|difference| (difference, difference.unsigned_abs())) {
        Some((difference, size)) if size > CLOCK_NOTICEABLE_MS => {
            // `its clock is 60 min ahead`
            let wrong = api::servers::wrong_clock(difference).replace("its clock is ", "");
            let verdict = if size > CLOCK_LIMIT_MS { Verdict::Problem } else { Verdict::Warning };
            let follows = if size > CLOCK_LIMIT_MS {
                "requests of this machine's agent are refused"
            } else {
                "beyond a minute requests of this machine's agent are refused"
            };
            let of = if difference > 0 { "of " } else { "" };
            finding("clock", verdict, format!("is {wrong} {of}the control plane's; {follows}")).mend(mend)
        }
        Some(_) => good("clock", format!("agrees with the control plane's; {keeper}")),
        None if facts.time_service.is_none() => finding(
            "clock",
            Verdict::Warning,
            "nothing keeps it right; an agent whose clock is off by a minute is refused",
        )
        .mend(mend),
        None => good("clock", keeper),
    }
}

fn port(fact: &PortFact) -> Finding {
    let check = format!("port {}", fact.port);
    let purpose = fact.purpose;
    match &fact.state {
        PortState::Free => good(&check, format!("is free for {purpose}")),
        PortState::Ours => good(&check, format!("{purpose} is there")),
        PortState::Taken(by) => {
            let by = by.as_ref().map_or(String::new(), |by| format!(" by {by}"));
            let how = if purpose == "the gateway" {
                format!(
                    "stop it, or choose another port: --gateway-port {}",
                    if fact.port == 80 { 8080 } else { fact.port.saturating_add(1) }
                )
            } else {
                format!("stop it, or choose another port: --listen 127.0.0.1:{}", fact.port.saturating_add(1))
            };
            finding(&check, Verdict::Warning, format!("is in use{by}; {purpose} cannot have it")).mend(how)
        }
        PortState::Forbidden => finding(&check, Verdict::Warning, format!("this user may not use it; {purpose} would"))
            .mend("run as root, or choose a port above 1023: --gateway-port 8080"),
    }
}

fn control_plane(facts: &Facts) -> Finding {
    let check = "control plane";
    match &facts.control_plane {
        ControlPlane::Answers { address, version } => good(check, format!("{version} answers at {address}")),
        ControlPlane::Nowhere { address } => finding(
            check,
            Verdict::Note,
            format!("none runs here, none answers at {address}, and you are signed in to none"),
        )
        .mend("start one with `mainstay up`, or sign in to one: mainstay login --server URL"),
        ControlPlane::Refuses { address, reason } => {
            finding(check, Verdict::Problem, format!("{address} refuses you: {reason}"))
                .mend(format!("mainstay login --server {address}"))
        }
        ControlPlane::Unreachable { address, reason } if about_certificate(reason) => finding(
            check,
            Verdict::Problem,
            format!("{address} has a certificate that this machine does not trust: {reason}"),
        )
        .mend(MEND_CERTIFICATE),
        ControlPlane::Unreachable { address, reason } => {
            finding(check, Verdict::Problem, format!("{address} does not answer: {reason}; what runs goes on")).mend(
                "look whether it runs, and at firewalls between here and there; another one is named with --server",
            )
        }
    }
}

/// Of a control plane that answers, so it is good now.
fn certificate(left_ms: i64) -> Finding {
    let days = left_ms / (24 * 3_600_000);
    let left = if days < 1 { "less than a day".to_owned() } else { count(days, "day") };
    if days < CERTIFICATE_DAYS_MIN {
        let message = format!("is good for {left} only; after that no agent and no command trusts the control plane");
        return finding("certificate", Verdict::Warning, message)
            .mend("renew it where TLS ends, and see why that did not happen by itself");
    }
    good("certificate", format!("is trusted, and good for {left}"))
}

/// Whether somebody is there, and only not trusted.
pub fn about_certificate(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["certificate", "unknownissuer", "tls"].iter().any(|word| reason.contains(word))
}

fn agent(facts: &Facts) -> Finding {
    let AgentFact::Joined { name, online, unit, with_up } = &facts.agent else {
        return finding("agent", Verdict::Note, "this machine is no server yet").mend(
            "make a token on the control plane with `mainstay tokens create`, and run the line that it prints here",
        );
    };
    let unit_says = unit.as_deref();
    match (online, unit_says, with_up) {
        (Some(true), Some("active"), _) => good("agent", format!("{name} reports; systemd keeps it running")),
        (Some(true), _, true) => good("agent", format!("{name} reports; it runs with `mainstay up`")),
        (Some(true), ..) if facts.systemd => {
            finding("agent", Verdict::Warning, format!("{name} reports, but nothing starts it again after a reboot"))
                .mend("sudo mainstay agent install")
        }
        (Some(true), ..) => good("agent", format!("{name} reports")),
        (Some(false), Some(state), _) if state != "active" => {
            finding("agent", Verdict::Problem, format!("{name} does not report; systemd says that its unit is {state}"))
                .mend(format!(
                    "see why with `journalctl -u {UNIT}`, then: systemctl restart {UNIT}",
                    UNIT = agent::install::UNIT
                ))
        }
        (Some(false), ..) => {
            finding("agent", Verdict::Problem, format!("{name} does not report; what runs on it goes on"))
                .mend("look at its log: journalctl -u mainstay-agent; or start it: mainstay agent")
        }
        (None, Some("active"), _) | (None, _, true) => {
            good("agent", format!("{name} runs; the control plane cannot be asked about it"))
        }
        (None, Some(state), _) => {
            finding("agent", Verdict::Problem, format!("systemd says that the unit of {name} is {state}")).mend(
                format!(
                    "see why with `journalctl -u {UNIT}`, then: systemctl restart {UNIT}",
                    UNIT = agent::install::UNIT
                ),
            )
        }
        (None, None, false) => finding(
            "agent",
            Verdict::Warning,
            format!("this machine is {name}; whether its agent runs cannot be found out"),
        )
        .mend("sign in (`mainstay login`), or look for a process: pgrep -af 'mainstay agent'"),
    }
}

fn names(facts: &Facts) -> Finding {
    let check = "internal names";
    match &facts.names {
        Names::Resolves { name } => good(check, format!("{name} resolves")),
        Names::None => good(check, "no service here has one yet"),
        Names::Unknown => {
            finding(check, Verdict::Note, "whether they resolve is known when an agent reports from here")
        }
        Names::Fails { name } => finding(
            check,
            Verdict::Problem,
            format!("{name} does not resolve: services of this machine do not find each other by name"),
        )
        .mend("see what the agent says with `mainstay servers show NAME`; SERVICE_<NAME>_URL works all the same"),
        Names::SwitchedOff { consequence } => good(check, consequence.as_str()),
        Names::Impossible { reason } => finding(check, Verdict::Warning, reason.trim_end_matches('.'))
            .mend("let services use SERVICE_<NAME>_URL, or run the agent as root"),
    }
}

/// What tunnels between servers need. One server alone needs none of it.
fn network(facts: &Facts) -> Finding {
    let tunnel = match (facts.wireguard, facts.tun) {
        (true, _) => "WireGuard is in the kernel",
        (false, true) => "no WireGuard in the kernel, but /dev/net/tun: the gateway does that work",
        (false, false) => "neither WireGuard nor /dev/net/tun: this machine cannot take part in the mesh of servers",
    };
    let filter = if facts.nftables { "nftables is installed" } else { "nftables is not installed (not needed yet)" };
    finding("mesh", Verdict::Note, format!("{tunnel}; {filter}"))
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
