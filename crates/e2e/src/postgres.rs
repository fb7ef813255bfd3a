//! A PostgreSQL of a test's own, which may be killed and started again.
//!
//! Commits are written before they are acknowledged (`synchronous_commit` stays on), so that a killed
//! process loses nothing; they are not forced to the disk (`fsync` is off), because what dies here is a
//! process and not the machine.

use crate::{has_ended, kill};
use anyhow::{Context, Result, bail, ensure};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const USER: &str = "postgres";
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    postmaster: Option<Child>,
}

impl Postgres {
    /// `None`: there is no PostgreSQL on this machine.
    pub fn start() -> Result<Option<Self>> {
        let Some(programs) = programs() else { return Ok(None) };
        let folder = tempfile::Builder::new().prefix("mainstay-e2e-postgres-").tempdir()?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))?;
        if rustix::process::geteuid().is_root() {
            let number = |flag| -> Result<u32> {
                let output = Command::new("id").args([flag, USER]).output()?;
                Ok(String::from_utf8(output.stdout)?.trim().parse()?)
            };
            chown(folder.path(), Some(number("-u")?), Some(number("-g")?))?;
        }
        let mut postgres = Self { folder, programs, port: crate::free_port(), postmaster: None };
        let mut init = postgres.program("initdb");
        init.args(["--username=mainstay", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        let output = init.arg("--pgdata").arg(postgres.data()).output().context("run initdb")?;
        ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        postgres.begin()?;
        Ok(Some(postgres))
    }

    pub fn url(&self) -> String {
        format!("postgres://mainstay@127.0.0.1:{}/postgres", self.port)
    }

    /// Processes that serve a connection, the control plane's.
    pub fn backends(&self) -> Vec<u32> {
        let Some(postmaster) = self.postmaster.as_ref().map(Child::id) else { return Vec::new() };
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
        let children: Vec<u32> =
            children.unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        let serves = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).starts_with("postgres: mainstay ")
        };
        children.into_iter().filter(serves).collect()
    }

    /// SIGKILL to the postmaster. Its children notice by themselves, a little later.
    pub fn crash(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
    }

    /// Starts it again on what is there, and waits until it takes connections. A new postmaster refuses
    /// while children of the old one are left, so it is tried until they are gone, as systemd would.
    pub fn begin(&mut self) -> Result<()> {
        let begun = Instant::now();
        let log = self.folder.path().join("log");
        loop {
            let file = std::fs::File::options().create(true).append(true).open(&log)?;
            let mut command = self.program("postgres");
            command.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string()).arg("-k").arg(self.folder.path());
            for setting in ["listen_addresses=127.0.0.1", "fsync=off", "max_connections=50", "shared_buffers=16MB"] {
                command.arg("-c").arg(setting);
            }
            let errors = file.try_clone()?;
            let mut child = command.stdout(file).stderr(errors).spawn().context("start PostgreSQL")?;
            while child.try_wait()?.is_none() && begun.elapsed() < START_LIMIT {
                if self.is_ready(child.id()) {
                    self.postmaster = Some(child);
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
            if begun.elapsed() >= START_LIMIT {
                bail!("PostgreSQL did not start: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// It writes `ready` into its pid file.
    fn is_ready(&self, pid: u32) -> bool {
        let text = std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        let own = lines.next().is_some_and(|line| line.trim() == pid.to_string());
        own && lines.nth(6).is_some_and(|state| state.trim() == "ready")
            && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// One of its programs, as somebody who is not root, ended by the kernel together with the test.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if rustix::process::geteuid().is_root() {
            command.args([format!("--reuid={USER}"), format!("--regid={USER}")]).arg("--clear-groups");
        }
        command.arg("--").arg(self.programs.join(name)).current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let children = self.backends();
        self.crash();
        let begun = Instant::now();
        while !children.iter().all(|pid| has_ended(*pid)) && begun.elapsed() < Duration::from_secs(5) {
            children.iter().filter(|pid| !has_ended(**pid)).for_each(|pid| kill(*pid));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The folder that holds `postgres` and `initdb`: Debian has them beside the PATH.
fn programs() -> Option<PathBuf> {
    let complete = |folder: &Path| folder.join("postgres").is_file() && folder.join("initdb").is_file();
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    folders.sort();
    folders.reverse();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| complete(folder))
}
