//! What the gateway on one server should do, what it says it does, and the DNS beside it.
//!
//! The agent renders a [`GatewayConfig`] from the desired state and from the ports and health of the
//! local instances, hands it to the gateway whole, and reads back the digest of what is live. The
//! gateway keeps the last one on disk, so it comes back alone.

use crate::addresses::Subnet;
use crate::ids::{InstanceId, ServiceId};
use crate::latency::LatencyHistogram;
use crate::name::{HostName, Name, PathPrefix};
use crate::tls::GatewayTls;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Part of the desired state: where the gateway listens and how patient it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GatewaySettings {
    /// Port of the public listener. Its address follows from the security mode: every interface for
    /// `open` and `gateway_only`, loopback for `closed`.
    pub port: u16,
    /// Port on loopback for `<service>.svc.internal`; may equal `port`.
    pub internal_port: u16,
    /// Port of the public listener for HTTPS; `None`: there is none. Opened only while a route or a
    /// certificate needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_port: Option<u16>,
    /// Whole time that an upstream may take until its response begins.
    pub response_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub idle_timeout_ms: u64,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        Self {
            port: 8080,
            internal_port: 8081,
            https_port: None,
            response_timeout_ms: 60_000,
            connect_timeout_ms: 3_000,
            idle_timeout_ms: 75_000,
        }
    }
}

/// Part of the desired state: internal names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DnsSettings {
    pub enabled: bool,
    /// `svc.internal`: names of services on this machine.
    pub domain: String,
    /// Port of our responder on loopback.
    pub port: u16,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self { enabled: true, domain: "svc.internal".into(), port: 5353 }
    }
}

/// Everything the gateway process does, replaced whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GatewayConfig {
    pub listeners: Vec<Listener>,
    pub services: Vec<GatewayService>,
    /// Routes in any order; the gateway matches host first, then the longest path.
    pub routes: Vec<GatewayRoute>,
    /// Internal names, without domain, that the loopback listener routes by host: service name → service.
    pub internal: Vec<InternalName>,
    pub dns: Option<DnsResponder>,
    /// The responder that containers ask. If its port is taken, the rest is live all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_dns: Option<DnsResponder>,
    pub response_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    /// Path of the access log; rotated by size.
    pub access_log: Option<String>,
    #[serde(default, skip_serializing_if = "GatewayTls::is_unused")]
    pub tls: GatewayTls,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Listener {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: SocketAddr,
    pub kind: ListenerKind,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ListenerKind {
    /// Serves `routes` only.
    Public,
    /// The same over TLS. A port that is taken does not make the gateway refuse its config: what it
    /// serves already is worth more.
    PublicTls,
    /// Serves internal names only, and only to loopback.
    Internal,
    /// Both on one socket: internal names only where both ends of the connection are loopback, or are a container and
    /// the address that containers know this machine by.
    PublicAndInternal,
    /// Serves internal names only, and only to the containers of this server: its address is the one that they know the
    /// machine by, which is there only while one of them runs. A port that is taken is told, and the rest is live.
    Containers {
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        subnet: Subnet,
    },
    /// Every request goes to one service: its address on loopback where internal names do not
    /// resolve (an agent without root).
    Service { service_id: ServiceId },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GatewayService {
    pub service_id: ServiceId,
    pub name: Name,
    pub upstreams: Vec<Upstream>,
    /// What to tell a visitor when no upstream is usable: `web is starting`, `web crashed: exited with code 1`.
    pub unavailable_reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Upstream {
    pub instance_id: InstanceId,
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: SocketAddr,
    /// A draining upstream gets no new request; its open ones are counted until they end.
    pub draining: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GatewayRoute {
    pub host: Option<HostName>,
    pub path: PathPrefix,
    pub strip_prefix: bool,
    pub service_id: ServiceId,
    /// Plain HTTP is answered with the address under HTTPS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub https_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InternalName {
    pub name: Name,
    pub service_id: ServiceId,
}

/// The internal DNS responder inside the gateway process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DnsResponder {
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: SocketAddr,
    /// `svc.internal`
    pub domain: String,
    /// Answer for every name in [`GatewayConfig::internal`].
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub answer: std::net::Ipv4Addr,
    pub ttl_seconds: u32,
    /// Where other names are asked; empty: they are refused.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub forward_to: Vec<SocketAddr>,
    /// Who is answered; `None`: this machine, as it listens on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub only_from: Option<Subnet>,
}

impl GatewayConfig {
    pub fn responders(&self) -> impl Iterator<Item = &DnsResponder> {
        self.dns.iter().chain(&self.container_dns)
    }

    /// The network of this server's containers with the machine's address in it.
    pub fn containers(&self) -> Option<(IpAddr, Subnet)> {
        self.listeners.iter().find_map(|listener| match listener.kind {
            ListenerKind::Containers { subnet } => Some((listener.address.ip(), subnet)),
            _ => None,
        })
    }
}

/// What the gateway on a server says of itself, as the agent reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GatewayObserved {
    pub running: bool,
    pub pid: Option<u32>,
    pub version: Option<String>,
    /// SHA-256 of the live [`GatewayConfig`], hexadecimal.
    pub digest: Option<String>,
    /// Addresses that are really bound.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub listening: Vec<SocketAddr>,
    /// The acknowledgement of routes: instances that get new requests right now.
    pub active: Vec<InstanceId>,
    /// Requests (and upgraded connections) now open, per instance that has any or is draining.
    pub open: Vec<OpenRequests>,
    /// Why it is not as desired: a port in use, a config refused.
    pub problem: Option<String>,
    /// Counters since the gateway process began.
    #[serde(default)]
    pub services: Vec<ServiceTraffic>,
    /// Address of the DNS responder, if one is bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub dns: Option<SocketAddr>,
    /// Tokens of the challenges that are being answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub challenges: Vec<String>,
    /// Certificates that are in use, without the stand-in.
    #[serde(default)]
    pub certificates: u64,
    /// Lines of the access log that were dropped because it could not keep up.
    #[serde(default)]
    pub access_log_dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpenRequests {
    pub instance_id: InstanceId,
    pub requests: u64,
}

/// Counters of one service since the gateway process began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ServiceTraffic {
    pub service_id: ServiceId,
    pub requests: u64,
    /// Answers with status 500 to 599, whoever made them.
    pub errors: u64,
    /// Sum of the times to the first byte of the answer, for an average.
    pub latency_sum_micros: u64,
    /// Answers with status 400 to 499.
    #[serde(default)]
    pub client_errors: u64,
    /// Bodies of answers, as far as they were sent.
    #[serde(default)]
    pub sent_bytes: u64,
    /// The times to the first byte of the answer.
    #[serde(default, skip_serializing_if = "LatencyHistogram::is_empty")]
    pub latency: LatencyHistogram,
}

/// How internal names are made to resolve on this server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DnsObserved {
    /// `systemd-resolved`, `resolv.conf`, `hosts-file` or `none`.
    pub method: String,
    /// Names that resolve.
    pub names: Vec<String>,
    pub problem: Option<String>,
    /// Somebody chose that none is hooked in: what follows from that. No problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switched_off: Option<String>,
}
