//! What this machine is and can do: found out, never assumed, and what is missing is said with what
//! follows from it. Detection only; nothing here changes anything.
//!
//! Everything is read under a root directory and judged for a user id, so that a test can show a
//! machine with and without each thing.

use crate::drivers::WorkloadsFacts;
use crate::resources::{cpu_count, meminfo_bytes};
use api::servers::ServerFacts;
use std::fs;
use std::path::{Path, PathBuf};

/// Where to look.
#[derive(Debug, Clone)]
pub struct Machine {
    pub root: PathBuf,
    pub effective_user: u32,
}

impl Machine {
    pub fn this() -> Self {
        Self { root: PathBuf::from("/"), effective_user: rustix::process::geteuid().as_raw() }
    }

    pub fn is_root(&self) -> bool {
        self.effective_user == 0
    }

    fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }
}

/// The facts, with what the workloads driver found out about limits and git.
pub fn detect(machine: &Machine, workloads: WorkloadsFacts) -> ServerFacts {
    let mut limitations = workloads.limitations;
    if !machine.is_root() {
        limitations.insert(
            0,
            "The agent does not run as root: ports below 1024 cannot be bound, internal names cannot be made to \
             resolve (SERVICE_<NAME>_URL points to a port on loopback instead), and services run as the agent's own user."
                .into(),
        );
    }
    if !machine.root.join("run/systemd/system").is_dir() {
        limitations.push(
            "systemd does not run here: `mainstay agent install` is not possible, so nothing starts the agent after a reboot.".into(),
        );
    }
    let meminfo = machine.read("proc/meminfo").unwrap_or_default();
    ServerFacts {
        hostname: machine.read("proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".into()),
        operating_system: operating_system(&machine.root),
        kernel: machine.read("proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
        architecture: std::env::consts::ARCH.into(),
        cpu_count: cpu_count(),
        memory_bytes: meminfo_bytes(&meminfo, "MemTotal:"),
        root: machine.is_root(),
        cgroups: workloads.cgroups,
        git_version: workloads.git_version,
        git_lfs: workloads.git_lfs,
        engine: workloads.engine,
        engine_version: workloads.engine_version,
        runtimes: workloads.runtimes,
        limitations,
        mesh: None,
    }
}

fn operating_system(root: &Path) -> String {
    let text = fs::read_to_string(root.join("etc/os-release"))
        .or_else(|_| fs::read_to_string(root.join("usr/lib/os-release")))
        .unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "unknown".into(), |value| value.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(effective_user: u32, files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let machine = Machine { root: directory.path().to_owned(), effective_user };
        (directory, machine)
    }

    #[test]
    fn a_full_machine_has_no_limitation() {
        let files = [
            ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            ("proc/sys/kernel/hostname", "web-1\n"),
            ("proc/meminfo", "MemTotal:  2048 kB\n"),
            ("run/systemd/system/x", ""),
        ];
        let (_directory, machine) = machine(0, &files);
        let facts = detect(&machine, WorkloadsFacts { cgroups: "v2".into(), ..Default::default() });
        assert_eq!(facts.operating_system, "Debian GNU/Linux 12 (bookworm)");
        assert_eq!((facts.hostname.as_str(), facts.memory_bytes), ("web-1", 2_097_152));
        assert_eq!(facts.limitations, Vec::<String>::new());
        assert!(facts.root);
    }

    #[test]
    fn a_machine_without_root_and_systemd_says_what_follows() {
        let (_directory, machine) = machine(1000, &[]);
        let workloads = WorkloadsFacts { limitations: vec!["git is missing".into()], ..Default::default() };
        let facts = detect(&machine, workloads);
        let all = facts.limitations.join("\n");
        for expected in ["not run as root", "systemd does not run", "git is missing"] {
            assert!(all.contains(expected), "{expected:?} is not in {all}");
        }
        assert_eq!(facts.hostname, "unknown");
    }
}
