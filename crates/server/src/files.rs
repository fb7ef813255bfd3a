//! The control plane's few files outside the database: its two keys, the first password and the
//! command line's token. All are readable by their owner alone from the moment they exist.
//!
//! The keys are outside the database on purpose: who steals or alters the database still cannot sign a
//! desired state, nor open what is sealed in it.

use anyhow::{Context, Result};
use api::secret::Secret;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub const SIGNING_KEY: &str = "signing.key";
pub const SEALING_KEY: &str = "sealing.key";

/// Makes the directory, closed to others.
pub fn make_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make the directory {}; choose another with --data-dir", path.display()))
}

/// The key in `signing.key`, made at the first start. An existing one is never replaced: every agent
/// has pinned it.
pub fn signing_key(directory: &Path) -> Result<wire::SigningKey> {
    let path = directory.join(SIGNING_KEY);
    let text = kept_or_made(&path, wire::SigningKey::generate)?;
    wire::SigningKey::from_base64(&text).with_context(|| {
        format!("read the signing key {}: restore it from a backup; agents obey no other key", path.display())
    })
}

/// The key in `sealing.key`, made at the first start. An existing one is never replaced: what is sealed in the
/// database opens with no other.
pub fn sealing_key(directory: &Path) -> Result<sealing::SealingKey> {
    let path = directory.join(SEALING_KEY);
    let text = kept_or_made(&path, sealing::SealingKey::generate)?;
    sealing::SealingKey::from_base64(&text).with_context(|| {
        format!("read the sealing key {}: restore it from a backup; nothing else opens what is sealed", path.display())
    })
}

fn kept_or_made(path: &Path, make: impl FnOnce() -> Secret) -> Result<Secret> {
    match fs::read_to_string(path) {
        Ok(text) => {
            refuse_open_file(path)?;
            Ok(Secret::new(text.trim()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = make();
            write_secret(path, &key)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("read the key {}", path.display())),
    }
}

fn refuse_open_file(path: &Path) -> Result<()> {
    let mode = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        anyhow::bail!("{} can be read by others (mode {:o}); run `chmod 600` on it", path.display(), mode & 0o777);
    }
    Ok(())
}

/// Writes a whole file or none, with mode 0600, durably.
pub fn write_secret(path: &Path, secret: &Secret) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let beside = path.with_extension("new");
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(secret.expose().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Sees to it that a file exists and that only its owner may read it.
pub fn make_private_file(path: &Path) -> Result<()> {
    let make = || -> std::io::Result<()> {
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))
    };
    make().with_context(|| format!("make the file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signing_key_is_made_once_closed_to_others_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = signing_key(directory.path()).unwrap().public_base64();
        assert_eq!(signing_key(directory.path()).unwrap().public_base64(), first);
        let path = directory.path().join("signing.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(signing_key(directory.path()).err().unwrap().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "nonsense").unwrap();
        assert!(signing_key(directory.path()).is_err(), "a damaged key must not be replaced");
    }

    #[test]
    fn a_sealing_key_is_made_once_and_opens_what_it_sealed_before() {
        let directory = tempfile::tempdir().unwrap();
        let row = sealing::Identity::new("x", &["1"]);
        let sealed = sealing_key(directory.path()).unwrap().seal(&row, "s3cret");
        assert_eq!(sealing_key(directory.path()).unwrap().open(&row, &sealed).unwrap().expose(), "s3cret");
        let path = directory.path().join(SEALING_KEY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, "nonsense").unwrap();
        assert!(sealing_key(directory.path()).is_err(), "a damaged key must not be replaced");
    }
}
