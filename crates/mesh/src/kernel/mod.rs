//! The kernel's own WireGuard, spoken to over netlink.
//!
//! Whether there is one is found out by making an interface and taking it away again: a module that is on the disk, a
//! kernel that has it built in and a container that may not load it all look alike otherwise. The interface carries its
//! owner's mark as its alias; one without it is not touched.

mod messages;

use crate::difference::peer_changes;
use crate::key::PrivateKey;
use crate::network::{Network, NetworkError};
use crate::{Device, DeviceError, network_of};
use api::mesh::MeshDeviceKind;
use api::mesh_device::{DeviceConfig, DeviceLive, DeviceNetwork};
use futures_util::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_generic::GenlMessage;
use netlink_packet_wireguard::WireguardMessage;
use std::path::Path;
use std::time::Duration;

/// The kernel answers at once; a reply that is lost must not hold the agent up.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The alias of an interface of ours; behind it stands whose.
const MARK: &str = "mainstay ";

/// Why the kernel's WireGuard cannot be used here, or `None` if it can: tried with an interface that goes at once.
pub async fn unusable() -> Option<String> {
    // Short and unlikely to be anybody's; agents on one machine try under names of their own.
    let name = format!("mstry{:05}", std::process::id() % 100_000);
    let tried = async {
        let network = Network::open()?;
        network.add_wireguard(&name, MARK.trim_end()).await?;
        network.remove_link(&name).await
    };
    match tokio::time::timeout(ANSWER_TIME, tried).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(DeviceError::from(error).describe()),
        Err(_) => Some("the kernel did not answer".into()),
    }
}

/// A WireGuard interface of the kernel. It outlives every process.
#[derive(Debug, Clone)]
pub struct KernelDevice {
    interface: String,
    mark: String,
}

/// Takes away every interface of this owner: of an agent that is uninstalled, say, whatever it was called.
pub async fn remove_all_of(owner: &str) -> Result<(), DeviceError> {
    let network = Network::open()?;
    let mark = mark_of(owner);
    for (name, link) in network.links().await? {
        if link.wireguard && link.alias.as_ref() == Some(&mark) {
            network.remove_link(&name).await?;
        }
    }
    Ok(())
}

fn mark_of(owner: &str) -> String {
    format!("{MARK}{owner}")
}

impl KernelDevice {
    /// `owner` tells apart whose it is where several agents live on one machine: their data directory.
    pub fn new(interface: impl Into<String>, owner: &str) -> Self {
        Self { interface: interface.into(), mark: mark_of(owner) }
    }

    async fn ours(&self, network: &Network) -> Result<bool, DeviceError> {
        match network.link(&self.interface).await? {
            None => Ok(false),
            Some(link) if link.wireguard && link.alias.as_ref() == Some(&self.mark) => Ok(true),
            Some(_) => Err(DeviceError::NotOurs { interface: self.interface.clone() }),
        }
    }
}

impl Device for KernelDevice {
    fn kind(&self) -> MeshDeviceKind {
        MeshDeviceKind::Kernel
    }

    async fn live(&self) -> Result<Option<DeviceLive>, DeviceError> {
        let network = Network::open()?;
        if !self.ours(&network).await? {
            return Ok(None);
        }
        let answers = ask("show the device", messages::get_device(&self.interface), NLM_F_DUMP).await?;
        let live = messages::read_device(&answers);
        let DeviceNetwork { up, mtu, addresses, routes } = network.look(&self.interface).await?.unwrap_or_default();
        let network = DeviceNetwork { up, mtu, addresses, routes };
        Ok(Some(DeviceLive {
            interface: self.interface.clone(),
            public_key: live.public_key,
            port: live.port,
            network,
            peers: live.peers,
        }))
    }

    async fn apply(&self, config: &DeviceConfig) -> Result<(), DeviceError> {
        let key = PrivateKey::read(Path::new(&config.key_file))?;
        let network = Network::open()?;
        if !self.ours(&network).await? {
            network.add_wireguard(&self.interface, &self.mark).await?;
        }
        let missing = || NetworkError::Missing { name: self.interface.clone() };
        let live = self.live().await?.ok_or_else(missing)?;
        let rekey = live.public_key != Some(key.public());
        let port = (live.port != config.port).then_some(config.port);
        let changes = peer_changes(&live, config);
        for message in messages::set_device(&self.interface, rekey.then_some(&key), port, &changes) {
            ask("change the device", message, NLM_F_ACK).await?;
        }
        network.converge(&self.interface, &network_of(config)).await?;
        Ok(())
    }

    async fn remove(&self) -> Result<(), DeviceError> {
        let network = Network::open()?;
        if self.ours(&network).await? {
            network.remove_link(&self.interface).await?;
        }
        Ok(())
    }
}

async fn ask(
    operation: &'static str,
    message: WireguardMessage,
    flags: u16,
) -> Result<Vec<WireguardMessage>, DeviceError> {
    let refused = |reason: String| DeviceError::Kernel { operation, reason };
    let (connection, mut handle, _) = genetlink::new_connection().map_err(|error| refused(error.to_string()))?;
    let connection = tokio::spawn(connection);
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(message));
    request.header.flags = NLM_F_REQUEST | flags;
    let exchange = async {
        let mut answers = handle.request(request).await.map_err(|error| refused(error.to_string()))?;
        let mut messages = Vec::new();
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| refused(error.to_string()))?;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => messages.push(message.payload),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(refused(error.to_io().to_string())),
                _ => {}
            }
        }
        Ok(messages)
    };
    let result = tokio::time::timeout(ANSWER_TIME, exchange).await;
    connection.abort();
    result.unwrap_or_else(|_| Err(refused("the kernel did not answer".into())))
}
