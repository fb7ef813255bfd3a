//! One request: find the service, pick an instance, pass on, answer.
//!
//! ```text
//! client ──► identify ──► route ──► rewrite head ──► pick ──► connect ──► send ──► answer
//!               │            │                        ▲          │          │
//!              400          404                       └─ refused ┴─ stale ──┘   502, 503, 504
//! ```
//!
//! A request is tried at another instance only when that cannot run it twice: when the connection was
//! refused, when the connection ended before anything was sent, or when the method promises that
//! twice is as good as once (RFC 9110, 9.2.2), there is no body, and not one byte of an answer came.
//!
//! Absent on purpose: buffering of bodies, caching, compression, rewriting of answers.

pub mod connection;
pub mod exchange;
pub mod failure;
pub mod forward;
pub mod headers;
pub mod https;
pub mod request_body;
pub mod response_body;
pub mod tunnel;

use crate::routes::{NoTarget, Target, normalize_host};
use crate::serve::Peer;
use exchange::Exchange;
use failure::Failure;
use forward::Outgoing;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Bytes, Incoming};
use request_body::RequestBody;
use response_body::ResponseBody;
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

/// How often one request may meet a config that changes under it.
const LOOKUPS: usize = 16;

/// Answers one request of a connection, whatever happens.
pub async fn handle(peer: Arc<Peer>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
    let request_id = headers::request_id(request.headers());
    let http2 = request.version() == Version::HTTP_2;
    let mut exchange = Exchange::begin(&peer, &request, request_id);
    // Kept for the page, should there have to be one.
    let accept = request.headers().get(header::ACCEPT).cloned();
    let mut response = match pass_on(&mut exchange, request).await {
        Ok(answer) => {
            exchange.answered(answer.status().as_u16());
            answer.into_response(exchange)
        }
        Err(failure) => {
            exchange.answered(failure.status().as_u16());
            let mut wanted = HeaderMap::new();
            if let Some(accept) = accept {
                wanted.insert(header::ACCEPT, accept);
            }
            let page = failure.render(&wanted, &exchange.request_id);
            let request_id = exchange.request_id.clone();
            let mut page = page.map(|text| ResponseBody::text(text, Some(exchange)));
            page.headers_mut().insert(headers::X_REQUEST_ID, request_id);
            page
        }
    };
    if http2 {
        response.headers_mut().remove(header::CONNECTION);
    } else if peer.says_close() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// What came back from the service.
#[expect(clippy::large_enum_variant, reason = "nearly every answer is the large one, and a box would be made for each")]
pub enum Answer {
    Whole(Response<response_body::UpstreamBody>),
    /// The gateway's own: nothing was passed on.
    Own(Box<Response<Bytes>>),
    /// `101`: the connection is a tunnel from here on.
    Tunnel(Box<tunnel::Tunnel>),
}

impl Answer {
    fn status(&self) -> StatusCode {
        match self {
            Self::Whole(response) => response.status(),
            Self::Own(response) => response.status(),
            Self::Tunnel(_) => StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    fn into_response(self, exchange: Box<Exchange>) -> Response<ResponseBody> {
        match self {
            Self::Whole(mut response) => {
                let request_id = &exchange.request_id;
                response.headers_mut().entry(headers::X_REQUEST_ID).or_insert_with(|| request_id.clone());
                response.map(|body| ResponseBody::upstream(body, exchange))
            }
            Self::Own(response) => {
                let mut response = *response;
                response.headers_mut().insert(headers::X_REQUEST_ID, exchange.request_id.clone());
                response.map(|text| ResponseBody::text(text, Some(exchange)))
            }
            Self::Tunnel(tunnel) => tunnel.begin(exchange).map(|()| ResponseBody::text(Bytes::new(), None)),
        }
    }
}

async fn pass_on(exchange: &mut Exchange, mut request: Request<Incoming>) -> Result<Answer, Failure> {
    let peer = exchange.peer.clone();
    let host = identify(&mut request, &peer)?;
    exchange.host = host.clone();
    if let Some(answer) = https::challenge(&peer, host.as_ref(), request.uri()) {
        return Ok(Answer::Own(Box::new(answer)));
    }
    let mut target = find(&peer, host.as_ref(), &request)?;
    exchange.service = Some(target.service.clone());
    if target.https_only
        && let Some(answer) = https::redirect(&peer, host.as_ref(), &request)
    {
        return Ok(Answer::Own(Box::new(answer)));
    }

    let upgrade = (request.version() == Version::HTTP_11)
        .then(|| headers::upgrade_wanted(request.headers()))
        .flatten()
        .map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
    let (parts, incoming) = request.into_parts();
    let retry_host = host.clone();
    let original = parts.uri.clone();
    let (body, progress) = RequestBody::new(incoming);
    let mut head = Request::from_parts(parts, ());
    rewrite(&mut head, &peer, host, &exchange.request_id, body_is_unsized(&body), &target);
    let mut outgoing = Outgoing::new(head, body, progress, upgrade);
    for _ in 0..LOOKUPS {
        match forward::forward(exchange, &target, &mut outgoing).await {
            Err(forward::Stop::Stale) => {
                // The config changed between looking up and picking: look up again.
                target = lookup(&peer, retry_host.as_ref(), original.path())?;
                exchange.service = Some(target.service.clone());
                outgoing.set_uri(upstream_uri(&original, target.strip));
            }
            Err(forward::Stop::Failed(failure)) => return Err(failure),
            Ok(answer) => return Ok(answer),
        }
    }
    let service = &target.service;
    Err(Failure::Unavailable { service: service.name.clone(), reason: service.unavailable_reason.clone() })
}

/// The host that the request is for, as the client wrote it; refuses what has more than one meaning.
fn identify(request: &mut Request<Incoming>, peer: &Peer) -> Result<Option<HeaderValue>, Failure> {
    let bad = |what| Err(Failure::BadRequest { what });
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Failure::MethodRefused { method: request.method().to_string() });
    }
    let both = peer.activity.take_length_seen() && request.headers().contains_key(header::TRANSFER_ENCODING);
    if both {
        return bad("it has both Transfer-Encoding and Content-Length");
    }
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next().cloned();
    if lines.next().is_some() {
        return bad("it has more than one Host");
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = match (authority, line) {
        (Some(authority), Some(line))
            if request.version() == Version::HTTP_2 && line.as_bytes() != authority.as_bytes() =>
        {
            return bad("its Host and :authority differ");
        }
        // An absolute address in the request line overrules Host (RFC 9112, 3.2.2).
        (Some(authority), _) => HeaderValue::from_str(authority).ok(),
        (None, line) => line,
    };
    match &host {
        None if request.version() == Version::HTTP_11 => bad("it has no Host"),
        None => Ok(None),
        Some(value) => match value.to_str().ok().and_then(normalize_host) {
            Some(_) => Ok(host),
            None => bad("its Host is not a host name"),
        },
    }
}

fn find(peer: &Peer, host: Option<&HeaderValue>, request: &Request<Incoming>) -> Result<Target, Failure> {
    lookup(peer, host, request.uri().path())
}

fn lookup(peer: &Peer, host: Option<&HeaderValue>, path: &str) -> Result<Target, Failure> {
    let host = host.and_then(|host| host.to_str().ok()).and_then(normalize_host).unwrap_or(Cow::Borrowed(""));
    let table = peer.shared.table.load();
    let kind = peer.listener.kind.load();
    table.find(&kind, peer.both_ends_loopback, &host, path).map_err(|none| match none {
        NoTarget::NoRoute => Failure::NoRoute,
        NoTarget::NoSuchInternalName => Failure::NoSuchInternalName { host: host.into_owned() },
    })
}

/// The head as the instance gets it.
fn rewrite(
    head: &mut Request<()>,
    peer: &Peer,
    host: Option<HeaderValue>,
    request_id: &HeaderValue,
    unsized_body: bool,
    target: &Target,
) {
    let original = head.uri().clone();
    let from_http2 = head.version() == Version::HTTP_2;
    *head.uri_mut() = upstream_uri(&original, target.strip);
    *head.version_mut() = Version::HTTP_11;
    let headers = head.headers_mut();
    headers::remove_hop_by_hop(headers);
    if from_http2 {
        headers::join_cookies(headers);
    }
    headers::set_forwarding(headers, peer, host.as_ref());
    headers.insert(headers::X_REQUEST_ID, request_id.clone());
    if target.strip > 0
        && let Ok(prefix) = HeaderValue::from_str(&original.path()[..target.strip])
    {
        headers.insert(headers::X_FORWARDED_PREFIX, prefix);
    }
    if unsized_body && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    headers.insert(header::HOST, host.unwrap_or_else(|| peer.texts.local.clone()));
}

fn body_is_unsized(body: &RequestBody) -> bool {
    use http_body::Body;
    !body.is_end_stream() && body.size_hint().exact().is_none()
}

/// Path and query alone, the first `strip` bytes of the path left out.
fn upstream_uri(original: &Uri, strip: usize) -> Uri {
    let Some(whole) = original.path_and_query() else { return Uri::from_static("/") };
    if strip == 0 {
        return Uri::from(whole.clone());
    }
    let rest = &whole.as_str()[strip..];
    let rest = if rest.starts_with('/') { Cow::Borrowed(rest) } else { Cow::Owned(format!("/{rest}")) };
    match PathAndQuery::try_from(rest.as_ref()) {
        Ok(stripped) => Uri::from(stripped),
        // The end of a legal path is a legal path.
        Err(_) => Uri::from(whole.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripped_prefix_leaves_a_path_and_keeps_the_query() {
        let uri = |text: &str, strip| upstream_uri(&text.parse().unwrap(), strip).to_string();
        assert_eq!(uri("/api/x?y=1", 4), "/x?y=1");
        assert_eq!(uri("/api", 4), "/");
        assert_eq!(uri("/api?y=1", 4), "/?y=1");
        assert_eq!(uri("/api//x", 4), "//x");
        assert_eq!(uri("http://h/api/x", 0), "/api/x");
        assert_eq!(uri("*", 0), "*");
    }
}
