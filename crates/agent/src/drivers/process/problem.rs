//! What can go wrong while a revision is prepared, and whether trying again could help.

use super::build::BuildError;
use super::directory::ProblemInside;
use super::sources::CheckOutError;
use git::GitError;
use std::path::PathBuf;

/// A build is not begun with less space than this.
pub const DISK_NEEDED_BYTES: u64 = 500 * 1024 * 1024;

/// What went wrong, on the way to a [`PrepareError`].
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    CheckOut(#[from] CheckOutError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("only {available_mb} MB are free under {}, and a build needs at least {} MB; free some space and deploy again", path.display(), DISK_NEEDED_BYTES / 1024 / 1024)]
    DiskFull { available_mb: u64, path: PathBuf },
    #[error("could not {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
}

impl Problem {
    pub fn retryable(&self) -> bool {
        match self {
            Self::Git(error) => error.retryable(),
            Self::CheckOut(error) => error.retryable(),
            Self::DiskFull { .. } | Self::Io { .. } => true,
            Self::Build(_) | Self::Refused(_) => false,
        }
    }

    pub fn cancelled(&self) -> bool {
        match self {
            Self::Git(error) | Self::CheckOut(CheckOutError::Git(error)) => error.is_cancelled(),
            Self::Build(BuildError::Cancelled) => true,
            _ => false,
        }
    }
}

impl From<ProblemInside> for Problem {
    fn from(problem: ProblemInside) -> Self {
        Self::Refused(problem.0)
    }
}

/// An error with its causes in one line.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // `#[error(transparent)]` shows the same words twice.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
