//! Which addresses a server has, from its number: the one place where this is worked out (docs/rfd/0007).
//!
//! Server X has `10.(100 + X / 256).(X mod 256).0/24` in the mesh, itself at `.1`, and
//! `10.(200 + X / 256).(X mod 256).0/24` for its containers, itself at `.1` as their gateway. The numbers end where the
//! container range meets 10.255 ([`SERVERS_LIMIT`]), so the two ranges never meet.

use crate::servers::SERVERS_LIMIT;
use crate::text::shown_form;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

const MESH_BASE: u8 = 100;
const CONTAINER_BASE: u8 = 200;
/// Length of the prefix of a server's networks.
pub const SERVER_PREFIX: u8 = 24;

/// The addresses that follow from a server's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerAddresses {
    pub mesh_subnet: Subnet,
    /// The server itself in the mesh.
    pub mesh: Ipv4Addr,
    pub container_subnet: Subnet,
    /// The server itself, as its containers see it.
    pub container_gateway: Ipv4Addr,
}

impl ServerAddresses {
    /// `None` for 0 and beyond [`SERVERS_LIMIT`]: no server has such a number.
    pub fn of(index: u16) -> Option<Self> {
        if !(1..=SERVERS_LIMIT).contains(&index) {
            return None;
        }
        let [high, low] = index.to_be_bytes();
        let at = |base: u8, last: u8| Ipv4Addr::new(10, base + high, low, last);
        let subnet = |base: u8| Subnet { network: at(base, 0), prefix: SERVER_PREFIX };
        Some(Self {
            mesh_subnet: subnet(MESH_BASE),
            mesh: at(MESH_BASE, 1),
            container_subnet: subnet(CONTAINER_BASE),
            container_gateway: at(CONTAINER_BASE, 1),
        })
    }

    /// What the other servers send through the tunnel to this one.
    pub fn reached_through_mesh(&self) -> Vec<Subnet> {
        vec![self.mesh_subnet, self.container_subnet]
    }
}

/// Why a text is not an IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not an IPv4 network such as 10.100.1.0/24: {reason}")]
pub struct SubnetError {
    pub value: String,
    pub reason: &'static str,
}

/// An IPv4 network: its first address and the length of its prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// `None` if `prefix` is longer than 32 or `network` has bits set behind it.
    pub fn new(network: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32 && network.to_bits() & !mask(prefix) == 0).then_some(Self { network, prefix })
    }

    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// Whether some address is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = SubnetError;
    fn from_str(value: &str) -> Result<Self, SubnetError> {
        let fail = |reason| SubnetError { value: value.chars().take(80).collect(), reason };
        let (network, prefix) = value.split_once('/').ok_or_else(|| fail("it has no `/`"))?;
        let network: Ipv4Addr = network.parse().map_err(|_| fail("what is before the `/` is not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| fail("what is behind the `/` is not a number from 0 to 32"))?;
        if prefix > 32 {
            return Err(fail("what is behind the `/` is not a number from 0 to 32"));
        }
        Self::new(network, prefix).ok_or_else(|| fail("the address has bits set behind the prefix"))
    }
}

shown_form!(Subnet);

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Subnet {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        String::schema()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for Subnet {}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(index: u16, mesh: &str, mesh_subnet: &str, containers: &str, gateway: &str) {
        let addresses = ServerAddresses::of(index).unwrap();
        let shown = [
            addresses.mesh.to_string(),
            addresses.mesh_subnet.to_string(),
            addresses.container_subnet.to_string(),
            addresses.container_gateway.to_string(),
        ];
        assert_eq!(shown, [mesh, mesh_subnet, containers, gateway], "server {index}");
    }

    #[test]
    fn a_number_gives_the_addresses_that_the_decision_says() {
        check(1, "10.100.1.1", "10.100.1.0/24", "10.200.1.0/24", "10.200.1.1");
        check(255, "10.100.255.1", "10.100.255.0/24", "10.200.255.0/24", "10.200.255.1");
        check(256, "10.101.0.1", "10.101.0.0/24", "10.201.0.0/24", "10.201.0.1");
        check(14_335, "10.155.255.1", "10.155.255.0/24", "10.255.255.0/24", "10.255.255.1");
        assert_eq!(ServerAddresses::of(0), None);
        assert_eq!(ServerAddresses::of(14_336), None);
    }

    #[test]
    fn no_two_networks_of_any_servers_share_an_address() {
        let mut seen = std::collections::HashSet::new();
        for index in 1..=SERVERS_LIMIT {
            for subnet in ServerAddresses::of(index).unwrap().reached_through_mesh() {
                assert!(seen.insert(subnet.network().to_bits() >> 8), "{subnet} of server {index} is taken");
            }
        }
    }

    #[test]
    fn a_network_is_read_as_it_is_written_and_anything_else_says_why_not() {
        for good in ["10.100.1.0/24", "0.0.0.0/0", "192.0.2.7/32"] {
            assert_eq!(good.parse::<Subnet>().unwrap().to_string(), good);
        }
        for (bad, reason) in [
            ("10.0.0.0", "no `/`"),
            ("10.0.0/24", "not an IPv4 address"),
            ("::/0", "not an IPv4 address"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("10.0.0.0/x", "from 0 to 32"),
            ("10.0.0.1/24", "behind the prefix"),
        ] {
            let error = bad.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }

    #[test]
    fn networks_overlap_only_where_they_share_an_address() {
        let subnet = |text: &str| text.parse::<Subnet>().unwrap();
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.200.1.0/24")));
        assert!(subnet("10.200.1.0/24").overlaps(subnet("0.0.0.0/0")));
        assert!(!subnet("10.200.1.0/24").overlaps(subnet("10.200.2.0/24")));
        assert!(subnet("10.200.1.0/24").contains(Ipv4Addr::new(10, 200, 1, 255)));
        assert!(!subnet("10.200.1.0/24").contains(Ipv4Addr::new(10, 200, 2, 0)));
    }
}
