//! One request, from its head to the end of its answer.

use super::answer::{self, Answer};
use super::buffer;
use super::flow::{Flow, FlowError};
use super::request::{self, Asked, Framing, HEADERS_LIMIT, NoHead, RequestHead};
use super::wire::Wire;
use super::{Client, ClientStream, outgoing, tunnel};
use crate::access_log;
use crate::proxy::exchange::{Exchange, RequestId};
use crate::proxy::failure::{Failure, Form, Instead};
use crate::proxy::https;
use crate::proxy::response_body::BodyError;
use crate::routes::NoTarget;
use crate::serve::Peer;
use crate::upstreams::Service;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Next,
    Close,
    /// Closed, but not before the client had time to read why.
    Linger,
    /// There is nobody to say anything to.
    Gone,
}

/// What the bytes that were read are.
#[expect(clippy::large_enum_variant, reason = "nearly every one is the large one, and a box would be made for each")]
pub enum Begun {
    Partial,
    Refused(Box<Refused>),
    Request(Request),
}

/// How long is waited for what, as the config has it.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub response: Duration,
    pub connect: Duration,
    pub idle: Duration,
}

/// A request that is under way.
pub struct Request {
    pub asked: Asked,
    pub form: Form,
    pub exchange: Exchange,
    pub service: Arc<Service>,
    pub timeouts: Timeouts,
    /// To the instance.
    pub sending: Flow,
}

/// A request that no service gets.
pub struct Refused {
    asked: Asked,
    form: Form,
    exchange: Exchange,
    instead: Instead,
}

/// Looks at what was read. Nothing is taken out of the buffer before an instance has taken it.
pub fn begin<S: ClientStream>(client: &Client<S>) -> Begun {
    let mut space = [const { MaybeUninit::uninit() }; HEADERS_LIMIT];
    let read = request::read(client.inbound.bytes(), &mut space);
    let head = match read {
        Ok(head) if head.asked.head <= client.peer.shared.limits.header_bytes => head,
        Err(NoHead::Partial) if !client.is_full() => return Begun::Partial,
        Ok(_) | Err(NoHead::Partial) => return malformed(client, Failure::HeadTooLarge),
        Err(NoHead::Malformed(failure)) => return malformed(client, failure),
    };
    let describe = || {
        let protocol = if head.asked.http11 { "HTTP/1.1" } else { "HTTP/1.0" };
        access_log::describe(head.method, head.host.unwrap_or_default(), head.target.path(), protocol)
    };
    let mut exchange = Exchange::begin(&client.peer, RequestId::of(head.request_id), describe);
    let form = head.accept.map_or(Form::Plain, Form::of);
    match route(&head, &client.peer, exchange.request_id.as_bytes()) {
        Ok(Routed { service, timeouts, sending }) => {
            exchange.service = Some(service.clone());
            Begun::Request(Request { asked: head.asked, form, exchange, service, timeouts, sending })
        }
        Err((service, instead)) => {
            exchange.service = service;
            Begun::Refused(Box::new(Refused { asked: head.asked, form, exchange, instead }))
        }
    }
}

fn malformed<S: ClientStream>(client: &Client<S>, failure: Failure) -> Begun {
    let asked = Asked {
        head: client.inbound.len(),
        http11: true,
        is_head: false,
        repeatable: false,
        framing: Framing::Length(0),
        keep_alive: false,
        expects_continue: false,
        accepts_trailers: false,
        upgrade: false,
    };
    let describe = || access_log::describe("", b"", "", "HTTP/1.1");
    let exchange = Exchange::begin(&client.peer, RequestId::of(None), describe);
    Begun::Refused(Box::new(Refused { asked, form: Form::Plain, exchange, instead: failure.into() }))
}

pub struct Routed {
    pub service: Arc<Service>,
    pub timeouts: Timeouts,
    pub sending: Flow,
}

/// What is answered in place of a service, and which one that is if it was found.
type NotRouted = (Option<Arc<Service>>, Instead);

/// Finds the service, and writes the head as its instance gets it.
pub fn route(head: &RequestHead<'_, '_>, peer: &Peer, request_id: &[u8]) -> Result<Routed, NotRouted> {
    let host = head.checked_host().map_err(|failure| (None, failure.into()))?;
    let table = peer.shared.table.load();
    if head.target.path().starts_with(https::CHALLENGES)
        && let Some(answer) = https::challenge(peer, head.visit())
    {
        return Err((None, answer.into()));
    }
    let found = table.find(
        &peer.listener.kind.load(),
        table.is_near(peer.address.ip(), peer.local.ip()),
        &host,
        head.target.path(),
    );
    let target = found.map_err(|none| {
        let failure = match none {
            NoTarget::NoRoute => Failure::NoRoute,
            NoTarget::NoSuchInternalName => Failure::NoSuchInternalName { host: host.into_owned() },
        };
        (None, failure.into())
    })?;
    if target.https_only
        && let Some(answer) = https::redirect(peer, head.visit())
    {
        return Err((Some(target.service), answer.into()));
    }
    let timeouts =
        Timeouts { response: table.response_timeout, connect: table.connect_timeout, idle: table.idle_timeout };
    let mut text = buffer::text_take();
    outgoing::write(&mut text, head, peer, request_id, target.strip);
    let Asked { framing, .. } = head.asked;
    // Request trailers vouch for nothing and are declared, or they end here.
    let chunked = (framing == Framing::Chunked).then(|| head.trailers().into());
    let sending = Flow::new(text, framing, chunked, head.asked.head);
    Ok(Routed { service: target.service, timeouts, sending })
}

impl Refused {
    pub async fn answer<S: ClientStream>(self, client: &mut Client<S>) -> After {
        let Self { asked, form, exchange, instead } = self;
        let readable = instead.leaves_readable() && leave_behind(client, &asked);
        say(client, &asked, form, exchange, instead, readable).await
    }
}

/// Takes a request of which nothing was sent out of the buffer; false if not all of it is there.
fn leave_behind<S>(client: &mut Client<S>, asked: &Asked) -> bool {
    let body = client.inbound.len() - asked.head;
    match asked.framing {
        // A small body came along with the head: what follows it is the next request.
        Framing::Length(length) if length <= body as u64 => {
            client.inbound.consume(asked.head + usize::try_from(length).unwrap_or(usize::MAX));
            true
        }
        _ => false,
    }
}

/// Writes a page of our own. `readable`: the next request can be found behind this one.
async fn say<S: ClientStream>(
    client: &mut Client<S>,
    asked: &Asked,
    form: Form,
    mut exchange: Exchange,
    instead: Instead,
    readable: bool,
) -> After {
    let keep = readable && asked.keep_alive && !client.peer.shared.is_closing();
    let mut text = buffer::text_take();
    let page = instead.page(form, exchange.request_id.as_str());
    exchange.answered(page.status().as_u16());
    answer::write_page(&mut text, &page, exchange.request_id.as_bytes(), asked, !keep);
    if !asked.is_head {
        exchange.sent(page.body().len() as u64);
    }
    let idle_limit = client.peer.shared.table.load().idle_timeout;
    client.patience.set(Instant::now() + idle_limit);
    let mut flow = Flow::new(text, Framing::Length(0), None, 0);
    let mut nothing = buffer::Buffer::default();
    let written = poll_fn(|cx| match flow.poll(cx, &mut tokio::io::empty(), &mut nothing, &mut client.stream) {
        Poll::Ready(written) => Poll::Ready(written.is_ok()),
        Poll::Pending => client.patience.poll(cx).map(|_| false),
    })
    .await;
    match (written, keep, readable) {
        (false, ..) => After::Gone,
        (true, true, _) => After::Next,
        (true, false, true) => After::Close,
        (true, false, false) => After::Linger,
    }
}

/// How the way to an instance ended.
pub enum Reached {
    /// What is to be written to the client, and how much of that was written already.
    Answered {
        wire: Wire,
        answer: Answer,
        text: Vec<u8>,
        sent: usize,
    },
    Failed(Instead),
    ClientGone,
}

impl Request {
    pub async fn pass<S: ClientStream>(mut self, client: &mut Client<S>) -> After {
        match self.reach(client).await {
            Reached::Answered { wire, answer, text, sent } => {
                self.exchange.answered(answer.status);
                self.deliver(client, wire, answer, text, sent).await
            }
            Reached::Failed(instead) => {
                let readable = self.leave_behind(client) && instead.leaves_readable();
                say(client, &self.asked, self.form, self.exchange, instead, readable).await
            }
            Reached::ClientGone => After::Gone,
        }
    }

    /// Takes the request out of the buffer; false if not all of it is there.
    fn leave_behind<S>(&self, client: &mut Client<S>) -> bool {
        match (self.has_body(), self.sending.is_untouched()) {
            // A body of which anything was sent has taken the head with it.
            (true, false) => self.sending.is_read(),
            _ => leave_behind(client, &self.asked),
        }
    }

    pub fn has_body(&self) -> bool {
        self.asked.framing != Framing::Length(0)
    }

    /// Passes the answer on, and the rest of the request while it goes.
    async fn deliver<S: ClientStream>(
        mut self,
        client: &mut Client<S>,
        wire: Wire,
        answer: Answer,
        text: Vec<u8>,
        sent: usize,
    ) -> After {
        if !self.has_body() {
            client.inbound.consume(self.asked.head);
        }
        if answer.status == 101 {
            let down = Flow::new(text, Framing::UntilEnd, None, 0).begun(sent);
            let Self { exchange, .. } = self;
            tunnel::run(client, wire, down, exchange).await;
            return After::Gone;
        }
        let limits = &client.peer.shared.limits;
        let Answer { framing, reusable, is_stream, chunked, close, trailers, .. } = answer;
        let mut delivery = Delivery {
            receiving: Flow::new(text, framing, chunked.then_some(trailers), 0).begun(sent),
            wire,
            idle_limit: if is_stream { limits.stream_idle_time } else { self.timeouts.idle },
            stall_limit: self.timeouts.idle,
            begun: false,
            sending_failed: false,
        };
        let ended = poll_fn(|cx| delivery.poll(cx, client, &mut self.sending)).await;
        self.exchange.sent(delivery.receiving.passed());
        match ended {
            Delivered::Whole => {}
            Delivered::Broken(error) => {
                self.exchange.broke_off(&error);
                return After::Gone;
            }
            Delivered::ClientGone => return After::Gone,
        }
        let sent = self.sending.is_read() && !delivery.sending_failed;
        if reusable
            && sent
            && delivery.wire.buffer.is_empty()
            && let Some(open) = &self.exchange.open
        {
            open.upstream().wire_put(delivery.wire.stream, &client.peer.shared.limits);
        }
        match (sent, close) {
            (true, false) => After::Next,
            (true, true) => After::Close,
            (false, _) => After::Linger,
        }
    }
}

enum Delivered {
    Whole,
    Broken(BodyError),
    ClientGone,
}

struct Delivery {
    receiving: Flow,
    wire: Wire,
    /// How long an instance may send nothing.
    idle_limit: Duration,
    /// How long a client may take nothing.
    stall_limit: Duration,
    begun: bool,
    sending_failed: bool,
}

impl Delivery {
    fn poll<S: ClientStream>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut Client<S>,
        sending: &mut Flow,
    ) -> Poll<Delivered> {
        if !sending.is_read() && !self.sending_failed {
            match sending.poll(cx, &mut client.stream, &mut client.inbound, &mut self.wire.stream) {
                // The instance may have answered without reading all.
                Poll::Ready(Err(FlowError::To(_))) => self.sending_failed = true,
                Poll::Ready(Err(_)) => return Poll::Ready(Delivered::ClientGone),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        let Wire { stream, buffer } = &mut self.wire;
        match self.receiving.poll(cx, stream, buffer, &mut client.stream) {
            Poll::Ready(Ok(())) => return Poll::Ready(Delivered::Whole),
            Poll::Ready(Err(FlowError::To(_))) => return Poll::Ready(Delivered::ClientGone),
            Poll::Ready(Err(error)) => return Poll::Ready(Delivered::Broken(BodyError::Flow(error))),
            Poll::Pending => {}
        }
        if sending.is_read() && client.poll_gone(cx).is_ready() {
            return Poll::Ready(Delivered::ClientGone);
        }
        let moved = [self.receiving.take_moved(), sending.take_moved()];
        if !self.begun || moved.contains(&true) {
            self.begun = true;
            let limit = if self.receiving.is_blocked() { self.stall_limit } else { self.idle_limit };
            client.patience.set(Instant::now() + limit);
        }
        match client.patience.poll(cx) {
            Poll::Ready(_) if self.receiving.is_blocked() => Poll::Ready(Delivered::ClientGone),
            Poll::Ready(_) => Poll::Ready(Delivered::Broken(BodyError::Idle(self.idle_limit))),
            Poll::Pending => Poll::Pending,
        }
    }
}
