//! Signed requests. The five headers are `x-mainstay-server`, `-timestamp` (milliseconds),
//! `-nonce`, `-content-sha256` and `-signature`; the signed text is
//!
//! ```text
//! mainstay-request-v1 \n METHOD \n PATH \n QUERY \n BODY-SHA256 \n TIMESTAMP \n NONCE
//! ```
//!
//! with the query exactly as sent (empty without one). The version tag in front keeps a signature
//! made for one purpose from fitting another.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

pub const HEADER_SERVER: &str = "x-mainstay-server";
pub const HEADER_TIMESTAMP: &str = "x-mainstay-timestamp";
pub const HEADER_NONCE: &str = "x-mainstay-nonce";
pub const HEADER_CONTENT: &str = "x-mainstay-content-sha256";
pub const HEADER_SIGNATURE: &str = "x-mainstay-signature";

/// Why a request is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the header `{0}` is missing or malformed")]
    Header(&'static str),
    #[error(
        "the clocks differ by {difference_ms} ms; at most {} ms are allowed. Set the machine's clock (NTP)",
        crate::CLOCK_WINDOW_MS
    )]
    Clock { difference_ms: i64 },
    #[error("the body does not have the hash that was signed")]
    Body,
    #[error("the signature does not fit the request")]
    Mismatch,
    #[error("the secret is not 32 bytes of base64")]
    Secret,
}

/// What is signed, borrowed from the request.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Without the question mark; empty if there is none.
    pub query: &'a str,
    pub body: &'a [u8],
}

/// The values of the headers, apart from the server's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSignature {
    pub timestamp_ms: i64,
    pub nonce: String,
    pub content_sha256: String,
    pub signature: String,
}

fn canonical(parts: &RequestParts<'_>, content: &str, timestamp_ms: i64, nonce: &str) -> String {
    let RequestParts { method, path, query, .. } = parts;
    format!("mainstay-request-v1\n{method}\n{path}\n{query}\n{content}\n{timestamp_ms}\n{nonce}")
}

/// Signs and checks under one server's secret.
pub struct RequestSigner {
    key: hmac::Key,
}

impl RequestSigner {
    /// From the base64 of the 32 secret bytes handed out at registration.
    pub fn from_base64(secret: &api::secret::Secret) -> Result<Self, SignatureError> {
        let bytes = STANDARD.decode(secret.expose()).map_err(|_| SignatureError::Secret)?;
        if bytes.len() != 32 {
            return Err(SignatureError::Secret);
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// A fresh secret in the form that [`Self::from_base64`] reads.
    pub fn generate_secret() -> api::secret::Secret {
        api::secret::Secret::new(STANDARD.encode(crate::random_bytes::<32>()))
    }

    pub fn sign(&self, parts: &RequestParts<'_>, timestamp_ms: i64, nonce: String) -> RequestSignature {
        let content_sha256 = crate::sha256_hex(parts.body);
        let tag = hmac::sign(&self.key, canonical(parts, &content_sha256, timestamp_ms, &nonce).as_bytes());
        RequestSignature { timestamp_ms, nonce, content_sha256, signature: hex::encode(tag) }
    }

    /// Checks clock, body hash and signature. The nonce is good once; that is for the caller to see to.
    pub fn verify(
        &self,
        parts: &RequestParts<'_>,
        given: &RequestSignature,
        now_ms: i64,
    ) -> Result<(), SignatureError> {
        let difference_ms = given.timestamp_ms.saturating_sub(now_ms);
        if difference_ms.saturating_abs() > crate::CLOCK_WINDOW_MS {
            return Err(SignatureError::Clock { difference_ms });
        }
        if !(16..=64).contains(&given.nonce.len()) || !given.nonce.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(SignatureError::Header(HEADER_NONCE));
        }
        if crate::sha256_hex(parts.body) != given.content_sha256 {
            return Err(SignatureError::Body);
        }
        let tag = hex::decode(&given.signature).map_err(|_| SignatureError::Header(HEADER_SIGNATURE))?;
        let text = canonical(parts, &given.content_sha256, given.timestamp_ms, &given.nonce);
        // `hmac::verify` compares in constant time.
        hmac::verify(&self.key, text.as_bytes(), &tag).map_err(|_| SignatureError::Mismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn parts<'a>() -> RequestParts<'a> {
        RequestParts { method: "POST", path: "/api/v1/agent/status", query: "a=1", body: b"{}" }
    }

    fn signed() -> (RequestSigner, RequestSignature) {
        let signer = RequestSigner::from_base64(&RequestSigner::generate_secret()).unwrap();
        let signature = signer.sign(&parts(), NOW, "0123456789abcdef".into());
        (signer, signature)
    }

    #[test]
    fn a_request_is_believed_as_it_was_signed_and_in_no_other_form() {
        let (signer, good) = signed();
        assert_eq!(signer.verify(&parts(), &good, NOW), Ok(()));
        let altered = [
            RequestParts { method: "GET", ..parts() },
            RequestParts { path: "/api/v1/agent/logs", ..parts() },
            RequestParts { query: "a=2", ..parts() },
        ];
        for other in altered {
            assert_eq!(signer.verify(&other, &good, NOW), Err(SignatureError::Mismatch));
        }
        assert_eq!(signer.verify(&RequestParts { body: b"{ }", ..parts() }, &good, NOW), Err(SignatureError::Body));
        let renamed = RequestSignature { nonce: "0123456789abcdeg".into(), ..good.clone() };
        assert_eq!(signer.verify(&parts(), &renamed, NOW), Err(SignatureError::Mismatch));
    }

    #[test]
    fn a_request_outside_the_clock_window_is_refused_on_both_sides() {
        let (signer, good) = signed();
        assert!(signer.verify(&parts(), &good, NOW + 60_000).is_ok());
        assert!(matches!(signer.verify(&parts(), &good, NOW + 60_001), Err(SignatureError::Clock { .. })));
        assert!(matches!(signer.verify(&parts(), &good, NOW - 60_001), Err(SignatureError::Clock { .. })));
    }

    #[test]
    fn a_request_signed_under_another_secret_is_refused() {
        let (_, good) = signed();
        let (other, _) = signed();
        assert_eq!(other.verify(&parts(), &good, NOW), Err(SignatureError::Mismatch));
    }
}
