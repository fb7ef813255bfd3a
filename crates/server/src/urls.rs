//! Addresses under which a service answers, worked out from its routes and the gateways that serve it.

use api::gateway::GatewaySettings;
use api::services::RouteSpec;

/// One address per route and distinct gateway port, as a person opens it. A route without a host
/// answers on any; on this machine that is loopback.
pub fn of_service<'a>(routes: &[RouteSpec], gateways: impl IntoIterator<Item = &'a GatewaySettings>) -> Vec<String> {
    let mut urls = Vec::new();
    for gateway in gateways {
        for route in routes {
            let host = route.host.as_ref().map_or("127.0.0.1", |host| host.as_str());
            let port = if gateway.port == 80 { String::new() } else { format!(":{}", gateway.port) };
            let url = format!("http://{host}{port}{}", route.path);
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
            of_service(&routes, [&gateway(8080)]),
            ["http://127.0.0.1:8080/", "http://shop.example.com:8080/api"]
        );
        assert_eq!(of_service(&routes[1..], [&gateway(80), &gateway(80)]), ["http://shop.example.com/api"]);
        assert!(of_service(&routes, []).is_empty());
    }
}
