//! Getting the fleet state: who else there is, and what runs there.
//!
//! It is asked for beside the desired state, and only while that says that there are other servers to reach. The doors
//! are the same as in [`crate::subscribe`]: the pinned key signed it, its generation is above what was accepted before,
//! it is in the ledger before anybody acts on it. What does not pass is refused and said; the one before stays in force.
//! With the control plane gone, requests are routed by the last one that was kept.

use crate::backoff::Backoff;
use crate::control_plane::ControlPlane;
use crate::ledger::Ledger;
use crate::subscribe::Accepted;
use api::desired::SignedDesiredState;
use api::fleet::FleetState;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the control plane is asked to hold a request without news.
const WAIT: Duration = Duration::from_secs(25);
/// The least time between two questions that both came back without news.
const FLOOR: Duration = Duration::from_secs(5);

/// Verifies and keeps fleet states.
pub struct FleetKeeper {
    pub key: wire::VerifyingKey,
    pub ledger: Ledger,
    /// `None` while there is nobody else, or nothing was told yet.
    pub fleet: watch::Sender<Option<Arc<FleetState>>>,
}

impl FleetKeeper {
    /// The one in the ledger, verified again. Called once, at the start.
    pub async fn load(&self) {
        match self.ledger.fleet_load().await {
            Ok(None) => {}
            Ok(Some(signed)) => match self.key.verify::<FleetState>(&signed) {
                Ok(state) => drop(self.fleet.send_replace(Some(Arc::new(state)))),
                Err(error) => tracing::error!(%error, "the kept fleet state is not genuine and is not acted on"),
            },
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the kept fleet state cannot be read");
            }
        }
    }

    /// Whether the document was fit to act on.
    pub async fn offer(&self, signed: &SignedDesiredState) -> bool {
        let state = match self.key.verify::<FleetState>(signed) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!(%error, "refused a fleet state; the one before stays in force");
                return false;
            }
        };
        if state.generation <= self.generation() {
            tracing::error!(
                given = state.generation,
                held = self.generation(),
                "refused a fleet state that is not newer"
            );
            return false;
        }
        if let Err(error) = self.ledger.fleet_keep(signed).await {
            // Not acting would be worse: requests would go where nothing runs any more.
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the fleet state could not be kept; it is acted on"
            );
        }
        tracing::debug!(generation = state.generation, "accepted a fleet state");
        self.fleet.send_replace(Some(Arc::new(state)));
        true
    }

    fn generation(&self) -> u64 {
        self.fleet.borrow().as_ref().map_or(0, |state| state.generation)
    }
}

/// Asks for news until the end, while there are other servers.
pub async fn run(
    control_plane: Arc<ControlPlane>,
    keeper: FleetKeeper,
    mut accepted: watch::Receiver<Accepted>,
    shutdown: CancellationToken,
) {
    let is_in_fleet = |accepted: &Accepted| accepted.desired.as_ref().is_some_and(|desired| desired.in_fleet);
    let mut attempts = 0;
    loop {
        // Safe to cancel: what was not read is asked for again.
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            wanted = accepted.wait_for(is_in_fleet) => if wanted.is_err() { return },
        }
        let asked_at = Instant::now();
        let answer = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            answer = control_plane.fleet_state(keeper.generation(), WAIT) => answer,
        };
        let pause = match answer {
            Ok(Some(signed)) if keeper.offer(&signed).await => {
                attempts = 0;
                Duration::ZERO
            }
            Ok(None) => {
                attempts = 0;
                // A proxy that cuts long-polls short must not make this a busy loop.
                if asked_at.elapsed() < WAIT / 2 { FLOOR.saturating_sub(asked_at.elapsed()) } else { Duration::ZERO }
            }
            Ok(Some(_)) | Err(_) => {
                // The desired state is asked for at the same address, and that already says what is wrong.
                attempts += 1;
                Backoff::CONTROL_PLANE.delay(attempts)
            }
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{MemoryDisk, MemoryLedger};

    fn state(generation: u64) -> FleetState {
        FleetState {
            organization_id: "org_00000000000000000000000000000001".parse().unwrap(),
            generation,
            issued_at_ms: 0,
            peers: Vec::new(),
            services: Vec::new(),
        }
    }

    fn keeper(key: &wire::SigningKey, disk: &MemoryDisk) -> FleetKeeper {
        FleetKeeper {
            key: wire::VerifyingKey::from_base64(&key.public_base64()).unwrap(),
            ledger: Ledger::Memory(MemoryLedger::new(disk.clone(), None)),
            fleet: watch::Sender::default(),
        }
    }

    #[tokio::test]
    async fn a_fleet_state_is_taken_only_from_the_pinned_key_and_only_if_it_is_newer() {
        let key = || wire::SigningKey::from_base64(&wire::SigningKey::generate()).unwrap();
        let (ours, disk) = (key(), MemoryDisk::default());
        let keeper_of_ours = keeper(&ours, &disk);
        assert!(keeper_of_ours.offer(&ours.sign(&state(5))).await);
        assert!(!keeper_of_ours.offer(&key().sign(&state(9))).await, "another key");
        assert!(!keeper_of_ours.offer(&ours.sign(&state(5))).await, "the same again");
        assert!(!keeper_of_ours.offer(&ours.sign(&state(4))).await, "an older one");
        assert_eq!(keeper_of_ours.generation(), 5);

        let again = keeper(&ours, &disk);
        again.load().await;
        assert_eq!(again.generation(), 5, "it is kept for the next start");
        let joined_elsewhere = keeper(&key(), &disk);
        joined_elsewhere.load().await;
        assert_eq!(joined_elsewhere.generation(), 0, "what lies on the disk is verified again");
    }

    #[tokio::test]
    async fn a_desired_state_is_not_taken_for_a_fleet_state() {
        let key = wire::SigningKey::from_base64(&wire::SigningKey::generate()).unwrap();
        let keeper = keeper(&key, &MemoryDisk::default());
        let document = serde_json::json!({
            "server_id": "srv_00000000000000000000000000000001", "server_name": "a", "generation": 7, "issued_at_ms": 0,
            "poll_interval_ms": 1, "security_mode": "closed", "gateway": api::gateway::GatewaySettings::default(),
            "dns": api::gateway::DnsSettings::default(), "stacks": [],
        });
        let desired: api::desired::DesiredState = serde_json::from_value(document).unwrap();
        assert!(!keeper.offer(&key.sign(&desired)).await);
    }
}
