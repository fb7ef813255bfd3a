//! A device in memory: the third implementation, for tests of what stands above and for the suite that all pass.

use crate::difference::{PeerChange, peer_changes, routes};
use crate::key::PrivateKey;
use crate::{Device, DeviceError};
use api::mesh::MeshDeviceKind;
use api::mesh_device::{DeviceConfig, DeviceLive, DeviceNetwork, LivePeer};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

#[derive(Default)]
pub struct FakeDevice {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Option<DeviceLive>,
    changes: Vec<PeerChange>,
    failure: Option<String>,
}

impl FakeDevice {
    /// Changes what is live, as somebody does who works on the machine by hand, or a peer that shakes hands.
    pub fn by_hand(&self, change: impl FnOnce(&mut DeviceLive)) {
        if let Some(live) = &mut self.lock().live {
            change(live);
        }
    }

    /// The changes of peers so far.
    pub fn changes(&self) -> Vec<PeerChange> {
        self.lock().changes.clone()
    }

    /// From now on changes fail, until it is `None`.
    pub fn fail(&self, reason: Option<&str>) {
        self.lock().failure = reason.map(str::to_owned);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Device for FakeDevice {
    fn kind(&self) -> MeshDeviceKind {
        MeshDeviceKind::Userspace
    }

    async fn live(&self) -> Result<Option<DeviceLive>, DeviceError> {
        Ok(self.lock().live.clone())
    }

    async fn apply(&self, config: &DeviceConfig) -> Result<(), DeviceError> {
        let key = PrivateKey::read(Path::new(&config.key_file))?;
        let mut state = self.lock();
        if let Some(reason) = &state.failure {
            return Err(DeviceError::Tunnel { reason: reason.clone() });
        }
        let mut live = state.live.clone().filter(|live| live.interface == config.interface).unwrap_or(DeviceLive {
            interface: config.interface.clone(),
            public_key: None,
            port: 0,
            network: DeviceNetwork::default(),
            peers: Vec::new(),
        });
        let changes = peer_changes(&live, config);
        changes.iter().for_each(|change| apply(&mut live, change));
        live.peers.sort_by_key(|peer| peer.public_key);
        live.public_key = Some(key.public());
        live.port = config.port;
        live.network = DeviceNetwork {
            up: true,
            mtu: config.mtu.into(),
            addresses: vec![(config.address, config.prefix)],
            routes: routes(config).into_iter().collect(),
        };
        state.changes.extend(changes);
        state.live = Some(live);
        Ok(())
    }

    async fn remove(&self) -> Result<(), DeviceError> {
        self.lock().live = None;
        Ok(())
    }
}

fn apply(live: &mut DeviceLive, change: &PeerChange) {
    match change {
        PeerChange::Remove(key) => live.peers.retain(|peer| peer.public_key != *key),
        PeerChange::Add(peer) => live.peers.push(LivePeer {
            public_key: peer.public_key,
            endpoint: peer.endpoint,
            allowed: peer.allowed.clone(),
            keepalive_seconds: peer.keepalive_seconds,
            last_handshake_at_ms: None,
            received_bytes: 0,
            sent_bytes: 0,
        }),
        PeerChange::Update { public_key, endpoint, allowed, keepalive_seconds } => {
            let Some(peer) = live.peers.iter_mut().find(|peer| peer.public_key == *public_key) else { return };
            peer.endpoint = endpoint.or(peer.endpoint);
            peer.allowed = allowed.clone().unwrap_or_else(|| peer.allowed.clone());
            peer.keepalive_seconds = keepalive_seconds.unwrap_or(peer.keepalive_seconds);
        }
    }
}
