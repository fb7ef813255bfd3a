//! One call of git: its environment, its time, its end.

use crate::environment::Environment;
use crate::error::{GitError, classify};
use crate::helpers;
use api::desired::GitCredential;
use api::services::GitUrl;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::sync::CancellationToken;

/// Of stdout at most this much is kept; `ls-remote` of a very large repository fits.
const OUTPUT_LIMIT_BYTES: usize = 16 * 1024 * 1024;
const STDERR_LINES_KEPT: usize = 40;
const LINE_LIMIT_BYTES: usize = 4096;

/// Variables of the machine that decide how the network is reached; everything else stays out.
const PASSED_ON: [&str; 11] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSH_AUTH_SOCK",
    "GIT_SSL_CAINFO",
];

/// Hears each line of git's progress.
pub type OnLine<'a> = &'a mut (dyn FnMut(&str) + Send);

/// Where calls about one repository share what they need.
#[derive(Debug, Clone)]
pub struct Git<'a> {
    pub environment: &'a Environment,
    pub url: &'a GitUrl,
    pub credential: Option<&'a GitCredential>,
    pub timeout: Duration,
    pub cancel: CancellationToken,
}

/// The arguments of one call.
#[derive(Debug, Default)]
pub struct Call {
    /// For people: `fetching`, `checking out`.
    operation: String,
    arguments: Vec<OsString>,
    directory: Option<PathBuf>,
    variables: Vec<(OsString, OsString)>,
    /// It talks to the repository, so that what it says is about the repository.
    remote: bool,
}

impl Call {
    /// A call that stays on this machine.
    pub fn local(operation: &str) -> Self {
        Self { operation: operation.into(), ..Self::default() }
    }

    /// A call that connects to the repository.
    pub fn remote(operation: &str) -> Self {
        Self { operation: operation.into(), remote: true, ..Self::default() }
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    pub fn directory(mut self, directory: &Path) -> Self {
        self.directory = Some(directory.to_owned());
        self
    }

    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.into(), value.as_ref().to_owned()));
        self
    }
}

/// Kills the whole process group when it goes out of scope: git starts ssh, upload-pack and others.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

impl Git<'_> {
    /// Run git and answer its stdout. Progress goes to `on_line` as it comes.
    pub async fn run(&self, call: Call, on_line: OnLine<'_>) -> Result<Vec<u8>, GitError> {
        let secrets = tempfile::Builder::new()
            .prefix("call-")
            .tempdir_in(self.environment.calls())
            .map_err(GitError::io("make a folder for one call of git"))?;
        let mut command = self.command(&call, secrets.path())?;
        let mut child = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound if call.directory.as_deref().is_none_or(Path::exists) => {
                GitError::NotInstalled
            }
            _ => GitError::Io { operation: "start git".into(), source },
        })?;
        let group = Group(child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");

        let mut last_lines = VecDeque::new();
        let work = async {
            let (output, ()) = tokio::join!(read_output(stdout), read_lines(stderr, &mut last_lines, on_line));
            (child.wait().await, output)
        };
        let (status, output) = tokio::select! {
            done = work => done,
            () = tokio::time::sleep(self.timeout) => {
                drop(group);
                return Err(GitError::TimedOut { operation: call.operation, url: self.url.to_string(), after: self.timeout });
            }
            () = self.cancel.cancelled() => {
                drop(group);
                return Err(GitError::Cancelled { operation: call.operation });
            }
        };
        let status = status.map_err(GitError::io("wait for git"))?;
        if status.success() {
            return Ok(output);
        }
        let stderr: Vec<String> = last_lines.into();
        let url = call.remote.then_some(self.url);
        Err(classify(&call.operation, url, self.credential.is_some(), &self.environment.known_hosts(), &stderr))
    }

    /// Like [`run`](Self::run), with nobody listening.
    pub async fn quietly(&self, call: Call) -> Result<Vec<u8>, GitError> {
        self.run(call, &mut |_| {}).await
    }

    fn command(&self, call: &Call, secrets: &Path) -> Result<tokio::process::Command, GitError> {
        let environment = self.environment;
        let mut command = tokio::process::Command::new("git");
        command.args(&call.arguments).env_clear();
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        // A submodule may not name a repository of this machine unless the main one does so too.
        let protocols = if self.url.local_path().is_some() { "https:http:ssh:git:file" } else { "https:http:ssh:git" };
        command
            .env("PATH", path)
            .env("HOME", environment.directory())
            .env("LC_ALL", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", environment.configuration())
            .env("GIT_ALLOW_PROTOCOL", protocols)
            .env("GIT_SSH", environment.ssh())
            .env("GIT_SSH_VARIANT", "ssh")
            .env("GIT_ASKPASS", environment.askpass())
            .env("SSH_ASKPASS", environment.askpass())
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env(helpers::KNOWN_HOSTS, environment.known_hosts())
            .envs(call.variables.iter().map(|(name, value)| (name, value)));
        match self.credential {
            Some(GitCredential::DeployKey { private_key }) => {
                // OpenSSH refuses a key without a final newline.
                let text = format!("{}\n", private_key.expose().trim_end());
                command.env(helpers::KEY_FILE, secret_file(secrets, "key", &text)?);
            }
            Some(GitCredential::Token { user, token }) => {
                let host = helpers::authority(self.url.as_str()).unwrap_or_default();
                command
                    .env(helpers::TOKEN_FILE, secret_file(secrets, "token", token.expose())?)
                    .env(helpers::USER, if user.is_empty() { "git" } else { user })
                    .env(helpers::HOST, host);
            }
            None => {}
        }
        if let Some(directory) = &call.directory {
            command.current_dir(directory);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        Ok(command)
    }
}

fn secret_file(directory: &Path, name: &str, text: &str) -> Result<PathBuf, GitError> {
    let path = directory.join(name);
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(GitError::io("write a credential for one call of git"))?;
    Ok(path)
}

async fn read_output(mut stdout: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut output = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stdout.read(&mut buffer).await {
        let room = OUTPUT_LIMIT_BYTES.saturating_sub(output.len());
        output.extend_from_slice(&buffer[..count.min(room)]);
    }
    output
}

/// Lines end with a newline or, where git paints progress, with a carriage return. Of a progress
/// that is not at its end only one line a second is passed on.
async fn read_lines(mut stderr: impl AsyncRead + Unpin, last: &mut VecDeque<String>, on_line: OnLine<'_>) {
    let mut line: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let mut progress_shown: Option<Instant> = None;
    loop {
        let count = stderr.read(&mut buffer).await.unwrap_or(0);
        let end = count == 0;
        for byte in buffer[..count].iter().copied().chain(end.then_some(b'\n')) {
            if !matches!(byte, b'\n' | b'\r') {
                if line.len() < LINE_LIMIT_BYTES {
                    line.push(byte);
                }
                continue;
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if text.is_empty() {
                continue;
            }
            let painting = byte == b'\r' && text.contains('%');
            if painting && progress_shown.is_some_and(|at| at.elapsed() < Duration::from_secs(1)) {
                continue;
            }
            if painting {
                progress_shown = Some(Instant::now());
            }
            on_line(&text);
            if !painting {
                if last.len() == STDERR_LINES_KEPT {
                    last.pop_front();
                }
                last.push_back(text);
            }
        }
        if end {
            return;
        }
    }
}
