//! The folder in a checkout in which commands run.

use super::layout::{Layout, build_key};
use super::prepare::SOURCE;
use super::problem::{Problem, describe};
use api::desired::{ResolvedGit, RevisionDesired};
use std::path::{Component, Path, PathBuf};

/// Where a process comes from. What is an image is the container driver's, and never gets here.
pub fn git_source(revision: &RevisionDesired) -> Result<&ResolvedGit, Problem> {
    revision
        .source
        .git()
        .ok_or_else(|| Problem::Refused(format!("{} is not run as a process", revision.source.label())))
}

/// The folder in the source in which commands run: inside it, whatever links the repository holds.
pub fn source_directory(layout: &Layout, revision: &RevisionDesired) -> Result<PathBuf, String> {
    let key = build_key(&revision.build_key).map_err(|error| error.to_string())?;
    let source = git_source(revision).map_err(|problem| describe(&problem))?;
    inside(&layout.build(&key).join(SOURCE), &source.directory).map_err(|problem| describe(&problem))
}

pub fn inside(source: &Path, directory: &str) -> Result<PathBuf, ProblemInside> {
    let relative = Path::new(directory);
    let refuse =
        |reason| Err(ProblemInside(format!("the directory `{directory}` {reason}; mend `directory` of the service")));
    if !relative.components().all(|component| matches!(component, Component::Normal(_) | Component::CurDir)) {
        return refuse("leads out of the repository");
    }
    let (Ok(root), Ok(path)) = (source.canonicalize(), source.join(relative).canonicalize()) else {
        return refuse("does not exist, neither in the commit nor after the build");
    };
    if !path.starts_with(&root) {
        return refuse("leads out of the repository by a symbolic link");
    }
    if !path.is_dir() {
        return refuse("is a file");
    }
    Ok(path)
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProblemInside(pub String);
