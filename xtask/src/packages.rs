//! What the tests need from the machine, and Debian's names for it.

use crate::steps;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

struct Need {
    package: &'static str,
    /// Any of these means that it is there: a program on the PATH, or a file.
    programs: &'static [&'static str],
    /// What is not tested without it.
    without: &'static str,
    /// Nice to have: large, and installed only where everything is required.
    is_extra: bool,
}

const fn need(package: &'static str, programs: &'static [&'static str], without: &'static str) -> Need {
    Need { package, programs, without, is_extra: false }
}

const fn extra(package: &'static str, programs: &'static [&'static str], without: &'static str) -> Need {
    Need { package, programs, without, is_extra: true }
}

static NEEDS: [Need; 19] = [
    need("git", &["git"], "everything that clones"),
    need("openssh-client", &["ssh-keygen"], "deploy keys"),
    need("openssl", &["openssl"], "private repositories over https"),
    need("pebble", &["pebble"], "certificates from an authority"),
    need("python3-asyncssh", &["/usr/lib/python3/dist-packages/asyncssh/__init__.py"], "private repositories over ssh"),
    need("curl", &["curl"], "the commands of the README"),
    need("faketime", &["faketime"], "clocks that jump"),
    need("util-linux", &["setpriv"], "PostgreSQL as its own user"),
    need("iproute2", &["ip"], "tunnels between servers"),
    need("wireguard-tools", &["wg"], "tunnels between servers"),
    need("postgresql", &["initdb"], "the store on PostgreSQL"),
    need("podman", &["podman"], "containers"),
    need("netavark", &["/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"], "containers"),
    need("runc", &["runc"], "containers"),
    need("busybox-static", &["busybox"], "images, which are made from nothing but it"),
    need("docker-registry", &["docker-registry"], "images that come from a registry"),
    extra("chromium", &["chromium"], "the dashboard in a real browser"),
    extra("nodejs", &["node"], "the dashboard in a real browser"),
    extra("npm", &["npm"], "the dashboard in a real browser"),
];

/// Installs what is missing, where that can be done. What is still missing after that is an error when
/// everything is required, and said otherwise.
pub fn ensure(require_all: bool) -> Result<()> {
    let wanted: Vec<&Need> = missing().into_iter().filter(|need| require_all || !need.is_extra).collect();
    if !wanted.is_empty() {
        install(&wanted.iter().map(|need| need.package).collect::<Vec<_>>())?;
    }
    let still_missing = missing();
    for need in &still_missing {
        println!("without {}, these tests are skipped: {}", need.package, need.without);
    }
    let required: Vec<&str> = still_missing.iter().filter(|need| !need.is_extra).map(|need| need.package).collect();
    if require_all && !required.is_empty() {
        bail!("missing, and everything is required: {}", required.join(", "));
    }
    if still_missing.is_empty() {
        println!("everything is there: {}", NEEDS.iter().map(|need| need.package).collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// Installs packages of Debian, or says how that is done where it cannot be done here.
pub fn install(names: &[&str]) -> Result<()> {
    if !Path::new("/etc/debian_version").exists() || find_program("apt-get").is_none() {
        println!("this is not Debian: install these yourself: {}", names.join(", "));
        return Ok(());
    }
    if user_id()? != 0 {
        println!("not root, so nothing is installed; as root: apt-get install {}", names.join(" "));
        return Ok(());
    }
    println!("installing {}", names.join(", "));
    apt_get(&["update", "--quiet"])?;
    for package in names {
        // One by one: a package that this release of Debian does not have must not keep out the others.
        if let Err(error) = apt_get(&["install", "--yes", "--quiet", "--no-install-recommends", package]) {
            println!("{package} could not be installed: {error:#}");
        }
    }
    Ok(())
}

fn missing() -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| !need.programs.iter().any(|program| find_program(program).is_some())).collect()
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
