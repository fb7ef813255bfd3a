//! From a repository to a folder that holds exactly one commit.
//!
//! Each service has a bare mirror that grows by the commits that were asked for. A checkout is a
//! small repository of its own that borrows the mirror's objects, so `git describe` and submodules
//! work in a build without a second copy of everything.
//!
//! The commit is asked for by its SHA first, which is one round trip for one commit. Servers may
//! refuse that; then the branch or tag that led to it is fetched, then everything.

use crate::drivers::files::remove_tree;
use api::services::CommitSha;
use git::GitError;
use git::run::{Call, Git};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// A mirror is tidied when it holds this many commits that nothing needs.
const STALE_COMMITS_LIMIT: usize = 20;

pub type Say<'a> = &'a mut (dyn FnMut(&str) + Send);

/// Bring `commit` into the mirror.
pub async fn fetch(
    git: &Git<'_>,
    mirror: &Path,
    commit: &CommitSha,
    reference: Option<&api::services::GitRef>,
    say: Say<'_>,
) -> Result<(), GitError> {
    open_mirror(git, mirror, commit).await?;
    if has_commit(git, mirror, commit).await {
        say(&format!("commit {} is here already", commit.short()));
        return keep(git, mirror, commit).await;
    }
    let fetch = || Call::remote("fetching").directory(mirror).args(["fetch", "--progress", "--no-tags", "--force"]);
    let url = git.url.as_str();
    let exact = fetch().args(["--depth=1", "--", url, commit.as_str()]);
    match git.run(exact, say).await {
        Ok(_) => {}
        Err(error @ (GitError::Failed { .. } | GitError::NoSuchRepository { .. })) => {
            say(&format!("the commit alone could not be fetched ({error}); fetching more"));
        }
        Err(error) => return Err(error),
    }
    if let Some(reference) = reference
        && !has_commit(git, mirror, commit).await
    {
        match git.run(fetch().args(["--", url, reference.as_str()]), say).await {
            // It may have been deleted since; the commit can still be on another.
            Ok(_) | Err(GitError::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if !has_commit(git, mirror, commit).await {
        let shallow: &[&str] = if mirror.join("shallow").exists() { &["--unshallow"] } else { &[] };
        let all = ["--", url, "+refs/heads/*:refs/remote/heads/*", "+refs/tags/*:refs/remote/tags/*"];
        git.run(fetch().args(shallow).args(all), say).await?;
    }
    if !has_commit(git, mirror, commit).await {
        return Err(GitError::NoSuchCommit { url: url.to_owned(), commit: commit.clone() });
    }
    keep(git, mirror, commit).await
}

async fn open_mirror(git: &Git<'_>, mirror: &Path, commit: &CommitSha) -> Result<(), GitError> {
    // Locks of a git that was killed; nobody else works in here now.
    for name in ["shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock", "objects/info/alternates.lock"] {
        let _ = std::fs::remove_file(mirror.join(name));
    }
    if mirror.join("mainstay-ready").exists() {
        return Ok(());
    }
    let failed = |source| GitError::Io { operation: format!("make the mirror {}", mirror.display()), source };
    remove_tree(mirror).map_err(failed)?;
    crate::drivers::files::private_directory(mirror).map_err(failed)?;
    git.quietly(Call::local("making a mirror").directory(mirror).args([
        "init",
        "--quiet",
        "--bare",
        object_format(commit),
    ]))
    .await?;
    std::fs::write(mirror.join("mainstay-ready"), "").map_err(failed)
}

fn object_format(commit: &CommitSha) -> &'static str {
    if commit.as_str().len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" }
}

async fn has_commit(git: &Git<'_>, mirror: &Path, commit: &CommitSha) -> bool {
    let object = format!("{commit}^{{commit}}");
    git.quietly(Call::local("looking for a commit").directory(mirror).args(["cat-file", "-e", &object])).await.is_ok()
}

/// A reference of ours keeps the commit from being cleaned away.
async fn keep(git: &Git<'_>, mirror: &Path, commit: &CommitSha) -> Result<(), GitError> {
    let reference = format!("refs/mainstay/{commit}");
    let call = Call::local("keeping a commit").directory(mirror).args(["update-ref", &reference, commit.as_str()]);
    git.quietly(call).await.map(drop)
}

/// Forget commits that no checkout needs, once there are many: their objects are given back to the disk.
/// Nobody else may work in the mirror meanwhile.
pub async fn tidy(git: &Git<'_>, mirror: &Path, needed: &BTreeSet<String>) -> Result<(), GitError> {
    let here = |arguments: &[&str]| Call::local("tidying a mirror").directory(mirror).args(arguments);
    let listed = git.quietly(here(&["for-each-ref", "--format=%(refname)", "refs/mainstay", "refs/remote"])).await?;
    let listed = String::from_utf8_lossy(&listed);
    let stale: Vec<&str> = listed
        .lines()
        .filter(|name| name.strip_prefix("refs/mainstay/").is_none_or(|commit| !needed.contains(commit)))
        .collect();
    if stale.len() < STALE_COMMITS_LIMIT {
        return Ok(());
    }
    for name in stale {
        git.quietly(here(&["update-ref", "-d", name])).await?;
    }
    git.quietly(here(&["repack", "-a", "-d", "-q"])).await?;
    git.quietly(here(&["prune", "--expire=now"])).await.map(drop)
}

/// Put the commit's files into `target`, which must not exist.
pub async fn check_out(
    git: &Git<'_>,
    mirror: &Path,
    commit: &CommitSha,
    target: &Path,
    submodules: bool,
    say: Say<'_>,
) -> Result<(), CheckOutError> {
    crate::drivers::files::private_directory(target).map_err(CheckOutError::io(target))?;
    let here = |operation| Call::local(operation).directory(target);
    git.quietly(here("making a checkout").args(["init", "--quiet", object_format(commit)])).await?;
    let objects = target.join(".git/objects/info");
    std::fs::create_dir_all(&objects).map_err(CheckOutError::io(&objects))?;
    std::fs::write(objects.join("alternates"), format!("{}\n", mirror.join("objects").display()))
        .map_err(CheckOutError::io(&objects))?;
    if mirror.join("shallow").exists() {
        std::fs::copy(mirror.join("shallow"), target.join(".git/shallow")).map_err(CheckOutError::io(target))?;
    }
    // Where relative submodule URLs begin.
    git.quietly(here("making a checkout").args(["remote", "add", "origin", git.url.as_str()])).await?;
    git.quietly(here("checking out").args(["checkout", "--quiet", "--force", "--detach", commit.as_str()])).await?;
    check_out_submodules(git, target, submodules, say).await?;
    check_out_large_files(git, target, say).await
}

async fn check_out_submodules(git: &Git<'_>, target: &Path, wanted: bool, say: Say<'_>) -> Result<(), CheckOutError> {
    if !target.join(".gitmodules").exists() {
        return Ok(());
    }
    if !wanted {
        say(
            "warning: the repository has submodules, which are not fetched; set `submodules = true` if the service needs them",
        );
        return Ok(());
    }
    say("fetching submodules");
    let update = ["submodule", "update", "--init", "--recursive", "--force", "--progress", "--depth=1"];
    let shallow = git.run(Call::remote("fetching submodules").directory(target).args(update), say).await;
    match shallow {
        Ok(_) => Ok(()),
        Err(GitError::Failed { .. } | GitError::NoSuchRepository { .. }) => {
            // A submodule's commit need not be at the tip of anything: ask for all of it.
            let update = &update[..update.len() - 1];
            git.run(Call::remote("fetching submodules").directory(target).args(update), say).await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn check_out_large_files(git: &Git<'_>, target: &Path, say: Say<'_>) -> Result<(), CheckOutError> {
    let place = target.to_owned();
    let uses = tokio::task::spawn_blocking(move || uses_large_files(&place, 0)).await.unwrap_or(false);
    if !uses {
        return Ok(());
    }
    if !has_lfs(git).await {
        return Err(CheckOutError::NoLfs);
    }
    say("fetching large files (LFS)");
    git.quietly(Call::local("preparing LFS").directory(target).args(["lfs", "install", "--local"])).await?;
    git.run(Call::remote("fetching large files").directory(target).args(["lfs", "pull"]), say).await?;
    Ok(())
}

pub async fn has_lfs(git: &Git<'_>) -> bool {
    git.quietly(Call::local("looking for LFS").args(["lfs", "version"])).await.is_ok()
}

/// Whether any `.gitattributes` hands files to LFS.
fn uses_large_files(folder: &Path, depth: usize) -> bool {
    const DEPTH_LIMIT: usize = 12;
    let attributes = std::fs::read_to_string(folder.join(".gitattributes")).unwrap_or_default();
    let here = attributes.lines().map(str::trim).any(|line| !line.starts_with('#') && line.contains("filter=lfs"));
    here || depth < DEPTH_LIMIT
        && std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
            entry.file_type().is_ok_and(|kind| kind.is_dir())
                && entry.file_name() != ".git"
                && uses_large_files(&entry.path(), depth + 1)
        })
}

#[derive(Debug, thiserror::Error)]
pub enum CheckOutError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(
        "the repository keeps files in Git LFS, and git-lfs is not installed on this server: they would be missing; \
         install it (`apt-get install git-lfs`) and deploy again"
    )]
    NoLfs,
    #[error("could not write the checkout {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl CheckOutError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub fn retryable(&self) -> bool {
        match self {
            Self::Git(error) => error.retryable(),
            Self::NoLfs => false,
            Self::Io { .. } => true,
        }
    }
}
