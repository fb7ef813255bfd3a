//! Passwords: made readable, kept as argon2id, compared at the same cost whether the user exists or not.

use anyhow::Context;
use api::secret::Secret;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use std::sync::OnceLock;
use tokio::sync::Semaphore;

/// One hash takes 19 MiB and some tens of milliseconds of a core: at most two at once, so that
/// sign-ins cannot starve the rest.
static HASHES_AT_ONCE: Semaphore = Semaphore::const_new(2);

/// 24 characters in groups of four, 118 bits, without characters that look alike.
pub fn generate() -> Secret {
    const ALPHABET: &[u8; 31] = b"abcdefghjkmnpqrstuvwxyz23456789";
    let mut text = String::new();
    let mut count = 0;
    while count < 24 {
        for byte in wire::random_bytes::<32>() {
            // 248 is the largest multiple of 31 in a byte: above it the choice would be uneven.
            if byte < 248 && count < 24 {
                if count > 0 && count % 4 == 0 {
                    text.push('-');
                }
                text.push(char::from(ALPHABET[usize::from(byte % 31)]));
                count += 1;
            }
        }
    }
    Secret::new(text)
}

/// The argon2id hash in PHC form.
pub async fn hash(password: Secret) -> anyhow::Result<String> {
    let _permit = HASHES_AT_ONCE.acquire().await?;
    let work = move || Argon2::default().hash_password(password.expose().as_bytes()).map(|hash| hash.to_string());
    tokio::task::spawn_blocking(work).await?.map_err(|e| anyhow::anyhow!("hash a password: {e}"))
}

/// Whether the password fits. Without a hash (no such user) the same work is done for nothing, so
/// that the time taken does not say which names exist.
pub async fn verify(password: Secret, hash: Option<String>) -> anyhow::Result<bool> {
    let _permit = HASHES_AT_ONCE.acquire().await?;
    let work = move || -> anyhow::Result<bool> {
        let known = hash.is_some();
        let text = match hash {
            Some(hash) => hash,
            None => stand_in()?,
        };
        let parsed =
            PasswordHash::new(&text).map_err(|e| anyhow::anyhow!("{e}")).context("read a stored password hash")?;
        let fits = Argon2::default().verify_password(password.expose().as_bytes(), &parsed).is_ok();
        Ok(fits && known)
    };
    tokio::task::spawn_blocking(work).await?
}

/// The hash of nobody's password.
fn stand_in() -> anyhow::Result<String> {
    static HASH: OnceLock<String> = OnceLock::new();
    if let Some(hash) = HASH.get() {
        return Ok(hash.clone());
    }
    let made = Argon2::default().hash_password(&wire::random_bytes::<32>()).map_err(|e| anyhow::anyhow!("{e}"))?;
    Ok(HASH.get_or_init(|| made.to_string()).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_generated_password_is_long_readable_and_fits_its_own_hash_only() {
        let password = generate();
        assert!(password.expose().len() >= 24 && !password.expose().contains(['0', 'o', '1', 'l', 'i']));
        assert_ne!(password, generate());
        let stored = hash(password.clone()).await.unwrap();
        assert!(stored.starts_with("$argon2id$"));
        assert!(verify(password.clone(), Some(stored.clone())).await.unwrap());
        assert!(!verify(Secret::new("other"), Some(stored)).await.unwrap());
        assert!(!verify(password, None).await.unwrap());
    }
}
