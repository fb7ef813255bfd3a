//! A gateway in memory that outlives the agents, as the real process does. It serves nobody: its whole
//! being is the configuration that it was last given.

use crate::drivers::{Config, DriverError};
use crate::reconcile::Gateway;
use api::gateway::{GatewayConfig, GatewayObserved};
use api::tls::CertificateDesired;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

#[derive(Clone)]
pub struct FakeGateway {
    state: Arc<Mutex<State>>,
    changes: Arc<watch::Sender<u64>>,
}

#[derive(Default)]
struct State {
    pid: u32,
    config: Option<GatewayConfig>,
    /// Of the configuration.
    digest: String,
    applied: u32,
    refusals: u32,
}

impl Default for FakeGateway {
    fn default() -> Self {
        Self { state: Arc::default(), changes: Arc::new(watch::Sender::new(0)) }
    }
}

impl FakeGateway {
    /// Its process ends.
    pub fn die(&self) {
        self.state().config = None;
        self.changes.send_modify(|n| *n += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does now.
    pub fn config(&self) -> Option<GatewayConfig> {
        self.state().config.clone()
    }

    /// The next configurations are refused.
    pub fn refuse_next(&self, times: u32) {
        self.state().refusals = times;
    }

    /// How many configurations it took.
    pub fn applied(&self) -> u32 {
        self.state().applied
    }
}

impl Gateway for FakeGateway {
    async fn observe(&self) -> GatewayObserved {
        let state = self.state();
        let Some(config) = &state.config else { return GatewayObserved::default() };
        let upstreams = config.services.iter().flat_map(|s| s.upstreams.iter());
        GatewayObserved {
            running: true,
            pid: Some(state.pid),
            version: Some(crate::VERSION.into()),
            digest: Some(state.digest.clone()),
            challenges: config.tls.challenges.iter().map(|answer| answer.token.clone()).collect(),
            certificates: config.tls.certificates.len() as u64,
            active: upstreams.filter(|u| !u.draining).map(|u| u.instance_id.clone()).collect(),
            ..GatewayObserved::default()
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn ensure_running(&self) -> Result<(), DriverError> {
        Ok(())
    }

    async fn bring(&self, _: &[CertificateDesired]) -> Result<(), DriverError> {
        Ok(())
    }

    fn is_current(&self, observed: &GatewayObserved) -> bool {
        observed.running
    }

    fn access_log(&self) -> Option<PathBuf> {
        None
    }

    fn settled(&self) {}
}

impl Config for FakeGateway {
    type Desired = GatewayConfig;

    fn name(&self) -> &'static str {
        "routes"
    }

    async fn live_digest(&self) -> Option<String> {
        let state = self.state();
        state.config.as_ref().map(|_| state.digest.clone())
    }

    async fn apply(&self, desired: &GatewayConfig) -> Result<String, DriverError> {
        let mut state = self.state();
        if state.refusals > 0 {
            state.refusals -= 1;
            return Err(DriverError::temporary("port 8080 is in use by another program"));
        }
        if state.config.is_none() {
            state.pid += 1;
        }
        state.applied += 1;
        state.config = Some(desired.clone());
        state.digest = wire::digest_of(desired);
        Ok(state.digest.clone())
    }

    async fn remove(&self) -> Result<(), DriverError> {
        self.state().config = None;
        Ok(())
    }
}
