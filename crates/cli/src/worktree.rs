//! Asking git about a repository on this machine. Argument vectors only, never a prompt, always an end.

use crate::exit::Failure;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const LOCAL_TIMEOUT: Duration = Duration::from_secs(30);
const CLONE_TIMEOUT: Duration = Duration::from_secs(180);

/// A repository's work tree.
#[derive(Debug, Clone)]
pub struct Repository {
    pub toplevel: PathBuf,
}

/// What git said: `Err` is its complaint.
type Answer = Result<String, String>;

impl Repository {
    /// The repository that holds a folder; `None` where there is none.
    pub async fn around(folder: &Path) -> Result<Option<Self>, Failure> {
        match run(Some(folder), &["rev-parse", "--show-toplevel"], LOCAL_TIMEOUT).await? {
            Ok(toplevel) if !toplevel.is_empty() => Ok(Some(Self { toplevel: PathBuf::from(toplevel) })),
            Ok(_) => Ok(None),
            Err(complaint) if complaint.contains("dubious ownership") => {
                let failure =
                    Failure::general(format!("git does not read {}: it belongs to another user", folder.display()));
                Err(failure.help(format!(
                    "run mainstay as its owner, or allow it: git config --global --add safe.directory {}",
                    folder.display()
                )))
            }
            Err(_) => Ok(None),
        }
    }

    async fn ask(&self, arguments: &[&str]) -> Result<Answer, Failure> {
        run(Some(&self.toplevel), arguments, LOCAL_TIMEOUT).await
    }

    /// The commit that is checked out; `None` before the first commit.
    pub async fn head(&self) -> Result<Option<String>, Failure> {
        Ok(self.ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await?.ok())
    }

    /// The branch that is checked out; `None` when HEAD is detached.
    pub async fn branch(&self) -> Result<Option<String>, Failure> {
        Ok(self.ask(&["symbolic-ref", "--quiet", "--short", "HEAD"]).await?.ok())
    }

    pub async fn origin(&self) -> Result<Option<String>, Failure> {
        Ok(self.ask(&["remote", "get-url", "origin"]).await?.ok())
    }

    /// Paths that differ from the last commit or are not tracked, below a folder of the repository.
    pub async fn uncommitted(&self, folder: &str) -> Result<Vec<String>, Failure> {
        let folder = if folder.is_empty() { "." } else { folder };
        let answer = self.ask(&["status", "--porcelain", "--untracked-files=all", "--", folder]).await?;
        Ok(answer.unwrap_or_default().lines().filter_map(|line| line.get(3..)).map(str::to_owned).collect())
    }

    /// Whether a path is part of the last commit.
    pub async fn is_committed(&self, path: &str) -> Result<bool, Failure> {
        Ok(self.ask(&["cat-file", "-e", &format!("HEAD:{path}")]).await?.is_ok())
    }

    /// Whether some branch of the remote, as last seen, holds HEAD.
    pub async fn is_pushed(&self) -> Result<bool, Failure> {
        Ok(self.ask(&["branch", "--remotes", "--contains", "HEAD"]).await?.is_ok_and(|branches| !branches.is_empty()))
    }
}

/// Fetches the newest commit of a repository into a folder that does not exist yet.
pub async fn clone(url: &str, reference: Option<&str>, into: &Path) -> Result<(), Failure> {
    let into_text = into.to_string_lossy();
    let mut arguments = vec!["clone", "--quiet", "--depth", "1", "--no-tags"];
    if let Some(reference) = reference {
        arguments.extend(["--branch", reference]);
    }
    arguments.extend(["--", url, &into_text]);
    match run(None, &arguments, CLONE_TIMEOUT).await? {
        Ok(_) => Ok(()),
        Err(complaint) => {
            let complaint: Vec<String> = complaint.lines().map(str::to_owned).collect();
            let failure = Failure::general(format!("cannot fetch {url}")).evidence(complaint);
            Err(failure.help("check the address, the branch and that you may read it; `git ls-remote URL` must work without a question"))
        }
    }
}

/// The commit that a fetched copy stands on is what HEAD of the remote was; its branch by name.
async fn run(folder: Option<&Path>, arguments: &[&str], timeout: Duration) -> Result<Answer, Failure> {
    let mut command = tokio::process::Command::new("git");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C").env("GIT_OPTIONAL_LOCKS", "0");
    // `ext::` and other helpers run commands: no address may name one.
    command.env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git:file");
    if std::env::var_os("GIT_SSH_COMMAND").is_none() {
        command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=15");
    }
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = match tokio::time::timeout(timeout, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound && folder.is_none_or(Path::is_dir) => {
            return Err(Failure::general("git is not installed, and Mainstay deploys from git")
                .help("install it: apt install git"));
        }
        Ok(Err(error)) => return Err(Failure::general(format!("cannot run git: {error}"))),
        Err(_) => {
            let seconds = timeout.as_secs();
            return Err(Failure::general(format!(
                "`git {}` did not end within {seconds} s",
                arguments.first().unwrap_or(&"")
            )));
        }
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}
