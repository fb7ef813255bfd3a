//! What the gateway of one machine should do: rendered whole from the desired state, from the ports and health of
//! the local instances, and from what is told of those on other servers. Local ones come first: others get requests
//! while no local one is well.
//!
//! Health decides who gets requests, with one exception: if *every* active instance of a service is
//! unhealthy they all stay in, because a failing check is weaker evidence than a visitor's own
//! answer. An instance whose health is not known yet (the agent has just restarted) stays in too,
//! so restarting the agent never takes a service down.

use api::addresses::Subnet;
use api::desired::{DesiredState, InstanceDesired, InstanceIntent, SecurityMode, ServiceDesired, Traffic};
use api::fleet::{FleetService, FleetState};
use api::gateway::{
    DnsResponder, GatewayConfig, GatewayRoute, GatewayService, InternalName, Listener, ListenerKind, Upstream,
};
use api::ids::{InstanceId, ServiceId};
use api::name::{HostName, Name};
use api::observed::{InstanceObserved, InstanceState, PreparationObserved, PreparationState};
use api::services::RouteSpec;
use api::tls::{CertificateReference, ChallengeKind, GatewayTls, TlsMode, is_public_host};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

mod elsewhere;

use elsewhere::Elsewhere;

/// What the machine adds to the desired state.
#[derive(Debug, Clone, Default)]
pub struct RenderContext {
    /// Loopback port per service, where internal names do not resolve.
    pub service_ports: BTreeMap<ServiceId, u16>,
    /// Whether the DNS responder should run in the gateway process.
    pub dns_responder: bool,
    /// Where the responder asks for other names.
    pub dns_forward_to: Vec<SocketAddr>,
    pub access_log: Option<String>,
    /// What runs on other servers, where there are any that can be reached.
    pub fleet: Option<Arc<FleetState>>,
    /// The network of this server's containers.
    pub containers: Option<ContainersContext>,
}

/// How containers reach services by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainersContext {
    /// The machine, as its containers see it.
    pub gateway: Ipv4Addr,
    pub subnet: Subnet,
    /// Where the responder for containers asks for other names; `None`: there is none.
    pub dns_forward_to: Option<Vec<SocketAddr>>,
}

/// Name servers are asked on this port, and resolvers know no other.
const DNS_PORT: u16 = 53;

/// The whole configuration. Equal inputs, in any order, give equal configurations.
pub fn render(
    desired: &DesiredState,
    instances: &[InstanceObserved],
    preparations: &[PreparationObserved],
    context: &RenderContext,
) -> GatewayConfig {
    let observed: BTreeMap<&InstanceId, &InstanceObserved> = instances.iter().map(|i| (&i.instance_id, i)).collect();
    let mut services: Vec<&ServiceDesired> =
        desired.services().map(|(_, service)| service).filter(|service| listens(service)).collect();
    services.sort_by(|a, b| (&a.name, &a.service_id).cmp(&(&b.name, &b.service_id)));
    let settings = &desired.gateway;
    let elsewhere = Elsewhere::of(desired, context);
    let here: BTreeSet<&ServiceId> = services.iter().map(|service| &service.service_id).collect();
    let others = elsewhere.without(|id| here.contains(id));
    let mut routed: Vec<Routed> = services.iter().map(|service| Routed::here(service)).collect();
    routed.extend(others.iter().map(|service| Routed::elsewhere(service)));
    routed.sort_by_key(|service| (service.name, service.service_id));
    let mut all: Vec<GatewayService> =
        services.iter().map(|s| service(s, &observed, preparations, &elsewhere)).collect();
    all.extend(others.iter().map(|service| elsewhere.service(service)));
    all.sort_by(|a, b| (&a.name, &a.service_id).cmp(&(&b.name, &b.service_id)));
    let tls = tls(desired, &routed);
    GatewayConfig {
        listeners: listeners(desired, &services, context, tls.port),
        services: all,
        routes: routes(&routed, &tls),
        internal: routed
            .iter()
            .map(|s| InternalName { name: s.name.clone(), service_id: s.service_id.clone() })
            .collect(),
        dns: (context.dns_responder && desired.dns.enabled).then(|| DnsResponder {
            address: loopback(desired.dns.port),
            domain: desired.dns.domain.clone(),
            answer: Ipv4Addr::LOCALHOST,
            ttl_seconds: 5,
            forward_to: context.dns_forward_to.clone(),
            only_from: None,
        }),
        container_dns: context.containers.as_ref().filter(|_| desired.dns.enabled).and_then(|containers| {
            Some(DnsResponder {
                address: SocketAddr::new(IpAddr::V4(containers.gateway), DNS_PORT),
                domain: desired.dns.domain.clone(),
                answer: containers.gateway,
                ttl_seconds: 5,
                forward_to: containers.dns_forward_to.clone()?,
                only_from: Some(containers.subnet),
            })
        }),
        response_timeout_ms: settings.response_timeout_ms,
        connect_timeout_ms: settings.connect_timeout_ms,
        idle_timeout_ms: settings.idle_timeout_ms,
        access_log: context.access_log.clone(),
        tls,
    }
}

/// A service that requests are sent to, wherever it runs.
struct Routed<'a> {
    service_id: &'a ServiceId,
    name: &'a Name,
    routes: &'a [RouteSpec],
}

impl<'a> Routed<'a> {
    fn here(service: &'a ServiceDesired) -> Self {
        Self { service_id: &service.service_id, name: &service.name, routes: &service.routes }
    }

    fn elsewhere(service: &'a FleetService) -> Self {
        Self { service_id: &service.service_id, name: &service.name, routes: &service.routes }
    }
}

/// HTTPS is there where a route could have a certificate or somebody gave one: a laptop opens no port for it.
fn tls(desired: &DesiredState, services: &[Routed<'_>]) -> GatewayTls {
    let mut routes = services.iter().flat_map(|service| service.routes);
    let wants = |host: &HostName| is_public_host(host.as_str());
    let wanted = routes.any(|route| route.tls != TlsMode::Off && route.host.as_ref().is_some_and(wants));
    let asked = desired.challenges.iter().any(|answer| answer.kind == ChallengeKind::TlsAlpn01);
    let certificates = desired.certificates.iter();
    GatewayTls {
        port: desired.gateway.https_port.filter(|_| wanted || asked || !desired.certificates.is_empty()),
        certificates: certificates
            .map(|certificate| CertificateReference {
                digest: certificate.digest.clone(),
                names: certificate.names.clone(),
            })
            .collect(),
        challenges: desired.challenges.clone(),
    }
}

/// Which hosts a visitor can be sent to HTTPS for.
struct Secured<'a> {
    hosts: BTreeSet<&'a str>,
    below: BTreeSet<&'a str>,
}

impl<'a> Secured<'a> {
    fn of(tls: &'a GatewayTls) -> Self {
        let mut secured = Self { hosts: BTreeSet::new(), below: BTreeSet::new() };
        // Without a port for it nobody can be sent there.
        for name in tls.port.iter().flat_map(|_| &tls.certificates).flat_map(|certificate| &certificate.names) {
            match name.below() {
                Some(below) => secured.below.insert(below),
                None => secured.hosts.insert(name.as_str()),
            };
        }
        secured
    }

    fn holds(&self, host: &HostName) -> bool {
        let parent = host.as_str().split_once('.').map(|(_, parent)| parent);
        self.hosts.contains(host.as_str()) || parent.is_some_and(|parent| self.below.contains(parent))
    }
}

/// Whether requests can reach a service at all: a worker has no port in any of its revisions.
fn listens(service: &ServiceDesired) -> bool {
    service.revisions.iter().any(|r| r.port != api::services::PortSpec::None)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn listeners(
    desired: &DesiredState,
    services: &[&ServiceDesired],
    context: &RenderContext,
    https_port: Option<u16>,
) -> Vec<Listener> {
    let address = match desired.security_mode {
        SecurityMode::Closed => Ipv4Addr::LOCALHOST,
        SecurityMode::Open | SecurityMode::GatewayOnly => Ipv4Addr::UNSPECIFIED,
    };
    let settings = &desired.gateway;
    let public = SocketAddr::new(IpAddr::V4(address), settings.port);
    let mut listeners = if settings.port == settings.internal_port {
        vec![Listener { address: public, kind: ListenerKind::PublicAndInternal }]
    } else {
        vec![
            Listener { address: public, kind: ListenerKind::Public },
            Listener { address: loopback(settings.internal_port), kind: ListenerKind::Internal },
        ]
    };
    if let Some(port) = https_port {
        let secure = SocketAddr::new(IpAddr::V4(address), port);
        listeners.push(Listener { address: secure, kind: ListenerKind::PublicTls });
    }
    listeners.extend(context.containers.iter().map(|containers| Listener {
        address: SocketAddr::new(IpAddr::V4(containers.gateway), settings.internal_port),
        kind: ListenerKind::Containers { subnet: containers.subnet },
    }));
    listeners.extend(services.iter().filter_map(|service| {
        let port = *context.service_ports.get(&service.service_id)?;
        let kind = ListenerKind::Service { service_id: service.service_id.clone() };
        Some(Listener { address: loopback(port), kind })
    }));
    listeners
}

fn routes(services: &[Routed<'_>], tls: &GatewayTls) -> Vec<GatewayRoute> {
    let secured = Secured::of(tls);
    let mut routes: Vec<GatewayRoute> = services
        .iter()
        .flat_map(|service| {
            service.routes.iter().map(|route| GatewayRoute {
                host: route.host.clone(),
                path: route.path.clone(),
                strip_prefix: route.strip_prefix,
                service_id: service.service_id.clone(),
                https_only: route.tls == TlsMode::Auto && route.host.as_ref().is_some_and(|host| secured.holds(host)),
            })
        })
        .collect();
    routes.sort_by(|a, b| (&a.host, &a.path, &a.service_id).cmp(&(&b.host, &b.path, &b.service_id)));
    routes.dedup_by(|a, b| a.host == b.host && a.path == b.path);
    routes
}

fn service(
    service: &ServiceDesired,
    observed: &BTreeMap<&InstanceId, &InstanceObserved>,
    preparations: &[PreparationObserved],
    elsewhere: &Elsewhere<'_>,
) -> GatewayService {
    let mut active = Vec::new();
    let mut unwell = Vec::new();
    let mut upstreams = Vec::new();
    for instance in &service.instances {
        let Some(seen) = observed.get(&instance.instance_id) else { continue };
        let Some(address) = seen.socket() else { continue };
        let upstream = |draining| Upstream { instance_id: instance.instance_id.clone(), address, draining };
        // What is about to be stopped leaves the gateway first: live routes are what its stop waits for.
        let stays = instance.intent == InstanceIntent::Run && seen.revision_id == instance.revision_id;
        match (instance.traffic, seen.state) {
            (Traffic::Active, _) if !stays => {}
            (Traffic::Active, InstanceState::Running | InstanceState::Healthy) => active.push(upstream(false)),
            (Traffic::Active, InstanceState::Unhealthy) => unwell.push(upstream(false)),
            (Traffic::Draining, InstanceState::Running | InstanceState::Healthy | InstanceState::Unhealthy) => {
                upstreams.push(upstream(true));
            }
            _ => {}
        }
    }
    if active.is_empty() {
        active.extend(elsewhere.active(&service.service_id));
    }
    upstreams.extend(elsewhere.draining(&service.service_id));
    upstreams.extend(if active.is_empty() { unwell } else { active });
    upstreams.sort_by(|a, b| a.instance_id.cmp(&b.instance_id));
    GatewayService {
        service_id: service.service_id.clone(),
        name: service.name.clone(),
        upstreams,
        unavailable_reason: unavailable_reason(service, observed, preparations),
    }
}

/// One sentence for the visitor of a service that has no usable instance.
fn unavailable_reason(
    service: &ServiceDesired,
    observed: &BTreeMap<&InstanceId, &InstanceObserved>,
    preparations: &[PreparationObserved],
) -> String {
    let name = &service.name;
    let mut wanted: Vec<&InstanceDesired> =
        service.instances.iter().filter(|i| i.intent == InstanceIntent::Run).collect();
    wanted.sort_by_key(|i| (i.ordinal, &i.instance_id));
    if wanted.is_empty() {
        return format!("{name} is stopped");
    }
    let seen: Vec<&InstanceObserved> = wanted.iter().filter_map(|i| observed.get(&i.instance_id).copied()).collect();
    if let Some(crashed) = seen.iter().find(|o| o.crash_looping) {
        let how = crashed.last_exit.as_ref().map(|e| format!(": its process {}", e.describe())).unwrap_or_default();
        return format!("{name} keeps crashing{how}");
    }
    if seen
        .iter()
        .any(|o| matches!(o.state, InstanceState::Transient | InstanceState::Running | InstanceState::Healthy))
    {
        return format!("{name} is starting");
    }
    if seen.iter().any(|o| o.state == InstanceState::Unhealthy) {
        return format!("{name} is not healthy");
    }
    let any = |state| preparations.iter().any(|p| p.service_id == service.service_id && p.state == state);
    if any(PreparationState::Working) {
        return format!("{name} is being built");
    }
    if any(PreparationState::Failed) {
        return format!("{name} could not be built");
    }
    format!("{name} has no running instance")
}

#[cfg(test)]
mod tests;
