//! From a picked instance to the head of its answer, with the retries in between.
//!
//! A request is tried at another instance only when that cannot run it twice: when the connection was
//! refused, when the connection ended before anything was sent, or when the method promises that
//! twice is as good as once (RFC 9110, 9.2.2), there is no body, and not one byte of an answer came.

use super::answer::{self, Answer, Heard};
use super::buffer;
use super::flow::FlowError;
use super::passage::{Reached, Request, Routed, route};
use super::patience::Over;
use super::request::{self, HEADERS_LIMIT};
use super::wire::Wire;
use super::{Client, ClientStream, may_end};
use crate::proxy::connection::{ConnectError, connect};
use crate::proxy::failure::{Failure, Instead};
use crate::upstreams::{NotPicked, OpenRequest, Upstream};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How often one request may meet a config that changes under it.
const LOOKUPS: usize = 16;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How one attempt at one instance ended.
enum Attempt {
    Ended(Reached),
    /// It can be tried elsewhere.
    NotSent(Failure),
}

/// Why waiting for an answer ended without one.
enum Unheard {
    /// The connection ended, or never carried anything.
    Ended,
    /// What came is no answer.
    Odd,
    Failed(Failure),
    ClientGone,
}

impl Request {
    /// Tries instances until one answers or nothing is left to try.
    pub async fn reach<S: ClientStream>(&mut self, client: &mut Client<S>) -> Reached {
        let attempts = client.peer.shared.limits.attempts;
        let mut tried: Vec<Arc<Upstream>> = Vec::new();
        let mut lookups = 1;
        let mut last = None;
        while tried.len() < attempts {
            let open = match self.service.pick(&tried) {
                Ok(open) => open,
                Err(NotPicked::Stale) if lookups < LOOKUPS => {
                    // The config changed between looking up and picking: look up again.
                    lookups += 1;
                    tried.clear();
                    match self.route_again(client) {
                        Ok(()) => continue,
                        Err(instead) => return Reached::Failed(instead),
                    }
                }
                Err(_) => break,
            };
            let attempt = self.attempt(client, &open).await;
            let upstream = open.upstream().clone();
            self.exchange.open = Some(open);
            match attempt {
                Attempt::Ended(reached) => return reached,
                Attempt::NotSent(failure) => last = Some(failure),
            }
            tried.push(upstream);
        }
        let unavailable = || Failure::Unavailable {
            service: self.service.name.clone(),
            reason: self.service.unavailable_reason.clone(),
        };
        Reached::Failed(last.unwrap_or_else(unavailable).into())
    }

    /// Nothing was taken out of the buffer yet, so the request is read anew from there.
    fn route_again<S>(&mut self, client: &Client<S>) -> Result<(), Instead> {
        let mut space = [const { MaybeUninit::uninit() }; HEADERS_LIMIT];
        let Ok(head) = request::read(client.inbound.bytes(), &mut space) else {
            return Err(Failure::Broken { service: self.service.name.clone() }.into());
        };
        let routed = route(&head, &client.peer, self.exchange.request_id.as_bytes());
        let Routed { service, timeouts, sending } = routed.map_err(|(_, instead)| instead)?;
        self.exchange.service = Some(service.clone());
        (self.service, self.timeouts, self.sending) = (service, timeouts, sending);
        Ok(())
    }

    async fn attempt<S: ClientStream>(&mut self, client: &mut Client<S>, open: &OpenRequest) -> Attempt {
        let upstream = open.upstream();
        let limits = client.peer.shared.limits.clone();
        // What changes its protocol gets a connection of its own. And a request that must not run twice
        // goes only over a connection that is surely not being closed.
        let rest = match (self.asked.upgrade, self.asked.repeatable) {
            (true, _) => None,
            (false, true) => Some(limits.upstream_rest_time),
            (false, false) => Some(limits.upstream_fresh_time),
        };
        while let Some(stream) = rest.and_then(|rest| upstream.wire_take(rest)) {
            match self.ask(client, stream).await {
                Attempt::NotSent(_) => {}
                ended => return ended,
            }
        }
        match connect(upstream, self.timeouts.connect).await {
            Ok(stream) => {
                upstream.mark_reached();
                self.ask(client, stream).await
            }
            Err(error) => {
                upstream.mark_refused(&limits);
                let service = self.service.name.clone();
                let instance = &upstream.instance_id;
                tracing::debug!(%service, %instance, address = %upstream.address, %error, "cannot connect");
                let limit = self.timeouts.connect;
                Attempt::NotSent(match error {
                    ConnectError::TimedOut => Failure::ConnectTimeout { service, limit },
                    ConnectError::Failed(_) => Failure::Refused { service },
                })
            }
        }
    }

    /// Sends over one connection and waits for the head of the answer within the time allowed.
    async fn ask<S: ClientStream>(&mut self, client: &mut Client<S>, stream: TcpStream) -> Attempt {
        // A client that did not wait for the word has sent some of its body by now.
        let waits_for_word = self.asked.expects_continue && client.inbound.len() <= self.asked.head;
        self.sending.hold(waits_for_word);
        let now = if self.has_body() { Instant::now() } else { self.exchange.started() };
        let mut asking = Asking {
            wire: Wire::new(stream),
            text: buffer::text_take(),
            sent: 0,
            moved: now,
            word_until: waits_for_word.then(|| now + client.peer.shared.limits.continue_time),
            sending_failed: false,
            timed: false,
        };
        let heard = poll_fn(|cx| asking.poll(cx, client, self)).await;
        let Asking { wire, text, sent, .. } = asking;
        let service = || self.service.name.clone();
        let unheard = match heard {
            Ok(answer) => return Attempt::Ended(Reached::Answered { wire, answer, text, sent }),
            Err(unheard) => unheard,
        };
        buffer::text_give_back(text);
        match unheard {
            Unheard::Ended => {
                tracing::debug!(service = %service(), "an instance ended the connection without an answer");
                let silent = wire.buffer.is_empty() && sent == 0;
                let can_run_again = self.sending.is_untouched() || (self.asked.repeatable && silent);
                if can_run_again {
                    self.sending.rewind();
                    return Attempt::NotSent(Failure::Broken { service: service() });
                }
                Attempt::Ended(Reached::Failed(Failure::Broken { service: service() }.into()))
            }
            Unheard::Odd => Attempt::Ended(Reached::Failed(Failure::Broken { service: service() }.into())),
            Unheard::Failed(failure) => Attempt::Ended(Reached::Failed(failure.into())),
            Unheard::ClientGone => Attempt::Ended(Reached::ClientGone),
        }
    }
}

/// A request that is being sent, and what came back so far.
struct Asking {
    wire: Wire,
    /// For the client.
    text: Vec<u8>,
    /// How much of it was written: `100 Continue`, before the answer is there.
    sent: usize,
    /// When a body last moved, or the request began.
    moved: Instant,
    /// Until then the instance may say that it wants the body.
    word_until: Option<Instant>,
    sending_failed: bool,
    timed: bool,
}

impl Asking {
    fn poll<S: ClientStream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<S>,
        request: &mut Request,
    ) -> Poll<Result<Answer, Unheard>> {
        loop {
            if let Err(unheard) = self.send(cx, client, request) {
                return Poll::Ready(Err(unheard));
            }
            match self.hear(cx, client, request) {
                Poll::Ready(Some(heard)) => return Poll::Ready(heard),
                // The body may go now.
                Poll::Ready(None) => continue,
                Poll::Pending => {}
            }
            if request.sending.is_read() && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Unheard::ClientGone));
            }
            self.set_time(client, request);
            match std::task::ready!(client.patience.poll(cx)) {
                Over::Time if self.word_until.is_some_and(|until| Instant::now() >= until) => self.let_go(request),
                Over::Time => return Poll::Ready(Err(Unheard::Failed(self.too_late(request)))),
                Over::Leaving | Over::Aborted => return Poll::Ready(Err(Unheard::ClientGone)),
            }
        }
    }

    /// Writes head and body as far as they go, and to the client that its body is wanted.
    fn send<S: ClientStream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<S>,
        request: &mut Request,
    ) -> Result<(), Unheard> {
        if self.sent < self.text.len() {
            match Pin::new(&mut client.stream).poll_write(cx, &self.text[self.sent..]) {
                Poll::Ready(Ok(length @ 1..)) => self.sent += length,
                Poll::Ready(_) => return Err(Unheard::ClientGone),
                Poll::Pending => {}
            }
            if let Poll::Ready(Err(_)) = Pin::new(&mut client.stream).poll_flush(cx) {
                return Err(Unheard::ClientGone);
            }
        }
        if self.sending_failed {
            return Ok(());
        }
        let sent = request.sending.poll(cx, &mut client.stream, &mut client.inbound, &mut self.wire.stream);
        if request.has_body() && request.sending.take_moved() {
            self.moved = Instant::now();
            self.timed = false;
        }
        match sent {
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
            Poll::Ready(Err(FlowError::To(error))) => {
                tracing::debug!(%error, "an instance takes no more of a request");
                if request.sending.is_untouched() {
                    return Err(Unheard::Ended);
                }
                // It may have answered before it closed.
                self.sending_failed = true;
                self.timed = false;
                Ok(())
            }
            Poll::Ready(Err(FlowError::Chunk(_))) => {
                Err(Unheard::Failed(Failure::BadRequest { what: "its chunks are malformed" }))
            }
            Poll::Ready(Err(FlowError::Ended | FlowError::From(_))) => Err(Unheard::Failed(Failure::BodyBroken)),
        }
    }

    /// Reads what the instance says. `None`: it was the word that the body is wanted.
    fn hear<S: ClientStream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<S>,
        request: &mut Request,
    ) -> Poll<Option<Result<Answer, Unheard>>> {
        let limit = client.peer.shared.limits.header_bytes;
        let over = |unheard| Poll::Ready(Some(Err(unheard)));
        loop {
            let before = self.wire.buffer.len();
            if before >= limit {
                return over(Unheard::Odd);
            }
            match std::task::ready!(self.wire.buffer.poll_read(cx, &mut self.wire.stream, limit)) {
                Ok(0) | Err(_) => return over(Unheard::Ended),
                Ok(_) if before > 0 && !may_end(self.wire.buffer.bytes(), before) => continue,
                Ok(_) => {}
            }
            while !self.wire.buffer.is_empty() {
                let closing = client.peer.shared.is_closing();
                let request_id = request.exchange.request_id.as_bytes();
                match answer::take(self.wire.buffer.bytes(), &request.asked, request_id, closing, &mut self.text) {
                    Heard::Partial => break,
                    Heard::Continue { head } => {
                        self.wire.buffer.consume(head);
                        if self.word_until.is_some() {
                            self.let_go(request);
                            return Poll::Ready(None);
                        }
                    }
                    Heard::Interim { head } => self.wire.buffer.consume(head),
                    Heard::Answer(answer) => {
                        self.wire.buffer.consume(answer.head);
                        return Poll::Ready(Some(Ok(answer)));
                    }
                    Heard::Odd => return over(Unheard::Odd),
                }
            }
        }
    }

    /// The client is told to go on, and its body passes.
    fn let_go(&mut self, request: &mut Request) {
        self.word_until = None;
        self.timed = false;
        self.text.extend_from_slice(CONTINUE);
        request.sending.hold(false);
    }

    fn set_time<S>(&mut self, client: &mut Client<S>, request: &Request) {
        if self.timed {
            return;
        }
        self.timed = true;
        let until = self.moved + self.limit(request);
        client.patience.set(self.word_until.map_or(until, |word| word.min(until)));
    }

    /// The time for the answer begins when the client has sent its part.
    fn limit(&self, request: &Request) -> Duration {
        let sent = request.sending.is_read() || self.sending_failed;
        if sent { request.timeouts.response } else { request.timeouts.idle }
    }

    fn too_late(&self, request: &Request) -> Failure {
        let client_is_slow = !request.sending.is_read() && !self.sending_failed && !request.sending.is_blocked();
        if client_is_slow {
            return Failure::BodyTimeout;
        }
        Failure::AnswerTimeout { service: request.service.name.clone(), limit: self.limit(request) }
    }
}
