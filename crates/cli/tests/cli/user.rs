//! A person on a machine of their own: a home, a folder, a git.

use crate::control_plane::ControlPlane;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub struct User {
    home: tempfile::TempDir,
    server: Option<String>,
}

pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {:?}\n{}", self.out, self.err))
    }
}

impl User {
    /// Somebody who names the control plane in the environment.
    pub fn of(control_plane: &ControlPlane) -> Self {
        Self { server: Some(control_plane.address.clone()), ..Self::alone() }
    }

    pub fn alone() -> Self {
        let user = Self { home: tempfile::tempdir().unwrap(), server: None };
        std::fs::create_dir(user.folder()).unwrap();
        user
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where commands are run.
    pub fn folder(&self) -> PathBuf {
        self.home.path().join("shop")
    }

    pub fn write(&self, path: &str, text: &str) -> &Self {
        std::fs::write(self.folder().join(path), text).unwrap();
        self
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = self.clean("git").args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A repository with everything in the folder committed.
    pub fn commits(&self) -> &Self {
        self.git(&["init", "--quiet", "--initial-branch=main"]);
        self.git(&["add", "--all"]);
        self.git(&[
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "--quiet",
            "--allow-empty",
            "--message=first",
        ]);
        self
    }

    fn clean(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.home()).current_dir(self.folder()).stdin(Stdio::null());
        command
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.clean(env!("CARGO_BIN_EXE_mainstay"));
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(self.server.iter().map(|server| ("MAINSTAY_SERVER", server)));
        command
    }

    pub fn says(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    pub fn says_with_input(&self, arguments: &[&str], input: &str) -> Said {
        use std::io::Write;
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        said(child.wait_with_output().unwrap())
    }
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
