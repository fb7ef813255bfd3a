//! Signed documents: desired states and fleet states.

use api::desired::{DesiredState, SignedDesiredState};
use api::fleet::FleetState;
use api::secret::Secret;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What the control plane signs. The fields that each kind needs are not those of the other, so that one cannot be
/// taken for it.
pub trait Document: serde::Serialize + serde::de::DeserializeOwned {
    fn generation(&self) -> u64;
}

impl Document for DesiredState {
    fn generation(&self) -> u64 {
        self.generation
    }
}

impl Document for FleetState {
    fn generation(&self) -> u64 {
        self.generation
    }
}

/// Why a document is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("the key is not a valid Ed25519 key in base64")]
    Key,
    #[error("the document does not have the hash that it claims")]
    Hash,
    #[error(
        "the document is not signed by the control plane that this machine joined (pinned key {pinned}, signed with {given})"
    )]
    Signature { pinned: String, given: String },
    #[error("the signed document cannot be read: {0}")]
    Content(String),
    #[error("the envelope says generation {envelope}, the signed document {document}")]
    Generation { envelope: u64, document: u64 },
}

fn key_id(public: &[u8]) -> String {
    crate::sha256_hex(public)[..16].to_owned()
}

/// The control plane's private key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A fresh key in the form that [`Self::from_base64`] reads (PKCS#8, base64).
    pub fn generate() -> Secret {
        let pair = Ed25519KeyPair::from_seed_unchecked(&crate::random_bytes::<32>()).expect("any 32 bytes are a seed");
        let pkcs8 = pair.to_pkcs8v1().expect("a fresh key has a PKCS#8 form");
        Secret::new(STANDARD.encode(pkcs8.as_ref()))
    }

    pub fn from_base64(text: &Secret) -> Result<Self, DocumentError> {
        let bytes = STANDARD.decode(text.expose()).map_err(|_| DocumentError::Key)?;
        let pair = Ed25519KeyPair::from_pkcs8(&bytes).map_err(|_| DocumentError::Key)?;
        Ok(Self { pair })
    }

    pub fn public_base64(&self) -> String {
        STANDARD.encode(self.pair.public_key().as_ref())
    }

    pub fn sign<D: Document>(&self, state: &D) -> SignedDesiredState {
        let document = serde_json::to_string(state).expect("nouns of the api serialize to JSON");
        SignedDesiredState {
            generation: state.generation(),
            sha256: crate::sha256_hex(document.as_bytes()),
            signature: STANDARD.encode(self.pair.sign(document.as_bytes()).as_ref()),
            key_id: key_id(self.pair.public_key().as_ref()),
            document,
        }
    }
}

/// The control plane's public key, as the agent pinned it.
#[derive(Debug, Clone)]
pub struct VerifyingKey {
    bytes: Vec<u8>,
}

impl VerifyingKey {
    pub fn from_base64(text: &str) -> Result<Self, DocumentError> {
        let bytes = STANDARD.decode(text).map_err(|_| DocumentError::Key)?;
        if bytes.len() != 32 {
            return Err(DocumentError::Key);
        }
        Ok(Self { bytes })
    }

    /// The document, if the pinned key signed exactly these bytes.
    pub fn verify<D: Document>(&self, signed: &SignedDesiredState) -> Result<D, DocumentError> {
        if crate::sha256_hex(signed.document.as_bytes()) != signed.sha256 {
            return Err(DocumentError::Hash);
        }
        let signature = STANDARD.decode(&signed.signature).unwrap_or_default();
        UnparsedPublicKey::new(&ED25519, &self.bytes)
            .verify(signed.document.as_bytes(), &signature)
            .map_err(|_| DocumentError::Signature { pinned: key_id(&self.bytes), given: signed.key_id.clone() })?;
        let state: D = serde_json::from_str(&signed.document).map_err(|e| DocumentError::Content(e.to_string()))?;
        if state.generation() != signed.generation {
            return Err(DocumentError::Generation { envelope: signed.generation, document: state.generation() });
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> DesiredState {
        DesiredState {
            server_id: "srv_00000000000000000000000000000001".parse().unwrap(),
            server_name: "local".parse().unwrap(),
            generation: 3,
            issued_at_ms: 0,
            poll_interval_ms: 10_000,
            in_fleet: false,
            security_mode: Default::default(),
            gateway: Default::default(),
            dns: Default::default(),
            stacks: vec![],
            certificates: vec![],
            challenges: vec![],
        }
    }

    #[test]
    fn a_document_is_accepted_only_as_the_pinned_key_signed_it() {
        let key = SigningKey::from_base64(&SigningKey::generate()).unwrap();
        let pinned = VerifyingKey::from_base64(&key.public_base64()).unwrap();
        let signed = key.sign(&state());
        assert_eq!(pinned.verify::<DesiredState>(&signed), Ok(state()));

        let mut altered = signed.clone();
        altered.document = altered.document.replace("local", "other");
        assert_eq!(pinned.verify::<DesiredState>(&altered), Err(DocumentError::Hash));
        altered.sha256 = crate::sha256_hex(altered.document.as_bytes());
        assert!(matches!(pinned.verify::<DesiredState>(&altered), Err(DocumentError::Signature { .. })));

        let mut raised = signed;
        raised.generation = 9;
        assert_eq!(pinned.verify::<DesiredState>(&raised), Err(DocumentError::Generation { envelope: 9, document: 3 }));
    }

    #[test]
    fn a_document_of_a_foreign_control_plane_is_refused() {
        let ours = SigningKey::from_base64(&SigningKey::generate()).unwrap();
        let theirs = SigningKey::from_base64(&SigningKey::generate()).unwrap();
        let pinned = VerifyingKey::from_base64(&ours.public_base64()).unwrap();
        assert!(matches!(pinned.verify::<DesiredState>(&theirs.sign(&state())), Err(DocumentError::Signature { .. })));
    }
}
