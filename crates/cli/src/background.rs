//! A process that stays when this one and its terminal are gone.

#![allow(unsafe_code)]

use crate::exit::Failure;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A log that grew beyond this is put aside once, so that it never holds more than twice as much.
const LOG_LIMIT_BYTES: u64 = 16 * 1024 * 1024;

/// Starts this program again in a session of its own, with its output in `log`. The database's
/// address goes through the environment: it may hold a password.
pub fn spawn(program: &Path, arguments: &[String], database: Option<&str>, log: &Path) -> Result<Child, Failure> {
    let fail = |what: &str, error: std::io::Error| Failure::general(format!("cannot {what}: {error}"));
    if std::fs::metadata(log).is_ok_and(|log| log.len() > LOG_LIMIT_BYTES) {
        let _ = std::fs::rename(log, log.with_extension("log.1"));
    }
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(|e| fail(&format!("write to {}", log.display()), e))?;
    let errors = output.try_clone().map_err(|e| fail("share the log", e))?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(output).stderr(errors);
    command.env_remove("MAINSTAY_TOKEN").env_remove("MAINSTAY_SERVER");
    if let Some(database) = database {
        command.env("MAINSTAY_DATABASE", database);
    }
    // SAFETY: between fork and exec only `setsid` is called, which is async-signal-safe and touches
    // no memory of ours.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(std::io::Error::from));
    }
    command.spawn().map_err(|e| fail(&format!("start {}", program.display()), e))
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> Vec<String> {
    const LOOKED_AT_BYTES: u64 = 16 * 1024;
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOOKED_AT_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOOKED_AT_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.iter().skip(all.len().saturating_sub(lines)).map(|line| (*line).to_owned()).collect()
}
