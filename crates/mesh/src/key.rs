//! The private key of a machine's tunnel: made on the machine, kept in one file, never sent.
//!
//! The file holds the 32 bytes in base64 and nothing else, as `wg genkey` writes them, and only its owner may read it.
//! A file that cannot be understood is an error and not a reason for a new key: the other servers know the old one.

use api::mesh::PublicKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gotatun::x25519;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the mesh key {} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the mesh key {} is not 32 bytes in base64. Restore it from a backup, or remove it and restart the agent, \
         which makes a new one; the other servers learn of it within a minute",
        path.display()
    )]
    Content { path: PathBuf },
    #[error("the mesh key {} cannot be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// A WireGuard private key. It cannot be shown.
#[derive(Clone)]
pub struct PrivateKey(x25519::StaticSecret);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[private key]")
    }
}

impl PrivateKey {
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness answers");
        Self(x25519::StaticSecret::from(bytes))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::from_bytes(x25519::PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret(&self) -> x25519::StaticSecret {
        self.0.clone()
    }

    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The key in this file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let read = |source| KeyError::Read { path: path.to_owned(), source };
        let text = fs::read_to_string(path).map_err(read)?;
        let mode = fs::metadata(path).map_err(read)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "the mesh key could be read by others; now it cannot");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(read)?;
        }
        let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes
            .map(|bytes| Self(x25519::StaticSecret::from(bytes)))
            .ok_or_else(|| KeyError::Content { path: path.to_owned() })
    }

    /// The key in this file, made if there is none.
    pub fn read_or_make(path: &Path) -> Result<Self, KeyError> {
        match Self::read(path) {
            Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate();
                key.write(path).map_err(|source| KeyError::Write { path: path.to_owned(), source })?;
                Ok(key)
            }
            other => other,
        }
    }

    /// Whole or not at all.
    fn write(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let temporary = path.with_extension("key.new");
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", STANDARD.encode(self.0.to_bytes()))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_is_private_and_stays_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.key");
        let made = PrivateKey::read_or_make(&path).unwrap().public();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(PrivateKey::read_or_make(&path).unwrap().public(), made);
        assert_eq!(format!("{:?}", PrivateKey::read(&path).unwrap()), "[private key]");
    }

    #[test]
    fn a_key_that_others_could_read_is_closed_to_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.key");
        PrivateKey::read_or_make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        PrivateKey::read(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_an_error_that_says_what_to_do_and_does_not_repeat_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.key");
        fs::write(&path, "hunter2").unwrap();
        let error = PrivateKey::read_or_make(&path).unwrap_err().to_string();
        assert!(error.contains("remove it and restart the agent") && !error.contains("hunter2"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "hunter2");
    }

    #[test]
    fn the_public_key_is_the_one_that_wg_pubkey_says() {
        // From the key pair of RFC 7748, section 6.1.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mesh.key");
        fs::write(&path, "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n").unwrap();
        let public = PrivateKey::read(&path).unwrap().public();
        assert_eq!(public.to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }
}
