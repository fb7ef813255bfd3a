//! Where everything lies on disk, and how a file is replaced.
//!
//! ```text
//! <data>/
//!   git/                    configuration, known hosts and helper names for git
//!   sources/<service>/      bare mirror, one per service
//!   builds/<build key>/     source/ (checkout and what the build made of it), .ready written last
//!   preparations/           <revision>.json: how each preparation ended
//!   cache/<service>/        folders/<name> kept between builds, home/ of the build
//!   logs/<deployment>/      build logs
//!   instances/<instance>/   spec.json, status.json, control.sock, lock, log/, home/
//!   ports.lock
//! ```
//!
//! Every name in a path is a typed id or was checked by [`build_key`], so none can lead out of here.
//! A file that matters is written beside, synced, and renamed over: after a crash there is the old one
//! or the new one, never half of one.

use crate::drivers::DriverError;
use api::ids::{DeploymentId, InstanceId, RevisionId, ServiceId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    pub fn open(root: &Path) -> Result<Self, DriverError> {
        let failed = |path: &Path| io_error("create the folder", path);
        std::fs::create_dir_all(root).map_err(failed(root))?;
        // Absolute, because supervisors and builds run in other working directories.
        let root = root.canonicalize().map_err(failed(root))?;
        let layout = Self { root };
        for name in ["sources", "builds", "preparations", "cache", "logs", "instances"] {
            private_directory(&layout.root.join(name)).map_err(failed(&layout.root.join(name)))?;
        }
        Ok(layout)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
    pub fn git(&self) -> PathBuf {
        self.root.join("git")
    }
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }
    pub fn source(&self, service: &ServiceId) -> PathBuf {
        self.sources().join(service.as_str())
    }
    pub fn builds(&self) -> PathBuf {
        self.root.join("builds")
    }
    pub fn build(&self, key: &BuildKey) -> PathBuf {
        self.builds().join(&key.0)
    }
    pub fn preparations(&self) -> PathBuf {
        self.root.join("preparations")
    }
    pub fn preparation(&self, revision: &RevisionId) -> PathBuf {
        self.preparations().join(format!("{revision}.json"))
    }
    pub fn caches(&self) -> PathBuf {
        self.root.join("cache")
    }
    pub fn cache(&self, service: &ServiceId) -> PathBuf {
        self.caches().join(service.as_str())
    }
    pub fn build_logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub fn build_log(&self, deployment: &DeploymentId) -> PathBuf {
        self.build_logs().join(deployment.as_str())
    }
    pub fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }
    pub fn instance(&self, instance: &InstanceId) -> PathBuf {
        self.instances().join(instance.as_str())
    }
    pub fn ports_lock(&self) -> PathBuf {
        self.root.join("ports.lock")
    }
}

/// A build key that is safe as the name of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BuildKey(String);

impl BuildKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

pub fn build_key(text: &str) -> Result<BuildKey, DriverError> {
    let ok = (8..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !ok {
        let shown: String = text.chars().take(80).collect();
        return Err(DriverError::refused(format!(
            "`{shown}` is not a build key (8 to 64 lowercase hexadecimal digits); the control plane and this agent do not agree"
        )));
    }
    Ok(BuildKey(text.to_owned()))
}

pub fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DriverError + use<> {
    let path = path.to_owned();
    move |source| DriverError::Io { operation, path, source }
}

/// Create a folder (and what is missing above it) that only its owner may enter.
pub fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// How much a written file has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut.
    Synced,
    /// A crash of the writer only: the kernel going down ends what the file speaks of anyway.
    Renamed,
}

/// Replace a file, mode 0600, in one step.
pub fn write_atomically(path: &Path, data: &[u8], durability: Durability) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("the path has no parent"))?;
    let name = path.file_name().ok_or_else(|| io::Error::other("the path has no name"))?.to_string_lossy();
    let fresh = parent.join(format!(".{name}.{}.new", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(data)?;
    if durability == Durability::Synced {
        file.sync_all()?;
    }
    std::fs::rename(&fresh, path)?;
    if durability == Durability::Synced {
        sync_directory(parent)?;
    }
    Ok(())
}

pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec_pretty(value)?, durability)
}

/// `Ok(None)` when there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(data) => Ok(Some(serde_json::from_slice(&data)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Remove a tree; that it is not there is fine. Folders that a build left without write permission
/// are opened up first.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_removable(path);
            std::fs::remove_dir_all(path)
        }
        Err(error) => Err(error),
    }
}

fn make_removable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(metadata) = path.symlink_metadata() else { return };
    if !metadata.is_dir() {
        return;
    }
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        make_removable(&entry.path());
    }
}

/// Bytes that a tree takes, symbolic links not followed.
pub fn tree_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    own + std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| tree_bytes(&entry.path())).sum::<u64>()
}

pub fn now_ms() -> api::UnixMillis {
    crate::clock::now_ms()
}
