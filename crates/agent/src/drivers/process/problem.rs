//! What can go wrong while a revision is prepared, and whether trying again could help.

use super::build::BuildError;
use super::directory::ProblemInside;
use super::sources::CheckOutError;
use git::GitError;
use std::path::PathBuf;

/// What went wrong, on the way to a [`PrepareError`].
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    CheckOut(#[from] CheckOutError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("{0}; free some of it, and it goes on by itself")]
    DiskFull(String),
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
            Self::DiskFull(_) | Self::Io { .. } => true,
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
