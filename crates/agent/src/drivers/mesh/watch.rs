//! What runs beside the loop: endpoints are tried, probes are sent, and the loop is woken by what it should see.
//!
//! Probes go to every peer that the device has an endpoint of. Those to a peer without a live handshake count nothing;
//! they make WireGuard try one. With a handshake each is counted, and after a lost one the next follows sooner, so that
//! a tunnel that has stopped to carry anything is known within seconds.

use super::MeshDriver;
use crate::backoff::jitter;
use crate::clock::now_ms;
use api::mesh::{MeshPeer, PublicKey, SESSION_LIMIT_MS};
use api::mesh_device::LivePeer;
use mesh::probe::{self, PATIENCE, ProbeLog};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether there is something to do.
const TICK: Duration = Duration::from_secs(1);
/// How often the device is looked at while all is well.
const LOOK: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// After a lost one, and while there is no handshake.
const PROBE_SOON: Duration = Duration::from_secs(1);
/// The first ones follow each other quickly, so that there soon is something to say.
const FIRST_PROBES: u32 = 5;

/// Until `shutdown`.
pub async fn run(driver: Arc<MeshDriver>, shutdown: CancellationToken) {
    if driver.ready.is_err() {
        return shutdown.cancelled().await;
    }
    let mut prober = Prober::default();
    let mut watched = Watched::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // An answer that is dropped with its wait is read at the next one; a tick is only late.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            number = prober.answer() => prober.answered(&driver, number),
            _ = tick.tick() => {
                watched.tick(&driver).await;
                prober.tick(&driver).await;
            }
        }
    }
}

/// What the loop last heard of.
#[derive(Default)]
struct Watched {
    looked_at: Option<Instant>,
    digest: Option<String>,
    states: BTreeMap<PublicKey, api::mesh::MeshPeerState>,
}

impl Watched {
    async fn tick(&mut self, driver: &MeshDriver) {
        let Some(desired) = driver.desired().filter(|desired| !desired.peers.is_empty()) else {
            self.states.clear();
            return;
        };
        let all_well = self.states.len() == desired.peers.len()
            && self.states.values().all(|state| *state == api::mesh::MeshPeerState::Direct);
        if all_well && self.looked_at.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        self.looked_at = Some(Instant::now());
        if let Err(error) = driver.try_endpoints().await {
            tracing::warn!(error = %error.describe(), "endpoints of the mesh cannot be tried");
        }
        let Ok(ready) = &driver.ready else { return };
        let digest = driver.look(ready).await.ok();
        let states = driver.observe().await.peers.iter().map(|peer| (peer.public_key, peer.state)).collect();
        let news = digest != self.digest || states != self.states;
        (self.digest, self.states) = (digest, states);
        if news {
            driver.bump();
        }
    }
}

#[derive(Default)]
struct Prober {
    socket: Option<UdpSocket>,
    number: u64,
    waiting: BTreeMap<u64, Waiting>,
    due: BTreeMap<PublicKey, Instant>,
}

struct Waiting {
    key: PublicKey,
    sent: Instant,
    /// Whether there was a handshake when it was sent.
    counts: bool,
}

impl Prober {
    /// The number of the next answer.
    async fn answer(&mut self) -> u64 {
        let mut bytes = [0; 64];
        loop {
            let Some(socket) = &self.socket else { return std::future::pending().await };
            match socket.recv(&mut bytes).await {
                Ok(length) => {
                    if let Some(number) = probe::answered(&bytes[..length]) {
                        return number;
                    }
                }
                Err(error) => {
                    // The interface is gone; another socket is made when there is one again.
                    tracing::debug!(%error, "probes cannot be received");
                    self.socket = None;
                }
            }
        }
    }

    fn answered(&mut self, driver: &MeshDriver, number: u64) {
        let Some(waiting) = self.waiting.remove(&number) else { return };
        if waiting.counts {
            let mut state = driver.lock();
            state.probes.entry(waiting.key).or_default().answered(waiting.sent.elapsed());
        }
    }

    async fn tick(&mut self, driver: &MeshDriver) {
        let Some(desired) = driver.desired().filter(|desired| !desired.peers.is_empty()) else {
            *self = Self::default();
            return;
        };
        self.count_lost(driver);
        let live = driver.lock().seen.clone().and_then(|(_, seen)| seen.device).map_or(vec![], |device| device.peers);
        let live: BTreeMap<PublicKey, &LivePeer> = live.iter().map(|peer| (peer.public_key, peer)).collect();
        self.due.retain(|key, _| live.contains_key(key));
        driver.lock().probes.retain(|key, _| desired.peers.iter().any(|peer| peer.public_key == *key));
        if self.socket.is_none() {
            let bound = probe::bind(&driver.settings.interface, desired.address, 0).await;
            match bound {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => return tracing::debug!(%error, "probes cannot be sent yet"),
            }
        }
        let now = Instant::now();
        for peer in &desired.peers {
            let Some(seen) = live.get(&peer.public_key).filter(|seen| seen.endpoint.is_some()) else { continue };
            if self.due.get(&peer.public_key).is_some_and(|due| *due > now) {
                continue;
            }
            let alive = seen.last_handshake_at_ms.is_some_and(|at_ms| now_ms() - at_ms < SESSION_LIMIT_MS);
            let wait = next_in(alive, driver.lock().probes.get(&peer.public_key));
            self.due.insert(peer.public_key, now + wait.mul_f64(0.9 + 0.2 * jitter()));
            self.send(peer, alive).await;
        }
    }

    async fn send(&mut self, peer: &MeshPeer, counts: bool) {
        let (Some(socket), Some(address)) = (&self.socket, peer.mesh_address()) else { return };
        self.number += 1;
        let sent = Instant::now();
        match socket.send_to(&probe::question(self.number), probe::target(address)).await {
            Ok(_) => {
                self.waiting.insert(self.number, Waiting { key: peer.public_key, sent, counts });
            }
            Err(error) => {
                // It was not sent, so it was not lost.
                tracing::debug!(%error, peer = %peer.name, "a probe could not be sent");
                self.socket = None;
            }
        }
    }

    fn count_lost(&mut self, driver: &MeshDriver) {
        let late = |waiting: &Waiting| waiting.sent.elapsed() > PATIENCE;
        for waiting in self.waiting.values().filter(|waiting| waiting.counts && late(waiting)) {
            driver.lock().probes.entry(waiting.key).or_default().lost();
            self.due.insert(waiting.key, Instant::now());
        }
        self.waiting.retain(|_, waiting| !late(waiting));
    }
}

fn next_in(alive: bool, log: Option<&ProbeLog>) -> Duration {
    let sure = log.is_some_and(|log| log.summary().sent >= FIRST_PROBES && log.lost_in_a_row() == 0);
    if alive && sure { PROBE_EVERY } else { PROBE_SOON }
}
