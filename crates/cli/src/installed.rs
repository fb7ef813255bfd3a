//! Where manual pages and completions go, so that shells and `man` find them.
//!
//! As root for everybody on the machine (`/usr/local/share`, which belongs to its administrator), else for this user
//! alone. Nothing that was not made here is touched: each file has a name of its own.

use crate::exit::Failure;
use std::path::{Path, PathBuf};

/// Where files for shells and `man` belong.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/usr/local/share`, or the user's `~/.local/share`.
    share: PathBuf,
    /// Of the user; `None` for everybody.
    config: Option<PathBuf>,
}

impl Places {
    pub fn here() -> Result<Self, Failure> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self { share: "/usr/local/share".into(), config: None });
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let folder = |variable: &str, below: &str| {
            let set = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
            set.or_else(|| home.as_ref().map(|home| home.join(below)))
        };
        match (folder("XDG_DATA_HOME", ".local/share"), folder("XDG_CONFIG_HOME", ".config")) {
            (Some(share), Some(config)) => Ok(Self { share, config: Some(config) }),
            _ => {
                Err(Failure::general("there is no home directory to install into")
                    .help("set HOME, or run this as root"))
            }
        }
    }

    pub fn manual_pages(&self) -> PathBuf {
        self.share.join("man/man1")
    }

    pub fn bash(&self) -> PathBuf {
        self.share.join("bash-completion/completions/mainstay")
    }

    pub fn zsh(&self) -> PathBuf {
        self.share.join("zsh/site-functions/_mainstay")
    }

    pub fn fish(&self) -> PathBuf {
        match &self.config {
            Some(config) => config.join("fish/completions/mainstay.fish"),
            None => self.share.join("fish/vendor_completions.d/mainstay.fish"),
        }
    }

    /// Whether only this user finds it.
    pub fn of_one_user(&self) -> bool {
        self.config.is_some()
    }
}

/// Writes a file and the folders above it.
pub fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, content));
    made.map_err(|error| Failure::general(format!("cannot write {}: {error}", path.display())))
}
