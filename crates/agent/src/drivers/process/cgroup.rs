//! Control groups: how limits are enforced, use is measured and a whole tree of processes is found.
//!
//! Three kinds of machine exist. With version 2 everything is in one tree, which root owns and
//! systemd can delegate. With version 1 each controller has its own tree. And some machines let us
//! write to none of them: then instances run without limits, and the agent says so. The files are
//! written directly; there are ten of them.
//!
//! All groups lie under one named `mainstay`, and only those are ever touched. It lies *beside* the unit
//! that the agent runs in, never below it, also where systemd would allow that with `Delegate=yes`:
//! services outlive the agent, and systemd cannot start a unit again (219/CGROUP) whose group has
//! children with limits, because version 2 wants processes only in leaves. Supervisors and the gateway
//! move there too, so that whatever ends the processes of the unit ends the agent and nothing else.

use super::procfs;
use api::services::Limits;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const OURS: &str = "mainstay";
/// In ours: where supervisors and the gateway are.
const SUPERVISORS: &str = "supervisors";
/// Length of the accounting period that a CPU limit is a share of.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// What this machine offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Our folder in each usable hierarchy.
    unified: Option<PathBuf>,
    /// The unified hierarchy limits memory, CPU and pids.
    unified_limits: bool,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    pids: Option<PathBuf>,
}

impl Cgroups {
    /// Find out by trying: what can be created can be used.
    pub fn detect() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Self::default();
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, mount, kind, options, ..] = fields.as_slice() else { continue };
            let mount = Path::new(mount);
            if *kind == "cgroup2" && found.unified.is_none() {
                found.try_unified(mount, &own);
            } else if *kind == "cgroup" {
                for controller in options.split(',') {
                    let place = match controller {
                        "memory" => &mut found.memory,
                        "cpu" => &mut found.cpu,
                        "cpuacct" => &mut found.cpuacct,
                        "pids" => &mut found.pids,
                        _ => continue,
                    };
                    let ours = mount.join(OURS);
                    if place.is_none() && std::fs::create_dir_all(&ours).is_ok() && writable(&ours) {
                        *place = Some(ours);
                    }
                }
            }
        }
        found
    }

    /// At the top, where only root may, or in a group above our own that was delegated (that of a
    /// user's systemd).
    fn try_unified(&mut self, mount: &Path, own: &str) {
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
        let above = delegated_above(mount, own, is_delegated);
        for place in std::iter::once(mount.to_owned()).chain(above) {
            let ours = place.join(OURS);
            if let Some(limits) = make_unified(&place, &ours) {
                self.unified = Some(ours);
                self.unified_limits = limits;
                return;
            }
        }
    }

    /// Take a process that has to outlive the agent out of the agent's own group. Where that cannot be
    /// done it stays; `KillMode=process` in the unit still spares it.
    pub fn shelter(&self, pid: u32) {
        let Some(unified) = &self.unified else { return };
        let place = unified.join(SUPERVISORS);
        let moved = std::fs::create_dir_all(&place).and_then(|()| write(&place.join("cgroup.procs"), &pid.to_string()));
        if let Err(error) = moved {
            tracing::debug!(pid, place = %place.display(), %error, "a process stays in the agent's control group");
        }
    }

    /// Remove our folders if nothing is left in them; another agent on this machine may have some.
    pub fn remove_if_empty(&self) {
        let all = [&self.unified, &self.memory, &self.cpu, &self.cpuacct, &self.pids].into_iter().flatten();
        for ours in all {
            let supervisors = ours.join(SUPERVISORS);
            // What was stopped a moment ago may not be gone yet.
            let deadline = Instant::now() + Duration::from_millis(500);
            while supervisors.is_dir() && std::fs::remove_dir(&supervisors).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = std::fs::remove_dir(ours);
        }
    }

    /// `v2`, `v1` or `none`, as `ServerFacts` shows it.
    pub fn version(&self) -> &'static str {
        match (self.unified_limits, &self.memory) {
            (true, _) => "v2",
            (false, Some(_)) => "v1",
            (false, None) => "none",
        }
    }

    pub fn limitations(&self) -> Vec<String> {
        if self.unified_limits {
            return Vec::new();
        }
        let missing: Vec<&str> = [("memory", &self.memory), ("CPU", &self.cpu), ("process count", &self.pids)]
            .into_iter()
            .filter_map(|(name, place)| place.is_none().then_some(name))
            .collect();
        match missing.len() {
            0 => Vec::new(),
            3 => vec![
                "Limits are not enforced: this agent may not write control groups. Run it as root, for example \
                 by `mainstay agent install`, or as a service of your own systemd (`systemctl --user`)."
                    .to_owned(),
            ],
            _ => vec![format!(
                "Limits of {} are not enforced: this machine offers no such control group.",
                missing.join(" and ")
            )],
        }
    }

    /// The group that an instance or build of this name would have; `None` where there are none.
    pub fn group(&self, name: &str) -> Option<Group> {
        let at = |place: &Option<PathBuf>| place.as_ref().map(|place| place.join(name));
        let group = if self.unified_limits {
            Group { unified: at(&self.unified), unified_limits: true, ..Group::default() }
        } else {
            Group {
                unified: at(&self.unified),
                unified_limits: false,
                memory: at(&self.memory),
                cpu: at(&self.cpu),
                cpuacct: at(&self.cpuacct),
                pids: at(&self.pids),
            }
        };
        (!group.folders().is_empty()).then_some(group)
    }
}

fn writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok()
        && OpenOptions::new().write(true).open(path.join("cgroup.procs")).is_ok()
}

/// Whether systemd gave this group away. A group that we merely may write to, such as the login session
/// of a person who is root, is not ours to rearrange.
fn is_delegated(group: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0_u8; 8];
        matches!(rustix::fs::getxattr(group, *name, &mut value[..]), Ok(length) if &value[..length] == b"1")
    })
}

/// The delegated groups strictly above the one that `/proc/self/cgroup` names, the outermost first.
fn delegated_above(mount: &Path, own: &str, is_delegated: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let own = mount.join(own.trim_start_matches('/'));
    let mut above: Vec<PathBuf> = own
        .ancestors()
        .skip(1)
        .take_while(|place| *place != mount && place.starts_with(mount))
        .map(Path::to_owned)
        .collect();
    above.retain(|place| is_delegated(place));
    above.reverse();
    above
}

/// Answers whether limits work in it, `None` if it cannot even be made.
fn make_unified(parent: &Path, ours: &Path) -> Option<bool> {
    std::fs::create_dir_all(ours).ok()?;
    if !writable(ours) {
        return None;
    }
    let enable = |place: &Path| {
        ["+memory", "+cpu", "+pids"].iter().all(|c| write(&place.join("cgroup.subtree_control"), c).is_ok())
    };
    Some(enable(parent) && enable(ours))
}

/// The folders of one instance or build, one per hierarchy. Remembered in its spec, so that whoever
/// cleans up knows where to look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    unified: Option<PathBuf>,
    unified_limits: bool,
    memory: Option<PathBuf>,
    cpu: Option<PathBuf>,
    cpuacct: Option<PathBuf>,
    pids: Option<PathBuf>,
}

/// What a group used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_bytes: Option<u64>,
    pub cpu_ms: Option<u64>,
}

/// What the group of a process uses, whoever made it: only to be read.
pub fn usage_around(pid: u32) -> Usage {
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    group_of(&own, &mounts).usage()
}

/// From the texts of `/proc/PID/cgroup` and of the mounts. What is in the topmost group is in none of its own.
fn group_of(own: &str, mounts: &str) -> Group {
    let inside = |controller: &str| {
        let line = own.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let unified = controller.is_empty() && controllers.is_empty();
            (unified || controllers.split(',').any(|one| !one.is_empty() && one == controller)).then_some(path)
        });
        line.map(|path| path.trim_start_matches('/')).filter(|path| !path.is_empty() && !path.starts_with(".."))
    };
    let mut group = Group::default();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = fields.as_slice() else { continue };
        let at = |controller: &str| inside(controller).map(|path| Path::new(mount).join(path));
        if *kind == "cgroup2" {
            group.unified = group.unified.or_else(|| at(""));
        } else if *kind == "cgroup" {
            for controller in options.split(',') {
                match controller {
                    "memory" => group.memory = at(controller),
                    "cpuacct" => group.cpuacct = at(controller),
                    _ => {}
                }
            }
        }
    }
    group.unified_limits = group.memory.is_none() && group.unified.is_some();
    group
}

impl Group {
    fn folders(&self) -> Vec<&PathBuf> {
        let mut folders: Vec<&PathBuf> =
            [&self.unified, &self.memory, &self.cpu, &self.cpuacct, &self.pids].into_iter().flatten().collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// Make it and set its limits. Answers what could not be limited; that is told, not fatal.
    pub fn create(&self, limits: &Limits) -> Vec<String> {
        let mut problems = Vec::new();
        for folder in self.folders() {
            if let Err(error) = std::fs::create_dir_all(folder) {
                problems.push(format!("control group {} could not be made: {error}", folder.display()));
            }
        }
        for (what, path, value) in self.settings(limits) {
            match path {
                Some(path) => {
                    if let Err(error) = write(&path, &value) {
                        problems.push(format!("the {what} limit is not enforced: {}: {error}", path.display()));
                    }
                }
                None => {
                    problems.push(format!("the {what} limit is not enforced: this machine has no control group for it"))
                }
            }
        }
        problems
    }

    /// File and content for each limit; without a limit, what lifts an earlier one.
    fn settings(&self, limits: &Limits) -> Vec<(&'static str, Option<PathBuf>, String)> {
        let file = |folder: &Option<PathBuf>, name: &str| folder.as_ref().map(|folder| folder.join(name));
        let quota = limits.cpu_millis.map(|millis| (millis * CPU_PERIOD_MICROS / 1000).max(1000));
        let pids = limits.pids.map_or("max".to_owned(), |pids| pids.to_string());
        let mut settings = if self.unified_limits {
            let bytes = limits.memory_bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
            let swap = if limits.memory_bytes.is_some() { "0" } else { "max" };
            let mut settings = vec![
                ("memory", file(&self.unified, "memory.max"), bytes),
                (
                    "CPU",
                    file(&self.unified, "cpu.max"),
                    match quota {
                        Some(quota) => format!("{quota} {CPU_PERIOD_MICROS}"),
                        None => format!("max {CPU_PERIOD_MICROS}"),
                    },
                ),
                ("process count", file(&self.unified, "pids.max"), pids),
            ];
            // Without swap accounting in the kernel the file does not exist; then there is nothing to say.
            settings.extend(
                file(&self.unified, "memory.swap.max")
                    .filter(|path| path.exists())
                    .map(|path| ("swap", Some(path), swap.to_owned())),
            );
            settings
        } else {
            let bytes = limits.memory_bytes.map_or("-1".to_owned(), |bytes| bytes.to_string());
            vec![
                ("memory", file(&self.memory, "memory.limit_in_bytes"), bytes),
                ("CPU", file(&self.cpu, "cpu.cfs_quota_us"), quota.map_or("-1".to_owned(), |quota| quota.to_string())),
                ("process count", file(&self.pids, "pids.max"), pids),
            ]
        };
        let wanted = |what: &str| match what {
            "memory" | "swap" => limits.memory_bytes.is_some(),
            "CPU" => limits.cpu_millis.is_some(),
            _ => limits.pids.is_some(),
        };
        settings.retain(|(what, path, _)| wanted(what) || path.as_ref().is_some_and(|path| path.exists()));
        settings
    }

    /// Files into which a fresh process writes `0` to enter: opened before it is forked.
    pub fn entrances(&self) -> Vec<File> {
        self.folders()
            .into_iter()
            .filter_map(|folder| OpenOptions::new().write(true).open(folder.join("cgroup.procs")).ok())
            .collect()
    }

    pub fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.folders().into_iter().flat_map(|folder| read_pids(folder)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Kill everything in it. The kernel does it in one step where it can.
    pub fn kill(&self) {
        if let Some(unified) = &self.unified
            && write(&unified.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.pids() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    /// How often the kernel killed something in it for want of memory.
    pub fn out_of_memory_kills(&self) -> u64 {
        let file = if self.unified_limits {
            self.unified.as_ref().map(|folder| folder.join("memory.events"))
        } else {
            self.memory.as_ref().map(|folder| folder.join("memory.oom_control"))
        };
        file.and_then(|file| keyed(&file, "oom_kill")).unwrap_or(0)
    }

    pub fn usage(&self) -> Usage {
        if self.unified_limits {
            let Some(unified) = &self.unified else { return Usage::default() };
            let cache = keyed(&unified.join("memory.stat"), "inactive_file").unwrap_or(0);
            return Usage {
                memory_bytes: number(&unified.join("memory.current")).map(|bytes| bytes.saturating_sub(cache)),
                cpu_ms: keyed(&unified.join("cpu.stat"), "usage_usec").map(|micros| micros / 1000),
            };
        }
        let memory_bytes = self.memory.as_ref().and_then(|folder| {
            let cache = keyed(&folder.join("memory.stat"), "total_inactive_file").unwrap_or(0);
            number(&folder.join("memory.usage_in_bytes")).map(|bytes| bytes.saturating_sub(cache))
        });
        let cpu_ms = self
            .cpuacct
            .as_ref()
            .and_then(|folder| number(&folder.join("cpuacct.usage")))
            .map(|nanos| nanos / 1_000_000);
        Usage { memory_bytes, cpu_ms }
    }

    /// Remove its folders. The kernel needs a moment after the last process is gone.
    pub fn remove(&self) {
        let deadline = Instant::now() + Duration::from_millis(500);
        for folder in self.folders() {
            while let Err(error) = std::fs::remove_dir(folder) {
                if error.kind() == io::ErrorKind::NotFound || Instant::now() > deadline {
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub fn exists(&self) -> bool {
        self.folders().iter().any(|folder| folder.exists())
    }
}

/// Kill whatever carries one of the marks until nothing does. Answers how many were killed, or the
/// ids of those that would not go within five seconds.
pub fn kill_owned(
    marks: &procfs::Marks<'_>,
    group: Option<&Group>,
    mut between: impl FnMut(),
) -> Result<usize, Vec<u32>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut killed = std::collections::BTreeSet::new();
    loop {
        let also = group.map(Group::pids).unwrap_or_default();
        let left = procfs::owned(&procfs::Marks { also, ..marks.clone() });
        if left.is_empty() {
            return Ok(killed.len());
        }
        if Instant::now() > deadline {
            return Err(left.iter().map(|stat| stat.pid).collect());
        }
        if let Some(group) = group {
            group.kill();
        }
        for stat in &left {
            killed.insert(stat.pid);
            if let Some(pid) = rustix::process::Pid::from_raw(stat.pid.cast_signed()) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        between();
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    use std::io::Write;
    // One write call and never creating: these are the kernel's files.
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The value after `key` in a file of `key value` lines.
fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn read_pids(folder: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).filter(|pid| *pid != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files that a kernel would offer, in a folder.
    fn pretend(place: &Path, names: &[&str]) {
        for name in names {
            std::fs::write(place.join(name), "").unwrap();
        }
    }

    fn content(place: &Path, name: &str) -> String {
        std::fs::read_to_string(place.join(name)).unwrap()
    }

    const LIMITS: Limits = Limits { memory_bytes: Some(64_000_000), cpu_millis: Some(250), pids: Some(40) };

    #[test]
    fn version_two_is_spoken_in_one_folder() {
        let place = tempfile::tempdir().unwrap();
        pretend(place.path(), &["memory.max", "memory.swap.max", "cpu.max", "pids.max", "cgroup.procs"]);
        let group = Group { unified: Some(place.path().into()), unified_limits: true, ..Group::default() };
        assert_eq!(group.create(&LIMITS), Vec::<String>::new());
        assert_eq!(content(place.path(), "memory.max"), "64000000");
        assert_eq!(content(place.path(), "memory.swap.max"), "0");
        assert_eq!(content(place.path(), "cpu.max"), "25000 100000");
        assert_eq!(content(place.path(), "pids.max"), "40");
        pretend(place.path(), &["memory.max", "memory.swap.max", "cpu.max", "pids.max"]);
        assert_eq!(group.create(&Limits::default()), Vec::<String>::new());
        assert_eq!(content(place.path(), "memory.max"), "max", "an earlier limit is lifted");
        std::fs::write(place.path().join("memory.events"), "low 0\nhigh 3\noom 2\noom_kill 2\noom_group_kill 0\n")
            .unwrap();
        std::fs::write(place.path().join("memory.current"), "5000\n").unwrap();
        std::fs::write(place.path().join("memory.stat"), "anon 1\ninactive_file 2000\n").unwrap();
        std::fs::write(place.path().join("cpu.stat"), "usage_usec 12345\nuser_usec 1\n").unwrap();
        assert_eq!(group.out_of_memory_kills(), 2);
        assert_eq!(group.usage(), Usage { memory_bytes: Some(3000), cpu_ms: Some(12) });
    }

    #[test]
    fn the_group_of_another_process_is_found_in_either_version() {
        let group = group_of(
            "8:memory:/libpod_parent/x\n2:cpu,cpuacct:/libpod_parent/x\n0::/\n",
            "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
             none /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        );
        assert_eq!(group.memory, Some("/sys/fs/cgroup/memory/libpod_parent/x".into()));
        assert_eq!(group.cpuacct, Some("/sys/fs/cgroup/cpu/libpod_parent/x".into()));
        assert!(!group.unified_limits && group.unified.is_none());
        let group = group_of("0::/machine.slice/x.scope\n", "none /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(group.unified, Some("/sys/fs/cgroup/machine.slice/x.scope".into()));
        assert!(group.unified_limits);
        assert_eq!(group_of("0::/\n", "none /sys/fs/cgroup cgroup2 rw 0 0\n").unified, None, "not the whole machine");
    }

    #[test]
    fn the_group_of_the_own_unit_is_never_used_because_systemd_could_not_start_it_again() {
        let mount = Path::new("/sys/fs/cgroup");
        let delegated = |place: &Path| place.to_string_lossy().ends_with(".service");
        let above = |own: &str| delegated_above(mount, own, delegated);
        assert_eq!(above("/system.slice/mainstay-agent.service"), Vec::<PathBuf>::new());
        let user = "/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(above(&format!("{user}/app.slice/agent.service")), [mount.join(&user[1..])]);
        assert_eq!(above("/"), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_outlives_the_agent_moves_beside_it_and_the_empty_folders_go() {
        let place = tempfile::tempdir().unwrap();
        let ours = place.path().join(OURS);
        let supervisors = ours.join(SUPERVISORS);
        std::fs::create_dir_all(&supervisors).unwrap();
        pretend(&supervisors, &["cgroup.procs"]);
        let cgroups = Cgroups { unified: Some(ours.clone()), ..Cgroups::default() };
        cgroups.shelter(4711);
        assert_eq!(content(&supervisors, "cgroup.procs"), "4711");
        cgroups.remove_if_empty();
        assert!(supervisors.exists(), "what is in use stays");
        std::fs::remove_file(supervisors.join("cgroup.procs")).unwrap();
        cgroups.remove_if_empty();
        assert!(!ours.exists());
    }

    #[test]
    fn a_limit_that_no_group_can_enforce_is_told() {
        let place = tempfile::tempdir().unwrap();
        pretend(place.path(), &["pids.max", "cgroup.procs"]);
        let group = Group { pids: Some(place.path().into()), ..Group::default() };
        let problems = group.create(&LIMITS);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("the memory limit is not enforced"), "{problems:?}");
        assert_eq!(content(place.path(), "pids.max"), "40");
        let none = Cgroups::default();
        assert_eq!((none.version(), none.group("x")), ("none", None));
        assert!(none.limitations()[0].contains("Limits are not enforced"));
    }
}
