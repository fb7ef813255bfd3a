//! Secrets at rest: sealed with a key that lies outside of the database.
//!
//! Whoever gets hold of a copy of the database (a dump, a disk, a backup of PostgreSQL by somebody else)
//! should not hold private keys with it. So what is secret is sealed with AES-256-GCM before it becomes a
//! column, under a key in a file beside the database (`sealing.key`, mode 0600).
//!
//! ```text
//! sealed:1:<key id>:<base64 of nonce, ciphertext, tag>
//! ```
//!
//! The identity of the row ([`Identity`]) is authenticated along with the content: a sealed value that
//! somebody moves to another row, another organization or another kind of row does not open there.
//! The key id says which key a value needs, so that a wrong key file is told from a damaged value, and so
//! that a key can be replaced one row at a time.
//!
//! Nonces are 96 random bits from the kernel. That is good for four thousand million values under one key
//! (NIST SP 800-38D); a control plane seals some per minute.
//!
//! Absent on purpose: files, the database, and protection against whoever holds both.

use api::secret::Secret;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

const PREFIX: &str = "sealed:1:";
const KEY_BYTES: usize = 32;
const KEY_ID_DIGITS: usize = 8;

/// Why a value cannot be opened, or a key not be used. Repeats nothing of either.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealingError {
    #[error("the sealing key is not 32 bytes in base64")]
    Key,
    #[error("this is not a sealed value")]
    NotSealed,
    #[error("it was sealed with the key {needed}, and this control plane has {held}; put that sealing.key back")]
    OtherKey { needed: String, held: String },
    #[error("it was altered, or it belongs to another row")]
    Damaged,
}

/// Which row and column a sealed value is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity(String);

impl Identity {
    /// `kind` is a noun (`certificate`); `parts` name the row, from the organization down.
    pub fn new(kind: &str, parts: &[&str]) -> Self {
        // Lengths, so that no two lists of parts are one text.
        let parts = parts.iter().map(|part| format!("{}:{part}", part.len()));
        Self(std::iter::once(format!("mainstay {kind}")).chain(parts).collect::<Vec<_>>().join("\n"))
    }
}

/// The key. It does not print.
pub struct SealingKey {
    key: LessSafeKey,
    id: String,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SealingKey {
    /// A fresh key in the form that [`Self::from_base64`] reads.
    pub fn generate() -> Secret {
        Secret::new(STANDARD.encode(random::<KEY_BYTES>()))
    }

    pub fn from_base64(text: &Secret) -> Result<Self, SealingError> {
        let bytes = STANDARD.decode(text.expose().trim()).map_err(|_| SealingError::Key)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealingError::Key)?;
        // Of the key's hash, which tells nothing about the key.
        let hash = digest(&SHA256, &bytes);
        let id = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..KEY_ID_DIGITS].to_owned();
        Ok(Self { key: LessSafeKey::new(key), id })
    }

    /// The text that goes into a column.
    pub fn seal(&self, identity: &Identity, content: &str) -> String {
        let nonce = random::<NONCE_LEN>();
        let mut sealed = content.as_bytes().to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(identity.0.as_bytes()),
                &mut sealed,
            )
            .expect("a value in memory is far below the limit of AES-GCM");
        sealed.splice(0..0, nonce);
        format!("{PREFIX}{}:{}", self.id, STANDARD.encode(sealed))
    }

    /// The content of a column with this identity.
    pub fn open(&self, identity: &Identity, sealed: &str) -> Result<Secret, SealingError> {
        let rest = sealed.strip_prefix(PREFIX).ok_or(SealingError::NotSealed)?;
        let (id, text) = rest.split_once(':').ok_or(SealingError::NotSealed)?;
        if id != self.id {
            let needed = id.chars().take(KEY_ID_DIGITS).collect();
            return Err(SealingError::OtherKey { needed, held: self.id.clone() });
        }
        let mut bytes = STANDARD.decode(text).map_err(|_| SealingError::Damaged)?;
        if bytes.len() < NONCE_LEN {
            return Err(SealingError::Damaged);
        }
        let mut content = bytes.split_off(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&bytes).map_err(|_| SealingError::Damaged)?;
        let aad = Aad::from(identity.0.as_bytes());
        let opened = self.key.open_in_place(nonce, aad, &mut content).map_err(|_| SealingError::Damaged)?;
        let text = std::str::from_utf8(opened).map_err(|_| SealingError::Damaged)?;
        Ok(Secret::new(text))
    }
}

/// Whether a column holds a sealed value.
pub fn is_sealed(text: &str) -> bool {
    text.starts_with(PREFIX)
}

fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SealingKey {
        SealingKey::from_base64(&SealingKey::generate()).unwrap()
    }

    #[test]
    fn a_value_opens_only_with_its_key_and_in_its_row() {
        let (key, row) = (key(), Identity::new("certificate", &["org_1", "shop.example.com"]));
        let sealed = key.seal(&row, "s3cret");
        assert!(is_sealed(&sealed) && !sealed.contains("s3cret"));
        assert_eq!(key.open(&row, &sealed).unwrap().expose(), "s3cret");
        assert_ne!(key.seal(&row, "s3cret"), sealed, "the same content is not recognizable");
        for other in [
            Identity::new("certificate", &["org_2", "shop.example.com"]),
            Identity::new("account", &["org_1", "shop.example.com"]),
            Identity::new("certificate", &["org_1shop.example.com"]),
        ] {
            assert_eq!(key.open(&other, &sealed), Err(SealingError::Damaged));
        }
    }

    #[test]
    fn an_altered_value_another_key_and_plain_text_are_told_apart() {
        let (key, row) = (key(), Identity::new("x", &[]));
        let sealed = key.seal(&row, "s3cret");
        for position in PREFIX.len() + KEY_ID_DIGITS + 1..sealed.len() {
            let mut altered = sealed.clone().into_bytes();
            altered[position] = if altered[position] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(key.open(&row, &altered), Err(SealingError::Damaged), "position {position}");
        }
        let other = SealingKey::from_base64(&SealingKey::generate()).unwrap().open(&row, &sealed);
        assert!(matches!(other, Err(SealingError::OtherKey { .. })), "{other:?}");
        assert_eq!(key.open(&row, "s3cret"), Err(SealingError::NotSealed));
        assert_eq!(key.open(&row, &sealed[..PREFIX.len() + KEY_ID_DIGITS + 5]), Err(SealingError::Damaged));
    }

    #[test]
    fn a_key_is_32_bytes_and_does_not_print() {
        assert!(!format!("{:?}", key()).contains("key:"));
        for bad in ["", "c2hvcnQ=", "not base64"] {
            assert_eq!(SealingKey::from_base64(&Secret::new(bad)).err(), Some(SealingError::Key));
        }
    }
}
