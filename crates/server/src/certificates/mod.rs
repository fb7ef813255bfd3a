//! Certificates of hosts: what they say, which of them is used, and how their keys rest.
//!
//! A private key is in the clear in memory, in the signed document on its way to a machine, and on that
//! machine in the gateway's files. In the database it is sealed (`sealing`), also where a document with keys is
//! kept there. No answer of the API holds one, and no event and no log line does.

pub mod book;
pub mod read;

pub use book::Book;

use crate::error::{HttpError, Result};
use crate::state::AppState;
use api::desired::SignedDesiredState;
use api::domains::CertificateSource;
use api::ids::{OrganizationId, ServerId};
use api::tls::CertificateName;
use sealing::Identity;
use store::Scope;

/// What a sealed key of a certificate is bound to.
pub fn key_identity(organization: &OrganizationId, host: &CertificateName, source: CertificateSource) -> Identity {
    let source = match source {
        CertificateSource::User => "user",
        CertificateSource::Acme => "acme",
    };
    Identity::new("certificate key", &[organization.as_str(), host.as_str(), source])
}

/// What the sealed credentials of an account at an authority are bound to.
pub fn account_identity(organization: &OrganizationId, directory_url: &str) -> Identity {
    Identity::new("acme account", &[organization.as_str(), directory_url])
}

/// What a sealed desired state is bound to.
fn document_identity(organization: &OrganizationId, server_id: &ServerId) -> Identity {
    Identity::new("desired state", &[organization.as_str(), server_id.as_str()])
}

/// A document as it rests.
pub fn seal_document(state: &AppState, scope: &Scope, server_id: &ServerId, document: &str) -> String {
    state.sealing_key.seal(&document_identity(&scope.organization, server_id), document)
}

/// A document as it was signed.
pub fn open_document(
    state: &AppState,
    organization: &OrganizationId,
    server_id: &ServerId,
    signed: SignedDesiredState,
) -> Result<SignedDesiredState> {
    if !sealing::is_sealed(&signed.document) {
        return Ok(signed);
    }
    let identity = document_identity(organization, server_id);
    let opened = state.sealing_key.open(&identity, &signed.document).map_err(HttpError::internal)?;
    Ok(SignedDesiredState { document: opened.expose().to_owned(), ..signed })
}

/// Reads anew which certificates there are, after one came or went, or time went by.
pub async fn reload(state: &AppState, scope: &Scope) -> Result<()> {
    let rows = state.store().certificate_list(scope).await?;
    let book = Book::of(rows, &state.sealing_key, &scope.organization, crate::clock::now_ms());
    state.set_certificates(book);
    Ok(())
}
