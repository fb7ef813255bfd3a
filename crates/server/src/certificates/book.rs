//! All certificates in the order in which they are preferred, and which of them a server needs.
//!
//! A copy of the rows in memory with the keys opened, because documents are put together often and
//! certificates change rarely. It is replaced whole whenever a certificate comes or goes, and when one of
//! them begins or ends (see [`Book::is_outdated`]).
//!
//! Of several certificates for a host the one that is good now wins, then the one that a person gave, then
//! the one that lasts longest. A certificate whose time is over stays in until another takes its place: a
//! visitor who is told "expired" knows more than one who sees the stand-in.

use api::UnixMillis;
use api::domains::{CertificateSource, CertificateView};
use api::ids::OrganizationId;
use api::name::HostName;
use api::tls::{CertificateDesired, CertificateMaterial, CertificateName};
use sealing::SealingKey;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use store::Certificate;

/// A certificate with its key opened.
#[derive(Debug)]
pub struct Held {
    pub host: CertificateName,
    pub view: CertificateView,
    pub created_at_ms: UnixMillis,
    desired: CertificateDesired,
}

impl Held {
    pub fn is_good(&self, now_ms: UnixMillis) -> bool {
        (self.view.not_before_ms..self.view.not_after_ms).contains(&now_ms)
    }

    pub fn chain(&self) -> &str {
        &self.desired.material.chain
    }
}

#[derive(Debug, Default)]
pub struct Book {
    /// Preferred first.
    held: Vec<Arc<Held>>,
    /// By name, wildcards as they are written; positions in `held`, lowest first.
    by_name: HashMap<CertificateName, Vec<usize>>,
    /// The next moment at which the order may be another.
    outdated_at_ms: Option<UnixMillis>,
}

impl Book {
    /// Rows whose key cannot be opened are left out: a certificate without key serves nobody.
    pub fn of(rows: Vec<Certificate>, key: &SealingKey, organization: &OrganizationId, now_ms: UnixMillis) -> Self {
        let mut held: Vec<Arc<Held>> =
            rows.into_iter().filter_map(|row| open(row, key, organization)).map(Arc::new).collect();
        held.sort_by(|a, b| {
            let rank = |one: &Held| (!one.is_good(now_ms), one.view.source, -one.view.not_after_ms);
            (rank(a), &a.host).cmp(&(rank(b), &b.host))
        });
        let mut by_name: HashMap<CertificateName, Vec<usize>> = HashMap::new();
        for (position, one) in held.iter().enumerate() {
            for name in &one.view.names {
                by_name.entry(name.clone()).or_default().push(position);
            }
        }
        let turns = held.iter().flat_map(|one| [one.view.not_before_ms, one.view.not_after_ms]);
        let outdated_at_ms = turns.filter(|at_ms| *at_ms > now_ms).min();
        Self { held, by_name, outdated_at_ms }
    }

    pub fn is_outdated(&self, now_ms: UnixMillis) -> bool {
        self.outdated_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    pub fn all(&self) -> &[Arc<Held>] {
        &self.held
    }

    /// The preferred certificate for a host. A visitor's handshake finds an exact one before a wildcard of the same
    /// worth, and so does this.
    pub fn find(&self, host: &HostName) -> Option<&Arc<Held>> {
        self.position(host).map(|position| &self.held[position])
    }

    fn position(&self, host: &HostName) -> Option<usize> {
        let first = |name: &CertificateName| self.by_name.get(name).and_then(|positions| positions.first()).copied();
        let exact = first(&CertificateName::from(host.clone()));
        let parent = host.as_str().split_once('.').and_then(|(_, parent)| format!("*.{parent}").parse().ok());
        let wildcard = parent.as_ref().and_then(first);
        exact.into_iter().chain(wildcard).min()
    }

    /// Those that a server with routes for these hosts needs. A route without host answers to whatever a certificate
    /// that a person gave is for.
    pub fn for_routes<'a>(&self, hosts: impl IntoIterator<Item = Option<&'a HostName>>) -> Vec<CertificateDesired> {
        let mut wanted = BTreeSet::new();
        for host in hosts {
            match host {
                Some(host) => wanted.extend(self.position(host)),
                None => {
                    let given = |one: &&Arc<Held>| one.view.source == CertificateSource::User;
                    wanted.extend((0..self.held.len()).filter(|position| given(&&self.held[*position])));
                }
            }
        }
        wanted.into_iter().map(|position| self.held[position].desired.clone()).collect()
    }
}

fn open(row: Certificate, key: &SealingKey, organization: &OrganizationId) -> Option<Held> {
    let identity = super::key_identity(organization, &row.host, row.source);
    let private_key = match key.open(&identity, &row.sealed_key) {
        Ok(private_key) => private_key,
        Err(error) => {
            tracing::error!(host = %row.host, %error, "the key of a certificate cannot be opened; it is not used");
            return None;
        }
    };
    let view = CertificateView {
        source: row.source,
        issuer: row.issuer,
        names: row.names.clone(),
        not_before_ms: row.not_before_ms,
        not_after_ms: row.not_after_ms,
        digest: row.digest.clone(),
    };
    let material = CertificateMaterial { chain: row.chain, private_key };
    let desired = CertificateDesired { digest: row.digest, names: row.names, material };
    Some(Held { host: row.host, view, created_at_ms: row.created_at_ms, desired })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::secret::Secret;

    const NOW: UnixMillis = 1_000;

    fn row(
        key: &SealingKey,
        organization: &OrganizationId,
        source: CertificateSource,
        names: &[&str],
        until: UnixMillis,
    ) -> Certificate {
        let names: Vec<CertificateName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let host = names[0].clone();
        let identity = crate::certificates::key_identity(organization, &host, source);
        Certificate {
            sealed_key: key.seal(&identity, "key"),
            digest: format!("{host} {source:?} {until}"),
            host,
            source,
            names,
            issuer: String::new(),
            chain: String::new(),
            not_before_ms: 0,
            not_after_ms: until,
            created_at_ms: 0,
        }
    }

    fn book(rows: &[(CertificateSource, &[&str], UnixMillis)]) -> Book {
        let key = SealingKey::from_base64(&SealingKey::generate()).unwrap();
        let organization = OrganizationId::from_uuid(uuid::Uuid::nil());
        let rows = rows.iter().map(|(source, names, until)| row(&key, &organization, *source, names, *until));
        Book::of(rows.collect(), &key, &organization, NOW)
    }

    fn found(book: &Book, host: &str) -> String {
        book.find(&host.parse().unwrap()).map_or_else(|| "none".into(), |held| held.view.digest.clone())
    }

    #[test]
    fn a_good_certificate_comes_before_an_ended_one_then_a_persons_own_then_the_longest() {
        use CertificateSource::{Acme, User};
        let book = book(&[
            (Acme, &["a.example.com"], 9_000),
            (User, &["a.example.com", "c.example.com"], 5_000),
            (User, &["b.example.com", "d.example.com"], 500),
            (Acme, &["b.example.com"], 2_000),
            (User, &["*.example.com"], 4_000),
        ]);
        assert_eq!(found(&book, "a.example.com"), "a.example.com User 5000");
        assert_eq!(found(&book, "c.example.com"), "a.example.com User 5000");
        assert_eq!(found(&book, "b.example.com"), "*.example.com User 4000");
        assert_eq!(found(&book, "x.example.com"), "*.example.com User 4000");
        assert_eq!(found(&book, "example.com"), "none");
        assert!(!book.is_outdated(NOW) && book.is_outdated(2_000), "an order changes when the first one ends");
    }

    #[test]
    fn a_server_gets_the_certificates_of_its_hosts_and_with_a_route_for_any_host_all_that_people_gave() {
        use CertificateSource::{Acme, User};
        let book = book(&[
            (Acme, &["a.example.com"], 9_000),
            (Acme, &["b.example.com"], 9_000),
            (User, &["*.tenants.example.com"], 5_000),
        ]);
        let host: HostName = "a.example.com".parse().unwrap();
        let digests = |hosts: &[Option<&HostName>]| -> Vec<String> {
            book.for_routes(hosts.iter().copied()).into_iter().map(|certificate| certificate.digest).collect()
        };
        assert_eq!(digests(&[Some(&host), Some(&host)]), ["a.example.com Acme 9000"]);
        assert_eq!(digests(&[None]), ["*.tenants.example.com User 5000"]);
        assert_eq!(digests(&[None, Some(&host)]), ["*.tenants.example.com User 5000", "a.example.com Acme 9000"]);
        assert!(digests(&[]).is_empty());
    }

    #[test]
    fn a_certificate_whose_key_does_not_open_is_not_used() {
        let key = SealingKey::from_base64(&SealingKey::generate()).unwrap();
        let organization = OrganizationId::from_uuid(uuid::Uuid::nil());
        let mut moved = row(&key, &organization, CertificateSource::User, &["a.example.com"], 9_000);
        moved.host = "b.example.com".parse().unwrap();
        moved.sealed_key = key.seal(&sealing::Identity::new("x", &[]), Secret::new("key").expose());
        assert!(Book::of(vec![moved], &key, &organization, NOW).all().is_empty());
    }
}
