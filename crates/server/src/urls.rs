//! Addresses under which a service answers, worked out from its routes and the gateways that serve it.

use api::gateway::GatewaySettings;
use api::name::HostName;
use api::services::RouteSpec;
use api::tls::TlsMode;

/// One address per route and distinct gateway port, as a person opens it: by HTTPS where the host has a certificate.
/// A route without a host answers on any; on this machine that is loopback.
pub fn of_service<'a>(
    routes: &[RouteSpec],
    gateways: impl IntoIterator<Item = &'a GatewaySettings>,
    is_secured: impl Fn(&HostName) -> bool,
) -> Vec<String> {
    let mut urls = Vec::new();
    for gateway in gateways {
        for route in routes {
            let secured = route.tls != TlsMode::Off && route.host.as_ref().is_some_and(&is_secured);
            let (scheme, port, usual) = match gateway.https_port.filter(|_| secured) {
                Some(port) => ("https", port, 443),
                None => ("http", gateway.port, 80),
            };
            let host = route.host.as_ref().map_or("127.0.0.1", |host| host.as_str());
            let port = if port == usual { String::new() } else { format!(":{port}") };
            let url = format!("{scheme}://{host}{port}{}", route.path);
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: Option<&str>, path: &str) -> RouteSpec {
        RouteSpec {
            host: host.map(|h| h.parse().unwrap()),
            path: path.parse().unwrap(),
            strip_prefix: false,
            tls: Default::default(),
        }
    }

    #[test]
    fn an_address_names_the_port_only_where_a_browser_needs_it() {
        let gateway = |port| GatewaySettings { port, ..GatewaySettings::default() };
        let routes = [route(None, "/"), route(Some("shop.example.com"), "/api")];
        assert_eq!(
            of_service(&routes, [&gateway(8080)], |_| false),
            ["http://127.0.0.1:8080/", "http://shop.example.com:8080/api"]
        );
        assert_eq!(of_service(&routes[1..], [&gateway(80), &gateway(80)], |_| true), ["http://shop.example.com/api"]);
        let secure = |https_port| GatewaySettings { https_port: Some(https_port), ..gateway(80) };
        assert_eq!(of_service(&routes[1..], [&secure(443)], |_| true), ["https://shop.example.com/api"]);
        assert_eq!(of_service(&routes[1..], [&secure(8443)], |_| true), ["https://shop.example.com:8443/api"]);
        assert_eq!(of_service(&routes, [&secure(443)], |_| false)[1], "http://shop.example.com/api");
        assert!(of_service(&routes, [], |_| true).is_empty());
    }
}
