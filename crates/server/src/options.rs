//! What a control plane is started with: parsed and checked once by the caller, passed down whole.

use api::desired::SecurityMode;
use api::gateway::{DnsSettings, GatewaySettings};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// Settings of [`Server::start`](crate::Server::start).
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where the API and the dashboard listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Mainstay's data directory; the control plane keeps its files in `server/` below it.
    pub data_dir: PathBuf,
    /// `sqlite://…` or `postgres://…`; `None`: `server/mainstay.db` in the data directory.
    pub database_url: Option<String>,
    /// Whether repositories on this machine (`file://`) may be deployed. Only sensible where the
    /// control plane and the agent share one machine and one person, as under `mainstay up`.
    pub allow_local_sources: bool,
    /// `HOST:PORT` of registries of images that are asked without TLS; those on loopback always are.
    pub insecure_registries: Vec<String>,
    /// Address under which people and agents reach this control plane, if a proxy is in front.
    pub public_url: Option<String>,
    /// Security mode of servers that join.
    pub security_mode: SecurityMode,
    /// Port of the gateways' public listener; `None`: 80 where the agent runs as root, else 8080.
    pub gateway_port: Option<u16>,
    /// Port of the gateways' public listener for HTTPS; 0: none. `None`: 443 beside 80, 8443 beside 8080, and none
    /// beside any other.
    pub gateway_https_port: Option<u16>,
    /// Port of the gateways' internal listener; `None`: the same as the public one.
    pub gateway_internal_port: Option<u16>,
    /// Port, domain and use of the internal DNS responders.
    pub dns: DnsSettings,
    /// The `mainstay` binary, which git calls back under other names to get at credentials.
    pub mainstay_binary: PathBuf,
    /// How often agents report; three missed reports make a server offline.
    pub poll_interval_ms: u64,
    /// How much of the disk new work leaves alone; `None`: what suits its size.
    pub disk_reserve_bytes: Option<u64>,
}

impl ServerOptions {
    /// The defaults, with files in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4600)),
            data_dir: data_dir.into(),
            database_url: None,
            allow_local_sources: false,
            insecure_registries: Vec::new(),
            public_url: None,
            security_mode: SecurityMode::default(),
            gateway_port: None,
            gateway_https_port: None,
            gateway_internal_port: None,
            dns: DnsSettings::default(),
            mainstay_binary: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("mainstay")),
            poll_interval_ms: 10_000,
            disk_reserve_bytes: None,
        }
    }

    /// The control plane's own directory.
    pub fn directory(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    /// The database's address: the one given, or the file in the data directory.
    pub fn database_url(&self) -> String {
        match &self.database_url {
            Some(url) => url.clone(),
            None => Self::database_url_in(&self.directory()),
        }
    }

    /// The address of the file that is the database unless another is named.
    pub fn database_url_in(directory: &Path) -> String {
        sqlite_url(&directory.join("mainstay.db"))
    }

    /// How the gateway of one server listens: low ports where its agent may bind them.
    pub fn gateway_settings(&self, agent_is_root: bool) -> GatewaySettings {
        let port = self.gateway_port.unwrap_or(if agent_is_root { 80 } else { 8080 });
        let internal_port = self.gateway_internal_port.unwrap_or(port);
        let https_port = match self.gateway_https_port {
            Some(0) => None,
            Some(https_port) => Some(https_port),
            None => match port {
                80 => Some(443),
                8080 => Some(8443),
                _ => None,
            },
        };
        GatewaySettings { port, internal_port, https_port, ..GatewaySettings::default() }
    }
}

/// A path as a URL of the SQLite driver, which reads `?`, `#` and `%` in it as syntax.
fn sqlite_url(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite://{text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_takes_low_ports_only_where_its_agent_is_root() {
        let mut options = ServerOptions::new("/x");
        assert_eq!(options.gateway_settings(true).port, 80);
        assert_eq!(options.gateway_settings(false).internal_port, 8080);
        assert_eq!(options.gateway_settings(true).https_port, Some(443));
        assert_eq!(options.gateway_settings(false).https_port, Some(8443));
        options.gateway_port = Some(9000);
        assert_eq!(options.gateway_settings(true).internal_port, 9000);
        assert_eq!(options.gateway_settings(true).https_port, None);
        options.gateway_https_port = Some(9443);
        assert_eq!(options.gateway_settings(true).https_port, Some(9443));
        options.gateway_https_port = Some(0);
        assert_eq!(options.gateway_settings(true).https_port, None);
    }

    #[test]
    fn the_database_lies_in_the_data_directory_unless_another_is_named() {
        let mut options = ServerOptions::new("/var/lib/a b#c");
        assert_eq!(options.database_url(), "sqlite:///var/lib/a b%23c/server/mainstay.db");
        options.database_url = Some("postgres://x".into());
        assert_eq!(options.database_url(), "postgres://x");
    }
}
