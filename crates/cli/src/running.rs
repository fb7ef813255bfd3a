//! Whether a control plane runs on a data directory, and where.
//!
//! The process that owns a data directory holds a lock on `control-plane.json` in it for as long as
//! it lives and writes its address there. The kernel drops the lock with the process, however it
//! ends, so there is no stale pid to fall for: a file without a lock means that nothing runs.

use crate::private_file;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Running {
    pub pid: u32,
    /// `http://127.0.0.1:4600`
    pub address: String,
    pub version: String,
    /// The command that runs it: `up` (with an agent in the same process) or `server`.
    pub command: String,
}

/// The right to run the control plane on one data directory. Dropping it gives the right back.
#[derive(Debug)]
pub struct Claim {
    file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("a control plane already runs on {} (pid {}, {})", data_dir.display(), running.pid, running.address)]
    Taken { data_dir: PathBuf, running: Running },
    #[error("another process is just starting on {}; try again in a moment", data_dir.display())]
    Starting { data_dir: PathBuf },
    #[error("cannot use {} as data directory: {source}; name another with --data-dir", data_dir.display())]
    Io { data_dir: PathBuf, source: io::Error },
}

fn file_path(data_dir: &Path) -> PathBuf {
    data_dir.join("control-plane.json")
}

impl Claim {
    pub fn take(data_dir: &Path) -> Result<Self, ClaimError> {
        let fail = |source| ClaimError::Io { data_dir: data_dir.to_owned(), source };
        private_file::create_directory(data_dir).map_err(fail)?;
        let path = file_path(data_dir);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0).map_err(fail)?;
                Ok(Self { file })
            }
            Err(rustix::io::Errno::WOULDBLOCK) => match read(&mut file) {
                Some(running) => Err(ClaimError::Taken { data_dir: data_dir.to_owned(), running }),
                None => Err(ClaimError::Starting { data_dir: data_dir.to_owned() }),
            },
            Err(errno) => Err(fail(errno.into())),
        }
    }

    /// Says where the control plane listens, once it does.
    pub fn publish(&mut self, address: &str, command: &str) -> io::Result<()> {
        let running = Running {
            pid: std::process::id(),
            address: address.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
        };
        let text = serde_json::to_vec(&running).expect("a record serializes to JSON");
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(&text)?;
        self.file.sync_data()
    }
}

fn read(file: &mut File) -> Option<Running> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64 * 1024).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The control plane that runs on a data directory now, once it has said where it listens.
pub fn find(data_dir: &Path) -> Option<Running> {
    let mut file = File::open(file_path(data_dir)).ok()?;
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        // Nobody holds it. The shared lock ends with `file`.
        Ok(()) => None,
        Err(_) => read(&mut file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_is_found_exactly_as_long_as_it_holds_its_claim() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(find(directory.path()), None);
        let mut claim = Claim::take(directory.path()).unwrap();
        assert!(matches!(Claim::take(directory.path()), Err(ClaimError::Starting { .. })));
        claim.publish("http://127.0.0.1:1", "up").unwrap();
        assert_eq!(find(directory.path()).unwrap().address, "http://127.0.0.1:1");
        let refused = Claim::take(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("http://127.0.0.1:1"), "{refused}");
        drop(claim);
        assert_eq!(find(directory.path()), None, "the file is still there, but nobody holds it");
        Claim::take(directory.path()).unwrap();
    }
}
