//! A proxy that runs: started with a config of its own, ready when its last route answers.

use super::{Kind, configs};
use crate::context::Context;
use crate::http::load::host;
use crate::http::tls::{Files, Line};
use crate::process::Running;
use anyhow::{Context as _, Result, bail};
use api::secret::Secret;
use api::tls::{CertificateDesired, CertificateMaterial, CertificateName};
use client::gateway::GatewayClient;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Traefik takes its time with many routes.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct Proxy {
    pub kind: Kind,
    pub address: SocketAddr,
    /// `None`: nobody stands between.
    running: Option<Running>,
    folder: tempfile::TempDir,
}

#[derive(Debug, Clone)]
pub struct Wish {
    pub kind: Kind,
    pub origin: SocketAddr,
    pub routes: usize,
    pub access_log: bool,
    /// Speaks TLS with this certificate.
    pub tls: Option<Files>,
}

impl Proxy {
    pub fn start(context: &Context, kind: Kind, origin: SocketAddr, routes: usize) -> Result<Self> {
        Self::start_as(context, Wish { kind, origin, routes, access_log: false, tls: None })
    }

    pub fn start_as(context: &Context, wish: Wish) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mainstay-bench-").tempdir().context("make a folder")?;
        let Wish { kind, origin, routes, .. } = wish;
        if kind == Kind::Direct {
            return Ok(Self { kind, address: origin, running: None, folder });
        }
        let address = free_address()?;
        let program = context.tools.path(kind.name()).with_context(|| format!("{} is missing", kind.name()))?;
        let arguments = write_configs(&wish, address, folder.path().to_owned())?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let running = Running::start(kind.name(), context.subject_core, program, &arguments, folder.path())?;
        let mut proxy = Self { kind, address, running: Some(running), folder };
        if kind == Kind::Mainstay {
            let log = wish.access_log.then(|| proxy.folder.path().join("access.log").display().to_string());
            let mut config = configs::mainstay(address, origin, routes, log);
            if let Some(files) = &wish.tls {
                proxy.put_certificate(&mut config, files)?;
            }
            proxy.put_config(&config)?;
        }
        proxy.wait_until_ready(routes, wish.tls.is_some())?;
        Ok(proxy)
    }

    /// Processor time so far; none where nobody stands between.
    pub fn cpu(&self) -> Duration {
        self.running.as_ref().map(Running::cpu).unwrap_or_default()
    }

    pub fn memory_bytes(&self) -> u64 {
        self.running.as_ref().map_or(0, Running::memory_bytes)
    }

    /// Gives the gateway of Mainstay a config, as an agent does; answers how long that took.
    pub fn put_config(&mut self, config: &api::gateway::GatewayConfig) -> Result<Duration> {
        let client = GatewayClient::new(self.folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
        runtime.block_on(async {
            let begun = Instant::now();
            while client.status().await.is_err() {
                if let Some(running) = &mut self.running {
                    running.check(self.folder.path())?;
                }
                anyhow::ensure!(begun.elapsed() < START_LIMIT, "the gateway does not answer on its socket");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let begun = Instant::now();
            client.put_config(config).await.context("give the gateway a config")?;
            Ok(begun.elapsed())
        })
    }

    /// Brings the certificate as an agent does, and has the config name it.
    fn put_certificate(&mut self, config: &mut api::gateway::GatewayConfig, files: &Files) -> Result<()> {
        let chain = std::fs::read_to_string(&files.certificate).context("read the certificate")?;
        let private_key = Secret::new(std::fs::read_to_string(&files.key).context("read the key")?);
        let names = config.routes.iter().filter_map(|route| route.host.clone()).map(CertificateName::from).collect();
        let digest = wire::sha256_hex(chain.as_bytes());
        let certificate = CertificateDesired { digest, names, material: CertificateMaterial { chain, private_key } };
        configs::secured(config, &certificate);
        // The gateway is there once it has taken any config.
        self.put_config(&Default::default())?;
        let client = GatewayClient::new(self.folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
        runtime.block_on(client.put_certificate(&certificate)).context("give the gateway a certificate")
    }

    pub fn config(&self, origin: SocketAddr, routes: usize) -> api::gateway::GatewayConfig {
        configs::mainstay(self.address, origin, routes, None)
    }

    fn wait_until_ready(&mut self, routes: usize, tls: bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(running) = &mut self.running {
                running.check(self.folder.path())?;
            }
            match ask(self.address, &host(routes - 1), tls) {
                Ok(status) if status == "200" => return Ok(()),
                last if begun.elapsed() > START_LIMIT => {
                    bail!("{} is not ready after {} s: {last:?}", self.kind.name(), START_LIMIT.as_secs())
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// Writes what the program reads and answers the arguments that name it.
fn write_configs(wish: &Wish, address: SocketAddr, folder: PathBuf) -> Result<Vec<String>> {
    let path = |name: &str| folder.join(name).display().to_string();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).with_context(|| path(name));
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    Ok(match wish.kind {
        Kind::Direct => Vec::new(),
        Kind::Mainstay => words(&["gateway", "--directory", &folder.display().to_string()]),
        Kind::Nginx => {
            write("nginx.conf", &configs::nginx(address, wish, &folder))?;
            words(&["-p", &folder.display().to_string(), "-c", &path("nginx.conf")])
        }
        Kind::Haproxy => {
            let (config, map) = configs::haproxy(address, wish, &folder);
            write("hosts.map", &map)?;
            write("haproxy.cfg", &config)?;
            words(&["-db", "-f", &path("haproxy.cfg")])
        }
        Kind::Caddy => {
            write("caddy.json", &configs::caddy(address, wish))?;
            words(&["run", "--config", &path("caddy.json")])
        }
        Kind::Traefik => {
            let (fixed, dynamic) = configs::traefik(address, wish, &folder);
            write("routes.yml", &dynamic)?;
            write("traefik.yml", &fixed)?;
            words(&[&format!("--configFile={}", path("traefik.yml"))])
        }
    })
}

/// An address on loopback that nobody has now.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

/// The status of one small answer.
fn ask(address: SocketAddr, host: &str, tls: bool) -> Result<String> {
    let limit = Duration::from_secs(2);
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut stream = if tls { Line::secure(stream, host)? } else { Line::Plain(stream) };
    write!(stream, "GET /1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = [0; 12];
    stream.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text[9..]).into_owned())
}
