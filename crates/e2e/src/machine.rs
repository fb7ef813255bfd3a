//! A machine for one test: directories, ports, and the commands that are run on it.

use crate::{Repository, SmallDisk};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub struct Machine {
    disks: Vec<Arc<SmallDisk>>,
    folder: tempfile::TempDir,
    pub control_port: u16,
    pub gateway_port: u16,
    /// Set for every process that is started from now on.
    pub environment: BTreeMap<&'static str, String>,
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// Both streams, for a message.
    pub fn all(&self) -> String {
        format!("exit code {}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.all());
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.all()))
    }

    #[track_caller]
    pub fn says(&self, words: &str) -> &Self {
        let text = format!("{}{}", self.stdout, self.stderr);
        assert!(text.contains(words), "`{words}` is not in\n{}", self.all());
        self
    }
}

impl Machine {
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mainstay-e2e-").tempdir().context("make a folder")?;
        Ok(Self {
            disks: Vec::new(),
            folder,
            control_port: crate::free_port(),
            gateway_port: crate::free_port(),
            environment: BTreeMap::new(),
        })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// A disk of its own under that name in the machine's folder, until the machine is gone.
    pub fn small_disk(&mut self, name: &str, megabytes: u64) -> Result<Arc<SmallDisk>> {
        let disk = Arc::new(SmallDisk::mount(self.folder().join(name), megabytes)?);
        self.disks.push(disk.clone());
        Ok(disk)
    }

    pub fn repository(&self, name: &str) -> Result<Repository> {
        Repository::create(self.folder().join(name))
    }

    pub fn control_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.control_port)
    }

    pub fn gateway_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.gateway_port)
    }

    /// `mainstay` with the machine's directories, ready for arguments.
    pub fn command(&self) -> Command {
        let mut command = Command::new(crate::binary("mainstay"));
        self.prepare(&mut command);
        command
    }

    /// Lets a program, and every `mainstay` that it starts, work on this machine.
    pub fn prepare(&self, command: &mut Command) {
        command
            .env("XDG_CONFIG_HOME", self.folder().join("config"))
            .env("XDG_STATE_HOME", self.folder().join("state"))
            .env_remove("MAINSTAY_SERVER")
            .env_remove("MAINSTAY_TOKEN")
            // The names of the machine that tests run on are not theirs to change.
            .env("MAINSTAY_NO_DNS", "1")
            // Several agents share one network here, and so do their numbers.
            .env("MAINSTAY_NO_MESH", "1")
            .env("NO_COLOR", "1")
            .env("MAINSTAY_DATA_DIR", self.data())
            .envs(&self.environment)
            .current_dir(self.folder())
            .stdin(Stdio::null());
    }

    /// Runs a command to its end; panics when that takes longer than two minutes.
    pub fn run(&self, arguments: &[&str]) -> Answer {
        self.run_in(self.folder(), arguments)
    }

    pub fn run_in(&self, folder: &Path, arguments: &[&str]) -> Answer {
        let mut command = self.command();
        command.current_dir(folder).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().expect("mainstay can be started");
        let pid = child.id();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let Ok(output) = wait.recv_timeout(Duration::from_secs(120)) else {
            kill(pid);
            panic!("`mainstay {}` did not end within two minutes", arguments.join(" "));
        };
        let output = output.expect("mainstay can be waited for");
        Answer {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Starts the whole system in the background and answers when it runs.
    pub fn up(&self, target: &Path, extra: &[&str]) -> Answer {
        let listen = format!("127.0.0.1:{}", self.control_port);
        let gateway = self.gateway_port.to_string();
        let target = target.to_string_lossy();
        let mut arguments = vec!["up", &target, "--detach", "--listen", &listen, "--gateway-port", &gateway];
        arguments.extend(extra);
        self.run(&arguments)
    }

    /// Starts a part that stays, such as `server` or `agent`, with its output at the end of a file.
    pub fn start(&self, log: &str, arguments: &[&str]) -> Part {
        let open = std::fs::File::options().create(true).append(true).open(self.folder().join(log));
        let file = open.expect("the test's folder can be written");
        let errors = file.try_clone().expect("a file handle can be cloned");
        let child =
            self.command().args(arguments).stdout(file).stderr(errors).spawn().expect("mainstay can be started");
        Part { child }
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder().join(name)).unwrap_or_default()
    }

    /// Every process that works for this machine: its folder is on the command line or is the
    /// working directory.
    pub fn processes(&self) -> Vec<(u32, String)> {
        crate::processes::processes_of(self.folder())
    }

    /// Pids of processes whose command line holds all the words.
    pub fn pids_of(&self, words: &[&str]) -> Vec<u32> {
        let fits = |line: &str| words.iter().all(|word| line.contains(word));
        self.processes().into_iter().filter(|(_, line)| fits(line)).map(|(pid, _)| pid).collect()
    }

    /// The newest deployment of a service, as the command line shows it.
    pub fn status(&self, service: &str) -> Value {
        self.run(&["--json", "status", service]).ok().json()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- processes of the failed test\n{:#?}", self.processes());
            for log in ["data/up.log", "server.log", "agent.log", "data/agent/gateway/gateway.log"] {
                let text = self.log(log);
                let tail: Vec<&str> = text.lines().rev().take(40).collect();
                eprintln!("--- end of {log}");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|(pid, _)| kill(*pid));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A part that was started and is ended with the test.
pub struct Part {
    child: std::process::Child,
}

impl Part {
    pub(crate) fn new(child: std::process::Child) -> Self {
        Self { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, as a crash would.
    pub fn crash(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.crash();
    }
}

/// SIGKILL to one process that a test started.
pub fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
