//! The configs of the proxies: `routes` hosts, each leading to the same origin.

use super::Wish;
use crate::http::load::host;
use crate::http::tls::Files;
use api::gateway::{GatewayConfig, GatewayRoute, GatewayService, Listener, ListenerKind, Upstream};
use api::ids::{InstanceId, ServiceId};
use api::tls::{CertificateDesired, CertificateReference};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

/// Kept-alive connections to the origin, at least as many as there ever are clients.
const KEPT: usize = 1024;

/// As the agent writes it: the service and its one instance, and a route for each host.
pub fn mainstay(listen: SocketAddr, origin: SocketAddr, routes: usize, access_log: Option<String>) -> GatewayConfig {
    let service_id: ServiceId = "svc_00000000000000000000000000000001".parse().expect("a well-formed id");
    let instance_id: InstanceId = "ins_00000000000000000000000000000001".parse().expect("a well-formed id");
    let route = |number| GatewayRoute {
        host: Some(host(number).parse().expect("a well-formed host")),
        path: Default::default(),
        strip_prefix: false,
        https_only: false,
        service_id: service_id.clone(),
    };
    GatewayConfig {
        listeners: vec![Listener { address: listen, kind: ListenerKind::Public }],
        services: vec![GatewayService {
            service_id: service_id.clone(),
            name: "web".parse().expect("a well-formed name"),
            upstreams: vec![Upstream { instance_id, address: origin, draining: false }],
            unavailable_reason: String::new(),
        }],
        routes: (0..routes).map(route).collect(),
        response_timeout_ms: 60_000,
        connect_timeout_ms: 3_000,
        idle_timeout_ms: 75_000,
        access_log,
        ..GatewayConfig::default()
    }
}

/// Over TLS, with the certificate that the gateway was given.
pub fn secured(config: &mut GatewayConfig, certificate: &CertificateDesired) {
    config.listeners.iter_mut().for_each(|listener| listener.kind = ListenerKind::PublicTls);
    config.tls.certificates =
        vec![CertificateReference { digest: certificate.digest.clone(), names: certificate.names.clone() }];
}

pub fn nginx(listen: SocketAddr, wish: &Wish, folder: &Path) -> String {
    let Wish { origin, routes, access_log, tls, .. } = wish;
    let folder = folder.display();
    let (ssl, certificate) = match tls {
        Some(Files { certificate, key, .. }) => {
            let (certificate, key) = (certificate.display(), key.display());
            (" ssl", format!("ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;\n"))
        }
        None => ("", String::new()),
    };
    let log = if *access_log { format!("access_log {folder}/access.log;") } else { "access_log off;".to_owned() };
    let mut text = format!(
        "worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log stderr error;\n\
         worker_rlimit_nofile 65536;\n\
         events {{ worker_connections 32768; }}\n\
         http {{\n\
         {certificate}{log} server_tokens off; keepalive_requests 1000000000;\n\
         server_names_hash_max_size 65536; server_names_hash_bucket_size 128;\n\
         client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;\n\
         uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n\
         upstream origin {{ server {origin}; keepalive {KEPT}; keepalive_requests 1000000000; }}\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         proxy_http_version 1.1; proxy_read_timeout 3600s;\n\
         proxy_set_header Host $host; proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection $connection_upgrade;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Real-Ip $remote_addr;\n"
    );
    for number in 0..*routes {
        let name = host(number);
        let backlog = if number == 0 { " backlog=4096" } else { "" };
        let _ = writeln!(
            text,
            "server {{ listen {listen}{ssl}{backlog}; server_name {name}; location / {{ proxy_pass http://origin; }} }}"
        );
    }
    text + "}\n"
}

/// HAProxy's way for many hosts is a map; the second text is its file.
pub fn haproxy(listen: SocketAddr, wish: &Wish, folder: &Path) -> (String, String) {
    let Wish { origin, routes, tls, .. } = wish;
    let ssl = tls.as_ref().map(|files| format!(" ssl crt {} alpn http/1.1", files.both.display())).unwrap_or_default();
    let map = folder.join("hosts.map");
    let config = format!(
        "global\n  nbthread 1\n  maxconn 9000\n\
         defaults\n  mode http\n  timeout connect 3s\n  timeout client 75s\n  timeout server 60s\n  timeout tunnel 3600s\n\
         \x20 option forwardfor\n  http-reuse always\n\
         frontend visitors\n  bind {listen} backlog 4096{ssl}\n  http-request set-header X-Forwarded-Proto http\n\
         \x20 use_backend %[req.hdr(host),lower,map({})]\n\
         backend web\n  server origin {origin} pool-max-conn {KEPT}\n",
        map.display()
    );
    let lines: Vec<String> = (0..*routes).map(|number| format!("{} web\n", host(number))).collect();
    (config, lines.concat())
}

pub fn caddy(listen: SocketAddr, wish: &Wish) -> String {
    let Wish { origin, routes, tls, .. } = wish;
    let route = |number| {
        serde_json::json!({
            "match": [{ "host": [host(number)] }],
            "handle": [{
                "handler": "reverse_proxy",
                "upstreams": [{ "dial": origin.to_string() }],
                "transport": { "protocol": "http", "keep_alive": { "max_idle_conns_per_host": KEPT } },
            }],
            "terminal": true,
        })
    };
    let routes: Vec<_> = (0..*routes).map(route).collect();
    let mut server = serde_json::json!({
        "listen": [listen.to_string()],
        "automatic_https": { "disable": true },
        "routes": routes,
    });
    let mut apps = serde_json::json!({});
    if let Some(Files { certificate, key, .. }) = tls {
        server["tls_connection_policies"] = serde_json::json!([{ "alpn": ["http/1.1"] }]);
        apps["tls"] =
            serde_json::json!({ "certificates": { "load_files": [{ "certificate": certificate, "key": key }] } });
    }
    apps["http"] = serde_json::json!({ "servers": { "visitors": server } });
    serde_json::json!({
        "admin": { "disabled": true },
        "logging": { "logs": { "default": { "level": "ERROR" } } },
        "apps": apps,
    })
    .to_string()
}

/// The config that a start needs, and the file with the routes.
pub fn traefik(listen: SocketAddr, wish: &Wish, folder: &Path) -> (String, String) {
    let Wish { origin, routes, tls, .. } = wish;
    let fixed = serde_json::json!({
        "entryPoints": { "web": { "address": listen.to_string() } },
        "providers": { "file": { "filename": folder.join("routes.yml").display().to_string() } },
        "serversTransport": { "maxIdleConnsPerHost": KEPT },
        "log": { "level": "ERROR" },
    });
    let router = |number| {
        let rule = format!("Host(`{}`)", host(number));
        let mut router = serde_json::json!({ "rule": rule, "service": "origin", "entryPoints": ["web"] });
        if tls.is_some() {
            router["tls"] = serde_json::json!({});
        }
        (format!("r{number}"), router)
    };
    let routers: serde_json::Map<String, serde_json::Value> = (0..*routes).map(router).collect();
    let service = serde_json::json!({ "loadBalancer": { "servers": [{ "url": format!("http://{origin}") }] } });
    let mut dynamic = serde_json::json!({ "http": { "routers": routers, "services": { "origin": service } } });
    if let Some(Files { certificate, key, .. }) = tls {
        dynamic["tls"] = serde_json::json!({ "certificates": [{ "certFile": certificate, "keyFile": key }] });
    }
    (fixed.to_string(), dynamic.to_string())
}
