//! Getting the desired state: a long-poll that answers the moment there is news, verified before
//! anybody sees it, kept before anybody acts on it.
//!
//! A document passes four doors: the pinned key signed exactly these bytes; it names this server; its
//! generation is not below the highest ever accepted; it is in the ledger. What does not pass is
//! refused, and why is in every report until a good one arrives. While the loop is processing, no new
//! document is asked for (DESIGN.md, "Agent states"): one snapshot at a time.

use crate::backoff::Backoff;
use crate::clock::now_ms;
use crate::control_plane::{ControlPlane, ControlPlaneError, Kind};
use crate::ledger::{Acceptance, Ledger};
use api::desired::{DesiredState, SignedDesiredState};
use api::ids::ServerId;
use api::observed::AgentState;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the control plane is asked to hold a request without news.
const WAIT: Duration = Duration::from_secs(25);

/// What the loop works from.
#[derive(Debug, Clone, Default)]
pub struct Accepted {
    /// The newest verified document; `None` before the first.
    pub desired: Option<Arc<DesiredState>>,
    /// Why the last document offered was refused.
    pub refused: Option<String>,
    /// An accepted document that could not be kept: it is acted on all the same.
    pub unkept: Option<String>,
}

/// Verifies and keeps documents.
pub struct Gatekeeper {
    pub server_id: ServerId,
    pub key: wire::VerifyingKey,
    pub ledger: Ledger,
    pub accepted: watch::Sender<Accepted>,
    /// Accepted, but not yet in the ledger: a disk that was full has room again some time.
    pub unkept: Mutex<Option<SignedDesiredState>>,
}

impl Gatekeeper {
    /// The document of the ledger, verified again: a disk can be written by others. Called once, at the start.
    pub async fn load(&self) {
        match self.ledger.desired_load().await {
            Ok(None) => {}
            Ok(Some(signed)) => match self.verify(&signed) {
                Ok(state) => self.accepted.send_modify(|a| a.desired = Some(Arc::new(state))),
                Err(reason) => {
                    tracing::error!(%reason, "the kept desired state is not genuine and is not acted on");
                    let refused = format!("the desired state kept on this machine is not genuine: {reason}");
                    self.accepted.send_modify(|a| a.refused = Some(refused));
                }
            },
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the kept desired state cannot be read");
                self.accepted.send_modify(|a| a.refused = Some(error.to_string()));
            }
        }
    }

    fn verify(&self, signed: &SignedDesiredState) -> Result<DesiredState, String> {
        let state: DesiredState = self.key.verify(signed).map_err(|e| e.to_string())?;
        if state.server_id != self.server_id {
            return Err(format!("the document is for server {}, this machine is {}", state.server_id, self.server_id));
        }
        Ok(state)
    }

    /// Whether the document was fit to act on.
    pub async fn offer(&self, signed: &SignedDesiredState) -> bool {
        let verified = self.verify(signed);
        let state = match verified {
            Ok(state) => state,
            Err(reason) => return self.refuse(reason),
        };
        let held = self.accepted.borrow().desired.as_ref().map(|d| d.generation);
        match self.ledger.desired_accept(signed, now_ms()).await {
            Ok(Acceptance::Refused(reason)) => self.refuse(reason.to_string()),
            Ok(Acceptance::Same) if held == Some(state.generation) => {
                self.accepted.send_if_modified(|a| a.refused.take().is_some());
                true
            }
            Ok(Acceptance::New | Acceptance::Same) => self.accept(state, None),
            // Not acting would be worse: on a full disk the document may be the one that makes room.
            Err(_) if held.is_some_and(|held| state.generation <= held) => true,
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the desired state could not be kept; it is acted on, and keeping it is tried again"
                );
                *self.unkept.lock().unwrap_or_else(PoisonError::into_inner) = Some(signed.clone());
                self.accept(state, Some(format!("the desired state could not be kept on disk: {error}")))
            }
        }
    }

    /// Tries again to keep what could not be kept. Answers whether all is kept.
    async fn keep(&self) -> bool {
        let unkept = self.unkept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(signed) = unkept else { return true };
        if self.ledger.desired_accept(&signed, now_ms()).await.is_err() {
            return false;
        }
        tracing::info!(generation = signed.generation, "the desired state is kept now");
        self.unkept.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.accepted.send_modify(|a| a.unkept = None);
        true
    }

    fn accept(&self, state: DesiredState, unkept: Option<String>) -> bool {
        if unkept.is_none() {
            self.unkept.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        tracing::info!(generation = state.generation, "accepted a desired state");
        self.accepted.send_modify(|a| *a = Accepted { desired: Some(Arc::new(state)), refused: None, unkept });
        true
    }

    fn refuse(&self, reason: String) -> bool {
        let news = self.accepted.send_if_modified(|a| {
            let news = a.refused.as_ref() != Some(&reason);
            a.refused = Some(reason.clone());
            news
        });
        if news {
            tracing::error!(%reason, "refused a desired state; the one before stays in force");
        }
        false
    }

    fn generation(&self) -> u64 {
        self.accepted.borrow().desired.as_ref().map_or(0, |d| d.generation)
    }

    fn poll_interval(&self) -> Duration {
        let interval = self.accepted.borrow().desired.as_ref().map_or(10_000, |d| d.poll_interval_ms);
        Duration::from_millis(interval.clamp(100, 600_000))
    }
}

/// Asks for news until the end. `hurry` is notified when a report's answer tells of a newer generation.
pub async fn run(
    control_plane: Arc<ControlPlane>,
    gatekeeper: Gatekeeper,
    mut state: watch::Receiver<AgentState>,
    hurry: Arc<Notify>,
    shutdown: CancellationToken,
) {
    let mut attempts = 0;
    let mut said = None;
    loop {
        // Both arms may be dropped halfway: waiting changes nothing, and an answer that was not read
        // is asked for again with the same generation.
        let round = async {
            let wait = if gatekeeper.keep().await { WAIT } else { gatekeeper.poll_interval().min(WAIT) };
            let _ = state.wait_for(|state| *state == AgentState::Idle).await;
            let asked_at = Instant::now();
            (asked_at, control_plane.expected_state(gatekeeper.generation(), wait).await)
        };
        let (asked_at, answer) = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            round = round => round,
        };
        let interval = gatekeeper.poll_interval();
        let pause = match answer {
            Ok(Some(signed)) if gatekeeper.offer(&signed).await => {
                said_again(&mut attempts);
                Duration::ZERO
            }
            Ok(Some(_)) => {
                attempts += 1;
                Backoff::CONTROL_PLANE.delay(attempts).max(interval / 10)
            }
            // A proxy that cuts long-polls short must not make this a busy loop: the interval is the floor.
            Ok(None) => {
                said_again(&mut attempts);
                if asked_at.elapsed() < WAIT / 2 { interval.saturating_sub(asked_at.elapsed()) } else { Duration::ZERO }
            }
            Err(error) => {
                attempts += 1;
                say_once(&error, attempts, &mut said);
                Backoff::CONTROL_PLANE.delay(attempts).min(interval)
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = hurry.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Once for each kind of trouble: a control plane that was away and then refuses is news.
fn say_once(error: &ControlPlaneError, attempts: u32, said: &mut Option<Kind>) {
    let news = attempts == 1 || *said != Some(error.kind());
    *said = Some(error.kind());
    match error.kind() {
        Kind::Refused if news => {
            tracing::error!(%error, "the control plane does not accept this machine; services keep running")
        }
        Kind::Clock if news => {
            tracing::error!(%error, "nothing can be told or asked until the clocks agree; services keep running")
        }
        _ if news => tracing::warn!(%error, "services keep running from the last desired state; trying again"),
        _ => tracing::debug!(%error, attempts, "still no desired state"),
    }
}

fn said_again(attempts: &mut u32) {
    if *attempts > 0 {
        tracing::info!(attempts = *attempts, "the control plane answers again");
        *attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Disk, MemoryDisk, MemoryLedger};
    use futures_util::future::BoxFuture;
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Full(AtomicBool);

    impl Disk for Full {
        fn before_write(&self, _: &'static str) -> BoxFuture<'_, io::Result<()>> {
            let full = self.0.load(Ordering::SeqCst);
            Box::pin(async move { if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) } })
        }
        fn after_write(&self, _: &'static str) -> BoxFuture<'_, ()> {
            Box::pin(async {})
        }
        fn syncs(&self, _: &'static str) -> bool {
            true
        }
    }

    fn state() -> DesiredState {
        DesiredState {
            server_id: "srv_00000000000000000000000000000001".parse().unwrap(),
            server_name: "local".parse().unwrap(),
            generation: 3,
            issued_at_ms: 0,
            poll_interval_ms: 10_000,
            in_fleet: false,
            security_mode: Default::default(),
            gateway: Default::default(),
            dns: Default::default(),
            stacks: vec![],
            certificates: vec![],
            challenges: vec![],
        }
    }

    #[tokio::test]
    async fn a_document_that_found_no_room_is_acted_on_and_kept_as_soon_as_there_is_some() {
        let key = wire::SigningKey::from_base64(&wire::SigningKey::generate()).unwrap();
        let (disk, full) = (MemoryDisk::default(), Arc::new(Full::default()));
        let gatekeeper = Gatekeeper {
            server_id: state().server_id,
            key: wire::VerifyingKey::from_base64(&key.public_base64()).unwrap(),
            ledger: Ledger::Memory(MemoryLedger::new(disk.clone(), Some(full.clone()))),
            accepted: watch::Sender::default(),
            unkept: Default::default(),
        };
        full.0.store(true, Ordering::SeqCst);
        assert!(gatekeeper.offer(&key.sign(&state())).await, "it is acted on");
        assert!(gatekeeper.accepted.borrow().unkept.is_some(), "and it is said that it is not kept");
        assert!(!gatekeeper.keep().await);
        assert_eq!(disk.highest_generation(), 0);

        full.0.store(false, Ordering::SeqCst);
        assert!(gatekeeper.keep().await);
        assert_eq!(disk.highest_generation(), 3);
        assert_eq!(gatekeeper.accepted.borrow().unkept, None);
    }
}
