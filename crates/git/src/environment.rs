//! The surroundings in which git runs: a folder of ours with a configuration file, the host keys seen
//! so far, and two names for this binary that git calls when it needs a connection or a password.
//!
//! Nothing of the machine's or the user's own git configuration is read: a `url.insteadOf`, a hook or
//! a credential helper there would make the same deployment do different things on two servers.

use crate::error::GitError;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// Name under which the binary acts as `GIT_SSH`.
pub const SSH_HELPER: &str = "mainstay-git-ssh";
/// Name under which the binary acts as `GIT_ASKPASS`.
pub const ASKPASS_HELPER: &str = "mainstay-git-askpass";

const CONFIGURATION: &str = "\
# Written by Mainstay; read instead of the machine's and the user's configuration.
[safe]
	directory = *
[core]
	hooksPath = /dev/null
	fsmonitor = false
	askPass =
[credential]
	helper =
[gc]
	auto = 0
[maintenance]
	auto = false
[protocol]
	version = 2
[http]
	lowSpeedLimit = 1
	lowSpeedTime = 30
[init]
	defaultBranch = main
[advice]
	detachedHead = false
[fetch]
	recurseSubmodules = false
[transfer]
	bundleURI = false
[user]
	name = Mainstay
	email = mainstay@localhost
";

#[derive(Debug, Clone)]
pub struct Environment {
    directory: PathBuf,
}

impl Environment {
    /// Make the folder complete. `mainstay_binary` is what answers to the two helper names.
    pub fn prepare(directory: &Path, mainstay_binary: &Path) -> Result<Self, GitError> {
        let failed = || GitError::io(format!("prepare git's folder {}", directory.display()));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed())?;
        let environment = Self { directory: directory.to_owned() };
        std::fs::write(environment.configuration(), CONFIGURATION).map_err(failed())?;
        for name in [SSH_HELPER, ASKPASS_HELPER] {
            let link = directory.join(name);
            if std::fs::read_link(&link).ok().as_deref() != Some(mainstay_binary) {
                // Made beside and renamed over, so that a call that runs right now finds one or the other.
                let fresh = directory.join(format!("{name}.{}", std::process::id()));
                let _ = std::fs::remove_file(&fresh);
                symlink(mainstay_binary, &fresh).map_err(failed())?;
                std::fs::rename(&fresh, &link).map_err(failed())?;
            }
        }
        // Secrets of calls that were killed half-way.
        let _ = std::fs::remove_dir_all(environment.calls());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(environment.calls()).map_err(failed())?;
        Ok(environment)
    }

    pub fn configuration(&self) -> PathBuf {
        self.directory.join("gitconfig")
    }

    pub fn known_hosts(&self) -> PathBuf {
        self.directory.join("known_hosts")
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn ssh(&self) -> PathBuf {
        self.directory.join(SSH_HELPER)
    }

    pub(crate) fn askpass(&self) -> PathBuf {
        self.directory.join(ASKPASS_HELPER)
    }

    /// One folder per call lives in here while it runs.
    pub(crate) fn calls(&self) -> PathBuf {
        self.directory.join("calls")
    }
}
