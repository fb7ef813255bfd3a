//! The head of a request, read once and strictly.
//!
//! What is found here is only what matters for passing it on; the lines themselves stay where they
//! are and are copied once, into what is sent to the instance (see `outgoing`). A message that two
//! readers could understand in two ways is refused and not repaired: both lengths, two lengths, a
//! coding that is not `chunked` alone, two hosts, folded lines, bare line feeds.

use super::fields;
use crate::proxy::failure::Failure;
use crate::proxy::https::Visit;
use crate::routes::normalize_host;
use httparse::Header;
use std::borrow::Cow;
use std::mem::MaybeUninit;

pub const HEADERS_LIMIT: usize = 100;

pub type HeaderSpace<'a> = [MaybeUninit<Header<'a>>; HEADERS_LIMIT];

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Of answers only: until the connection ends.
    UntilEnd,
}

/// What is known of a request when its head was read, and matters until it is answered.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Bytes of the head.
    pub head: usize,
    pub http11: bool,
    pub is_head: bool,
    /// Twice is as good as once, and there is no body.
    pub repeatable: bool,
    pub framing: Framing,
    /// The client may bring another request on this connection.
    pub keep_alive: bool,
    pub expects_continue: bool,
    pub accepts_trailers: bool,
    pub upgrade: bool,
}

/// What one header line is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Passed,
    /// Ends here, or is written anew.
    Dropped,
    ForwardedFor,
    Forwarded,
    ForwardedProto,
    ForwardedHost,
    ForwardedPort,
    RealIp,
}

/// A head whose lines still lie in the buffer that they were read into.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    pub asked: Asked,
    pub method: &'b str,
    pub target: Target<'b>,
    pub headers: &'h [Header<'b>],
    pub kinds: [Kind; HEADERS_LIMIT],
    /// As the client wrote it.
    pub host: Option<&'b [u8]>,
    pub request_id: Option<&'b [u8]>,
    pub accept: Option<&'b [u8]>,
    /// The protocol to change to, if it is one that is passed through.
    pub upgrade: Option<&'b [u8]>,
}

/// The request target: path and query, without what addresses the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'b>(pub Cow<'b, str>);

impl Target<'_> {
    pub fn path(&self) -> &str {
        self.0.split('?').next().unwrap_or_default()
    }
}

/// Why there is no request head.
#[derive(Debug)]
pub enum NoHead {
    /// More bytes have to come.
    Partial,
    /// What was read is none. Nothing behind it can be read either.
    Malformed(Failure),
}

fn bad(what: &'static str) -> NoHead {
    NoHead::Malformed(Failure::BadRequest { what })
}

/// Reads the head at the beginning of `bytes`.
pub fn read<'h, 'b>(bytes: &'b [u8], space: &'h mut HeaderSpace<'b>) -> Result<RequestHead<'h, 'b>, NoHead> {
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(bytes, space) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(NoHead::Partial),
        Err(error) => return Err(NoHead::Malformed(refusal(error))),
    };
    if fields::has_bare_line_feed(&bytes[..head]) {
        return Err(bad("a line of its head ends with a line feed alone"));
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(bad("its first line is not whole"));
    };
    let headers: &'h [Header<'b>] = request.headers;
    let mut found = Found::default();
    let mut kinds = [Kind::Passed; HEADERS_LIMIT];
    for (header, kind) in headers.iter().zip(&mut kinds) {
        *kind = found.take(header)?;
    }
    if found.names_others {
        found.drop_named(headers, &mut kinds);
    }
    let (authority, target) = split_target(target)?;
    let http11 = version == 1;
    let framing = found.framing(http11)?;
    let no_body = framing == Framing::Length(0);
    let upgrade = found.upgrade.filter(|_| http11 && no_body && found.asks_upgrade && !found.upgrades_to_http);
    let idempotent = matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE");
    let asked = Asked {
        head,
        http11,
        is_head: method == "HEAD",
        repeatable: idempotent && no_body && upgrade.is_none(),
        framing,
        keep_alive: if http11 { !found.close } else { found.keep_alive && !found.close },
        expects_continue: http11 && found.expects_continue && !no_body,
        accepts_trailers: found.accepts_trailers,
        upgrade: upgrade.is_some(),
    };
    // An absolute address in the request line overrules Host (RFC 9112, 3.2.2).
    let host = authority.or(found.host);
    let Found { request_id, accept, .. } = found;
    Ok(RequestHead { asked, method, target, headers, kinds, host, request_id, accept, upgrade })
}

fn refusal(error: httparse::Error) -> Failure {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Failure::HeadTooLarge,
        Error::HeaderName => Failure::BadRequest { what: "the name of a header has a character that none can have" },
        Error::HeaderValue => Failure::BadRequest { what: "a header has a character that none can have" },
        Error::Version => Failure::BadRequest { what: "its version of HTTP is not spoken here" },
        _ => Failure::BadRequest { what: "it is not HTTP" },
    }
}

impl RequestHead<'_, '_> {
    /// What the gateway itself may have to answer.
    pub fn visit(&self) -> Visit<'_> {
        let proto = || {
            let given = self.headers.iter().zip(&self.kinds).find(|(_, kind)| **kind == Kind::ForwardedProto);
            given.map(|(header, _)| header.value)
        };
        Visit {
            host: std::str::from_utf8(self.host.unwrap_or_default()).unwrap_or_default(),
            path: self.target.path(),
            target: &self.target.0,
            forwarded_proto: proto(),
        }
    }

    /// The names of the trailers behind the body.
    pub fn trailers(&self) -> &[u8] {
        let trailer = self.headers.iter().find(|header| header.name.eq_ignore_ascii_case("trailer"));
        trailer.map_or(&[], |header| header.value)
    }

    /// The host as the route table wants it; refuses what has more than one meaning.
    pub fn checked_host(&self) -> Result<Cow<'_, str>, Failure> {
        if matches!(self.method, "CONNECT" | "TRACE") {
            return Err(Failure::MethodRefused { method: self.method.to_owned() });
        }
        match self.host {
            None if self.asked.http11 => Err(Failure::BadRequest { what: "it has no Host" }),
            None => Ok(Cow::Borrowed("")),
            Some(host) => std::str::from_utf8(host)
                .ok()
                .and_then(normalize_host)
                .ok_or(Failure::BadRequest { what: "its Host is not a host name" }),
        }
    }
}

/// What the lines said, while they are looked at.
#[derive(Default)]
struct Found<'b> {
    host: Option<&'b [u8]>,
    length: Option<u64>,
    chunked: bool,
    request_id: Option<&'b [u8]>,
    accept: Option<&'b [u8]>,
    upgrade: Option<&'b [u8]>,
    upgrades_to_http: bool,
    asks_upgrade: bool,
    close: bool,
    keep_alive: bool,
    names_others: bool,
    expects_continue: bool,
    accepts_trailers: bool,
}

impl<'b> Found<'b> {
    fn take(&mut self, header: &Header<'b>) -> Result<Kind, NoHead> {
        let (name, value) = (header.name, header.value);
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // By length first: nearly every name is told from all of these by it.
        Ok(match name.len() {
            2 if is("te") => {
                self.accepts_trailers |= fields::tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
                Kind::Dropped
            }
            4 if is("host") => {
                if self.host.replace(value).is_some() {
                    return Err(bad("it has more than one Host"));
                }
                Kind::Dropped
            }
            6 if is("accept") => {
                self.accept = Some(value);
                Kind::Passed
            }
            6 if is("expect") => {
                self.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
                Kind::Passed
            }
            7 if is("upgrade") => {
                self.upgrade = Some(value);
                let http = |token: &[u8]| {
                    token.eq_ignore_ascii_case(b"h2c")
                        || token.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"http/"))
                };
                self.upgrades_to_http |= fields::tokens(value).any(http);
                Kind::Dropped
            }
            9 if is("forwarded") => Kind::Forwarded,
            9 if is("x-real-ip") => Kind::RealIp,
            10 if is("connection") => {
                self.take_connection(value);
                Kind::Dropped
            }
            10 if is("keep-alive") => Kind::Dropped,
            12 if is("x-request-id") => {
                self.request_id = self.request_id.or(Some(value));
                Kind::Dropped
            }
            14 if is("content-length") => {
                let length = fields::content_length(value).ok_or_else(|| bad("its Content-Length is not a length"))?;
                if self.length.replace(length).is_some() {
                    return Err(bad("it has more than one Content-Length"));
                }
                Kind::Dropped
            }
            15 if is("x-forwarded-for") => Kind::ForwardedFor,
            16 if is("x-forwarded-host") => Kind::ForwardedHost,
            16 if is("x-forwarded-port") => Kind::ForwardedPort,
            16 if is("proxy-connection") => Kind::Dropped,
            17 if is("x-forwarded-proto") => Kind::ForwardedProto,
            17 if is("transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(bad("its Transfer-Encoding is not `chunked`"));
                }
                self.chunked = true;
                Kind::Dropped
            }
            _ => Kind::Passed,
        })
    }

    fn take_connection(&mut self, value: &[u8]) {
        for token in fields::tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                self.asks_upgrade = true;
            } else {
                self.names_others = true;
            }
        }
    }

    /// Headers that `Connection` names are for this hop. A client must not talk us out of what
    /// addresses and frames the message; but that is written anew in any case.
    fn drop_named(&mut self, headers: &[Header<'b>], kinds: &mut [Kind]) {
        let connection = |header: &&Header<'_>| header.name.eq_ignore_ascii_case("connection");
        for token in headers.iter().filter(connection).flat_map(|header| fields::tokens(header.value)) {
            for (header, kind) in headers.iter().zip(kinds.iter_mut()) {
                if token.eq_ignore_ascii_case(header.name.as_bytes()) {
                    *kind = Kind::Dropped;
                }
            }
        }
    }

    fn framing(&self, http11: bool) -> Result<Framing, NoHead> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(bad("it has both Transfer-Encoding and Content-Length")),
            (true, None) if !http11 => Err(bad("it has Transfer-Encoding, which HTTP/1.0 has not")),
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// The authority, if the target has one, and path and query.
fn split_target(target: &str) -> Result<(Option<&[u8]>, Target<'_>), NoHead> {
    let odd = || bad("its address is not one");
    if target.starts_with('/') {
        // A fragment is the client's own and should not be here.
        let target = target.split('#').next().unwrap_or_default();
        return if target.bytes().all(is_target_byte) { Ok((None, Target(Cow::Borrowed(target)))) } else { Err(odd()) };
    }
    if target == "*" {
        return Ok((None, Target(Cow::Borrowed(target))));
    }
    let rest = match target.find("://") {
        Some(at) if matches!(&target[..at].to_ascii_lowercase()[..], "http" | "https") => &target[at + 3..],
        // The address of a CONNECT, which is refused for its method.
        None if target.bytes().all(is_target_byte) => return Ok((Some(target.as_bytes()), Target(Cow::Borrowed("")))),
        _ => return Err(odd()),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() || !rest.bytes().all(is_target_byte) {
        return Err(odd());
    }
    let path = if path.starts_with('/') { Cow::Borrowed(path) } else { Cow::Owned(format!("/{path}")) };
    Ok((Some(authority.as_bytes()), Target(path)))
}

/// What may stand in a path or query. More than RFC 3986 allows, because clients send it: quotes,
/// braces, bars, and what is not ASCII.
fn is_target_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0x80..) && !matches!(byte, b'<' | b'>' | b'#' | b'\\' | b'^' | b'`')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(text: &str, look: impl FnOnce(Result<RequestHead<'_, '_>, NoHead>) -> T) -> T {
        let mut space = [const { MaybeUninit::uninit() }; HEADERS_LIMIT];
        look(read(text.as_bytes(), &mut space))
    }

    fn asked(lines: &str) -> Asked {
        with(&format!("{lines}\r\n\r\n"), |head| head.expect("a good head").asked)
    }

    fn problem(lines: &str) -> String {
        with(&format!("{lines}\r\n\r\n"), |head| match head.map(|head| head.checked_host().map(|_| ())) {
            Ok(Ok(())) => "none".into(),
            Ok(Err(failure)) | Err(NoHead::Malformed(failure)) => format!("{failure:?}"),
            Err(NoHead::Partial) => "partial".into(),
        })
    }

    #[test]
    fn what_matters_of_a_request_is_found() {
        let get = asked("GET / HTTP/1.1\r\nHost: a");
        assert!(get.http11 && get.keep_alive && get.repeatable && !get.upgrade && !get.is_head);
        assert_eq!(get.framing, Framing::Length(0));
        let post = asked("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue");
        assert!(!post.repeatable && post.expects_continue && post.framing == Framing::Length(5));
        let put = asked("PUT / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\nTE: gzip, Trailers");
        assert!(!put.repeatable && put.accepts_trailers && put.framing == Framing::Chunked);
        let socket = asked("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket");
        assert!(socket.upgrade && !socket.repeatable && socket.keep_alive);
        for not in [
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c",
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1",
        ] {
            assert!(!asked(not).upgrade, "{not}");
        }
    }

    #[test]
    fn a_connection_is_kept_as_its_version_says() {
        for (lines, kept) in [
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: keep-alive", false),
            ("GET / HTTP/1.0", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive", true),
            ("GET / HTTP/1.0\r\nConnection: close, keep-alive", false),
        ] {
            assert_eq!(asked(lines).keep_alive, kept, "{lines}");
        }
    }

    #[test]
    fn a_target_is_taken_apart_and_an_odd_one_is_refused() {
        let target = |target: &str| {
            let head = format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n");
            with(&head, |head| {
                let head = head.ok()?;
                let host = String::from_utf8_lossy(head.host.unwrap_or_default()).into_owned();
                let path = head.target.path().to_owned();
                Some((host, head.target.0.into_owned(), path))
            })
        };
        let found = |host: &str, whole: &str, path: &str| Some((host.to_owned(), whole.to_owned(), path.to_owned()));
        assert_eq!(target("/a?b=c?d"), found("other", "/a?b=c?d", "/a"));
        assert_eq!(target("/a#b?c"), found("other", "/a", "/a"));
        assert_eq!(target("http://h:81/a?b"), found("h:81", "/a?b", "/a"));
        assert_eq!(target("HTTP://h?b"), found("h", "/?b", "/"));
        assert_eq!(target("http://h"), found("h", "/", "/"));
        assert_eq!(target("*"), found("other", "*", "*"));
        for odd in ["/a<b", "/a\\b", "ftp://h/", "http:///a", "/a`"] {
            assert_eq!(target(odd), None, "{odd}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for bad in [
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a",
            "GET / HTTP/1.1\r\nHost: a@b",
            "GET / HTTP/1.1\r\nHost: a\nX: b",
            "GET / HTTP/1.1\r\nHost: a\r\nX : b",
            "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c",
            "GET  / HTTP/1.1\r\nHost: a",
            "GET / HTTP/1.2\r\nHost: a",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 4",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4",
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80",
            "TRACE / HTTP/1.1\r\nHost: a",
        ] {
            let problem = problem(bad);
            assert!(problem.contains("BadRequest") || problem.contains("MethodRefused"), "{bad}: {problem}");
        }
        let many: String = (0..101).map(|number| format!("\r\nX-{number}: 1")).collect();
        assert_eq!(problem(&format!("GET / HTTP/1.1{many}")), "HeadTooLarge");
        assert_eq!(problem("GET / HTTP/1.1\r\nHost: a"), "none");
    }
}
