//! What a plain connection is answered with because there is HTTPS: the way there, and what a
//! certificate authority wants to hear.

use crate::routes::normalize_host;
use crate::serve::Peer;
use api::gateway::ListenerKind;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

/// Where authorities ask.
pub const CHALLENGES: &str = "/.well-known/acme-challenge/";
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// What is looked at to answer a request here.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// As the visitor wrote it, with a port if there was one.
    pub host: &'a str,
    pub path: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// What the visitor says to have come by.
    pub forwarded_proto: Option<&'a [u8]>,
}

/// The answer to a question of a certificate authority (RFC 8555, 8.3). A token that is not ours is a request like
/// any other: the service may order certificates of its own.
pub fn challenge(peer: &Peer, visit: Visit<'_>) -> Option<Response<Bytes>> {
    let token = visit.path.strip_prefix(CHALLENGES)?;
    if !is_public(peer) {
        return None;
    }
    let answer = peer.shared.table.load().challenge(&normalize_host(visit.host)?, token)?;
    let mut response = Response::new(answer);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Some(response)
}

/// The same address under HTTPS, with the method kept (308). `None` where the visitor is there already.
pub fn redirect(peer: &Peer, visit: Visit<'_>) -> Option<Response<Bytes>> {
    // A proxy on this machine has ended TLS before us; sending its visitors there again would never end.
    let came_by_https = peer.is_trusted() && visit.forwarded_proto == Some(b"https");
    // A service that orders certificates of its own answers under this path, and authorities begin at port 80.
    let is_challenge = visit.path.starts_with(CHALLENGES);
    if peer.secure || is_challenge || !is_public(peer) || came_by_https {
        return None;
    }
    let port = peer.shared.table.load().https_port?;
    let bare = normalize_host(visit.host)?;
    let port = port_to_name(visit.host.len() > bare.len() + 1, peer.local.port(), port);
    let path = visit.target;
    let location = match port {
        Some(port) => format!("https://{bare}:{port}{path}"),
        None => format!("https://{bare}{path}"),
    };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(response)
}

fn is_public(peer: &Peer) -> bool {
    matches!(**peer.listener.kind.load(), ListenerKind::Public | ListenerKind::PublicAndInternal)
}

/// The port that has to be written behind the host. A visitor who wrote no port and still reached another than 80
/// came through something that forwards 80 to us, and is taken to find 443 forwarded as well.
fn port_to_name(visitor_named_one: bool, local_port: u16, port: u16) -> Option<u16> {
    let forwarded = !visitor_named_one && local_port != HTTP_PORT;
    (port != HTTPS_PORT && !forwarded).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_https_is_named_only_where_the_visitor_would_not_find_it_without() {
        assert_eq!(port_to_name(false, 80, 443), None);
        assert_eq!(port_to_name(false, 80, 8443), Some(8443));
        assert_eq!(port_to_name(true, 8080, 8443), Some(8443));
        assert_eq!(port_to_name(false, 8080, 8443), None, "something forwards 80 to 8080");
        assert_eq!(port_to_name(true, 8080, 443), None);
    }
}
