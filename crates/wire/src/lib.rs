//! Proof on the wire: how an agent's request shows who sent it, and how a desired state shows that
//! the control plane meant it.
//!
//! Both ends use this one crate, so there is one canonical form of each. The request signature is
//! HMAC-SHA256 (RFC 2104) under a per-server secret over method, path, query, body hash, timestamp
//! and nonce: whoever sits between cannot alter, move or repeat a request. The document signature is
//! Ed25519 (RFC 8032) under a key that the agent pinned at registration: a stolen proxy or database
//! row cannot command a machine.
//!
//! Absent on purpose: the clock and the memory of nonces. The caller passes the time and keeps the
//! nonces ([`NONCE_LIFETIME_MS`] says how long), because only it can do so durably.

pub mod document;
pub mod request;

pub use document::{Document, DocumentError, SigningKey, VerifyingKey};
pub use request::{RequestSignature, RequestSigner, SignatureError};

/// How far the two clocks may be apart.
pub const CLOCK_WINDOW_MS: i64 = 60_000;

/// A nonce must be remembered for this long after its request's timestamp: past it the timestamp
/// itself is refused.
pub const NONCE_LIFETIME_MS: i64 = 2 * CLOCK_WINDOW_MS;

/// SHA-256 as it is.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// SHA-256 in lowercase hexadecimal.
pub fn sha256_hex(data: &[u8]) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data))
}

/// SHA-256 over the JSON form of a value: the digest of a config, a spec, a plan. Struct fields
/// serialize in order and maps are `BTreeMap`s, so equal values have equal digests.
pub fn digest_of<T: serde::Serialize>(value: &T) -> String {
    text_and_digest_of(value).1
}

/// The JSON form as well, for whoever keeps it.
pub fn text_and_digest_of<T: serde::Serialize>(value: &T) -> (Vec<u8>, String) {
    let text = serde_json::to_vec(value).expect("nouns of the api serialize to JSON");
    let digest = sha256_hex(&text);
    (text, digest)
}

/// `LENGTH` random bytes from the system.
///
/// From the kernel itself. The generator of the cryptographic library gathers its own seed from the timing of the
/// processor, which takes a tenth of a second in every process, and would be wasted on a few nonces.
pub fn random_bytes<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).expect("the system's random source works");
    bytes
}

/// A random text of 43 URL-safe characters (256 bits), for tokens and session ids.
pub fn random_token() -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random_bytes::<32>())
}
