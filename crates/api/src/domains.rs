//! Hosts and their certificates, as people see and set them.

use crate::UnixMillis;
use crate::name::Name;
use crate::secret::Secret;
use crate::tls::{CertificateName, TlsMode};
use serde::{Deserialize, Serialize};

/// Where a certificate came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CertificateSource {
    /// A person gave it; renewing it is theirs.
    User,
    /// Ordered from a certificate authority, and renewed, by Mainstay.
    Acme,
}

/// A certificate, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateView {
    pub source: CertificateSource,
    pub issuer: String,
    pub names: Vec<CertificateName>,
    pub not_before_ms: UnixMillis,
    pub not_after_ms: UnixMillis,
    /// SHA-256 of the chain as it was given, hexadecimal.
    pub digest: String,
}

/// How a host stands with HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DomainState {
    /// It has a certificate that is good now.
    Secured,
    /// A certificate is being ordered; visitors see the stand-in.
    Ordering,
    /// The last order failed and the next one is due later; visitors see the stand-in.
    Failing,
    /// Its certificate is past its end.
    Expired,
    /// Automatic HTTPS has not been set up.
    NotSetUp,
    /// No public authority can give a certificate for such a name.
    Local,
    /// Its routes say `tls = "off"`.
    Off,
    /// It has a certificate and no route leads to it.
    Unused,
}

/// A host that a route names or that a certificate was given for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DomainView {
    pub host: CertificateName,
    /// Services with a route for it.
    pub services: Vec<Name>,
    pub tls: TlsMode,
    pub state: DomainState,
    /// Why it is so, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    /// When a certificate is ordered next: the first, another try, or a renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_order_at_ms: Option<UnixMillis>,
    /// Orders in a row that failed.
    #[serde(default)]
    pub failures: u32,
}

/// `PUT /domains/{host}/certificate`: a certificate of one's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CertificateRequest {
    /// The certificate and those between it and its authority, in PEM.
    pub chain: String,
    /// In PEM, without a passphrase.
    pub private_key: Secret,
}

/// Let's Encrypt.
pub const DEFAULT_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// Automatic HTTPS: `GET` and `PUT /acme`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AcmeSettings {
    /// Somebody has read the terms of the authority and agrees. Without it, nothing is ordered.
    pub terms_agreed: bool,
    /// Where the authority may write to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Address of the authority's ACME directory.
    #[serde(default = "default_directory")]
    pub directory_url: String,
    /// Certificate in PEM by which the authority's own HTTPS is trusted, in place of those that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    #[serde(default)]
    pub challenge: ChallengeChoice,
}

fn default_directory() -> String {
    DEFAULT_DIRECTORY.to_owned()
}

impl Default for AcmeSettings {
    fn default() -> Self {
        Self {
            terms_agreed: false,
            contact: None,
            directory_url: default_directory(),
            root: None,
            challenge: ChallengeChoice::Auto,
        }
    }
}

/// How the authority is shown who owns a host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ChallengeChoice {
    /// HTTP-01 where a gateway has port 80, else TLS-ALPN-01 where one has port 443; after a failure the other.
    #[default]
    Auto,
    Http01,
    TlsAlpn01,
}
