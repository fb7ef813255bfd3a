//! Hosts and how each stands with HTTPS: those in trouble first.

use super::frame::{Frame, Live, page};
use super::times;
use super::words::{self, Tone};
use api::domains::{AcmeSettings, CertificateSource, DomainState, DomainView};
use maud::{Markup, html};

/// A page stays small, whatever there is.
const SHOWN: usize = 80;

pub struct DomainsPage {
    pub domains: Vec<DomainView>,
    pub settings: AcmeSettings,
}

impl DomainsPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        let mut domains: Vec<&DomainView> = self.domains.iter().collect();
        domains.sort_by_key(|domain| (urgency(domain.state), domain.host.clone()));
        let hidden = domains.len().saturating_sub(SHOWN);
        page(
            frame,
            "Domains",
            Live::No,
            html! {
                div.title { h1 { "Domains" } p.lead { "Hosts that routes name, and their certificates." } }
                section.card aria-labelledby="domains-title" {
                    h2 #domains-title { "All hosts" }
                    @if domains.is_empty() {
                        p.empty { "No route names a host. Give a service one in its manifest: " code { "route = \"shop.example.com\"" } }
                    } @else {
                        table {
                            thead { tr { th scope="col" { "Host" } th scope="col" { "HTTPS" } th scope="col" { "Certificate" } th scope="col" { "Ends" } } }
                            tbody { @for domain in domains.iter().take(SHOWN) { (row(domain, frame)) } }
                        }
                        @if hidden > 0 { p.soft { (hidden) " more, which are well or waiting, are listed by " code { "mainstay domains" } "." } }
                    }
                }
                (self.automatic())
            },
        )
    }

    fn automatic(&self) -> Markup {
        let settings = &self.settings;
        html! {
            section.card aria-labelledby="automatic-title" {
                h2 #automatic-title { "Automatic HTTPS" }
                @if settings.terms_agreed {
                    dl.facts {
                        dt { "Authority" } dd { code { (settings.directory_url) } }
                        dt { "Contact" } dd { (settings.contact.as_deref().unwrap_or("none")) }
                    }
                    p.soft { "Certificates are ordered for the public hosts of routes and renewed at two thirds of their life. Change it with " code { "mainstay domains setup" } "." }
                } @else {
                    p { "It is off: no certificate is ordered. Read the terms of the authority, then:" }
                    p { code { "mainstay domains setup --agree-to-terms --email you@example.com" } }
                }
            }
        }
    }
}

/// Who needs a person comes first.
fn urgency(state: DomainState) -> u8 {
    match state {
        DomainState::Expired => 0,
        DomainState::Failing => 1,
        DomainState::Ordering | DomainState::NotSetUp => 2,
        DomainState::Secured => 3,
        DomainState::Unused | DomainState::Local | DomainState::Off => 4,
    }
}

fn state_words(state: DomainState) -> (Tone, &'static str) {
    match state {
        DomainState::Secured => (Tone::Good, "secured"),
        DomainState::Ordering => (Tone::Busy, "being ordered"),
        DomainState::Failing => (Tone::Bad, "failing"),
        DomainState::Expired => (Tone::Bad, "expired"),
        DomainState::NotSetUp => (Tone::Warn, "not set up"),
        DomainState::Local => (Tone::Off, "local name"),
        DomainState::Off => (Tone::Off, "off"),
        DomainState::Unused => (Tone::Off, "unused"),
    }
}

fn row(domain: &DomainView, frame: &Frame) -> Markup {
    let (tone, word) = state_words(domain.state);
    let services: Vec<&str> = domain.services.iter().map(|name| name.as_str()).collect();
    html! {
        tr {
            th scope="row" data-label="Host" { (domain.host) @if !services.is_empty() { p.soft { (services.join(", ")) } } }
            td data-label="HTTPS" {
                (words::badge(tone, word))
                @if let Some(reason) = &domain.reason { p.reason { (words::prose(reason)) } }
                @if let Some(next) = domain.next_order_at_ms.filter(|at_ms| domain.failures > 0 && *at_ms > frame.now_ms) {
                    p.soft { "tried again in " (times::until(next, frame.now_ms)) }
                }
            }
            td data-label="Certificate" {
                @match &domain.certificate {
                    Some(certificate) => {
                        (certificate.issuer)
                        @if certificate.source == CertificateSource::User { p.soft { "given by a person" } }
                    }
                    None => "none",
                }
            }
            td data-label="Ends" {
                @if let Some(certificate) = &domain.certificate { span title=(times::exact_text(certificate.not_after_ms)) { (end(certificate.not_after_ms, frame.now_ms)) } }
            }
        }
    }
}

fn end(at_ms: api::UnixMillis, now_ms: api::UnixMillis) -> String {
    match at_ms - now_ms {
        left @ 1.. => format!("in {}", times::duration_text(left)),
        _ => "it has ended".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use api::domains::CertificateView;
    use api::tls::TlsMode;

    fn domain(host: &str, state: DomainState) -> DomainView {
        DomainView {
            host: host.parse().unwrap(),
            services: vec!["web".parse().unwrap()],
            tls: TlsMode::Auto,
            state,
            reason: None,
            certificate: None,
            next_order_at_ms: None,
            failures: 0,
        }
    }

    fn rendered(domains: Vec<DomainView>, settings: AcmeSettings) -> String {
        DomainsPage { domains, settings }.render(&samples::frame("/domains")).into_string()
    }

    #[test]
    fn hosts_in_trouble_come_first_with_the_reason_escaped() {
        let mut failing = domain("z.example.com", DomainState::Failing);
        failing.reason = Some("the authority said: <script>".into());
        let mut good = domain("a.example.com", DomainState::Secured);
        good.certificate = Some(CertificateView {
            source: CertificateSource::User,
            issuer: "Authority & Sons".into(),
            names: vec![],
            not_before_ms: 0,
            not_after_ms: i64::from(i32::MAX) * 1000,
            digest: String::new(),
        });
        let page = rendered(vec![good, failing], AcmeSettings { terms_agreed: true, ..AcmeSettings::default() });
        let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is missing in {page}"));
        assert!(place("z.example.com") < place("a.example.com"));
        assert!(place("&lt;script&gt;") > 0 && !page.contains("<script>"));
        place("Authority &amp; Sons");
        place("given by a person");
    }

    #[test]
    fn without_hosts_and_without_agreement_the_page_says_what_to_do() {
        let page = rendered(vec![], AcmeSettings::default());
        assert!(page.contains("mainstay domains setup --agree-to-terms") && page.contains("No route names a host"));
    }

    #[test]
    fn many_hosts_make_no_large_page() {
        let many = (0..5_000).map(|number| domain(&format!("h{number}.example.com"), DomainState::Failing));
        let page = rendered(many.collect(), AcmeSettings::default());
        assert!(page.len() < 50_000 && page.contains("4920 more"), "{}", page.len());
    }
}
