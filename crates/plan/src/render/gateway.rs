//! What a gateway is handed, whole.

use super::{Text, Tone, shown};
use api::gateway::{GatewayConfig, GatewayService, Listener, ListenerKind};
use api::ids::ServiceId;

/// A configuration: where it listens, what leads where, and who answers.
pub fn gateway_config(config: &GatewayConfig) -> Text {
    let mut text = Text::default();
    let name = |id: &ServiceId| {
        let service = config.services.iter().find(|service| &service.service_id == id);
        service.map_or_else(|| id.short().to_owned(), |service| service.name.to_string())
    };
    for Listener { address, kind } in &config.listeners {
        let whom = match kind {
            ListenerKind::Public => "routes".into(),
            ListenerKind::PublicTls => "routes over TLS".into(),
            ListenerKind::Internal => "internal names".into(),
            ListenerKind::PublicAndInternal => "routes and internal names".into(),
            ListenerKind::Containers { subnet } => format!("internal names, for {subnet} alone"),
            ListenerKind::Service { service_id } => format!("{} alone", name(service_id)),
        };
        text.line(format!("listen {address} for {whom}"));
    }
    for route in &config.routes {
        let host = route.host.as_ref().map_or("*", |host| host.as_str());
        let strip = if route.strip_prefix { ", without the prefix" } else { "" };
        let https = if route.https_only { ", by HTTPS alone" } else { "" };
        text.line(format!("route {host}{} → {}{strip}{https}", route.path, name(&route.service_id)));
    }
    for service in &config.services {
        service_lines(service, &mut text);
    }
    for internal in &config.internal {
        text.line(format!("internal name {} → {}", internal.name, name(&internal.service_id)));
    }
    for dns in config.responders() {
        let whom = dns.only_from.map(|subnet| format!(", for {subnet} alone")).unwrap_or_default();
        text.line(format!("answer names below {} on {} with {}{whom}", dns.domain, dns.address, dns.answer));
    }
    for certificate in &config.tls.certificates {
        let names: Vec<&str> = certificate.names.iter().map(|name| name.as_str()).collect();
        text.line(format!(
            "certificate {} for {}",
            &certificate.digest[..8.min(certificate.digest.len())],
            names.join(", ")
        ));
    }
    for answer in &config.tls.challenges {
        text.line(format!("answer {} for {}: {}", answer.kind.label(), answer.host, answer.token));
    }
    text
}

fn service_lines(service: &GatewayService, text: &mut Text) {
    text.pieces(vec![(Tone::Plain, "service ".into()), (Tone::Strong, service.name.to_string())]);
    for upstream in &service.upstreams {
        let draining = if upstream.draining { ", draining: no new requests" } else { "" };
        text.line(format!("      {} at {}{draining}", upstream.instance_id.short(), upstream.address));
    }
    text.line(format!("      when nobody can answer: {}", shown(&service.unavailable_reason)));
}
