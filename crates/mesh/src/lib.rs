//! The machine's end of the mesh: a WireGuard device, of the kernel or of this process, made what it should be.
//!
//! ```text
//!   agent ── apply ──▶ kernel::KernelDevice ──netlink──▶ WireGuard of the kernel
//!     │                                        ▲
//!     │                                        └ address, MTU, routes: network
//!     └── PUT /mesh ──▶ gateway process ──▶ userspace::UserspaceDevice (gotatun, tun)
//! ```
//!
//! Both are behind one shape, [`Device`]: look at what is live, and make it as a config says by the fewest changes
//! ([`difference`]). Peers that stay are not touched, so one that comes or goes costs the others no packet. What is live
//! is asked of the device, never remembered: whoever changed it by hand is found out at the next look.
//!
//! Absent on purpose: which peers there are (the control plane says) and which endpoint of a peer is tried (the agent
//! chooses, because only it sees what answers).

pub mod difference;
pub mod fake;
pub mod kernel;
pub mod key;
pub mod network;
pub mod probe;
pub mod userspace;

use api::mesh::MeshDeviceKind;
use api::mesh_device::{DeviceConfig, DeviceLive, DeviceNetwork};
use std::future::Future;

/// Why a device is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Key(#[from] key::KeyError),
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    #[error(
        "the interface {interface} belongs to something else; rename or remove it, or choose another name with --mesh-interface"
    )]
    NotOurs { interface: String },
    #[error("the tun device {interface} cannot be made")]
    Tun { interface: String, source: std::io::Error },
    #[error("UDP port {port} cannot be used for the mesh; free it, or choose another with --mesh-port")]
    Port { port: u16, source: std::io::Error },
    #[error("the tunnel refused a change: {reason}")]
    Tunnel { reason: String },
    #[error("the kernel's WireGuard refused to {operation}: {reason}")]
    Kernel { operation: &'static str, reason: String },
    /// The other process that holds the device.
    #[error("{0}")]
    Elsewhere(String),
}

impl DeviceError {
    /// The whole chain in one line, for reports.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        text
    }
}

/// A WireGuard device with its interface.
pub trait Device: Send + Sync + 'static {
    fn kind(&self) -> MeshDeviceKind;

    /// As it is; `None` when there is none of ours.
    fn live(&self) -> impl Future<Output = Result<Option<DeviceLive>, DeviceError>> + Send;

    /// Makes it as the config says, or fails with the rest done. May be repeated.
    fn apply(&self, config: &DeviceConfig) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Takes it away, with its interface. Succeeds where there is none.
    fn remove(&self) -> impl Future<Output = Result<(), DeviceError>> + Send;
}

/// The interface that a config wants.
pub(crate) fn network_of(config: &DeviceConfig) -> DeviceNetwork {
    DeviceNetwork {
        up: true,
        mtu: config.mtu.into(),
        addresses: vec![(config.address, config.prefix)],
        routes: difference::routes(config).into_iter().collect(),
    }
}
