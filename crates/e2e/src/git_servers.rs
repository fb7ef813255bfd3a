//! Hosts of private git repositories, as a user's own is one: over SSH for a deploy key, over HTTPS for a
//! token. They are small programs around what Debian has (`asyncssh`, Python's TLS, `git http-backend`),
//! because an `sshd` cannot be installed without being started for everybody.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Debian's, which has the packages that Debian has.
const PYTHON: &str = "/usr/bin/python3";

/// Ended when it is dropped.
struct Program {
    process: Child,
    port: u16,
}

impl Program {
    /// Runs the text until it says its port.
    fn start(text: &str, arguments: &[&str], first_line: &str) -> Result<Self> {
        let mut command = Command::new(PYTHON);
        command.args(["-W", "ignore", "-c"]).arg(text).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("run {PYTHON}"))?;
        let mut stdin = process.stdin.take().context("its input is a pipe")?;
        writeln!(stdin, "{first_line}")?;
        let mut line = String::new();
        let read = BufReader::new(process.stdout.take().context("its output is a pipe")?).read_line(&mut line);
        // Kept from here on, so that it is ended also when it said nonsense.
        let mut program = Self { process, port: 0 };
        read?;
        program.port = line.trim().parse().with_context(|| format!("{PYTHON} said {line:?}, not its port"))?;
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Lets one key read every repository of this machine.
pub struct SshHost {
    folder: PathBuf,
    program: Option<Program>,
    port: u16,
}

impl SshHost {
    /// `None` without the server that Debian calls `python3-asyncssh`.
    pub fn start(folder: &Path) -> Result<Option<Self>> {
        let known = Command::new(PYTHON).args(["-W", "ignore", "-c", "import asyncssh"]).stderr(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        for name in ["deploy-key", "wrong-key"] {
            make_key(&folder.join(name))?;
        }
        // It begins again on the same port, which must not be given to somebody's connection meanwhile.
        let mut host = Self { folder: folder.to_owned(), program: None, port: crate::free_low_port() };
        host.begin_with_new_host_key()?;
        Ok(Some(host))
    }

    /// As after a new installation: the same address, another key. Or somebody in between.
    pub fn begin_with_new_host_key(&mut self) -> Result<()> {
        self.program = None;
        let host_key = self.folder.join("host-key");
        for file in [host_key.clone(), host_key.with_extension("pub")] {
            let _ = std::fs::remove_file(file);
        }
        make_key(&host_key)?;
        let allowed = self.folder.join("deploy-key.pub");
        let arguments = [host_key.to_string_lossy(), allowed.to_string_lossy(), self.port.to_string().into()];
        let text = include_str!("git_servers/ssh.py");
        self.program = Some(Program::start(text, &arguments.each_ref().map(|a| &**a), "")?);
        Ok(())
    }

    pub fn url(&self, repository: &Path) -> String {
        format!("ssh://git@127.0.0.1:{}{}", self.port, repository.display())
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn make_key(file: &Path) -> Result<()> {
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", &file.to_string_lossy()])
}

/// Lets one user with one token read the repositories of a folder. Its certificate is its own.
pub struct HttpsHost {
    program: Program,
    certificate: PathBuf,
}

impl HttpsHost {
    pub fn start(folder: &Path, repositories: &Path, user_and_token: &str) -> Result<Self> {
        let (certificate, key) = (folder.join("certificate.pem"), folder.join("certificate-key.pem"));
        let [certificate_text, key_text] = [&certificate, &key].map(|path| path.to_string_lossy().into_owned());
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        let name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
        let files = ["-keyout", key_text.as_str(), "-out", certificate_text.as_str()];
        run("openssl", &[&["req", "-x509"][..], &curve, &name, &files].concat())?;
        let arguments = [&*certificate_text, &*key_text, &*repositories.to_string_lossy()].map(str::to_owned);
        let text = include_str!("git_servers/https.py");
        let program = Program::start(text, &arguments.each_ref().map(String::as_str), user_and_token)?;
        Ok(Self { program, certificate })
    }

    pub fn url(&self, name: &str) -> String {
        format!("https://127.0.0.1:{}/{name}", self.program.port)
    }

    pub fn certificate(&self) -> &Path {
        &self.certificate
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {program}"))?;
    ensure!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
