//! The certificates of one config, by the names that they are for.

use super::TlsError;
use super::vault::Vault;
use api::tls::{ChallengeAnswer, ChallengeKind, GatewayTls};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// Immutable; replaced whole.
#[derive(Debug, Default)]
pub struct Certificates {
    hosts: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By the domain below which a wildcard holds.
    wildcards: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Certificates that only answer an authority.
    challenges: HashMap<Box<str>, Arc<CertifiedKey>>,
    count: usize,
}

impl Certificates {
    /// Those that a config names. One that the vault lacks, or a challenge that cannot be answered, is left out and
    /// told as a problem.
    pub fn of(tls: &GatewayTls, vault: &Vault) -> (Self, Vec<String>) {
        let (mut built, mut problems) = (Self::default(), Vec::new());
        for reference in &tls.certificates {
            let Some(key) = vault.get(&reference.digest) else {
                let names: Vec<&str> = reference.names.iter().map(|name| name.as_str()).collect();
                problems.push(format!("the certificate for {} is not here", names.join(", ")));
                continue;
            };
            built.count += 1;
            for name in &reference.names {
                let (table, name) = match name.below() {
                    Some(below) => (&mut built.wildcards, below),
                    None => (&mut built.hosts, name.as_str()),
                };
                table.entry(name.into()).or_insert_with(|| key.clone());
            }
        }
        for answer in tls.challenges.iter().filter(|answer| answer.kind == ChallengeKind::TlsAlpn01) {
            match challenge_certificate(answer) {
                Ok(key) => {
                    built.challenges.insert(answer.host.as_str().into(), key);
                }
                Err(error) => problems.push(format!("the challenge for {} cannot be answered: {error}", answer.host)),
            }
        }
        (built, problems)
    }

    /// The certificate for a host as the client wrote it in the handshake.
    pub fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let lower;
        let host = if host.bytes().any(|b| b.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        let wildcard = || self.wildcards.get(host.split_once('.')?.1);
        self.hosts.get(host).or_else(wildcard).cloned()
    }

    pub fn challenge(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.challenges.get(host.to_ascii_lowercase().as_str()).cloned()
    }

    pub fn count(&self) -> usize {
        self.count
    }
}

/// A certificate of nobody for the host, with the hash of the answer in it (RFC 8737, 3).
fn challenge_certificate(answer: &ChallengeAnswer) -> Result<Arc<CertifiedKey>, TlsError> {
    let problem = |error: rcgen::Error| TlsError::StandIn(error.to_string());
    let mut params = CertificateParams::new([answer.host.to_string()]).map_err(problem)?;
    let hash = wire::sha256(answer.key_authorization.as_bytes());
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&hash)];
    self_signed(&params)
}

pub fn self_signed(params: &CertificateParams) -> Result<Arc<CertifiedKey>, TlsError> {
    let problem = |error: rcgen::Error| TlsError::StandIn(error.to_string());
    let pair = KeyPair::generate().map_err(problem)?;
    let certificate = params.self_signed(&pair).map_err(problem)?;
    let key = PrivateKeyDer::try_from(pair.serialize_der()).map_err(|e| TlsError::StandIn(e.to_owned()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // That the two belong together is not checked by reading the certificate again: it may hold a critical extension
    // that only an authority knows.
    let key = provider.key_provider.load_private_key(key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}
