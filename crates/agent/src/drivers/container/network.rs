//! The containers' network of this server: one bridge, its addresses given by the control plane.
//!
//! The engine's own name server is left out. Podman's would take port 53 of the gateway address, where ours answers, and
//! neither engine's knows what is healthy.

use super::answers::NetworkInspect;
use super::api::{Api, ApiError, escaped};
use super::engine::EngineKind;
use super::record::OWNER_LABEL;
use api::addresses::{ServerAddresses, Subnet};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Of the bridge on the machine.
pub const INTERFACE: &str = "mainstay0";

/// Which network instances of this server are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ContainerNetwork {
    pub subnet: Subnet,
    /// The machine, as its containers see it.
    pub gateway: Ipv4Addr,
}

impl ContainerNetwork {
    /// The /24 that an address is in.
    pub fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, _] = address.octets();
        let subnet = Subnet::new(Ipv4Addr::new(a, b, c, 0), 24).expect("a /24 of its first address");
        Self { subnet, gateway: Ipv4Addr::new(a, b, c, 1) }
    }

    /// Where the control plane gives no addresses: that of the first server.
    pub fn of_the_first_server() -> Self {
        let addresses = ServerAddresses::of(1).expect("server 1 has addresses");
        Self { subnet: addresses.container_subnet, gateway: addresses.container_gateway }
    }

    /// A free address for an instance: the same one for the same taken ones.
    pub fn free_address(&self, seed: &str, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        const FIRST: u32 = 2;
        const COUNT: u32 = 253;
        let begin = seed.bytes().fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % COUNT;
        let at = |step: u32| Ipv4Addr::from_bits(self.subnet.network().to_bits() + FIRST + (begin + step) % COUNT);
        (0..COUNT).map(at).find(|address| !taken.contains(address))
    }
}

/// Why there is no such network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(
        "the container engine has a network `{name}` that this agent did not make; remove it \
         (`podman network rm {name}` or `docker network rm {name}`), or stop the other agent on this machine"
    )]
    Foreign { name: String },
    #[error(
        "the container network {name} is {present} and should be {wanted}; it is replaced once no container is in it"
    )]
    Other { name: String, present: String, wanted: Subnet },
    #[error("{0}")]
    Conflict(String),
}

/// Make it, if it is not there as wanted.
pub async fn ensure(
    api: &Api,
    libpod: Option<&Api>,
    name: &str,
    owner: &str,
    wanted: ContainerNetwork,
    routes: &[HostRoute],
) -> Result<(), NetworkError> {
    let path = format!("/networks/{}", escaped(name));
    if let Some(found) = api.find::<NetworkInspect>(&path).await? {
        let ours = found.labels.as_ref().and_then(|labels| labels.get(OWNER_LABEL)).is_some_and(|by| by == owner);
        if !ours {
            return Err(NetworkError::Foreign { name: name.to_owned() });
        }
        let present = subnets_of(&found);
        if present == [wanted.subnet.to_string()] {
            return Ok(());
        }
        if let Err(error) = api.order(http::Method::DELETE, &path).await {
            if error.is_away() {
                return Err(error.into());
            }
            return Err(NetworkError::Other {
                name: name.to_owned(),
                present: present.join(", "),
                wanted: wanted.subnet,
            });
        }
    }
    if let Some(conflict) = conflict(wanted.subnet, routes) {
        return Err(NetworkError::Conflict(conflict));
    }
    let made = match libpod {
        Some(libpod) => libpod.post::<Value>("/networks/create", &podman_request(name, owner, wanted)).await,
        None => api.post::<Value>("/networks/create", &docker_request(name, owner, wanted)).await,
    };
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.is_away() => Err(error.into()),
        // Made a moment ago, perhaps; or its bridge or subnet is another network's.
        Err(error) => match api.find::<NetworkInspect>(&path).await? {
            Some(_) if error.is_name_taken() => Ok(()),
            _ => Err(NetworkError::Conflict(format!(
                "the containers' network {} could not be made: {error}",
                wanted.subnet
            ))),
        },
    }
}

fn subnets_of(network: &NetworkInspect) -> Vec<String> {
    network.ipam.config.iter().flatten().filter_map(|config| config.subnet.clone()).collect()
}

fn podman_request(name: &str, owner: &str, network: ContainerNetwork) -> Value {
    json!({
        "name": name,
        "driver": "bridge",
        "network_interface": INTERFACE,
        "dns_enabled": false,
        "subnets": [{ "subnet": network.subnet.to_string(), "gateway": network.gateway.to_string() }],
        "labels": { OWNER_LABEL: owner },
    })
}

fn docker_request(name: &str, owner: &str, network: ContainerNetwork) -> Value {
    json!({
        "Name": name,
        "Driver": "bridge",
        "IPAM": { "Config": [{ "Subnet": network.subnet.to_string(), "Gateway": network.gateway.to_string() }] },
        "Options": { "com.docker.network.bridge.name": INTERFACE },
        "Labels": { OWNER_LABEL: owner },
    })
}

/// A network that the machine sends to by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoute {
    pub network: Subnet,
    pub interface: String,
    /// Straight, without a router in between.
    pub direct: bool,
}

/// From the text of `/proc/net/route`.
pub fn host_routes(text: &str) -> Vec<HostRoute> {
    let hexadecimal = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (destination, gateway) = (hexadecimal(fields.get(1)?)?, hexadecimal(fields.get(2)?)?);
        let prefix = u8::try_from(hexadecimal(fields.get(7)?)?.leading_ones()).ok()?;
        let network = Subnet::new(Ipv4Addr::from_bits(destination), prefix)?;
        Some(HostRoute { network, interface: (*fields.first()?).to_owned(), direct: gateway == 0 })
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// What keeps the containers' network from being made: something as narrow in the same place. A wider one gives way to
/// it, as the narrower route counts.
pub fn conflict(subnet: Subnet, routes: &[HostRoute]) -> Option<String> {
    let same = |route: &&HostRoute| {
        route.interface != INTERFACE && route.network.overlaps(subnet) && route.network.prefix() >= subnet.prefix()
    };
    let route = routes.iter().find(same)?;
    Some(format!(
        "the containers of this server are to have {subnet}, and this machine already has {} on {}: take that network \
         away or give it other addresses",
        route.network, route.interface
    ))
}

/// What is reached no more because the containers' network lies inside of it.
pub fn shadowed(subnet: Subnet, routes: &[HostRoute]) -> Option<String> {
    let wider = |route: &&HostRoute| {
        route.interface != INTERFACE
            && route.direct
            && route.network.prefix() > 0
            && route.network.prefix() < subnet.prefix()
            && route.network.overlaps(subnet)
    };
    let route = routes.iter().find(wider)?;
    Some(format!(
        "Containers have {subnet}, which lies in {} of {}: other machines with such an address there cannot be reached from \
         this one.",
        route.network, route.interface
    ))
}

/// Whether this engine's networks need its own call to be made as wanted.
pub fn needs_own_call(kind: EngineKind) -> bool {
    kind == EngineKind::Podman
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
docker0\t0001C80A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let routes = host_routes(ROUTES);
        let shown: Vec<String> = routes.iter().map(|r| format!("{} {} {}", r.network, r.interface, r.direct)).collect();
        assert_eq!(
            shown,
            ["0.0.0.0/0 eth0 false", "192.168.0.0/16 eth0 true", "10.0.0.0/8 tun0 true", "10.200.1.0/24 docker0 true"]
        );
    }

    #[test]
    fn a_network_in_the_same_place_is_a_conflict_and_a_wider_one_is_told() {
        let routes = host_routes(ROUTES);
        let first = ContainerNetwork::of_the_first_server().subnet;
        let told = conflict(first, &routes).unwrap();
        assert!(told.contains("10.200.1.0/24 on docker0"), "{told}");
        let second = ContainerNetwork::of(Ipv4Addr::new(10, 200, 2, 9)).subnet;
        assert_eq!(conflict(second, &routes), None);
        assert!(shadowed(second, &routes).unwrap().contains("10.0.0.0/8 of tun0"));
        let own = [HostRoute { network: first, interface: INTERFACE.into(), direct: true }];
        assert_eq!((conflict(first, &own), shadowed(first, &own)), (None, None));
    }

    #[test]
    fn an_address_is_free_the_same_for_the_same_instance_and_there_is_an_end() {
        let network = ContainerNetwork::of_the_first_server();
        let mut taken = BTreeSet::new();
        let first = network.free_address("ins_a", &taken).unwrap();
        assert_eq!(network.free_address("ins_a", &taken), Some(first));
        while let Some(address) = network.free_address("ins_a", &taken) {
            assert!(network.subnet.contains(address) && address != network.gateway);
            assert!(taken.insert(address));
        }
        assert_eq!(taken.len(), 253);
        assert!(!taken.contains(&Ipv4Addr::new(10, 200, 1, 255)));
    }
}
