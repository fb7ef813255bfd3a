//! The interface of a device: up, its MTU, its address, and the routes into it. Over netlink, both ways.
//!
//! Everything on our interface is ours: an address or a route there that nobody wants is taken away. A route of another
//! interface is not touched; where it leads to the same network there is an error that says so.

use api::addresses::Subnet;
use api::mesh_device::DeviceNetwork;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkWireguard, RouteMessageBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("the kernel cannot be asked about interfaces")]
    Open(#[source] std::io::Error),
    #[error("could not {operation}")]
    Netlink { operation: String, source: Box<rtnetlink::Error> },
    #[error("there is no interface {name}")]
    Missing { name: String },
    #[error(
        "{subnet} is already reached another way on this machine (`ip route get {}` says which); remove that route or \
         give the network there another range",
        subnet.network()
    )]
    RouteTaken { subnet: Subnet },
}

impl NetworkError {
    fn netlink(operation: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Netlink { operation, source: Box::new(source) }
    }

    fn errno(&self) -> Option<i32> {
        let Self::Netlink { source, .. } = self else { return None };
        let rtnetlink::Error::NetlinkError(message) = source.as_ref() else { return None };
        message.code.map(|code| -code.get())
    }
}

/// A connection to the kernel; dropped, it ends.
pub struct Network {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// An interface that exists.
#[derive(Debug, Clone)]
pub struct Link {
    pub index: u32,
    pub up: bool,
    pub mtu: u32,
    /// A free text of its owner.
    pub alias: Option<String>,
    /// Whether it is the kernel's WireGuard.
    pub wireguard: bool,
}

impl Network {
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    pub async fn link(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        match links.try_next().await.map_err(NetworkError::netlink(format!("look at the interface {name}"))) {
            Ok(message) => Ok(message.map(|message| link(&message))),
            Err(error) if error.errno() == Some(libc_errno(rustix::io::Errno::NODEV)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of them, by name.
    pub async fn links(&self) -> Result<BTreeMap<String, Link>, NetworkError> {
        let mut found = BTreeMap::new();
        let mut answers = self.handle.link().get().execute();
        let failed = |error| NetworkError::netlink("list interfaces")(error);
        while let Some(message) = answers.try_next().await.map_err(failed)? {
            let name = message.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            found.extend(name.map(|name| (name, link(&message))));
        }
        Ok(found)
    }

    /// A WireGuard interface of the kernel, marked as its owner's.
    pub async fn add_wireguard(&self, name: &str, alias: &str) -> Result<(), NetworkError> {
        let message = LinkWireguard::new(name).build();
        let operation = format!("make the WireGuard interface {name}");
        self.handle.link().add(message).execute().await.map_err(NetworkError::netlink(operation))?;
        self.set_alias(name, alias).await
    }

    pub async fn set_alias(&self, name: &str, alias: &str) -> Result<(), NetworkError> {
        let link = self.existing(name).await?;
        let mut message = LinkUnspec::new_with_index(link.index).build();
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        let operation = format!("mark the interface {name}");
        self.handle.link().set(message).execute().await.map_err(NetworkError::netlink(operation))
    }

    pub async fn remove_link(&self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        let operation = format!("remove the interface {name}");
        self.handle.link().del(link.index).execute().await.map_err(NetworkError::netlink(operation))
    }

    /// `None`: there is no such interface.
    pub async fn look(&self, name: &str) -> Result<Option<DeviceNetwork>, NetworkError> {
        let Some(link) = self.link(name).await? else { return Ok(None) };
        let mut network =
            DeviceNetwork { up: link.up, mtu: link.mtu, addresses: self.addresses(link.index).await?, routes: vec![] };
        network.routes = self.routes(link.index).await?.iter().filter_map(subnet_of).collect();
        network.routes.sort();
        Ok(Some(network))
    }

    /// Makes an interface what it should be, touching nothing that is so already.
    pub async fn converge(&self, name: &str, wanted: &DeviceNetwork) -> Result<(), NetworkError> {
        let link = self.existing(name).await?;
        if !link.up && wanted.up || link.mtu != wanted.mtu {
            let message = LinkUnspec::new_with_index(link.index).mtu(wanted.mtu).up().build();
            let operation = format!("bring the interface {name} up");
            self.handle.link().set(message).execute().await.map_err(NetworkError::netlink(operation))?;
        }
        self.converge_addresses(link.index, &wanted.addresses).await?;
        let wanted: BTreeSet<Subnet> = wanted.routes.iter().copied().collect();
        self.converge_routes(link.index, &wanted).await
    }

    async fn existing(&self, name: &str) -> Result<Link, NetworkError> {
        self.link(name).await?.ok_or_else(|| NetworkError::Missing { name: name.to_owned() })
    }

    async fn addresses(&self, index: u32) -> Result<Vec<(Ipv4Addr, u8)>, NetworkError> {
        let mut found = Vec::new();
        let mut answers = self.handle.address().get().set_link_index_filter(index).execute();
        let failed = |error| NetworkError::netlink("list addresses")(error);
        while let Some(message) = answers.try_next().await.map_err(failed)? {
            let address = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            if message.header.index == index {
                found.extend(address.map(|address| (address, message.header.prefix_len)));
            }
        }
        found.sort();
        Ok(found)
    }

    async fn converge_addresses(&self, index: u32, wanted: &[(Ipv4Addr, u8)]) -> Result<(), NetworkError> {
        let there = self.addresses(index).await?;
        for (address, prefix) in there.iter().filter(|address| !wanted.contains(address)) {
            let mut answers = self.handle.address().get().set_link_index_filter(index).execute();
            let failed = |error| NetworkError::netlink("list addresses")(error);
            while let Some(message) = answers.try_next().await.map_err(failed)? {
                let same = message.header.index == index
                    && message.header.prefix_len == *prefix
                    && message.attributes.contains(&AddressAttribute::Address(IpAddr::V4(*address)));
                if same {
                    let operation = format!("remove the address {address}");
                    let removed = self.handle.address().del(message).execute().await;
                    removed.map_err(NetworkError::netlink(operation))?;
                }
            }
        }
        for (address, prefix) in wanted.iter().filter(|address| !there.contains(address)) {
            let added = self.handle.address().add(index, IpAddr::V4(*address), *prefix).execute().await;
            added.map_err(NetworkError::netlink(format!("add the address {address}/{prefix}")))?;
        }
        Ok(())
    }

    /// All but those that the kernel makes itself, for the interface's own network.
    async fn routes(&self, index: u32) -> Result<Vec<RouteMessage>, NetworkError> {
        let mut found = Vec::new();
        let mut answers = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let failed = |error| NetworkError::netlink("list routes")(error);
        while let Some(message) = answers.try_next().await.map_err(failed)? {
            let leads_there = message.attributes.contains(&RouteAttribute::Oif(index));
            let ours = message.header.protocol != RouteProtocol::Kernel;
            if message.header.address_family == AddressFamily::Inet && leads_there && ours {
                found.push(message);
            }
        }
        Ok(found)
    }

    async fn converge_routes(&self, index: u32, wanted: &BTreeSet<Subnet>) -> Result<(), NetworkError> {
        let mut there = BTreeSet::new();
        for message in self.routes(index).await? {
            match subnet_of(&message) {
                Some(subnet) if wanted.contains(&subnet) => {
                    there.insert(subnet);
                }
                other => {
                    let operation =
                        format!("remove the route to {}", other.map_or("default".into(), |s| s.to_string()));
                    let removed = self.handle.route().del(message).execute().await;
                    removed.map_err(NetworkError::netlink(operation))?;
                }
            }
        }
        for subnet in wanted.difference(&there) {
            let message = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(subnet.network(), subnet.prefix())
                .output_interface(index)
                .scope(RouteScope::Link)
                .protocol(RouteProtocol::Static)
                .build();
            let operation = format!("add the route to {subnet}");
            let added = self.handle.route().add(message).execute().await;
            added.map_err(NetworkError::netlink(operation)).map_err(|error| {
                let taken = error.errno() == Some(libc_errno(rustix::io::Errno::EXIST));
                if taken { NetworkError::RouteTaken { subnet: *subnet } } else { error }
            })?;
        }
        Ok(())
    }
}

fn libc_errno(errno: rustix::io::Errno) -> i32 {
    errno.raw_os_error()
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        alias: None,
        wireguard: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => {
                link.wireguard = infos.contains(&LinkInfo::Kind(InfoKind::Wireguard));
            }
            _ => {}
        }
    }
    link
}

/// `None` for the default route.
fn subnet_of(message: &RouteMessage) -> Option<Subnet> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(network)) => {
            Subnet::new(*network, message.header.destination_prefix_length)
        }
        _ => None,
    })
}

/// All addresses of this machine with the names of their interfaces and the lengths of their prefixes.
pub async fn own_addresses() -> Result<Vec<(String, IpAddr, u8)>, NetworkError> {
    let network = Network::open()?;
    let names: BTreeMap<u32, String> =
        network.links().await?.into_iter().map(|(name, link)| (link.index, name)).collect();
    let mut found = Vec::new();
    let mut answers = network.handle.address().get().execute();
    let failed = |error| NetworkError::netlink("list addresses")(error);
    while let Some(message) = answers.try_next().await.map_err(failed)? {
        // Where both are told, the local one is this machine's and the other that of a point-to-point peer.
        let pick = |local: bool| {
            message.attributes.iter().find_map(move |attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
        };
        let name = names.get(&message.header.index).cloned().unwrap_or_default();
        if let Some(address) = pick(true).or_else(|| pick(false)) {
            found.push((name, address, message.header.prefix_len));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}
