//! After `101 Switching Protocols`: bytes both ways until either end is done.
//!
//! The tunnel carries the record of its request, so it counts as open at its instance, and a route
//! swap does not touch it. One on which nothing moves for an hour is closed; a peer that vanished is
//! found earlier by TCP keep-alive.

use super::exchange::Exchange;
use http::{Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

const BUFFER_BYTES: usize = 16 * 1024;
/// How long the two ends may take to become raw streams after the `101` was seen.
const SWITCH_TIME: Duration = Duration::from_secs(10);

pub struct Tunnel {
    response: Response<()>,
    client: OnUpgrade,
    service: OnUpgrade,
}

impl Tunnel {
    pub fn new(response: Response<()>, client: OnUpgrade, service: OnUpgrade) -> Self {
        Self { response, client, service }
    }

    /// Starts the tunnel's task and returns the `101` that turns the client's end into a raw stream.
    pub fn begin(self, mut exchange: Box<Exchange>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let upgrade = self.response.headers().get(header::UPGRADE).cloned();
        let mut headers = self.response.headers().clone();
        super::headers::remove_hop_by_hop(&mut headers);
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("upgrade"));
        if let Some(upgrade) = upgrade {
            headers.insert(header::UPGRADE, upgrade);
        }
        *response.headers_mut() = headers;
        let (client, service) = (self.client, self.service);
        let shared = exchange.peer.shared.clone();
        let tracker = shared.tunnels.clone();
        tracker.spawn(async move {
            let ends = tokio::time::timeout(SWITCH_TIME, async { tokio::try_join!(client, service) }).await;
            match ends {
                Ok(Ok((client, service))) => {
                    let bytes = tokio::select! {
                        bytes = copy_both_ways(client, service, shared.limits.stream_idle_time) => bytes,
                        // The process is about to end: its time for open requests is over.
                        () = shared.abort.cancelled() => 0,
                    };
                    exchange.sent(usize::try_from(bytes).unwrap_or(usize::MAX));
                }
                Ok(Err(error)) => tracing::debug!(%error, "a connection did not become a tunnel"),
                Err(_) => tracing::debug!("a connection did not become a tunnel in time"),
            }
        });
        response
    }
}

/// Bytes that went to the client.
async fn copy_both_ways(client: Upgraded, service: Upgraded, idle_limit: Duration) -> u64 {
    let (client_read, client_write) = tokio::io::split(TokioIo::new(client));
    let (service_read, service_write) = tokio::io::split(TokioIo::new(service));
    let movement = Movement { begun: Instant::now(), moved_ms: AtomicU64::new(0) };
    let to_client = AtomicU64::new(0);
    let to_service = AtomicU64::new(0);
    let both = async {
        let _ = tokio::join!(
            copy(service_read, client_write, &movement, &to_client),
            copy(client_read, service_write, &movement, &to_service),
        );
    };
    tokio::select! {
        () = both => {}
        () = movement.ceased(idle_limit) => tracing::debug!("a tunnel was closed: nothing moved on it"),
    }
    to_client.load(Ordering::Relaxed)
}

/// Copies until the reader ends, then closes the writer's direction only. An error in one direction
/// shows up in the other, too, since both ends are the same two connections.
async fn copy(
    mut from: ReadHalf<TokioIo<Upgraded>>,
    mut to: WriteHalf<TokioIo<Upgraded>>,
    movement: &Movement,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = from.read(&mut buffer).await;
        movement.moved();
        match length {
            Ok(0) => return to.shutdown().await,
            Ok(length) => {
                to.write_all(&buffer[..length]).await?;
                to.flush().await?;
                movement.moved();
                count.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) => {
                // Nothing more can come this way; say so to the other end as well.
                let _ = to.shutdown().await;
                return Err(error);
            }
        }
    }
}

struct Movement {
    begun: Instant,
    moved_ms: AtomicU64,
}

impl Movement {
    fn moved(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now, Ordering::Relaxed);
    }

    /// Completes when nothing has moved for `limit`.
    async fn ceased(&self, limit: Duration) {
        loop {
            let last = self.begun + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
            let until = last + limit;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
