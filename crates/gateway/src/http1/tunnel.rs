//! After `101 Switching Protocols`: bytes both ways until both ends are done.
//!
//! The tunnel carries the record of its request, so it counts as open at its instance, and a route
//! swap does not touch it. One on which nothing moves for an hour is closed; a peer that vanished is
//! found earlier by TCP keep-alive.

use super::flow::{Flow, FlowError};
use super::request::Framing;
use super::wire::Wire;
use super::{Client, ClientStream};
use crate::proxy::exchange::Exchange;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::AsyncWrite;

/// One direction.
struct Way {
    flow: Flow,
    state: State,
}

enum State {
    Flowing,
    /// The reader has ended; the writer is told so.
    Closing,
    Closed,
}

/// `down` begins with the answer that made it a tunnel.
pub async fn run<S: ClientStream>(client: &mut Client<S>, mut wire: Wire, down: Flow, mut exchange: Exchange) {
    let idle_limit = client.peer.shared.limits.stream_idle_time;
    let mut down = Way { flow: down, state: State::Flowing };
    let mut up = Way { flow: Flow::new(Vec::new(), Framing::UntilEnd, None, 0), state: State::Flowing };
    client.patience.set(Instant::now() + idle_limit);
    poll_fn(|cx| {
        down.poll(cx, |flow, cx| flow.poll(cx, &mut wire.stream, &mut wire.buffer, &mut client.stream));
        up.poll(cx, |flow, cx| flow.poll(cx, &mut client.stream, &mut client.inbound, &mut wire.stream));
        let closed = [down.poll_close(cx, &mut client.stream), up.poll_close(cx, &mut wire.stream)];
        if closed == [true, true] {
            return Poll::Ready(());
        }
        let moved = [down.flow.take_moved(), up.flow.take_moved()];
        if moved.contains(&true) {
            client.patience.set(Instant::now() + idle_limit);
        }
        client.patience.poll(cx).map(|over| tracing::debug!(?over, "a tunnel was closed"))
    })
    .await;
    exchange.sent(down.flow.passed());
}

impl Way {
    /// Moves bytes while there are any.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        flow: impl FnOnce(&mut Flow, &mut Context<'_>) -> Poll<Result<(), FlowError>>,
    ) {
        if matches!(self.state, State::Flowing)
            && let Poll::Ready(ended) = flow(&mut self.flow, cx)
        {
            // An error in one direction shows up in the other, too: both ends are the same two connections.
            if let Err(error) = ended {
                tracing::trace!(%error, "a direction of a tunnel ended");
            }
            self.state = State::Closing;
        }
    }

    /// Tells the writer that no more will come; true once it was told.
    fn poll_close<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> bool {
        if matches!(self.state, State::Closing) && Pin::new(to).poll_shutdown(cx).is_ready() {
            self.state = State::Closed;
        }
        matches!(self.state, State::Closed)
    }
}
