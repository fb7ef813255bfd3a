//! Headers that belong to one hop, and headers that tell an instance who really asked.
//!
//! Hop-by-hop headers (RFC 9110, 7.6.1) end here, those named in `Connection` included. The
//! forwarding headers of a peer on loopback (another proxy on this machine) are continued; those of
//! anyone else are thrown away and written anew, because whoever can reach the port can write them.
//! Names with underscores that frameworks fold into the same variable (`X_Forwarded_For`) go too.

use crate::serve::Peer;
use http::header;
use http::{HeaderMap, HeaderName, HeaderValue};

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
pub const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

const FORWARDING: [HeaderName; 7] = [
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_PROTO,
    X_FORWARDED_HOST,
    X_FORWARDED_PORT,
    X_FORWARDED_PREFIX,
    X_REAL_IP,
];

/// Removes what is meant for this hop only. `te: trailers` is kept, since trailers are passed on.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            // A client must not talk us out of what frames and addresses the message.
            .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH | header::TRANSFER_ENCODING))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    let trailers = headers.contains_key(header::TE) && tokens(headers, &header::TE).any(|t| t == "trailers");
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The comma-separated tokens of all lines of one header, in lowercase.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + use<'a> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|token| token.trim().to_ascii_lowercase())
}

/// Writes who asked, for what host, over what: `X-Forwarded-*`, `X-Real-Ip` and `Forwarded`.
pub fn set_forwarding(headers: &mut HeaderMap, peer: &Peer, host: Option<&HeaderValue>) {
    if !peer.is_trusted() {
        remove_untrusted(headers);
    }
    append(headers, X_FORWARDED_FOR, peer.ip.as_bytes());
    let mut element = Vec::with_capacity(64);
    peer.write_forwarded(&mut element, host.map(HeaderValue::as_bytes));
    append(headers, header::FORWARDED, &element);
    keep_or_set(headers, X_FORWARDED_PROTO, || HeaderValue::from_static(peer.scheme()));
    keep_or_set(headers, X_FORWARDED_PORT, || HeaderValue::from(peer.local.port()));
    if let Ok(ip) = HeaderValue::from_bytes(peer.ip.as_bytes()) {
        keep_or_set(headers, X_REAL_IP, || ip);
    }
    if let Some(host) = host {
        keep_or_set(headers, X_FORWARDED_HOST, || host.clone());
    }
}

fn remove_untrusted(headers: &mut HeaderMap) {
    for name in &FORWARDING {
        headers.remove(name);
    }
    let folded = |name: &HeaderName| {
        name.as_str().contains('_') && {
            let name = name.as_str().replace('_', "-");
            FORWARDING.iter().any(|forwarding| forwarding.as_str() == name)
        }
    };
    if headers.keys().any(folded) {
        let names: Vec<HeaderName> = headers.keys().filter(|name| folded(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

fn keep_or_set(headers: &mut HeaderMap, name: HeaderName, value: impl FnOnce() -> HeaderValue) {
    headers.entry(name).or_insert_with(value);
}

/// Continues a list header in one line.
fn append(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    let mut joined = Vec::new();
    for line in headers.get_all(&name).iter().map(HeaderValue::as_bytes).chain([value]) {
        if !joined.is_empty() {
            joined.extend_from_slice(b", ");
        }
        joined.extend_from_slice(line);
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(name, joined);
    }
}

/// HTTP/2 splits cookies into one line each; HTTP/1.1 wants one line (RFC 9113, 8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_in_connection_are_removed() {
        let mut map = headers(&[
            ("connection", "close, X-Private, host"),
            ("connection", "Content-Length"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("host", "a"),
            ("content-length", "3"),
            ("x-kept", "1"),
        ]);
        remove_hop_by_hop(&mut map);
        let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "te", "x-kept"]);
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn what_an_untrusted_peer_says_of_itself_is_replaced_also_with_underscores() {
        let lines = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "6.6.6.6"),
            ("x_other", "kept"),
        ];
        let host = HeaderValue::from_static("a.example:8080");
        let mut map = headers(&lines);
        set_forwarding(&mut map, &Peer::for_test("192.0.2.7:5", "192.0.2.2:8080"), Some(&host));
        assert_eq!(map["x-forwarded-for"], "192.0.2.7");
        assert_eq!(map["forwarded"], "for=192.0.2.7;proto=http;host=\"a.example:8080\"");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-port"], "8080");
        assert_eq!(map["x-forwarded-host"], "a.example:8080");
        assert_eq!(map["x-real-ip"], "192.0.2.7");
        assert!(!map.contains_key("x_forwarded_for") && map.contains_key("x_other"));

        let mut map = headers(&lines);
        set_forwarding(&mut map, &Peer::for_test("127.0.0.1:5", "127.0.0.1:8080"), Some(&host));
        assert_eq!(map["x-forwarded-for"], "6.6.6.6, 127.0.0.1");
        assert_eq!(map["x-forwarded-proto"], "https");
        assert!(map["forwarded"].to_str().unwrap().starts_with("for=6.6.6.6, for=127.0.0.1;"));
    }

    #[test]
    fn an_ipv6_peer_is_quoted_in_forwarded() {
        let mut map = HeaderMap::new();
        set_forwarding(&mut map, &Peer::for_test("[2001:db8::1]:5", "[2001:db8::2]:80"), None);
        assert_eq!(map["forwarded"], "for=\"[2001:db8::1]\";proto=http");
        assert_eq!(map["x-forwarded-for"], "2001:db8::1");
    }
}
