//! Programs that are measured: started on one core, asked what they use, and ended whatever happens.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(30);

/// A running program and everything that it started.
pub struct Running {
    name: String,
    child: Child,
    end: Signal,
}

impl Running {
    /// Starts a program on one core, its output in a file.
    pub fn start(name: &str, core: usize, program: &Path, arguments: &[&str], folder: &Path) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command
            // It ends with the bench, also when that is ended before its time.
            .args(["--pdeathsig", "TERM", "taskset", "--cpu-list", &core.to_string()])
            .arg(program)
            .args(arguments)
            // Caddy and Traefik keep what they make of the config there.
            .envs([("HOME", folder), ("XDG_DATA_HOME", folder), ("XDG_CONFIG_HOME", folder)]);
        Self::spawn(name, command, folder, Signal::TERM)
    }

    /// Starts a part of Mainstay as its users do: on all cores, with the environment that it is given, and
    /// ended as by Ctrl-C.
    pub fn start_part(
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &Path)],
        folder: &Path,
    ) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]).arg(program).args(arguments).envs(environment.iter().copied());
        command
            .env_remove("MAINSTAY_SERVER")
            .env_remove("MAINSTAY_TOKEN")
            .env("MAINSTAY_NO_DNS", "1")
            .env("MAINSTAY_NO_MESH", "1");
        Self::spawn(name, command, folder, Signal::INT)
    }

    fn spawn(name: &str, mut command: Command, folder: &Path, end: Signal) -> Result<Self> {
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).context("make a log")?;
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("make a log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {name} with {}", command.get_program().display()))?;
        Ok(Self { name: name.into(), child, end })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Still there, or what it said before it ended.
    pub fn check(&mut self, folder: &Path) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("look after a program")? {
            let log = std::fs::read_to_string(folder.join(format!("{}.log", self.name))).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            bail!("{} ended with {status}: {}", self.name, tail.into_iter().rev().collect::<Vec<_>>().join(" / "));
        }
        Ok(())
    }

    /// Processor time so far of the program and its children.
    pub fn cpu(&self) -> Duration {
        family(self.pid()).into_iter().filter_map(cpu_of).sum()
    }

    /// Memory of the program and its children, each shared page counted once.
    pub fn memory_bytes(&self) -> u64 {
        family(self.pid()).into_iter().filter_map(proportional_bytes).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = family(self.pid());
        signal(self.pid(), self.end);
        let begun = Instant::now();
        while begun.elapsed() < END_LIMIT {
            if !matches!(self.child.try_wait(), Ok(None)) && family.iter().all(|pid| cpu_of(*pid).is_none()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        family.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// The service behind the proxies, in a process of its own.
pub struct OriginProcess {
    child: Child,
    pub port: u16,
}

impl OriginProcess {
    pub fn start(core: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe().context("find the own program")?)
            .args(["origin", &core.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the origin")?;
        let mut line = String::new();
        let output = child.stdout.take().context("the origin has an output")?;
        let read = BufReader::new(output).read_line(&mut line);
        match read.ok().and_then(|_| line.trim().parse().ok()) {
            Some(port) => Ok(Self { child, port }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("the origin did not say its port but: {line}")
            }
        }
    }
}

impl Drop for OriginProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A part of this program that runs in a process of its own, until it has said what it found.
pub struct Helper {
    child: Child,
}

impl Helper {
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let child = Command::new(std::env::current_exe().context("find the own program")?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a part of the bench")?;
        Ok(Self { child })
    }

    /// All that it says until it ends by itself.
    pub fn output(mut self, limit: Duration) -> Result<String> {
        let begun = Instant::now();
        drop(self.child.stdin.take());
        let mut pipe = self.child.stdout.take().context("a part of the bench has an output")?;
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).map(|_| text)
        });
        loop {
            if let Some(status) = self.child.try_wait().context("wait for a part of the bench")? {
                let text = reading.join().ok().context("a reader broke")??;
                anyhow::ensure!(status.success(), "a part of the bench ended with {status}: {text}");
                return Ok(text);
            }
            anyhow::ensure!(begun.elapsed() < limit, "a part of the bench took longer than {} s", limit.as_secs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The next line that it says.
    pub fn line(&mut self) -> Result<String> {
        let output = self.child.stdout.as_mut().context("a part of the bench has an output")?;
        // Byte by byte: what follows the line belongs to whoever reads next.
        let (mut line, mut byte) = (Vec::new(), [0]);
        while output.read(&mut byte).context("read from a part of the bench")? > 0 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).context("a part of the bench said something that is not text")
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn output_of_self(arguments: &[&str], usual: Duration) -> Result<String> {
    Helper::start(arguments)?.output(usual + SLACK)
}

/// A process and everything below it.
pub fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some(parent) = stat(child).and_then(|fields| fields.get(1)?.parse::<u32>().ok()) {
            parents.push((child, parent));
        }
    }
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        at += 1;
    }
    family
}

/// The fields of `/proc/PID/stat` behind the name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// Nanoseconds that its threads ran, as the scheduler counts them; `None` once it is gone.
pub fn cpu_of(pid: u32) -> Option<Duration> {
    if stat(pid)?.first()? == "Z" {
        return None;
    }
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        nanoseconds += text.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    }
    Some(Duration::from_nanos(nanoseconds))
}

/// Proportional set size: shared pages are divided among those who share them.
pub fn proportional_bytes(pid: u32) -> Option<u64> {
    memory_bytes(pid, "Pss:")
}

/// Resident set size: shared pages count whole, for each who shares them.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    memory_bytes(pid, "Rss:")
}

fn memory_bytes(pid: u32, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
