//! What is shown for a host that has no certificate: one that this process made for itself.
//!
//! No browser trusts it, and it says in its names why a visitor sees it, so that nobody takes it for a broken
//! certificate of theirs. It lives as long as the process and has no file: nothing can come to rely on it.

use super::TlsError;
use super::certificates::self_signed;
use rcgen::{CertificateParams, DnType};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

pub const COMMON_NAME: &str = "Mainstay stand-in: this host has no certificate yet";
pub const ORGANIZATION: &str = "Mainstay stand-in";
/// The one name that it is for; `.invalid` never exists.
const NAME: &str = "stand-in.mainstay.invalid";

pub fn make() -> Result<Arc<CertifiedKey>, TlsError> {
    let problem = |error: rcgen::Error| TlsError::StandIn(error.to_string());
    let mut params = CertificateParams::new([NAME.to_owned()]).map_err(problem)?;
    params.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    params.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    self_signed(&params)
}
