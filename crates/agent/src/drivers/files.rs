//! Files that matter: written beside, synced and renamed over, so that after a crash there is the old one or the new
//! one, never half of one. And folders that only their owner may enter.

use crate::drivers::DriverError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

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
