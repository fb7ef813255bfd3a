//! A real PostgreSQL for the tests: its own data directory, its own port on loopback, gone afterwards.
//!
//! PostgreSQL refuses to run as root, so root starts it as the user `postgres` through `setpriv`.
//! `setpriv` also asks the kernel to stop the server when this process ends, however it ends
//! (`--pdeathsig`): a Ctrl-C or a kill leaves no server behind.

use crate::packages::{find_program, user_id};
use crate::steps;
use anyhow::{Context, Result, bail};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const USER: &str = "postgres";
const START_LIMIT: Duration = Duration::from_secs(30);

pub struct Postgres {
    server: Child,
    folder: PathBuf,
    url: String,
}

impl Postgres {
    /// `None`: there is no PostgreSQL on this machine.
    pub fn start() -> Result<Option<Self>> {
        let (Some(initdb), Some(server)) = (find_program("initdb"), find_program("postgres")) else { return Ok(None) };
        if find_program("setpriv").is_none() {
            return Ok(None);
        }
        remove_leftovers();
        let folder = std::env::temp_dir().join(format!("mainstay-postgres-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let started = Self::start_in(&folder, &initdb, &server);
        if started.is_err() {
            // Best effort; the error that matters is the first one.
            let _ = std::fs::remove_dir_all(&folder);
        }
        started.map(Some)
    }

    fn start_in(folder: &Path, initdb: &Path, server: &Path) -> Result<Self> {
        let password = random_word()?;
        let password_file = folder.join("password");
        std::fs::write(&password_file, &password)?;
        give_to_user(folder)?;
        give_to_user(&password_file)?;
        let data = folder.join("data");

        let mut init = as_user(initdb)?;
        init.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password_file);
        init.args(["--username=mainstay", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        steps::output(init.current_dir(folder)).context("PostgreSQL's data directory cannot be made")?;

        // The port may be taken between asking for it and using it; then the next one is tried.
        let mut last_error = None;
        for _ in 0..5 {
            match Self::serve(folder, &data, server, &password) {
                Ok(postgres) => return Ok(postgres),
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.unwrap_or_else(|| anyhow::anyhow!("PostgreSQL was not started")))
    }

    fn serve(folder: &Path, data: &Path, server: &Path, password: &str) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log_path = folder.join("log");
        let log = std::fs::File::create(&log_path)?;
        let mut command = as_user(server)?;
        command.arg("-D").arg(data).arg("-p").arg(port.to_string()).arg("-k").arg(folder);
        // Nothing here has to survive a power cut.
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "synchronous_commit=off",
            "full_page_writes=off",
            "max_connections=200",
        ] {
            command.arg("-c").arg(setting);
        }
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("PostgreSQL cannot be started")?;
        let url = format!("postgres://mainstay:{password}@127.0.0.1:{port}/postgres");
        let mut postgres = Self { server: child, folder: folder.to_owned(), url };
        postgres.wait_until_ready(data, &log_path)?;
        println!("PostgreSQL listens on 127.0.0.1:{port}");
        Ok(postgres)
    }

    /// PostgreSQL writes `ready` into the last line of its pid file when it takes connections.
    fn wait_until_ready(&mut self, data: &Path, log: &Path) -> Result<()> {
        let started = Instant::now();
        loop {
            let pid_file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            if pid_file.lines().nth(7).is_some_and(|state| state.trim() == "ready") {
                return Ok(());
            }
            let ended = self.server.try_wait()?;
            if ended.is_some() || started.elapsed() > START_LIMIT {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("PostgreSQL did not become ready; it said: {}", said.trim());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Postgres {
    /// SIGINT is PostgreSQL's fast shutdown: connections are cut, the data is written.
    fn drop(&mut self) {
        let pid = self.server.id().to_string();
        let _ = Command::new("kill").args(["-INT", &pid]).status();
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(10) {
            if !matches!(self.server.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // Harmless if it has ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The program, to be run as somebody who is not root, and stopped by the kernel if we end.
fn as_user(program: &Path) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if user_id()? == 0 {
        command.args([format!("--reuid={USER}"), format!("--regid={USER}")]).arg("--clear-groups");
    }
    command.arg("--").arg(program);
    Ok(command)
}

fn give_to_user(path: &Path) -> Result<()> {
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if user_id()? == 0 {
        let number =
            |flag: &str| -> Result<u32> { Ok(steps::output(Command::new("id").args([flag, USER]))?.trim().parse()?) };
        std::os::unix::fs::chown(path, Some(number("-u")?), Some(number("-g")?))
            .with_context(|| format!("{} cannot be given to the user {USER}", path.display()))?;
    }
    Ok(())
}

/// Folders of earlier runs that were killed before they could clean up.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) =
            name.to_str().and_then(|n| n.strip_prefix("mainstay-postgres-")).and_then(|p| p.parse::<u32>().ok())
        else {
            continue;
        };
        if !Path::new(&format!("/proc/{pid}")).exists() {
            // Somebody else's, or just gone: not ours to complain about.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn random_word() -> Result<String> {
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
