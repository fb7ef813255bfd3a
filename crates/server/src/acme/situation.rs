//! Which hosts want a certificate, which of them have one, and what is due.

use crate::certificates::Book;
use crate::clock;
use crate::error::Result;
use crate::state::AppState;
use api::UnixMillis;
use api::domains::{AcmeSettings, CertificateSource};
use api::ids::RevisionId;
use api::name::{HostName, Name};
use api::tls::{TlsMode, is_public_host};
use plan::certificates::{Begun, Budget, HostOrders, OrderPlan, Validity};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use store::{CertificateOrder, Scope};

/// Which hosts are wanted, for as long as the same revisions have traffic. Whoever looks often mostly finds that
/// nothing is new, and reading the specifications of ten thousand services to see that would be most of the work.
#[derive(Default)]
pub struct WantedHosts(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// Revisions that have traffic, each with its service.
    of: BTreeMap<RevisionId, Name>,
    wanted: Arc<BTreeMap<HostName, Wanted>>,
}

/// A host that a route names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub services: BTreeSet<Name>,
    /// The most that a route of it wants.
    pub tls: TlsMode,
}

pub struct Situation {
    pub settings: AcmeSettings,
    pub wanted: Arc<BTreeMap<HostName, Wanted>>,
    pub orders: BTreeMap<HostName, CertificateOrder>,
    pub book: Arc<Book>,
    pub plan: OrderPlan,
    pub now_ms: UnixMillis,
}

impl Situation {
    pub async fn read(state: &AppState, scope: &Scope) -> Result<Self> {
        let now_ms = clock::now_ms();
        let settings = super::settings(state, scope).await?;
        let wanted = wanted(state, scope).await?;
        let orders = state.store().certificate_order_list(scope).await?;
        let orders: BTreeMap<HostName, CertificateOrder> =
            orders.into_iter().map(|order| (order.host.clone(), order)).collect();
        let book = state.certificates();
        let hosts = ours(&wanted, &orders, &book, now_ms);
        let log = state.store().certificate_order_log(scope).await?;
        let begun: Vec<Begun<'_>> =
            log.iter().map(|one| Begun { host: &one.host, at_ms: one.began_at_ms, failed: one.failed }).collect();
        let plan = plan::certificates::plan(&hosts, &begun, &Budget::default(), now_ms);
        Ok(Self { settings, wanted, orders, book, plan, now_ms })
    }

    /// Hosts of orders and challenges that no route names any more.
    pub fn unwanted(&self) -> Vec<HostName> {
        self.orders.keys().filter(|host| !self.wanted.contains_key(*host)).cloned().collect()
    }
}

/// The hosts of all routes that have traffic.
async fn wanted(state: &AppState, scope: &Scope) -> Result<Arc<BTreeMap<HostName, Wanted>>> {
    let services = state.store().service_list(scope, None).await?;
    let services: BTreeMap<RevisionId, Name> = services
        .into_iter()
        .filter(|service| !service.removing)
        .filter_map(|service| Some((service.current_revision_id?, service.name)))
        .collect();
    let kept = || state.wanted_hosts.0.lock().unwrap_or_else(PoisonError::into_inner);
    if kept().of == services {
        return Ok(kept().wanted.clone());
    }
    let mut wanted: BTreeMap<HostName, Wanted> = BTreeMap::new();
    for revision in state.store().revision_list_of(scope, services.keys()).await? {
        let Some(name) = services.get(&revision.id) else { continue };
        for route in &revision.spec.routes {
            let Some(host) = &route.host else { continue };
            let entry =
                wanted.entry(host.clone()).or_insert_with(|| Wanted { services: BTreeSet::new(), tls: TlsMode::Off });
            entry.services.insert(name.clone());
            entry.tls = entry.tls.min(route.tls);
        }
    }
    let wanted = Arc::new(wanted);
    *kept() = Kept { of: services, wanted: wanted.clone() };
    Ok(wanted)
}

/// Hosts that Mainstay is to order for: public, wanted, and not covered by what a person gave.
fn ours(
    wanted: &BTreeMap<HostName, Wanted>,
    orders: &BTreeMap<HostName, CertificateOrder>,
    book: &Book,
    now_ms: UnixMillis,
) -> BTreeMap<HostName, HostOrders> {
    let mut hosts = BTreeMap::new();
    for (host, wanted) in wanted {
        if wanted.tls == TlsMode::Off || !is_public_host(host.as_str()) {
            continue;
        }
        let held = book.find(host);
        if held.is_some_and(|held| held.view.source == CertificateSource::User && held.is_good(now_ms)) {
            continue;
        }
        let ordered = held.filter(|held| held.view.source == CertificateSource::Acme);
        let certificate = ordered
            .map(|held| Validity { not_before_ms: held.view.not_before_ms, not_after_ms: held.view.not_after_ms });
        let order = orders.get(host);
        let entry = HostOrders {
            certificate,
            not_before_ms: order.map_or(0, |order| order.next_at_ms),
            forced: order.is_some_and(|order| order.forced),
        };
        hosts.insert(host.clone(), entry);
    }
    hosts
}
