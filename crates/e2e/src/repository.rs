//! A git repository that a test writes and commits to.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Repository {
    pub path: PathBuf,
}

impl Repository {
    /// An empty repository with an identity of its own, on branch `main`.
    pub fn create(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path)?;
        let repository = Self { path };
        repository.git(&["init", "--quiet", "--initial-branch=main"])?;
        repository.git(&["config", "user.name", "Test"])?;
        repository.git(&["config", "user.email", "test@example.com"])?;
        Ok(repository)
    }

    pub fn write(&self, file: &str, text: &str) -> Result<&Self> {
        let path = self.path.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&self.path))?;
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(self)
    }

    /// Commits everything and answers the commit.
    pub fn commit(&self, message: &str) -> Result<String> {
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--allow-empty", "--message", message])?;
        Ok(self.git(&["rev-parse", "HEAD"])?.trim().to_owned())
    }

    pub fn git(&self, arguments: &[&str]) -> Result<String> {
        git(&self.path, arguments)
    }

    /// A stack of one service that runs the tests' own app under the given version.
    pub fn write_app(&self, version: &str, extra: &str) -> Result<&Self> {
        let app = crate::binary("e2e-app");
        let manifest = format!(
            "name = \"shop\"\n\n[services.web]\nrun = \"exec {} {version}\"\nroute = \"/\"\nhealth = {{ http = \"/healthz\", interval = \"200ms\", unhealthy_after = 2 }}\n{extra}\n",
            app.display()
        );
        self.write("mainstay.toml", &manifest)
    }
}

fn git(path: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").arg("-C").arg(path).args(arguments).output().context("run git")?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
