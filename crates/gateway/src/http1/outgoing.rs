//! The head of a request as the instance gets it: written once, straight from the client's lines.
//!
//! Hop-by-hop headers (RFC 9110, 7.6.1) end here, those named in `Connection` included, and the length
//! is written anew. The forwarding headers of a peer on loopback (another proxy on this machine) are
//! continued; those of anyone else are thrown away, because whoever can reach the port can write them.

use super::fields;
use super::request::{Framing, Kind, RequestHead};
use crate::serve::Peer;
use httparse::Header;

/// Writes the head. The first `strip` bytes of the path are left out and told in a header.
pub fn write(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, peer: &Peer, request_id: &[u8], strip: usize) {
    out.reserve(head.asked.head + 512);
    write_first_line(out, head, strip);
    match head.host {
        Some(host) => fields::write(out, b"Host", host),
        None => fields::write(out, b"Host", peer.local.to_string().as_bytes()),
    }
    let trusted = peer.is_trusted();
    let mut given = Given::default();
    for (header, kind) in head.headers.iter().zip(&head.kinds) {
        if given.is_passed(header, *kind, trusted) {
            fields::write(out, header.name.as_bytes(), header.value);
        }
    }
    write_forwarding(out, head, peer, &given);
    if strip > 0 {
        fields::write(out, b"X-Forwarded-Prefix", &head.target.0.as_bytes()[..strip]);
    }
    fields::write(out, b"X-Request-Id", request_id);
    match head.asked.framing {
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        // A body of no bytes is told only where there is one by the method's meaning, as clients do.
        Framing::Length(0) if !matches!(head.method, "POST" | "PUT" | "PATCH") => {}
        Framing::Length(length) => fields::write_content_length(out, length),
        Framing::UntilEnd => {}
    }
    if head.asked.accepts_trailers {
        out.extend_from_slice(b"TE: trailers\r\n");
    }
    if let Some(protocol) = head.upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        fields::write(out, b"Upgrade", protocol);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_first_line(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, strip: usize) {
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    let target = &head.target.0.as_bytes()[strip..];
    if strip > 0 && target.first() != Some(&b'/') {
        out.push(b'/');
    }
    out.extend_from_slice(target);
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Which forwarding headers a trusted peer gave itself.
#[derive(Default)]
struct Given {
    proto: bool,
    host: bool,
    port: bool,
    real_ip: bool,
    forwarded_for: bool,
    forwarded: bool,
}

impl Given {
    fn is_passed(&mut self, header: &Header<'_>, kind: Kind, trusted: bool) -> bool {
        let given = match kind {
            Kind::Passed => {
                let says_who_asked = !trusted && fields::is_forwarding(header.name);
                // Told anew where a prefix is left out; another proxy's is kept otherwise.
                return !says_who_asked;
            }
            Kind::Dropped => return false,
            Kind::ForwardedFor | Kind::Forwarded => {
                let given = if kind == Kind::Forwarded { &mut self.forwarded } else { &mut self.forwarded_for };
                *given = trusted;
                return false;
            }
            Kind::ForwardedProto => &mut self.proto,
            Kind::ForwardedHost => &mut self.host,
            Kind::ForwardedPort => &mut self.port,
            Kind::RealIp => &mut self.real_ip,
        };
        *given = trusted;
        trusted
    }
}

/// Who asked, for what host, over what.
fn write_forwarding(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, peer: &Peer, given: &Given) {
    let ip = peer.ip.as_bytes();
    out.extend_from_slice(b"X-Forwarded-For: ");
    if given.forwarded_for {
        continue_list(out, head, Kind::ForwardedFor);
    }
    out.extend_from_slice(ip);
    out.extend_from_slice(b"\r\nForwarded: ");
    if given.forwarded {
        continue_list(out, head, Kind::Forwarded);
    }
    peer.write_forwarded(out, head.host);
    out.extend_from_slice(b"\r\n");
    if !given.proto {
        fields::write(out, b"X-Forwarded-Proto", peer.scheme().as_bytes());
    }
    if !given.port {
        out.extend_from_slice(b"X-Forwarded-Port: ");
        fields::write_number(out, peer.local.port().into());
        out.extend_from_slice(b"\r\n");
    }
    if !given.real_ip {
        fields::write(out, b"X-Real-Ip", ip);
    }
    if let Some(host) = head.host.filter(|_| !given.host) {
        fields::write(out, b"X-Forwarded-Host", host);
    }
}

/// All lines of a list header, as the beginning of one line.
fn continue_list(out: &mut Vec<u8>, head: &RequestHead<'_, '_>, kind: Kind) {
    for (header, _) in head.headers.iter().zip(&head.kinds).filter(|(_, of)| **of == kind) {
        out.extend_from_slice(header.value);
        out.extend_from_slice(b", ");
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{HEADERS_LIMIT, read};
    use super::*;
    use std::mem::MaybeUninit;

    fn written(text: &str, peer: &Peer, strip: usize) -> String {
        let text = text.replace('\n', "\r\n") + "\r\n\r\n";
        let mut space = [const { MaybeUninit::uninit() }; HEADERS_LIMIT];
        let head = read(text.as_bytes(), &mut space).expect("a good head");
        let mut out = Vec::new();
        write(&mut out, &head, peer, b"id-1", strip);
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }

    const OUTSIDE: [&str; 2] = ["192.0.2.7:5", "192.0.2.2:8080"];

    #[test]
    fn what_an_untrusted_peer_says_of_itself_is_replaced_also_with_underscores() {
        let text = "GET /x HTTP/1.1\nHost: a.example:8080\nX-Forwarded-For: 6.6.6.6\nx_forwarded_for: 6.6.6.6\n\
                    Forwarded: for=6.6.6.6\nX-Forwarded-Proto: https\nX-Real-Ip: 6.6.6.6\nX-Forwarded-Prefix: /a\nx_other: kept";
        let [address, local] = OUTSIDE;
        assert_eq!(
            written(text, &Peer::for_test(address, local), 0),
            "GET /x HTTP/1.1\nHost: a.example:8080\nx_other: kept\nX-Forwarded-For: 192.0.2.7\n\
             Forwarded: for=192.0.2.7;proto=http;host=\"a.example:8080\"\nX-Forwarded-Proto: http\n\
             X-Forwarded-Port: 8080\nX-Real-Ip: 192.0.2.7\nX-Forwarded-Host: a.example:8080\nX-Request-Id: id-1\n\n"
        );
        assert_eq!(
            written(text, &Peer::for_test("127.0.0.1:5", "127.0.0.1:80"), 0),
            "GET /x HTTP/1.1\nHost: a.example:8080\nx_forwarded_for: 6.6.6.6\nX-Forwarded-Proto: https\n\
             X-Real-Ip: 6.6.6.6\nX-Forwarded-Prefix: /a\nx_other: kept\nX-Forwarded-For: 6.6.6.6, 127.0.0.1\n\
             Forwarded: for=6.6.6.6, for=127.0.0.1;proto=http;host=\"a.example:8080\"\nX-Forwarded-Port: 80\n\
             X-Forwarded-Host: a.example:8080\nX-Request-Id: id-1\n\n"
        );
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_in_connection_end_here() {
        let text = "POST /api/x HTTP/1.1\nHost: a\nConnection: close, X-Private, host, content-length\nX-Private: 1\n\
                    Keep-Alive: timeout=5\nProxy-Connection: keep-alive\nTE: gzip, trailers\nContent-Length: 3\n\
                    Upgrade: h2c\nX-Kept: 1";
        let [address, local] = OUTSIDE;
        let written = written(text, &Peer::for_test(address, local), 4);
        let mut lines: Vec<&str> = written.lines().filter(|line| !line.contains("orwarded")).collect();
        lines.retain(|line| !line.is_empty());
        assert_eq!(
            lines,
            [
                "POST /x HTTP/1.1",
                "Host: a",
                "X-Kept: 1",
                "X-Real-Ip: 192.0.2.7",
                "X-Request-Id: id-1",
                "Content-Length: 3",
                "TE: trailers",
            ]
        );
        assert!(written.contains("X-Forwarded-Prefix: /api\n"), "{written}");
    }

    #[test]
    fn a_stripped_prefix_leaves_a_path_and_keeps_the_query() {
        let [address, local] = OUTSIDE;
        let first = |target: &str, strip| {
            let text = format!("GET {target} HTTP/1.1\nHost: a");
            written(&text, &Peer::for_test(address, local), strip).lines().next().unwrap().to_owned()
        };
        assert_eq!(first("/api/x?y=1", 4), "GET /x?y=1 HTTP/1.1");
        assert_eq!(first("/api", 4), "GET / HTTP/1.1");
        assert_eq!(first("/api?y=1", 4), "GET /?y=1 HTTP/1.1");
        assert_eq!(first("/api//x", 4), "GET //x HTTP/1.1");
        assert_eq!(first("http://h/api/x", 0), "GET /api/x HTTP/1.1");
        assert_eq!(first("*", 0), "GET * HTTP/1.1");
    }

    #[test]
    fn an_ipv6_peer_is_quoted_in_forwarded() {
        let text = written("GET / HTTP/1.0\nAccept: */*", &Peer::for_test("[2001:db8::1]:5", "[2001:db8::2]:80"), 0);
        assert!(text.contains("Forwarded: for=\"[2001:db8::1]\";proto=http\n"), "{text}");
        assert!(text.contains("X-Forwarded-For: 2001:db8::1\n"), "{text}");
        assert!(text.contains("Host: [2001:db8::2]:80\n"), "{text}");
    }
}
