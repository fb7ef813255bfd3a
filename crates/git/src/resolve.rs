//! From a branch or tag to the one commit that all servers run.

use crate::environment::Environment;
use crate::error::GitError;
use crate::run::{Call, Git};
use api::desired::GitCredential;
use api::services::{CommitSha, GitRef, GitUrl};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Reading the commit's first line is a courtesy; it may take this long.
const SUBJECT_TIMEOUT: Duration = Duration::from_secs(10);
const SUBJECT_LIMIT_CHARACTERS: usize = 200;
const SUBJECTS_KEPT: usize = 1_000;

/// First lines of commit messages that were read before. A commit never changes, and to read one takes three calls of
/// git: the same commit is deployed again with every change of a setting.
#[derive(Debug, Default)]
pub struct Subjects(Mutex<HashMap<(GitUrl, CommitSha), String>>);

impl Subjects {
    async fn of(&self, git: &Git<'_>, commit: &CommitSha) -> Option<String> {
        let key = (git.url.clone(), commit.clone());
        if let Some(known) = self.lock().get(&key) {
            return Some(known.clone());
        }
        let subject = subject(git, commit).await?;
        let mut known = self.lock();
        if known.len() >= SUBJECTS_KEPT {
            // Those in use are read again, once each.
            known.clear();
        }
        known.insert(key, subject.clone());
        Some(subject)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(GitUrl, CommitSha), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedReference {
    pub commit: CommitSha,
    /// Branch or tag that led there; `None` when the commit was named itself.
    pub reference: Option<GitRef>,
    /// First line of the commit message, if it could be read.
    pub subject: Option<String>,
}

/// Ask the repository which commit `reference` is; `None` asks for its default branch. A full SHA is
/// taken as it is; whether it exists is known for sure only when it is fetched.
pub async fn resolve_reference(
    environment: &Environment,
    url: &GitUrl,
    reference: Option<&GitRef>,
    credential: Option<&GitCredential>,
    timeout: Duration,
    subjects: &Subjects,
) -> Result<ResolvedReference, GitError> {
    let git = Git { environment, url, credential, timeout, cancel: CancellationToken::new() };
    let (commit, reference) = match reference {
        Some(text) if text.as_commit().is_some() => {
            // Not looked up, but the repository has to answer: an unreachable one is refused now.
            git.quietly(Call::remote("looking at").args(["ls-remote", "--", url.as_str(), "HEAD"])).await?;
            (text.as_commit().expect("checked by the guard"), None)
        }
        Some(name) => named(&git, name).await?,
        None => default_branch(&git).await?,
    };
    let subject = subjects.of(&git, &commit).await;
    Ok(ResolvedReference { commit, reference, subject })
}

async fn named(git: &Git<'_>, name: &GitRef) -> Result<(CommitSha, Option<GitRef>), GitError> {
    let short =
        ["refs/heads/", "refs/tags/"].iter().find_map(|p| name.as_str().strip_prefix(p)).unwrap_or(name.as_str());
    let wanted = [
        format!("refs/heads/{short}"),
        // The commit that an annotated tag points at, before the tag itself.
        format!("refs/tags/{short}^{{}}"),
        format!("refs/tags/{short}"),
        name.as_str().to_owned(),
    ];
    let call = Call::remote("looking up references").args(["ls-remote", "--", git.url.as_str()]).args(&wanted);
    let found = references(&git.quietly(call).await?);
    let full = name.as_str().starts_with("refs/");
    let hit = wanted
        .iter()
        .filter(|w| !full || w.trim_end_matches("^{}") == name.as_str())
        .find_map(|w| found.iter().find(|(_, reference)| reference == w));
    match hit {
        Some((commit, _)) => Ok((commit.clone(), Some(name.clone()))),
        None => Err(GitError::no_such_reference(git.url, name, known_names(git).await?)),
    }
}

async fn default_branch(git: &Git<'_>) -> Result<(CommitSha, Option<GitRef>), GitError> {
    let call = Call::remote("looking up HEAD").args(["ls-remote", "--symref", "--", git.url.as_str(), "HEAD"]);
    let output = git.quietly(call).await?;
    let text = String::from_utf8_lossy(&output);
    let branch = text
        .lines()
        .find_map(|line| line.strip_prefix("ref: refs/heads/"))
        .and_then(|line| line.split('\t').next())
        .and_then(|name| name.parse().ok());
    match references(&output).into_iter().find(|(_, reference)| reference == "HEAD") {
        Some((commit, _)) => Ok((commit, branch)),
        None => {
            let known = known_names(git).await?;
            match known.is_empty() {
                true => Err(GitError::Empty { url: git.url.to_string() }),
                false => Err(GitError::NoSuchReference {
                    url: git.url.to_string(),
                    reference: "HEAD".into(),
                    similar: None,
                    known,
                }),
            }
        }
    }
}

/// Branches, then tags, without their prefixes.
async fn known_names(git: &Git<'_>) -> Result<Vec<String>, GitError> {
    let call =
        Call::remote("listing references").args(["ls-remote", "--heads", "--tags", "--refs", "--", git.url.as_str()]);
    let found = references(&git.quietly(call).await?);
    let strip = |prefix: &'static str| {
        found
            .iter()
            .filter_map(move |(_, reference)| reference.strip_prefix(prefix))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    Ok([strip("refs/heads/"), strip("refs/tags/")].concat())
}

fn references(output: &[u8]) -> Vec<(CommitSha, String)> {
    String::from_utf8_lossy(output)
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter_map(|(sha, reference)| Some((sha.parse().ok()?, reference.to_owned())))
        .collect()
}

/// Fetch the bare commit, without its files, into a repository that is thrown away.
async fn subject(git: &Git<'_>, commit: &CommitSha) -> Option<String> {
    let scratch = tempfile::Builder::new().prefix("subject-").tempdir_in(git.environment.calls()).ok()?;
    let git = Git { timeout: git.timeout.min(SUBJECT_TIMEOUT), ..git.clone() };
    let here = |operation| Call::remote(operation).directory(scratch.path());
    let format = if commit.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    git.quietly(here("init").args(["init", "--quiet", "--bare", format])).await.ok()?;
    let fetch = here("fetching").args(["fetch", "--quiet", "--depth=1", "--no-tags", "--filter=tree:0", "--"]);
    git.quietly(fetch.arg(git.url.as_str()).arg(commit.as_str())).await.ok()?;
    let log = git.quietly(here("reading").args(["log", "-1", "--format=%s", commit.as_str(), "--"])).await.ok()?;
    let line: String = String::from_utf8_lossy(&log).trim().chars().take(SUBJECT_LIMIT_CHARACTERS).collect();
    (!line.is_empty()).then_some(line)
}
