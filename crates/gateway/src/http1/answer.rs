//! The head of an answer: read from the instance, written for the client.
//!
//! What frames the body is taken from the instance strictly (two lengths are no answer) and written
//! anew for the client: chunks for a length that is not known, the end of the connection for a client
//! that speaks HTTP/1.0.

use super::fields;
use super::request::{Asked, Framing, HEADERS_LIMIT};
use bytes::Bytes;
use httparse::Header;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime};

/// What is known of an answer when its head was read.
#[derive(Debug)]
pub struct Answer {
    /// Bytes of the head.
    pub head: usize,
    pub status: u16,
    pub framing: Framing,
    /// The instance takes another request on this connection afterwards.
    pub reusable: bool,
    /// Silent by nature: server-sent events, and streams like them.
    pub is_stream: bool,
    /// The client gets the body in chunks.
    pub chunked: bool,
    /// The client gets no other answer on this connection.
    pub close: bool,
    /// Names of the trailers to be passed on.
    pub trailers: Box<[u8]>,
}

/// What came from an instance so far.
#[derive(Debug)]
pub enum Heard {
    Partial,
    /// `100`: the body is wanted. Its bytes are to be dropped.
    Continue {
        head: usize,
    },
    /// Another `1xx`, which is for this hop or for nobody. Its bytes are to be dropped.
    Interim {
        head: usize,
    },
    Answer(Answer),
    /// Not HTTP, or HTTP that means two things.
    Odd,
}

/// Reads a head at the beginning of `bytes` and, if it is that of an answer, writes it for the client.
pub fn take(bytes: &[u8], asked: &Asked, request_id: &[u8], closing: bool, out: &mut Vec<u8>) -> Heard {
    let mut space: [MaybeUninit<Header<'_>>; HEADERS_LIMIT] = [const { MaybeUninit::uninit() }; HEADERS_LIMIT];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut space);
    let head = match parsed {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Heard::Partial,
        Err(_) => return Heard::Odd,
    };
    let (Some(status), Some(version)) = (response.code, response.version) else { return Heard::Odd };
    match status {
        100 => return Heard::Continue { head },
        101 if asked.upgrade => {}
        102..=199 => return Heard::Interim { head },
        200..=999 => {}
        _ => return Heard::Odd,
    }
    let Some(found) = Found::of(response.headers) else { return Heard::Odd };
    let Some(framing) = found.framing(status, version == 1, asked) else { return Heard::Odd };
    let until_end = framing == Framing::UntilEnd;
    let chunked = asked.http11 && (until_end || framing == Framing::Chunked);
    let ends_by_closing = !asked.http11 && (until_end || framing == Framing::Chunked);
    let is_tunnel = status == 101;
    let answer = Answer {
        head,
        status,
        framing,
        reusable: !until_end
            && !is_tunnel
            && if version == 1 { !found.close } else { found.keep_alive && !found.close },
        is_stream: found.is_stream,
        chunked,
        close: closing || ends_by_closing || !asked.keep_alive,
        trailers: if chunked && asked.accepts_trailers { found.trailers.into() } else { Box::default() },
    };
    out.reserve(head + 256);
    write_first_line(out, status, response.reason.unwrap_or_default().as_bytes());
    for header in response.headers.iter().filter(|header| found.is_passed(header)) {
        fields::write(out, header.name.as_bytes(), header.value);
    }
    if !found.has_request_id {
        fields::write(out, b"X-Request-Id", request_id);
    }
    if is_tunnel {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        fields::write(out, b"Upgrade", found.upgrade);
        out.extend_from_slice(b"\r\n");
        return Heard::Answer(answer);
    }
    if !found.has_date {
        write_date(out);
    }
    // Of an answer without a body the length is still told, if it was: that of what HEAD asks about.
    match found.length.filter(|_| !found.chunked && status != 204) {
        Some(length) => fields::write_content_length(out, length),
        None if chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        None => {}
    }
    write_connection(out, asked, answer.close);
    out.extend_from_slice(b"\r\n");
    Heard::Answer(answer)
}

/// Writes a page of our own. Its body is left out where only the head was asked for.
pub fn write_page(out: &mut Vec<u8>, page: &http::Response<Bytes>, request_id: &[u8], asked: &Asked, close: bool) {
    let reason = page.status().canonical_reason().unwrap_or_default();
    write_first_line(out, page.status().as_u16(), reason.as_bytes());
    for (name, value) in page.headers() {
        fields::write(out, name.as_str().as_bytes(), value.as_bytes());
    }
    fields::write(out, b"X-Request-Id", request_id);
    write_date(out);
    fields::write_content_length(out, page.body().len() as u64);
    write_connection(out, asked, close);
    out.extend_from_slice(b"\r\n");
    if !asked.is_head {
        out.extend_from_slice(page.body());
    }
}

fn write_first_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    fields::write_number(out, status.into());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

fn write_connection(out: &mut Vec<u8>, asked: &Asked, close: bool) {
    if close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if !asked.http11 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
}

/// What the lines of an answer said.
#[derive(Default)]
struct Found<'b> {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    named: Vec<&'b [u8]>,
    upgrade: &'b [u8],
    has_request_id: bool,
    has_date: bool,
    is_stream: bool,
    trailers: &'b [u8],
}

impl<'b> Found<'b> {
    /// `None` if the lines cannot all be true.
    fn of(headers: &[Header<'b>]) -> Option<Self> {
        let mut found = Self::default();
        for Header { name, value } in headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            match name.len() {
                4 if is("date") => found.has_date = true,
                7 if is("trailer") => found.trailers = value,
                7 if is("upgrade") => found.upgrade = value,
                10 if is("connection") => found.take_connection(value),
                12 if is("content-type") => found.is_stream = is_stream(value),
                12 if is("x-request-id") => found.has_request_id = true,
                14 if is("content-length") => {
                    // A list of equal lengths is what a careless middle makes of two equal lines.
                    for length in fields::tokens(value) {
                        let length = fields::content_length(length)?;
                        if found.length.replace(length).is_some_and(|before| before != length) {
                            return None;
                        }
                    }
                    found.length?;
                }
                17 if is("transfer-encoding") => {
                    if found.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return None;
                    }
                    found.chunked = true;
                }
                _ => {}
            }
        }
        Some(found)
    }

    fn take_connection(&mut self, value: &'b [u8]) {
        for token in fields::tokens(value) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if !token.eq_ignore_ascii_case(b"upgrade") {
                self.named.push(token);
            }
        }
    }

    /// RFC 9112, 6.3.
    fn framing(&self, status: u16, http11: bool, asked: &Asked) -> Option<Framing> {
        if asked.is_head || matches!(status, 101 | 204 | 304) {
            return Some(Framing::Length(0));
        }
        match (self.chunked, self.length) {
            (true, _) if !http11 => None,
            (true, _) => Some(Framing::Chunked),
            (false, Some(length)) => Some(Framing::Length(length)),
            (false, None) => Some(Framing::UntilEnd),
        }
    }

    fn is_passed(&self, header: &Header<'_>) -> bool {
        let name = header.name;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let ends_here = match name.len() {
            2 => is("te"),
            7 => is("upgrade"),
            10 => is("connection") || is("keep-alive"),
            14 => is("content-length"),
            16 => is("proxy-connection"),
            17 => is("transfer-encoding"),
            _ => false,
        };
        let named = || self.named.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()));
        !ends_here && (self.named.is_empty() || !named())
    }
}

/// Streams that are silent by nature: server-sent events, and gRPC streams over plain HTTP.
fn is_stream(content_type: &[u8]) -> bool {
    [&b"text/event-stream"[..], b"application/grpc", b"application/x-ndjson"]
        .iter()
        .any(|kind| content_type.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind)))
}

/// An answer without a date gets one (RFC 9110, 6.6.1); its text changes once a second.
fn write_date(out: &mut Vec<u8>) {
    thread_local! {
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    DATE.with_borrow_mut(|(second, text)| {
        if *second != now {
            *second = now;
            *text = date(now);
        }
        fields::write(out, b"Date", text.as_bytes());
    });
}

fn date(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
    timestamp.and_then(|timestamp| printer.timestamp_to_rfc9110_string(&timestamp).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked {
        head: 0,
        http11: true,
        is_head: false,
        repeatable: true,
        framing: Framing::Length(0),
        keep_alive: true,
        expects_continue: false,
        accepts_trailers: false,
        upgrade: false,
    };

    fn heard(text: &str, asked: Asked) -> (Heard, String) {
        let mut out = Vec::new();
        let text = text.replace('\n', "\r\n") + "\r\n\r\n";
        let heard = take(text.as_bytes(), &asked, b"id-1", false, &mut out);
        let out = String::from_utf8(out).unwrap().replace("\r\n", "\n");
        (heard, out.lines().filter(|line| !line.starts_with("Date: ")).map(|line| format!("{line}\n")).collect())
    }

    fn answer(text: &str, asked: Asked) -> (Answer, String) {
        match heard(text, asked) {
            (Heard::Answer(answer), out) => (answer, out),
            (other, _) => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_answer_is_passed_on_without_what_was_for_this_hop() {
        let text = "HTTP/1.1 200 Fine\nConnection: X-Private\nX-Private: 1\nKeep-Alive: timeout=1\n\
                    Content-Length: 5\nX-Kept: a";
        let (found, out) = answer(text, ASKED);
        assert_eq!(out, "HTTP/1.1 200 Fine\nX-Kept: a\nX-Request-Id: id-1\nContent-Length: 5\n\n");
        assert!(found.reusable && !found.close && found.framing == Framing::Length(5));
    }

    #[test]
    fn a_body_of_unknown_length_ends_as_the_client_can_understand() {
        let old = Asked { http11: false, ..ASKED };
        for (text, asked, framing, chunked, close) in [
            ("HTTP/1.1 200 OK", ASKED, Framing::UntilEnd, true, false),
            ("HTTP/1.1 200 OK", old, Framing::UntilEnd, false, true),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 9", ASKED, Framing::Chunked, true, false),
            ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", old, Framing::Chunked, false, true),
            ("HTTP/1.0 200 OK\nContent-Length: 1", old, Framing::Length(1), false, false),
        ] {
            let (found, out) = answer(text, asked);
            assert_eq!((found.framing, found.chunked, found.close), (framing, chunked, close), "{text}");
            assert_eq!(out.contains("Transfer-Encoding: chunked"), chunked, "{out}");
            assert_eq!(out.contains("Connection: close"), close, "{out}");
            assert!(!out.contains("Content-Length: 9"), "{out}");
        }
    }

    #[test]
    fn answers_without_a_body_have_none_whatever_they_say() {
        for (status, told) in [(204, false), (304, true)] {
            let (found, out) = answer(&format!("HTTP/1.1 {status} X\nContent-Length: 7"), ASKED);
            assert_eq!(found.framing, Framing::Length(0));
            assert_eq!(out.contains("Content-Length: 7"), told, "{out}");
        }
        let head = Asked { is_head: true, ..ASKED };
        let (found, out) = answer("HTTP/1.1 200 OK\nContent-Length: 7", head);
        assert!(found.framing == Framing::Length(0) && out.contains("Content-Length: 7"), "{out}");
        let (found, out) = answer("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", head);
        assert!(found.framing == Framing::Length(0) && !found.chunked, "{out}");
    }

    #[test]
    fn interim_answers_are_told_from_the_answer_and_what_is_odd_is_none() {
        assert!(matches!(heard("HTTP/1.1 100 Continue", ASKED).0, Heard::Continue { head: 25 }));
        assert!(matches!(heard("HTTP/1.1 103 Early Hints\nLink: x", ASKED).0, Heard::Interim { .. }));
        assert!(matches!(heard("HTTP/1.1 200 OK\nX: y\nZ", ASKED).0, Heard::Odd));
        for odd in [
            "SMTP ready",
            "HTTP/1.1 101 Unasked",
            "HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 5",
            "HTTP/1.1 200 OK\nContent-Length: 4, 5",
            "HTTP/1.1 200 OK\nContent-Length: -1",
            "HTTP/1.1 200 OK\nTransfer-Encoding: xchunked",
            "HTTP/1.0 200 OK\nTransfer-Encoding: chunked",
            "HTTP/1.1 200 OK\nContent-Length : 4",
            "HTTP/1.1 200 OK\nX: a\n folded",
        ] {
            assert!(matches!(heard(odd, ASKED).0, Heard::Odd), "{odd}");
        }
        let (equal, out) = answer("HTTP/1.1 200 OK\nContent-Length: 4\nContent-Length: 4", ASKED);
        assert_eq!(equal.framing, Framing::Length(4));
        assert_eq!(out.matches("Content-Length").count(), 1);
    }

    #[test]
    fn an_upgrade_that_was_asked_for_is_passed_on() {
        let text = "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: x";
        let (found, out) = answer(text, Asked { upgrade: true, ..ASKED });
        assert!(!found.reusable && found.status == 101);
        let lines = "Sec-WebSocket-Accept: x\nX-Request-Id: id-1\nConnection: upgrade\nUpgrade: websocket\n\n";
        assert!(out.ends_with(lines), "{out}");
    }

    #[test]
    fn the_date_is_as_http_writes_it() {
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
