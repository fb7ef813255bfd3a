//! Hosts and their certificates.

use crate::auth::Caller;
use crate::certificates::{self, read};
use crate::clock;
use crate::desired;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event};
use crate::views;
use api::domains::{AcmeSettings, CertificateRequest, CertificateSource, DomainState, DomainView};
use api::events::{EventKind, EventLevel};
use api::name::HostName;
use api::tls::CertificateName;
use store::Certificate;

pub async fn list(state: &AppState, caller: &Caller) -> Result<Vec<DomainView>> {
    views::domains::list(state, caller.scope()).await
}

/// Takes a certificate of somebody's own, in place of the one that they gave before.
pub async fn give(state: &AppState, caller: &Caller, host: &str, request: &CertificateRequest) -> Result<DomainView> {
    let host: CertificateName = parse(host)?;
    let understood = read::read(&request.chain, &request.private_key)
        .map_err(|error| HttpError::invalid("certificate", error.to_string()))?;
    let now_ms = clock::now_ms();
    if !understood.names.iter().any(|name| *name == host || host.below().is_none() && name.covers(host.as_str())) {
        let names: Vec<&str> = understood.names.iter().map(CertificateName::as_str).collect();
        let message = format!("this certificate is not for {host} but for {}", names.join(", "));
        return Err(HttpError::invalid("certificate", message).help("name one of its hosts, or give another file"));
    }
    if understood.not_after_ms <= now_ms {
        return Err(HttpError::invalid("certificate", "this certificate has expired").help("give a newer one"));
    }
    let source = CertificateSource::User;
    let identity = certificates::key_identity(&caller.scope().organization, &host, source);
    let row = Certificate {
        sealed_key: state.sealing_key.seal(&identity, understood.material.private_key.expose()),
        host: host.clone(),
        source,
        names: understood.names,
        issuer: understood.issuer,
        digest: understood.digest,
        chain: understood.material.chain,
        not_before_ms: understood.not_before_ms,
        not_after_ms: understood.not_after_ms,
        created_at_ms: now_ms,
    };
    let message = format!("a certificate of {} was stored for {host}", row.issuer);
    let told = event(EventKind::CertificateIssued, EventLevel::Info, message, caller.cause("store a certificate"));
    state.store().certificate_put(caller.scope(), &row, &[told]).await?;
    state.wakeups().events_stored();
    spread(state, caller).await?;
    let domains = list(state, caller).await?;
    domains.into_iter().find(|domain| domain.host == host).ok_or_else(|| HttpError::not_found("domain", host.as_str()))
}

/// Forgets a certificate that somebody gave.
pub async fn take_back(state: &AppState, caller: &Caller, host: &str) -> Result<()> {
    let host: CertificateName = host.parse().map_err(|_| HttpError::not_found("certificate", host))?;
    let message = format!("the certificate that was given for {host} was removed");
    let told = event(EventKind::CertificateRemoved, EventLevel::Info, message, caller.cause("remove a certificate"));
    state.store().certificate_delete(caller.scope(), &host, CertificateSource::User, &[told]).await?;
    state.wakeups().events_stored();
    spread(state, caller).await
}

/// Orders a certificate for a host now, also where it has one.
pub async fn renew(state: &AppState, caller: &Caller, host: &str) -> Result<DomainView> {
    let parsed: HostName = host.parse().map_err(|_| HttpError::not_found("domain", host))?;
    let domains = list(state, caller).await?;
    let name = CertificateName::from(parsed.clone());
    let domain = domains.into_iter().find(|domain| domain.host == name);
    let domain = domain.ok_or_else(|| HttpError::not_found("domain", host).help("a route has to name it first"))?;
    let refused = |message: String, help: &str| Err(HttpError::conflict(message).help(help));
    match (domain.state, domain.certificate.as_ref().map(|certificate| certificate.source)) {
        (DomainState::Secured, Some(CertificateSource::User)) => {
            return refused(
                format!("the certificate of {parsed} was given by a person, and only they can renew it"),
                "give a newer one with `mainstay domains add`, or remove it, and one is ordered",
            );
        }
        (DomainState::Off | DomainState::Local | DomainState::NotSetUp, _) => {
            let reason = domain.reason.unwrap_or_default();
            return refused(format!("nothing is ordered for {parsed}: {reason}"), "see `mainstay domains`");
        }
        _ if !crate::acme::settings(state, caller.scope()).await?.terms_agreed => {
            let message = format!("nothing is ordered for {parsed}: automatic HTTPS is not set up");
            return refused(message, "set it up: mainstay domains setup --agree-to-terms");
        }
        _ => {}
    }
    state.store().certificate_order_force(caller.scope(), &parsed, &[]).await?;
    // The task that orders looks when there is news.
    state.wakeups().events_stored();
    let domains = list(state, caller).await?;
    domains.into_iter().find(|domain| domain.host == name).ok_or_else(|| HttpError::not_found("domain", host))
}

pub async fn settings(state: &AppState, caller: &Caller) -> Result<AcmeSettings> {
    crate::acme::settings(state, caller.scope()).await
}

/// Sets automatic HTTPS up, or changes or ends it. Certificates that are there stay.
pub async fn set_up(state: &AppState, caller: &Caller, settings: &AcmeSettings) -> Result<AcmeSettings> {
    crate::acme::store_settings(state, caller.scope(), settings).await?;
    let message = match settings.terms_agreed {
        true => format!("automatic HTTPS was set up with the authority at {}", settings.directory_url),
        false => "automatic HTTPS was turned off".to_owned(),
    };
    let told = event(EventKind::HttpsSetUp, EventLevel::Info, message, caller.cause("set up automatic HTTPS"));
    crate::events::record(state, caller.scope(), vec![told]).await?;
    Ok(settings.clone())
}

async fn spread(state: &AppState, caller: &Caller) -> Result<()> {
    certificates::reload(state, caller.scope()).await?;
    desired::refresh_all(state, caller.scope()).await
}

fn parse(host: &str) -> Result<CertificateName> {
    host.parse().map_err(|error: api::name::NameError| HttpError::invalid("host", error.to_string()))
}
