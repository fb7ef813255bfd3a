//! What the tests need from the machine, and Debian's names for it.

use crate::steps;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

struct Need {
    package: &'static str,
    /// Any of these programs on the PATH means that it is there.
    programs: &'static [&'static str],
    /// What is not tested without it.
    without: &'static str,
}

const NEEDS: [Need; 5] = [
    Need { package: "git", programs: &["git"], without: "everything that clones" },
    Need { package: "openssh-client", programs: &["ssh-keygen"], without: "deploy keys" },
    Need { package: "curl", programs: &["curl"], without: "the commands of the README" },
    Need { package: "util-linux", programs: &["setpriv"], without: "PostgreSQL as its own user" },
    Need { package: "postgresql", programs: &["initdb"], without: "the store on PostgreSQL" },
];

/// Installs what is missing, where that can be done. What is still missing after that is an error when
/// everything is required, and said otherwise.
pub fn ensure(require_all: bool) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        println!("everything is there: {}", NEEDS.map(|need| need.package).join(", "));
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if !Path::new("/etc/debian_version").exists() || find_program("apt-get").is_none() {
        println!("this is not Debian: install these yourself: {}", names.join(", "));
    } else if user_id()? != 0 {
        println!("not root, so nothing is installed; as root: apt-get install {}", names.join(" "));
    } else {
        println!("installing {}", names.join(", "));
        apt_get(&["update", "--quiet"])?;
        let mut arguments = vec!["install", "--yes", "--quiet", "--no-install-recommends"];
        arguments.extend(&names);
        apt_get(&arguments)?;
    }
    let still_missing: Vec<&Need> = self::missing();
    for need in &still_missing {
        println!("without {}, these tests are skipped: {}", need.package, need.without);
    }
    if require_all && !still_missing.is_empty() {
        bail!(
            "{} missing, and everything is required",
            still_missing.iter().map(|n| n.package).collect::<Vec<_>>().join(", ")
        );
    }
    Ok(())
}

fn missing() -> Vec<&'static Need> {
    static ALL: [Need; 5] = NEEDS;
    ALL.iter().filter(|need| !need.programs.iter().any(|program| find_program(program).is_some())).collect()
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    steps::run(&mut command, Duration::from_secs(600))
}

/// A program on the PATH, or where Debian hides PostgreSQL's.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = postgres_folders();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// `/usr/lib/postgresql/15/bin`, the newest version first.
fn postgres_folders() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

pub fn user_id() -> Result<u32> {
    Ok(steps::output(Command::new("id").arg("-u"))?.trim().parse()?)
}
