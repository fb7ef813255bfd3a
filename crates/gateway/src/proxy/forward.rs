//! From a picked instance to the head of its answer, with the retries in between.

use super::Target;
use super::connection::{ConnectError, UpstreamConnection};
use super::exchange::Exchange;
use super::failure::Failure;
use super::headers;
use super::request_body::{Progress, RequestBody};
use super::response_body::UpstreamBody;
use crate::upstreams::{NotPicked, OpenRequest, Upstream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;

/// A request as it goes out, kept together while it may still be tried elsewhere.
pub struct Outgoing {
    /// `None` while it is being sent.
    request: Option<Request<RequestBody>>,
    progress: Option<Arc<Progress>>,
    expects_continue: bool,
    /// May run twice: the method promises it and there is no body.
    repeatable: bool,
}

/// Why forwarding ended without an answer.
pub enum Stop {
    /// The route table changed underneath; nothing was sent.
    Stale,
    Failed(Failure),
}

/// How one attempt at one instance ended.
enum Attempt {
    Answered(Response<Incoming>, Box<UpstreamConnection>),
    /// Nothing reached a service; another instance may be tried.
    NotSent(Failure),
    Failed(Failure),
}

impl Outgoing {
    pub fn new(head: Request<()>, body: RequestBody, progress: Option<Arc<Progress>>) -> Self {
        let method = head.method();
        let idempotent = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
        let repeatable = idempotent && progress.is_none();
        let expect = head.headers().get(header::EXPECT);
        let expects_continue = expect.is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { request: Some(head.map(|()| body)), progress, expects_continue, repeatable }
    }

    pub fn set_uri(&mut self, uri: Uri) {
        if let Some(request) = &mut self.request {
            *request.uri_mut() = uri;
        }
    }

    /// A second copy of a request that may run twice.
    fn copy(&self) -> Option<Request<RequestBody>> {
        let request = self.request.as_ref().filter(|_| self.repeatable)?;
        let mut copy = Request::new(RequestBody::Empty);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        Some(copy)
    }
}

/// Tries instances until one answers or nothing is left to try.
pub async fn forward(
    exchange: &mut Exchange,
    target: &Target,
    outgoing: &mut Outgoing,
) -> Result<Response<UpstreamBody>, Stop> {
    let limits = exchange.peer.shared.limits.clone();
    let mut tried: Vec<Arc<Upstream>> = Vec::new();
    let mut last = None;
    while tried.len() < limits.attempts {
        let open = match target.service.pick(&tried) {
            Ok(open) => open,
            Err(NotPicked::Stale) => return Err(Stop::Stale),
            Err(NotPicked::NoneLeft) => break,
        };
        let attempt = attempt(exchange, target, &open, outgoing).await;
        match attempt {
            Attempt::Answered(response, connection) => {
                return Ok(answer(exchange, open, response, connection, outgoing));
            }
            Attempt::NotSent(failure) if outgoing.request.is_some() => last = Some(failure),
            Attempt::NotSent(failure) | Attempt::Failed(failure) => {
                exchange.open = Some(open);
                return Err(Stop::Failed(failure));
            }
        }
        tried.push(open.upstream().clone());
        exchange.open = Some(open);
    }
    let unavailable = || Failure::Unavailable {
        service: target.service.name.clone(),
        reason: target.service.unavailable_reason.clone(),
    };
    Err(Stop::Failed(last.unwrap_or_else(unavailable)))
}

async fn attempt(exchange: &Exchange, target: &Target, open: &OpenRequest, outgoing: &mut Outgoing) -> Attempt {
    let upstream = open.upstream();
    let shared = &exchange.peer.shared;
    let connect_timeout = shared.table.load().connect_timeout;
    // A request that must not run twice goes only over a connection that is surely not being closed.
    let rest = if outgoing.repeatable { shared.limits.upstream_rest_time } else { shared.limits.upstream_fresh_time };
    while let Some(connection) = upstream.connection_take(rest) {
        match send(connection, exchange, target, outgoing).await {
            Attempt::NotSent(_) if outgoing.request.is_some() => {}
            ended => return ended,
        }
    }
    match UpstreamConnection::open(upstream, connect_timeout, &shared.limits).await {
        Ok(connection) => {
            upstream.mark_reached();
            send(connection, exchange, target, outgoing).await
        }
        Err(error) => not_reached(error, exchange, target, upstream, connect_timeout),
    }
}

fn not_reached(
    error: ConnectError,
    exchange: &Exchange,
    target: &Target,
    upstream: &Upstream,
    limit: Duration,
) -> Attempt {
    upstream.mark_refused(&exchange.peer.shared.limits);
    let service = target.service.name.clone();
    tracing::debug!(%service, instance = %upstream.instance_id, address = %upstream.address, %error, "cannot connect");
    Attempt::NotSent(match error {
        ConnectError::TimedOut => Failure::ConnectTimeout { service, limit },
        ConnectError::Failed(_) => Failure::Refused { service },
    })
}

/// Sends over one connection and waits for the head of the answer within the time allowed.
async fn send(
    mut connection: Box<UpstreamConnection>,
    exchange: &Exchange,
    target: &Target,
    outgoing: &mut Outgoing,
) -> Attempt {
    let copy = outgoing.copy();
    let Some(mut request) = outgoing.request.take() else {
        return Attempt::Failed(Failure::Broken { service: target.service.name.clone() });
    };
    if outgoing.expects_continue
        && let Some(gate) = request.body_mut().hold_back(exchange.peer.shared.limits.continue_time)
    {
        hyper::ext::on_informational(&mut request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    let sent = within_answer_time(connection.send(request), exchange, target, outgoing.progress.as_deref()).await;
    match sent {
        Err(failure) => Attempt::Failed(failure),
        Ok(Ok(response)) => Attempt::Answered(response, connection),
        Ok(Err(mut error)) => {
            tracing::debug!(service = %target.service.name, error = %error.error(), "no answer from an instance");
            let too_early = ended_before_an_answer(error.error());
            outgoing.request = error.take_message().or_else(|| copy.filter(|_| too_early));
            if outgoing.progress.as_ref().is_some_and(|progress| progress.has_failed()) {
                return Attempt::Failed(Failure::BodyBroken);
            }
            Attempt::NotSent(Failure::Broken { service: target.service.name.clone() })
        }
    }
}

/// Whether the connection ended without one byte of an answer.
fn ended_before_an_answer(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || {
        let mut source = std::error::Error::source(error);
        loop {
            match source {
                Some(inner) if inner.is::<std::io::Error>() => break true,
                Some(inner) => source = inner.source(),
                None => break false,
            }
        }
    }
}

/// Waits for the head of an answer. The time begins anew while the client is still sending.
async fn within_answer_time<T>(
    sent: impl Future<Output = T>,
    exchange: &Exchange,
    target: &Target,
    progress: Option<&Progress>,
) -> Result<T, Failure> {
    let (limit, idle_limit) = {
        let table = exchange.peer.shared.table.load();
        (table.response_timeout, table.idle_timeout)
    };
    let mut sent = std::pin::pin!(sent);
    let mut wait = limit;
    loop {
        if let Ok(sent) = tokio::time::timeout(wait, &mut sent).await {
            return Ok(sent);
        }
        match progress {
            Some(progress) if !progress.is_done() && progress.still_for() >= idle_limit => {
                return Err(Failure::BodyTimeout);
            }
            Some(progress) if !progress.is_done() => wait = idle_limit.saturating_sub(progress.still_for()),
            Some(progress) if progress.still_for() < limit => wait = limit - progress.still_for(),
            _ => return Err(Failure::AnswerTimeout { service: target.service.name.clone(), limit }),
        }
        wait = wait.max(Duration::from_millis(1));
    }
}

fn answer(
    exchange: &mut Exchange,
    open: OpenRequest,
    response: Response<Incoming>,
    connection: Box<UpstreamConnection>,
    outgoing: &Outgoing,
) -> Response<UpstreamBody> {
    let upstream = open.upstream().clone();
    exchange.open = Some(open);
    let shared = &exchange.peer.shared;
    let idle_limit = if is_event_stream(response.headers()) {
        shared.limits.stream_idle_time
    } else {
        shared.table.load().idle_timeout
    };
    let (mut parts, incoming) = response.into_parts();
    clean_answer(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let progress = outgoing.progress.clone();
    let body = UpstreamBody::new(incoming, Some(connection), upstream, shared.limits.clone(), progress, idle_limit);
    Response::from_parts(parts, body)
}

/// An answer whose length was given by chunks must not also carry a length that nobody checked.
fn clean_answer(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    headers::remove_hop_by_hop(headers);
    headers.remove(header::TE);
}

/// Streams that are silent by nature: server-sent events, and gRPC streams over plain HTTP.
fn is_event_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    [&b"text/event-stream"[..], b"application/grpc", b"application/x-ndjson"]
        .iter()
        .any(|kind| content_type.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind)))
}
