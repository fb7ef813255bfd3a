//! Certificates on their way from the control plane to the gateways, and the answers to a certificate
//! authority that wants to see who owns a host.
//!
//! A certificate travels twice. In the desired state it is whole, chain and private key, because a
//! machine that holds that document needs nothing else. In the gateway's config it is only named, by
//! its digest: the gateway keeps keys in files of their own, and a config that changes because an
//! instance became healthy does not carry a thousand keys along.

use crate::name::{HostName, NameError};
use crate::secret::Secret;
use crate::text::text_form;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a route wants of HTTPS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TlsMode {
    /// A certificate by itself, and plain HTTP leads to HTTPS once there is one.
    #[default]
    Auto,
    /// A certificate by itself; plain HTTP is served as well.
    Optional,
    /// No certificate is ordered, and plain HTTP is served.
    Off,
}

impl TlsMode {
    /// For serde: what is so by default need not be written.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// A name that a certificate is for: a host, or every host one label below (`*.example.com`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct CertificateName(String);
text_form!(CertificateName, NameError);

impl CertificateName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after `*.`, if it is a wildcard.
    pub fn below(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// Whether a certificate with this name is good for a host. A wildcard stands for exactly one label.
    pub fn covers(&self, host: &str) -> bool {
        match self.below() {
            Some(below) => host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == below),
            None => self.0 == host,
        }
    }
}

impl fmt::Debug for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<HostName> for CertificateName {
    fn from(host: HostName) -> Self {
        Self(String::from(host))
    }
}

impl FromStr for CertificateName {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        match value.strip_prefix("*.") {
            Some(below) => Ok(Self(format!("*.{}", below.parse::<HostName>()?))),
            None => Ok(Self(String::from(value.parse::<HostName>()?))),
        }
    }
}

/// Part of the desired state: a certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateDesired {
    /// SHA-256 of `material.chain`, hexadecimal. The chain holds the public key, so it stands for the key as well.
    pub digest: String,
    pub names: Vec<CertificateName>,
    pub material: CertificateMaterial,
}

/// A certificate as its two files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateMaterial {
    /// The certificate and those between it and a known authority, in PEM.
    pub chain: String,
    /// In PEM.
    pub private_key: Secret,
}

/// How a certificate authority finds out who owns a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ChallengeKind {
    /// A request to port 80 (RFC 8555, 8.3).
    Http01,
    /// A handshake on port 443 (RFC 8737).
    TlsAlpn01,
}

impl ChallengeKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http01 => "http_01",
            Self::TlsAlpn01 => "tls_alpn_01",
        }
    }

    /// As authorities and manuals write it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http01 => "HTTP-01",
            Self::TlsAlpn01 => "TLS-ALPN-01",
        }
    }
}

impl FromStr for ChallengeKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Http01, Self::TlsAlpn01]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a kind of challenge"))
    }
}

/// An answer that every gateway gives while a certificate is being ordered. It is no secret: whoever
/// asks gets it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChallengeAnswer {
    pub host: HostName,
    pub kind: ChallengeKind,
    /// What the authority asks for; tells one answer from another.
    pub token: String,
    /// What it wants to hear.
    pub key_authorization: String,
}

/// Part of the gateway's config: HTTPS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GatewayTls {
    /// Of two that are for the same name, the first is used.
    #[serde(default)]
    pub certificates: Vec<CertificateReference>,
    #[serde(default)]
    pub challenges: Vec<ChallengeAnswer>,
    /// Port that plain HTTP leads to.
    #[serde(default)]
    pub port: Option<u16>,
}

impl GatewayTls {
    /// For serde: nothing to do with HTTPS.
    pub fn is_unused(&self) -> bool {
        self == &Self::default()
    }
}

/// A certificate that the gateway holds, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateReference {
    pub digest: String,
    pub names: Vec<CertificateName>,
}

/// Whether a certificate can be ordered for a host at all: it has a dot and is not one of those that
/// mean something on this machine or in this network only (RFC 6761, RFC 8375, and habit).
pub fn is_public_host(host: &str) -> bool {
    const LOCAL: [&str; 10] =
        ["localhost", "local", "internal", "test", "example", "invalid", "lan", "home.arpa", "onion", "localdomain"];
    let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    host.contains('.') && !is_address && !LOCAL.into_iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_exactly_one_label_and_a_name_for_itself() {
        let covers = |name: &str, host: &str| name.parse::<CertificateName>().unwrap().covers(host);
        assert!(covers("*.example.com", "a.example.com") && covers("Example.com", "example.com"));
        for (name, host) in [
            ("*.example.com", "example.com"),
            ("*.example.com", "a.b.example.com"),
            ("*.example.com", ".example.com"),
            ("example.com", "a.example.com"),
        ] {
            assert!(!covers(name, host), "{name} covers {host}");
        }
        assert!("*".parse::<CertificateName>().is_err() && "a.*.com".parse::<CertificateName>().is_err());
    }

    #[test]
    fn a_local_name_an_address_and_a_name_without_dot_are_not_public() {
        for host in ["shop.example.com", "a.b.co", "xn--bcher-kva.ch", "localhost.com", "mylocal.net"] {
            assert!(is_public_host(host), "{host}");
        }
        for host in
            ["localhost", "app.localhost", "web.internal", "10.0.0.1", "intranet", "nas.local", "a.test", "b.lan"]
        {
            assert!(!is_public_host(host), "{host}");
        }
    }
}
