//! How every host stands with HTTPS.

use crate::acme::Situation;
use crate::error::Result;
use crate::state::AppState;
use api::domains::{CertificateSource, DomainState, DomainView};
use api::name::HostName;
use api::tls::{CertificateName, TlsMode, is_public_host};
use std::collections::BTreeSet;
use store::Scope;

/// All hosts that a route names, and those that a certificate was given for besides; by name.
pub async fn list(state: &AppState, scope: &Scope) -> Result<Vec<DomainView>> {
    let situation = Situation::read(state, scope).await?;
    let mut domains: Vec<DomainView> = situation.wanted.keys().map(|host| wanted(&situation, host)).collect();
    let known: BTreeSet<CertificateName> = domains.iter().map(|domain| domain.host.clone()).collect();
    for held in situation.book.all() {
        if known.contains(&held.host) {
            continue;
        }
        let is_used = situation.wanted.keys().any(|host| held.host.covers(host.as_str()));
        let (state, reason) = match (held.is_good(situation.now_ms), is_used) {
            (false, _) => (DomainState::Expired, Some("its certificate is past its end".to_owned())),
            (true, true) => (DomainState::Secured, None),
            (true, false) => (DomainState::Unused, Some("no route leads to it".to_owned())),
        };
        domains.push(DomainView {
            host: held.host.clone(),
            services: Vec::new(),
            tls: TlsMode::Auto,
            state,
            reason,
            certificate: Some(held.view.clone()),
            next_order_at_ms: None,
            failures: 0,
        });
    }
    domains.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(domains)
}

fn wanted(situation: &Situation, host: &HostName) -> DomainView {
    let wanted = &situation.wanted[host];
    let held = situation.book.find(host);
    let order = situation.orders.get(host);
    let failures = order.map_or(0, |order| order.failures);
    let failed = order.and_then(|order| order.reason.clone()).filter(|_| failures > 0);
    let due = situation.plan.due.get(host).copied().filter(|_| situation.settings.terms_agreed);
    let (state, reason) = match held {
        Some(held) if held.is_good(situation.now_ms) => (DomainState::Secured, failed),
        Some(held) => {
            let whose = match held.view.source {
                CertificateSource::User => "the certificate that was given for it has expired: give a newer one",
                CertificateSource::Acme => "its certificate has expired",
            };
            (DomainState::Expired, Some(failed.map_or(whose.to_owned(), |failed| format!("{whose}: {failed}"))))
        }
        None if wanted.tls == TlsMode::Off => (DomainState::Off, Some("its routes say tls = \"off\"".to_owned())),
        None if !is_public_host(host.as_str()) => {
            (DomainState::Local, Some("no public authority gives certificates for such a name".to_owned()))
        }
        None if !situation.settings.terms_agreed => (
            DomainState::NotSetUp,
            Some("automatic HTTPS is not set up: mainstay domains setup --agree-to-terms".to_owned()),
        ),
        None if failures > 0 => (DomainState::Failing, failed),
        None if situation.plan.held.contains(host) => {
            (DomainState::Ordering, Some("it waits: so many certificates were ordered lately".to_owned()))
        }
        None => (DomainState::Ordering, None),
    };
    DomainView {
        host: CertificateName::from(host.clone()),
        services: wanted.services.iter().cloned().collect(),
        tls: wanted.tls,
        state,
        reason,
        certificate: held.map(|held| held.view.clone()),
        next_order_at_ms: due,
        failures,
    }
}
