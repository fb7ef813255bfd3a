//! A config before it is live: checked, and kept on disk.
//!
//! Checks are for what would make routing ambiguous or refer to nothing. A config is taken whole or
//! refused whole, with a sentence that names the entry.
//!
//! It is written beside the one before ([`write`]), and only once the disk has it for good does it take
//! its place ([`settle`]). The first is done before a config is live, so what was live is found again
//! after a crash of this process; the second, which is most of the time that it all takes, is done while
//! it is live already. After a loss of power there is either the one before or the new one, never half
//! of one.

use api::addresses::Subnet;
use api::gateway::{DnsResponder, GatewayConfig, ListenerKind};
use api::ids::ServiceId;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub const FILE: &str = "config.json";
/// One that is not yet on disk for good.
const WRITTEN: &str = "config.json.new";
/// Names of services are below this where no DNS responder says otherwise.
pub const INTERNAL_DOMAIN: &str = "svc.internal";

/// Why a config is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("service {service_id} is listed twice")]
    ServiceTwice { service_id: ServiceId },
    #[error("{what} names service {service_id}, which the config does not list")]
    UnknownService { what: String, service_id: ServiceId },
    #[error("{what} is given to two services, {first} and {second}; give each its own host or path")]
    RouteTwice { what: String, first: String, second: String },
    #[error("the address {address} is listed twice among the listeners")]
    ListenerTwice { address: std::net::SocketAddr },
    #[error("{what} must be on loopback, not on {address}")]
    NotLoopback { what: &'static str, address: std::net::SocketAddr },
    #[error("{what} is 0 ms; nothing could ever be answered")]
    NoTime { what: &'static str },
    #[error("`{domain}` is not a domain for internal names")]
    Domain { domain: String },
}

/// Whether a config means one thing.
pub fn check(config: &GatewayConfig) -> Result<(), ConfigError> {
    let mut services = HashMap::new();
    for service in &config.services {
        if services.insert(&service.service_id, service.name.as_str()).is_some() {
            return Err(ConfigError::ServiceTwice { service_id: service.service_id.clone() });
        }
    }
    // What names it is put into words only where that is wrong: there may be ten thousand of them.
    let known = |what: &dyn Fn() -> String, service_id: &ServiceId| match services.contains_key(service_id) {
        true => Ok(()),
        false => Err(ConfigError::UnknownService { what: what(), service_id: service_id.clone() }),
    };
    let mut places: HashMap<(Option<&str>, &str), &ServiceId> = HashMap::with_capacity(config.routes.len());
    for route in &config.routes {
        let host = route.host.as_ref().map(|host| host.as_str());
        let what = || format!("the route {}{}", host.unwrap_or("*"), route.path);
        known(&what, &route.service_id)?;
        if let Some(first) = places.insert((host, route.path.as_str()), &route.service_id) {
            let name = |service_id: &ServiceId| services.get(service_id).copied().unwrap_or_default().to_owned();
            return Err(ConfigError::RouteTwice { what: what(), first: name(first), second: name(&route.service_id) });
        }
    }
    let mut addresses = HashSet::new();
    for listener in &config.listeners {
        if !addresses.insert(listener.address) {
            return Err(ConfigError::ListenerTwice { address: listener.address });
        }
        if let ListenerKind::Service { service_id } = &listener.kind {
            known(&|| format!("the listener {}", listener.address), service_id)?;
        }
    }
    for internal in &config.internal {
        known(&|| format!("the internal name {}", internal.name), &internal.service_id)?;
    }
    for (what, ms) in [
        ("response_timeout_ms", config.response_timeout_ms),
        ("connect_timeout_ms", config.connect_timeout_ms),
        ("idle_timeout_ms", config.idle_timeout_ms),
    ] {
        if ms == 0 && !config.services.is_empty() {
            return Err(ConfigError::NoTime { what });
        }
    }
    config.responders().try_for_each(check_dns)
}

fn check_dns(dns: &DnsResponder) -> Result<(), ConfigError> {
    // A container's server names are for containers; another one answers nobody but this machine.
    let inside = |subnet: Subnet| matches!(dns.address.ip(), IpAddr::V4(address) if subnet.contains(address));
    if !dns.only_from.map_or(dns.address.ip().is_loopback(), inside) {
        return Err(ConfigError::NotLoopback { what: "the DNS responder", address: dns.address });
    }
    let domain = dns.domain.trim_end_matches('.');
    let label_ok =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if domain.len() > 200 || !domain.split('.').all(label_ok) {
        return Err(ConfigError::Domain { domain: dns.domain.chars().take(80).collect() });
    }
    Ok(())
}

/// Internal names that two services claim: the first one has it, and this says so.
pub fn contested_internal_names(config: &GatewayConfig) -> Vec<String> {
    let mut owners: HashMap<&str, &ServiceId> = HashMap::new();
    let mut contested = Vec::new();
    for internal in &config.internal {
        let owner = owners.entry(internal.name.as_str()).or_insert(&internal.service_id);
        if **owner != internal.service_id {
            contested.push(format!(
                "the internal name {} is claimed by {} and {}; it goes to the first",
                internal.name, owner, internal.service_id
            ));
        }
    }
    contested
}

/// Writes this JSON beside the config before. A process that is started anew reads it from there.
pub fn write(directory: &Path, text: &[u8]) -> io::Result<()> {
    let path = directory.join(WRITTEN);
    let write = || File::options().create(true).write(true).truncate(true).mode(0o600).open(&path)?.write_all(text);
    write().inspect_err(|_| {
        // Half of a config is none, and is not read as one either.
        let _ = fs::remove_file(&path);
    })
}

/// Puts what was written in the place of the config before, in one step that a loss of power cannot halve.
pub fn settle(directory: &Path) -> io::Result<()> {
    let path = directory.join(WRITTEN);
    File::open(&path)?.sync_all()?;
    fs::rename(&path, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

/// The last config, if there is one.
pub fn load(directory: &Path) -> io::Result<Option<GatewayConfig>> {
    if let Ok(Some(config)) = read(&directory.join(WRITTEN)) {
        // The process before ended in the middle; what it left is whole.
        if let Err(error) = settle(directory) {
            tracing::warn!(directory = %directory.display(), %error, "cannot flush the config to disk");
        }
        return Ok(Some(config));
    }
    read(&directory.join(FILE))
}

fn read(path: &Path) -> io::Result<Option<GatewayConfig>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const A: &str = "svc_0000000000000000000000000000000a";
    const B: &str = "svc_0000000000000000000000000000000b";

    fn problem(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let service =
            |id: &str, name: &str| json!({"service_id": id, "name": name, "upstreams": [], "unavailable_reason": ""});
        let mut config = json!({
            "listeners": [{"address": "127.0.0.1:80", "kind": {"kind": "public"}}],
            "services": [service(A, "web"), service(B, "api")],
            "routes": [{"host": "a.example", "path": "/", "strip_prefix": false, "service_id": A}],
            "internal": [{"name": "web", "service_id": A}],
            "dns": null, "response_timeout_ms": 1, "connect_timeout_ms": 1, "idle_timeout_ms": 1, "access_log": null,
        });
        change(&mut config);
        let config = serde_json::from_value(config).unwrap();
        check(&config).map_or_else(|error| error.to_string(), |()| "none".into())
    }

    #[test]
    fn a_config_that_means_two_things_or_nothing_is_refused_with_the_entry_named() {
        assert_eq!(problem(|_| {}), "none");
        let two = problem(|c| {
            c["routes"] = json!([
                {"host": null, "path": "/x", "strip_prefix": false, "service_id": A},
                {"host": null, "path": "/x/", "strip_prefix": true, "service_id": B},
            ]);
        });
        assert_eq!(two, "the route */x is given to two services, web and api; give each its own host or path");
        let unknown = problem(|c| c["routes"][0]["service_id"] = json!("svc_000000000000000000000000000000ff"));
        assert!(
            unknown.contains("the route a.example/ names service svc_000000000000000000000000000000ff"),
            "{unknown}"
        );
        let twice = problem(|c| c["services"][1]["service_id"] = json!(A));
        assert!(twice.contains("listed twice"), "{twice}");
        let listener = problem(|c| {
            let first = c["listeners"][0].clone();
            c["listeners"].as_array_mut().unwrap().push(first);
        });
        assert!(listener.contains("127.0.0.1:80 is listed twice"), "{listener}");
        let dns = problem(|c| {
            c["dns"] = json!({"address": "0.0.0.0:53", "domain": "svc.internal", "answer": "127.0.0.1", "ttl_seconds": 1, "forward_to": []});
        });
        assert!(dns.contains("must be on loopback"), "{dns}");
    }

    #[test]
    fn a_saved_config_loads_as_it_was_and_a_torn_file_is_an_error_not_an_empty_config() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(load(directory.path()).unwrap(), None);
        let config = GatewayConfig { access_log: Some("/x".into()), ..GatewayConfig::default() };
        write(directory.path(), &serde_json::to_vec(&config).unwrap()).unwrap();
        settle(directory.path()).unwrap();
        assert_eq!(load(directory.path()).unwrap(), Some(config));
        std::fs::write(directory.path().join(FILE), "{\"listeners\": [").unwrap();
        assert_eq!(load(directory.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_crash_before_the_disk_has_a_config_for_good_leaves_the_new_one_and_a_loss_of_power_either() {
        let directory = tempfile::tempdir().unwrap();
        let named = |log: &str| GatewayConfig { access_log: Some(log.into()), ..GatewayConfig::default() };
        write(directory.path(), &serde_json::to_vec(&named("/old")).unwrap()).unwrap();
        settle(directory.path()).unwrap();
        write(directory.path(), &serde_json::to_vec(&named("/new")).unwrap()).unwrap();
        let whole = std::fs::read(directory.path().join(WRITTEN)).unwrap();
        // Of what was not flushed, a loss of power may leave anything.
        for left in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(directory.path().join(WRITTEN), &whole[..left]).unwrap();
            assert_eq!(load(directory.path()).unwrap(), Some(named("/old")), "{left} bytes");
        }
        std::fs::write(directory.path().join(WRITTEN), vec![0; whole.len()]).unwrap();
        assert_eq!(load(directory.path()).unwrap(), Some(named("/old")));
        std::fs::write(directory.path().join(WRITTEN), &whole).unwrap();
        assert_eq!(load(directory.path()).unwrap(), Some(named("/new")));
        assert!(!directory.path().join(WRITTEN).exists(), "it is the config now");
        assert_eq!(load(directory.path()).unwrap(), Some(named("/new")));
    }
}
