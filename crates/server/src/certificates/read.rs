//! Reading what somebody says is a certificate with its key.
//!
//! Whatever is taken in here works in a gateway: the key belongs to the certificate, the certificate names
//! hosts, and its time is not over. The texts are written anew from what was understood, so that equal
//! certificates are equal texts.

use api::UnixMillis;
use api::secret::Secret;
use api::tls::{CertificateMaterial, CertificateName};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const CHAIN_LIMIT_BYTES: usize = 64 * 1024;
const KEY_LIMIT_BYTES: usize = 16 * 1024;
const CHAIN_LIMIT: usize = 10;

/// Why it is not taken, and what to give instead. Repeats nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("the certificate is not one in PEM, which begins with `-----BEGIN CERTIFICATE-----`")]
    Chain,
    #[error("the certificate or its key is too large to be one")]
    TooLarge,
    #[error("the private key is not one in PEM, which begins with `-----BEGIN PRIVATE KEY-----`")]
    Key,
    #[error("the private key has a passphrase, which no machine could type; write it without one: openssl pkey")]
    Passphrase,
    #[error(
        "the private key does not belong to the first certificate of the chain; the certificate of the host comes \
         first, and those of its authority after it"
    )]
    NotItsKey,
    #[error("this kind of private key is not supported; use ECDSA (P-256 or P-384), Ed25519 or RSA from 2048 bits")]
    KindOfKey,
    #[error("the certificate names no host")]
    NoNames,
}

/// Whether a text holds a certificate in PEM.
pub fn is_certificate(text: &str) -> bool {
    CertificateDer::from_pem_slice(text.as_bytes()).is_ok_and(|der| X509Certificate::from_der(&der).is_ok())
}

/// A certificate that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Understood {
    pub names: Vec<CertificateName>,
    pub issuer: String,
    pub not_before_ms: UnixMillis,
    pub not_after_ms: UnixMillis,
    pub material: CertificateMaterial,
    pub digest: String,
}

pub fn read(chain: &str, private_key: &Secret) -> Result<Understood, ReadError> {
    if chain.len() > CHAIN_LIMIT_BYTES || private_key.expose().len() > KEY_LIMIT_BYTES {
        return Err(ReadError::TooLarge);
    }
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let certificates = certificates.map_err(|_| ReadError::Chain)?;
    if certificates.is_empty() || certificates.len() > CHAIN_LIMIT {
        return Err(ReadError::Chain);
    }
    if private_key.expose().contains("ENCRYPTED") {
        return Err(ReadError::Passphrase);
    }
    let key = PrivateKeyDer::from_pem_slice(private_key.expose().as_bytes()).map_err(|_| ReadError::Key)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let pem: String = certificates.iter().map(|certificate| to_pem(certificate)).collect();
    let leaf = certificates[0].clone();
    CertifiedKey::from_der(certificates, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ReadError::NotItsKey,
        rustls::Error::InvalidCertificate(_) => ReadError::Chain,
        _ => ReadError::KindOfKey,
    })?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|_| ReadError::Chain)?;
    let names = names(&parsed);
    if names.is_empty() {
        return Err(ReadError::NoNames);
    }
    Ok(Understood {
        names,
        issuer: issuer(&parsed),
        not_before_ms: parsed.validity().not_before.timestamp() * 1000,
        not_after_ms: parsed.validity().not_after.timestamp() * 1000,
        digest: wire::sha256_hex(pem.as_bytes()),
        material: CertificateMaterial {
            chain: pem,
            private_key: Secret::new(format!("{}\n", private_key.expose().trim())),
        },
    })
}

/// Hosts and wildcards; addresses and names of other kinds are nothing that a handshake asks for.
fn names(parsed: &X509Certificate<'_>) -> Vec<CertificateName> {
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let mut names: Vec<CertificateName> = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(text) => text.parse().ok(),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// As people know an authority: its organization, or the name of its certificate.
fn issuer(parsed: &X509Certificate<'_>) -> String {
    let issuer = parsed.issuer();
    let organization = issuer.iter_organization().next().and_then(|attribute| attribute.as_str().ok());
    let common = issuer.iter_common_name().next().and_then(|attribute| attribute.as_str().ok());
    let text = match (organization, common) {
        (Some(organization), Some(common)) => format!("{organization} ({common})"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => issuer.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

fn to_pem(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn made(names: &[&str]) -> (String, KeyPair) {
        let pair = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        (CertificateParams::new(names).unwrap().self_signed(&pair).unwrap().pem(), pair)
    }

    #[test]
    fn a_certificate_is_read_with_its_names_and_written_anew() {
        let (chain, pair) = made(&["Shop.example.com", "*.example.org", "10.0.0.1"]);
        let noisy = format!("# the file of a provider\r\n{}\n\n", chain.replace('\n', "\r\n"));
        let understood = read(&noisy, &Secret::new(pair.serialize_pem())).unwrap();
        let names: Vec<&str> = understood.names.iter().map(CertificateName::as_str).collect();
        assert_eq!(names, ["*.example.org", "shop.example.com"]);
        assert!(understood.material.chain.starts_with("-----BEGIN CERTIFICATE-----\n"));
        assert!(understood.not_before_ms < understood.not_after_ms);
        assert_eq!(read(&chain, &Secret::new(pair.serialize_pem())).unwrap().digest, understood.digest);
    }

    #[test]
    fn what_a_gateway_could_not_use_is_refused_with_the_reason() {
        let (chain, pair) = made(&["a.example.com"]);
        let (other, other_pair) = made(&["b.example.com"]);
        let key = Secret::new(pair.serialize_pem());
        let encrypted = Secret::new("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----");
        assert_eq!(read("nonsense", &key), Err(ReadError::Chain));
        assert_eq!(read(&chain, &Secret::new("nonsense")), Err(ReadError::Key));
        assert_eq!(read(&chain, &encrypted), Err(ReadError::Passphrase));
        assert_eq!(read(&chain, &Secret::new(other_pair.serialize_pem())), Err(ReadError::NotItsKey));
        assert_eq!(read(&format!("{other}{chain}"), &key), Err(ReadError::NotItsKey));
        assert_eq!(read(&chain.repeat(200), &key), Err(ReadError::TooLarge));
        let (address, pair) = made(&["10.0.0.1"]);
        assert_eq!(read(&address, &Secret::new(pair.serialize_pem())), Err(ReadError::NoNames));
    }
}
