//! A gateway in memory that outlives the agents, as the real process does.

use agent::drivers::{Config, DriverError};
use agent::reconcile::Gateway;
use api::gateway::{GatewayConfig, GatewayObserved};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
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
        self.state.lock().unwrap().config = None;
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn refuse_next(&self, times: u32) {
        self.state.lock().unwrap().refusals = times;
    }

    pub fn applied(&self) -> u32 {
        self.state.lock().unwrap().applied
    }
}

impl Gateway for FakeGateway {
    async fn observe(&self) -> GatewayObserved {
        let state = self.state.lock().unwrap();
        let Some(config) = &state.config else { return GatewayObserved::default() };
        let upstreams = config.services.iter().flat_map(|s| s.upstreams.iter());
        GatewayObserved {
            running: true,
            pid: Some(state.pid),
            version: Some(agent::VERSION.into()),
            digest: Some(wire::digest_of(config)),
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
        self.state.lock().unwrap().config.as_ref().map(wire::digest_of)
    }

    async fn apply(&self, desired: &GatewayConfig) -> Result<String, DriverError> {
        let mut state = self.state.lock().unwrap();
        if state.refusals > 0 {
            state.refusals -= 1;
            return Err(DriverError::temporary("port 8080 is in use by another program"));
        }
        if state.config.is_none() {
            state.pid += 1;
        }
        state.applied += 1;
        state.config = Some(desired.clone());
        Ok(wire::digest_of(desired))
    }

    async fn remove(&self) -> Result<(), DriverError> {
        self.state.lock().unwrap().config = None;
        Ok(())
    }
}
