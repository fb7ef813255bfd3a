//! From host and path to a service.
//!
//! The table is immutable and swapped whole, so a request sees one config from beginning to end. A
//! host is one hash lookup. Below it the longest prefix is found by asking for the path cut at each
//! `/`, longest first, so the cost follows from the depth of the path (and never exceeds that of the
//! deepest route), not from the number of routes: 10,000 routes cost what ten do.
//!
//! A route without host holds for every host; a host's own routes come before it, whatever their
//! length. Names below the internal domain are not hosts: only both-ends-loopback connections on a
//! listener that serves them can reach them, and for all others they do not exist.

use crate::upstreams::Service;
use api::addresses::Subnet;
use api::gateway::{GatewayRoute, ListenerKind};
use api::ids::ServiceId;
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Everything that a request needs to know of the config.
#[derive(Debug, Default)]
pub struct RouteTable {
    hosts: HashMap<Box<str>, PathTable>,
    any_host: PathTable,
    internal: HashMap<Box<str>, Arc<Service>>,
    /// `.svc.internal`: with the dot in front.
    internal_suffix: String,
    services: HashMap<ServiceId, Arc<Service>>,
    /// What an authority is told, by token, and for which host.
    challenges: HashMap<Box<str>, (Box<str>, Bytes)>,
    /// The machine as its containers see it, and their network.
    containers: Option<(IpAddr, Subnet)>,
    /// Where plain HTTP is led to.
    pub https_port: Option<u16>,
    pub response_timeout: Duration,
    pub connect_timeout: Duration,
    pub idle_timeout: Duration,
}

/// Where a request goes, and how many bytes of its path are dropped on the way.
#[derive(Debug, Clone)]
pub struct Target {
    pub service: Arc<Service>,
    pub strip: usize,
    /// Plain HTTP is led to HTTPS.
    pub https_only: bool,
}

/// Why a request goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTarget {
    /// No route has this host and path.
    NoRoute,
    /// The peer is on this machine and asked for an internal name that no service has.
    NoSuchInternalName,
}

impl RouteTable {
    pub fn new(internal_domain: &str, timeouts: [Duration; 3]) -> Self {
        let [response_timeout, connect_timeout, idle_timeout] = timeouts;
        let internal_suffix = format!(".{}", internal_domain.trim_matches('.').to_ascii_lowercase());
        Self { internal_suffix, response_timeout, connect_timeout, idle_timeout, ..Self::default() }
    }

    /// Before this many routes are added.
    pub fn expect_routes(&mut self, count: usize) {
        self.hosts.reserve(count);
    }

    pub fn add_service(&mut self, service: Arc<Service>) {
        self.services.insert(service.service_id.clone(), service);
    }

    pub fn add_route(&mut self, route: &GatewayRoute, service: Arc<Service>) {
        let table = match &route.host {
            Some(host) => self.hosts.entry(host.as_str().into()).or_default(),
            None => &mut self.any_host,
        };
        let target = PathRoute { service, strip_prefix: route.strip_prefix, https_only: route.https_only };
        table.add(route.path.as_str(), target);
    }

    pub fn add_challenge(&mut self, host: &str, token: &str, answer: &str) {
        self.challenges.insert(token.into(), (host.into(), Bytes::copy_from_slice(answer.as_bytes())));
    }

    /// What an authority that asks for this token on this host is told.
    pub fn challenge(&self, host: &str, token: &str) -> Option<Bytes> {
        self.challenges.get(token).filter(|(of, _)| **of == *host).map(|(_, answer)| answer.clone())
    }

    /// Of two services that claim a name, the first has it.
    pub fn add_internal(&mut self, name: &str, service: Arc<Service>) {
        self.internal.entry(name.into()).or_insert(service);
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Who may use internal names besides processes of this machine.
    pub fn set_containers(&mut self, containers: Option<(IpAddr, Subnet)>) {
        self.containers = containers;
    }

    /// Whether a connection is between two ends on this machine: on loopback, or a container and the address that it
    /// knows the machine by. That address alone says nothing, because others can send packets to it; it is the peer's
    /// that is in the containers' network.
    pub fn is_near(&self, peer: IpAddr, local: IpAddr) -> bool {
        let is_container = |(machine, subnet): (IpAddr, Subnet)| {
            local == machine && matches!(peer, IpAddr::V4(peer) if subnet.contains(peer))
        };
        (peer.is_loopback() && local.is_loopback()) || self.containers.is_some_and(is_container)
    }

    /// Where a request goes. `host` is lowercase, without port and trailing dot; `near` is what [`Self::is_near`] says.
    pub fn find(&self, kind: &ListenerKind, near: bool, host: &str, path: &str) -> Result<Target, NoTarget> {
        if let ListenerKind::Service { service_id } = kind {
            let service = self.services.get(service_id).filter(|_| near).ok_or(NoTarget::NoRoute)?;
            return Ok(Target { service: service.clone(), strip: 0, https_only: false });
        }
        if let Some(name) = host.strip_suffix(self.internal_suffix.as_str()) {
            return self.find_internal(kind, near, name);
        }
        if matches!(kind, ListenerKind::Internal | ListenerKind::Containers { .. }) {
            return Err(NoTarget::NoRoute);
        }
        let own = self.hosts.get(host).and_then(|table| table.find(path));
        own.or_else(|| self.any_host.find(path)).ok_or(NoTarget::NoRoute)
    }

    fn find_internal(&self, kind: &ListenerKind, near: bool, name: &str) -> Result<Target, NoTarget> {
        let serves =
            matches!(kind, ListenerKind::Internal | ListenerKind::PublicAndInternal | ListenerKind::Containers { .. });
        if !serves || !near {
            return Err(NoTarget::NoRoute);
        }
        let service = self.internal.get(name).ok_or(NoTarget::NoSuchInternalName)?;
        Ok(Target { service: service.clone(), strip: 0, https_only: false })
    }
}

/// The prefixes of one host.
#[derive(Debug, Default)]
struct PathTable {
    root: Option<PathRoute>,
    /// Prefixes other than `/`.
    prefixes: HashMap<Box<str>, PathRoute>,
    /// Length of the longest one: a path is never cut beyond it.
    longest: usize,
}

#[derive(Debug)]
struct PathRoute {
    service: Arc<Service>,
    strip_prefix: bool,
    https_only: bool,
}

impl PathTable {
    fn add(&mut self, path: &str, route: PathRoute) {
        if path == "/" {
            self.root = Some(route);
        } else {
            self.longest = self.longest.max(path.len());
            self.prefixes.insert(path.into(), route);
        }
    }

    fn find(&self, path: &str) -> Option<Target> {
        if !self.prefixes.is_empty()
            && let Some(target) = self.find_prefix(path)
        {
            return Some(target);
        }
        let root = self.root.as_ref().filter(|_| path.starts_with('/'))?;
        Some(Target { service: root.service.clone(), strip: 0, https_only: root.https_only })
    }

    fn find_prefix(&self, path: &str) -> Option<Target> {
        let bytes = path.as_bytes();
        // A cut is legal at the end of the path and before each `/` after the first byte.
        let mut cut = if bytes.len() <= self.longest {
            bytes.len()
        } else {
            bytes[..=self.longest].iter().rposition(|b| *b == b'/').filter(|at| *at > 0)?
        };
        loop {
            if let Some(route) = path.get(..cut).and_then(|prefix| self.prefixes.get(prefix)) {
                let strip = if route.strip_prefix { cut } else { 0 };
                return Some(Target { service: route.service.clone(), strip, https_only: route.https_only });
            }
            cut = bytes[..cut].iter().rposition(|b| *b == b'/').filter(|at| *at > 0)?;
        }
    }
}

/// The host of a `Host` header or authority as the table wants it, or `None` if it is none.
pub fn normalize_host(value: &str) -> Option<Cow<'_, str>> {
    let host = if value.starts_with('[') {
        let end = value.find(']')?;
        let rest = &value[end + 1..];
        (rest.is_empty() || is_port(rest)).then(|| &value[..=end])?
    } else {
        match value.find(':') {
            Some(at) if is_port(&value[at..]) => &value[..at],
            Some(_) => return None,
            None => value,
        }
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'[' | b']' | b':' | b'%');
    if host.len() > 255 || !host.bytes().all(allowed) {
        return None;
    }
    let upper = host.bytes().any(|b| b.is_ascii_uppercase());
    Some(if upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::name::PathPrefix;
    use proptest::prelude::*;

    fn service(number: u128) -> Arc<Service> {
        Arc::new(Service::for_test(number, &format!("s{number}"), &[]))
    }

    fn route(host: Option<&str>, path: &str, strip_prefix: bool) -> GatewayRoute {
        GatewayRoute {
            host: host.map(|host| host.parse().unwrap()),
            path: path.parse().unwrap(),
            strip_prefix,
            service_id: ServiceId::from_uuid(uuid::Uuid::nil()),
            https_only: false,
        }
    }

    fn table(routes: &[(Option<&str>, &str, u128)]) -> RouteTable {
        let mut table = RouteTable::new("svc.internal", [Duration::from_secs(1); 3]);
        for (host, path, number) in routes {
            table.add_route(&route(*host, path, true), service(*number));
        }
        table
    }

    fn name(found: Result<Target, NoTarget>) -> String {
        found.map_or_else(|e| format!("{e:?}"), |target| target.service.name.to_string())
    }

    #[test]
    fn the_host_is_matched_first_and_then_the_longest_path_by_whole_segments() {
        let table = table(&[
            (Some("a.example"), "/", 1),
            (Some("a.example"), "/api", 2),
            (Some("a.example"), "/api/v2", 3),
            (None, "/api/v2/deep", 4),
            (None, "/", 5),
            (Some("b.example"), "/only", 6),
        ]);
        let find = |host: &str, path: &str| name(table.find(&ListenerKind::Public, false, host, path));
        assert_eq!(find("a.example", "/"), "s1");
        assert_eq!(find("a.example", "/apix"), "s1");
        assert_eq!(find("a.example", "/api"), "s2");
        assert_eq!(find("a.example", "/api/v20"), "s2");
        assert_eq!(find("a.example", "/api/v2/deep"), "s3");
        assert_eq!(find("other", "/api/v2/deep/x"), "s4");
        assert_eq!(find("other", "/api"), "s5");
        assert_eq!(find("b.example", "/only/x"), "s6");
        assert_eq!(find("b.example", "/else"), "s5");
    }

    #[test]
    fn an_internal_name_exists_only_where_both_ends_are_loopback_and_the_listener_serves_it() {
        let mut table = table(&[(None, "/", 5)]);
        table.add_internal("db", service(9));
        let find = |kind: ListenerKind, loopback| name(table.find(&kind, loopback, "db.svc.internal", "/"));
        assert_eq!(find(ListenerKind::PublicAndInternal, true), "s9");
        assert_eq!(find(ListenerKind::Internal, true), "s9");
        assert_eq!(find(ListenerKind::PublicAndInternal, false), "NoRoute");
        assert_eq!(find(ListenerKind::Internal, false), "NoRoute");
        assert_eq!(find(ListenerKind::Public, true), "NoRoute");
        let containers = ListenerKind::Containers { subnet: "10.200.1.0/24".parse().unwrap() };
        assert_eq!(find(containers.clone(), true), "s9");
        assert_eq!(find(containers.clone(), false), "NoRoute");
        assert_eq!(name(table.find(&containers, true, "public.example", "/")), "NoRoute", "routes are for visitors");
        let unknown = table.find(&ListenerKind::Internal, true, "nope.svc.internal", "/");
        assert_eq!(unknown.unwrap_err(), NoTarget::NoSuchInternalName);
        assert_eq!(name(table.find(&ListenerKind::Internal, true, "public.example", "/")), "NoRoute");
    }

    #[test]
    fn a_host_header_is_stripped_of_port_case_and_trailing_dot_or_refused() {
        for (value, host) in [
            ("Shop.Example:8080", "shop.example"),
            ("a.", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            assert_eq!(normalize_host(value).as_deref(), Some(host), "{value}");
        }
        for bad in ["a:b", "user@a", "a b", "a/b", "[::1", "[::1]x", "a:80:80", "a,b"] {
            assert_eq!(normalize_host(bad), None, "{bad}");
        }
    }

    fn segment_path() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]{1,2}", 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    proptest! {
        /// The table agrees with the plain meaning: of all prefixes that match, the longest.
        #[test]
        fn the_table_finds_what_trying_every_route_would_find(
            paths in prop::collection::btree_set(segment_path(), 0..12),
            request in segment_path(),
            tail in prop::sample::select(vec!["", "/", "//", "/c", "x"]),
        ) {
            let request = format!("{request}{tail}");
            let paths: Vec<String> = paths.into_iter().collect();
            let routes: Vec<(Option<&str>, &str, u128)> =
                paths.iter().enumerate().map(|(i, path)| (None, path.as_str(), i as u128)).collect();
            let expected = paths
                .iter()
                .enumerate()
                .filter(|(_, path)| path.parse::<PathPrefix>().unwrap().matches(&request))
                .max_by_key(|(_, path)| path.len())
                .map(|(i, path)| (format!("s{i}"), if path == "/" { 0 } else { path.len() }));
            let found = table(&routes).find(&ListenerKind::Public, false, "h", &request).ok();
            prop_assert_eq!(found.map(|t| (t.service.name.to_string(), t.strip)), expected);
        }
    }

    /// So many look-ups among so many routes.
    fn looked_up(lookups: u128, routes: u128) -> Duration {
        let mut table = RouteTable::new("svc.internal", [Duration::from_secs(1); 3]);
        for number in 0..routes {
            table.add_route(&route(None, &format!("/tenant-{number}/app"), false), service(number));
        }
        let started = std::time::Instant::now();
        for number in (0..lookups).map(|lookup| lookup % routes) {
            let path = format!("/tenant-{number}/app/a/b/c/d/e");
            assert_eq!(name(table.find(&ListenerKind::Public, false, "h", &path)), format!("s{number}"));
        }
        started.elapsed()
    }

    #[test]
    fn ten_thousand_routes_are_as_quick_as_ten() {
        let (few, many) = (looked_up(10_000, 10), looked_up(10_000, 10_000));
        // A scan of every route would take a thousand times as long; a busy machine alone not a hundred times.
        assert!(many < few * 100, "{few:?} among ten, {many:?} among ten thousand");
    }

    #[test]
    fn only_a_container_of_this_server_is_as_near_as_a_process_of_this_machine() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut table = RouteTable::default();
        let near = |table: &RouteTable, peer: &str, local: &str| table.is_near(ip(peer), ip(local));
        assert!(near(&table, "127.0.0.1", "127.0.0.1") && !near(&table, "10.200.1.5", "10.200.1.1"));
        table.set_containers(Some((ip("10.200.1.1"), "10.200.1.0/24".parse().unwrap())));
        assert!(near(&table, "10.200.1.5", "10.200.1.1"));
        assert!(!near(&table, "192.0.2.7", "10.200.1.1"), "others can send packets to that address");
        assert!(!near(&table, "10.200.1.5", "192.0.2.1"), "a container at the public address is a visitor");
        assert!(!near(&table, "10.200.2.5", "10.200.1.1"), "a container of another server");
    }
}
