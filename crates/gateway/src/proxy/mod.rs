//! One request of HTTP/2: find the service, pick an instance, pass on in HTTP/1.1, answer. A request of
//! HTTP/1.1 goes the same way in `http1`.
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

use crate::access_log;
use crate::routes::{NoTarget, Target, normalize_host};
use crate::serve::Peer;
use exchange::{Exchange, RequestId};
use failure::{Failure, Form, Instead};
use forward::Outgoing;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version};
use https::Visit;
use hyper::body::Incoming;
use request_body::RequestBody;
use response_body::{ResponseBody, UpstreamBody};
use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

/// How often one request may meet a config that changes under it.
const LOOKUPS: usize = 16;

/// Answers one request of a connection, whatever happens.
pub async fn handle(peer: Arc<Peer>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
    let request_id = RequestId::of(request.headers().get(headers::X_REQUEST_ID).map(HeaderValue::as_bytes));
    let describe = || {
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        let host = request.uri().authority().map(|authority| authority.as_str().as_bytes()).or(host);
        access_log::describe(request.method().as_str(), host.unwrap_or_default(), request.uri().path(), "HTTP/2")
    };
    let mut exchange = Box::new(Exchange::begin(&peer, request_id, describe).counted());
    // Kept for the page, should there have to be one.
    let form = request.headers().get(header::ACCEPT).map_or(Form::Plain, |accept| Form::of(accept.as_bytes()));
    let request_id = HeaderValue::from_bytes(exchange.request_id.as_bytes());
    let request_id = request_id.unwrap_or_else(|_| HeaderValue::from_static(""));
    let mut response = match pass_on(&mut exchange, request, &request_id).await {
        Ok(answer) => {
            exchange.answered(answer.status().as_u16());
            answer.map(|body| ResponseBody::upstream(body, exchange))
        }
        Err(instead) => {
            let page = instead.page(form, exchange.request_id.as_str());
            exchange.answered(page.status().as_u16());
            page.map(|text| ResponseBody::text(text, Some(exchange)))
        }
    };
    response.headers_mut().entry(headers::X_REQUEST_ID).or_insert(request_id);
    Ok(response)
}

async fn pass_on(
    exchange: &mut Exchange,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Result<Response<UpstreamBody>, Instead> {
    let peer = exchange.peer.clone();
    let host = identify(&request)?;
    let visit = Visit {
        host: host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
        path: request.uri().path(),
        target: request.uri().path_and_query().map_or("/", |path| path.as_str()),
        forwarded_proto: request.headers().get(headers::X_FORWARDED_PROTO).map(HeaderValue::as_bytes),
    };
    if let Some(answer) = https::challenge(&peer, visit) {
        return Err(answer.into());
    }
    let mut target = find(&peer, host.as_ref(), &request)?;
    exchange.service = Some(target.service.clone());
    if target.https_only
        && let Some(answer) = https::redirect(&peer, visit)
    {
        return Err(answer.into());
    }

    let (parts, incoming) = request.into_parts();
    let retry_host = host.clone();
    let original = parts.uri.clone();
    let (body, progress) = RequestBody::new(incoming);
    let mut head = Request::from_parts(parts, ());
    rewrite(&mut head, &peer, host, request_id, body_is_unsized(&body), &target);
    let mut outgoing = Outgoing::new(head, body, progress);
    for _ in 0..LOOKUPS {
        match forward::forward(exchange, &target, &mut outgoing).await {
            Err(forward::Stop::Stale) => {
                // The config changed between looking up and picking: look up again.
                target = lookup(&peer, retry_host.as_ref(), original.path())?;
                exchange.service = Some(target.service.clone());
                outgoing.set_uri(upstream_uri(&original, target.strip));
            }
            Err(forward::Stop::Failed(failure)) => return Err(failure.into()),
            Ok(answer) => return Ok(answer),
        }
    }
    let service = &target.service;
    let reason = service.unavailable_reason.clone();
    Err(Failure::Unavailable { service: service.name.clone(), reason }.into())
}

/// The host that the request is for, as the client wrote it; refuses what has more than one meaning.
fn identify(request: &Request<Incoming>) -> Result<Option<HeaderValue>, Failure> {
    let bad = |what| Err(Failure::BadRequest { what });
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Failure::MethodRefused { method: request.method().to_string() });
    }
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next().cloned();
    if lines.next().is_some() {
        return bad("it has more than one Host");
    }
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = match (authority, line) {
        (Some(authority), Some(line)) if line.as_bytes() != authority.as_bytes() => {
            return bad("its Host and :authority differ");
        }
        (Some(authority), _) => HeaderValue::from_str(authority).ok(),
        (None, line) => line,
    };
    match &host {
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
    table.find(&kind, table.is_near(peer.address.ip(), peer.local.ip()), &host, path).map_err(|none| match none {
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
    *head.uri_mut() = upstream_uri(&original, target.strip);
    *head.version_mut() = Version::HTTP_11;
    let headers = head.headers_mut();
    headers::remove_hop_by_hop(headers);
    headers::join_cookies(headers);
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
    if let Some(host) = host.or_else(|| HeaderValue::try_from(peer.local.to_string()).ok()) {
        headers.insert(header::HOST, host);
    }
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
