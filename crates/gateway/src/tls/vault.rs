//! Certificates and their keys: in memory for handshakes, and in one file each for the next start.
//!
//! ```text
//! certificates/<digest>.pem     private key and chain, mode 0600
//! ```
//!
//! The agent brings each once, before a config that names it. What no live config names is removed
//! after the next one. The digest is that of the chain, so a file that was altered is not used.

use api::secret::Secret;
use api::tls::CertificateMaterial;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIRECTORY: &str = "certificates";
const EXTENSION: &str = "pem";
/// Between the key and the chain in a file.
const CHAIN_BEGINS: &str = "-----BEGIN CERTIFICATE-----";

/// Why a certificate cannot be used. Never repeats any of the key.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("this is not the chain with the digest {digest}")]
    Digest { digest: String },
    #[error("the chain is not made of certificates in PEM")]
    Chain,
    #[error("the private key is not one in PEM")]
    Key,
    #[error("the private key does not belong to the certificate, or is of a kind that is not supported: {0}")]
    Pair(rustls::Error),
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub struct Vault {
    directory: PathBuf,
    keys: HashMap<String, Arc<CertifiedKey>>,
    /// Something came in since files that nobody needs were last looked for.
    grew: bool,
}

impl Vault {
    /// The vault of the gateway with this directory; nothing is read until it is asked for.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.join(DIRECTORY), keys: HashMap::new(), grew: true }
    }

    pub fn get(&self, digest: &str) -> Option<&Arc<CertifiedKey>> {
        self.keys.get(digest)
    }

    pub fn digests(&self) -> Vec<String> {
        let mut digests: Vec<String> = self.keys.keys().cloned().collect();
        digests.sort_unstable();
        digests
    }

    /// Takes a certificate in, to stay over a restart.
    pub fn put(&mut self, digest: &str, material: &CertificateMaterial) -> Result<(), VaultError> {
        let key = certified(digest, material)?;
        let path = self.path(digest);
        self.write(&path, material).map_err(|source| VaultError::Write { path, source })?;
        self.keys.insert(digest.to_owned(), key);
        self.grew = true;
        Ok(())
    }

    /// Reads what is named and not in memory from its files. What is not there, or not right, is left out.
    pub fn load<'a>(&mut self, digests: impl Iterator<Item = &'a str>) {
        for digest in digests {
            if self.keys.contains_key(digest) || !is_digest(digest) {
                continue;
            }
            let path = self.path(digest);
            match self.read(&path, digest) {
                Ok(key) => {
                    self.keys.insert(digest.to_owned(), key);
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "a certificate cannot be read"),
            }
        }
    }

    /// Forgets everything but these, and removes their files.
    pub fn keep_only(&mut self, digests: &BTreeSet<&str>) {
        let before = self.keys.len();
        self.keys.retain(|digest, _| digests.contains(digest.as_str()));
        if !std::mem::take(&mut self.grew) && self.keys.len() == before {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let digest = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if !digests.contains(digest)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(path = %path.display(), %error, "a certificate that nobody needs any longer stays here");
            }
        }
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(digest).with_extension(EXTENSION)
    }

    fn read(&self, path: &Path, digest: &str) -> anyhow::Result<Arc<CertifiedKey>> {
        let text = fs::read_to_string(path)?;
        let at = text.find(CHAIN_BEGINS).ok_or(VaultError::Chain)?;
        let (private_key, chain) = text.split_at(at);
        let material = CertificateMaterial { chain: chain.to_owned(), private_key: Secret::new(private_key) };
        Ok(certified(digest, &material)?)
    }

    fn write(&self, path: &Path, material: &CertificateMaterial) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let beside = path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(material.private_key.expose().trim().as_bytes())?;
        file.write_all(b"\n")?;
        file.write_all(material.chain.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(&self.directory)?.sync_all()
    }
}

/// A digest becomes the name of a file, so it is looked at first.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn certified(digest: &str, material: &CertificateMaterial) -> Result<Arc<CertifiedKey>, VaultError> {
    if !is_digest(digest) || wire::sha256_hex(material.chain.as_bytes()) != digest {
        return Err(VaultError::Digest { digest: digest.chars().take(64).collect() });
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(material.chain.as_bytes()).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(VaultError::Chain)?;
    let key = PrivateKeyDer::from_pem_slice(material.private_key.expose().as_bytes()).map_err(|_| VaultError::Key)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider).map_err(VaultError::Pair)?))
}
