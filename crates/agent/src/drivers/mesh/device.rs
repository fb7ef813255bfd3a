//! Which device does the work on this machine: the kernel's, the gateway process, or one in memory for tests.

use api::mesh::MeshDeviceKind;
use api::mesh_device::{DeviceConfig, DeviceLive, GatewayMesh, GatewayMeshLive, ProbeAnswerer};
use client::gateway::{GatewayClient, GatewayError};
use mesh::fake::FakeDevice;
use mesh::kernel::KernelDevice;
use mesh::{Device, DeviceError};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The tunnel and, beside it, who answers the probes of other servers. That is always the gateway process.
pub enum Tunnel {
    Kernel { device: KernelDevice, gateway: GatewayClient },
    Userspace { gateway: GatewayClient },
    Fake { device: Arc<FakeDevice>, answering: Mutex<Option<ProbeAnswerer>> },
}

/// What is live, read in one go.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub device: Option<DeviceLive>,
    pub answering: Option<ProbeAnswerer>,
}

impl Tunnel {
    pub fn fake(device: Arc<FakeDevice>) -> Self {
        Self::Fake { device, answering: Mutex::default() }
    }

    pub fn kind(&self) -> MeshDeviceKind {
        match self {
            Self::Kernel { device, .. } => device.kind(),
            Self::Userspace { .. } => MeshDeviceKind::Userspace,
            Self::Fake { device, .. } => device.kind(),
        }
    }

    pub async fn see(&self) -> Result<Seen, DeviceError> {
        match self {
            Self::Kernel { device, gateway } => {
                let GatewayMeshLive { device: former, answering, .. } = ask(gateway).await?;
                if former.is_some() {
                    // It has the interface from before there was a kernel to do it.
                    return Ok(Seen::default());
                }
                Ok(Seen { device: device.live().await?, answering })
            }
            Self::Userspace { gateway } => {
                let GatewayMeshLive { device, answering, .. } = ask(gateway).await?;
                Ok(Seen { device, answering })
            }
            Self::Fake { device, answering } => {
                let answering = answering.lock().unwrap_or_else(|e| e.into_inner()).clone();
                Ok(Seen { device: device.live().await?, answering })
            }
        }
    }

    /// `None`: everything of ours goes.
    pub async fn make(&self, config: Option<&DeviceConfig>) -> Result<(), DeviceError> {
        let answer = config.map(|c| ProbeAnswerer { interface: c.interface.clone(), address: c.address });
        match self {
            Self::Kernel { device, gateway } => {
                if ask(gateway).await?.device.is_some() {
                    tell(gateway, &GatewayMesh::default()).await?;
                }
                match config {
                    Some(config) => device.apply(config).await?,
                    None => device.remove().await?,
                }
                tell(gateway, &GatewayMesh { device: None, answer }).await
            }
            Self::Userspace { gateway } => tell(gateway, &GatewayMesh { device: config.cloned(), answer }).await,
            Self::Fake { device, answering } => {
                match config {
                    Some(config) => device.apply(config).await?,
                    None => device.remove().await?,
                }
                *answering.lock().unwrap_or_else(|e| e.into_inner()) = answer;
                Ok(())
            }
        }
    }
}

/// A gateway that does not run holds nothing.
async fn ask(gateway: &GatewayClient) -> Result<GatewayMeshLive, DeviceError> {
    match gateway.mesh().await {
        Ok(live) => Ok(live),
        Err(error) if error.is_not_running() => Ok(GatewayMeshLive::default()),
        Err(error) => Err(DeviceError::Elsewhere(error.to_string())),
    }
}

async fn tell(gateway: &GatewayClient, told: &GatewayMesh) -> Result<(), DeviceError> {
    match gateway.put_mesh(told).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_not_running() && told.device.is_none() && told.answer.is_none() => Ok(()),
        Err(GatewayError::Refused { problem, .. }) => Err(DeviceError::Elsewhere(problem)),
        Err(error) => Err(DeviceError::Elsewhere(error.to_string())),
    }
}

/// What a machine can do for the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ability {
    Kernel,
    /// `without`: why not the kernel's.
    Userspace {
        without: String,
    },
    None {
        reason: String,
    },
}

impl Ability {
    /// By trying, as root; by looking, without.
    pub async fn of(root: &Path, is_root: bool) -> Self {
        if !is_root {
            let reason = "the agent does not run as root, so it can make no network interface";
            return Self::None { reason: reason.into() };
        }
        match mesh::kernel::unusable().await {
            None => Self::Kernel,
            Some(without) if root.join("dev/net/tun").exists() => Self::Userspace { without },
            Some(without) => {
                let reason = format!("the kernel has no WireGuard ({without}), and there is no /dev/net/tun");
                Self::None { reason }
            }
        }
    }

    /// What is missing and what follows, for the facts of the machine.
    pub fn limitation(&self) -> Option<String> {
        match self {
            Self::Kernel => None,
            Self::Userspace { .. } => Some(
                "The kernel's WireGuard cannot be used here: the mesh to other servers runs in the gateway process, \
                 which takes more processor time per byte. Installing a kernel with the wireguard module changes that \
                 at the agent's next start."
                    .into(),
            ),
            Self::None { reason } => Some(format!(
                "This machine takes no part in the mesh: {reason}. Services here and on other servers do not reach \
                 each other privately."
            )),
        }
    }
}
