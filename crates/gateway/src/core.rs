//! The control side: takes configs, says what is live.
//!
//! A new config becomes live in an order in which every step can still be refused until the last
//! one cannot fail: check, bind what is new, write to a file, swap. Only then are sockets closed that
//! are no longer wanted, and is the file flushed. Sockets that stay are not touched.
//!
//! One owner, one lock: all changes go through [`Gateway`]; requests see only the route table.

use crate::config::{self, ConfigError};
use crate::dns::{BoundDns, Dns};
use crate::listeners::{BindError, BoundListener, Listener};
use crate::mesh::Mesh;
use crate::routes::RouteTable;
use crate::shared::Shared;
use crate::tls::{Certificates, TlsError, Vault, VaultError};
use crate::upstreams::{Registry, Service};
use api::gateway::{GatewayConfig, GatewayObserved, ListenerKind, OpenRequests};
use api::tls::{CertificateMaterial, ChallengeKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why a config was not taken; the one before stays live.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("cannot write {}: {error}", path.display())]
    Save { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("this gateway is being replaced by a newer one; send the config again in a moment")]
    HandingOver,
}

#[derive(Debug)]
pub struct Gateway {
    pub shared: Arc<Shared>,
    pub directory: PathBuf,
    pub stop: CancellationToken,
    vault: Arc<std::sync::Mutex<Vault>>,
    pub mesh: Mesh,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub struct State {
    pub config: Arc<GatewayConfig>,
    digest: Option<String>,
    pub listeners: BTreeMap<SocketAddr, Listener>,
    /// By their address as the config has it.
    pub dns: BTreeMap<SocketAddr, Dns>,
    registry: Registry,
    /// The live config is being flushed to disk.
    settling: Option<JoinHandle<()>>,
    /// Something that is not bound.
    problem: Option<String>,
    /// Something about the live config itself.
    doubt: Option<String>,
    /// Certificates and challenges of the live config that cannot be used.
    unusable: Vec<String>,
    /// A newer gateway is taking over.
    pub frozen: bool,
}

/// Sockets that are bound already: from the gateway before.
#[derive(Debug, Default)]
pub struct Inherited {
    pub listeners: BTreeMap<SocketAddr, BoundListener>,
    pub dns: BTreeMap<SocketAddr, BoundDns>,
}

impl Gateway {
    pub fn new(directory: PathBuf, shared: Arc<Shared>, stop: CancellationToken) -> Self {
        let vault = Arc::new(std::sync::Mutex::new(Vault::new(&directory)));
        let mesh = Mesh::new(directory.clone());
        Self { shared, directory, stop, vault, mesh, state: Mutex::default() }
    }

    pub async fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().await
    }

    /// Makes a config live, whole, or refuses it and changes nothing.
    pub async fn apply(&self, config: GatewayConfig) -> Result<String, ApplyError> {
        let mut state = self.state.lock().await;
        if state.frozen {
            return Err(ApplyError::HandingOver);
        }
        config::check(&config)?;
        self.ready_for_tls(&config).await?;
        let Sockets { bound, displaced, missing } = self.bind_new(&mut state, &config).await?;
        let (text, digest) = wire::text_and_digest_of(&config);
        let saved = match prepare_dns(&state, &config) {
            Ok(dns) => self.save(&mut state, text).await.map(|()| dns),
            Err(error) => Err(error.into()),
        };
        let (dns, without) = match saved {
            Ok(prepared) => prepared,
            Err(error) => {
                drop(bound);
                self.restore(&mut state, displaced);
                return Err(error);
            }
        };
        state.problem = None;
        missing.iter().chain(&without).for_each(|error| state.say(error));
        let replaced = self.commit(&mut state, config, digest.clone(), bound, dns).await;
        let directory = self.directory.clone();
        state.settling = Some(tokio::task::spawn_blocking(move || {
            // Ten thousand routes take a while to be freed, for which nobody needs to wait.
            drop(replaced);
            if let Err(error) = config::settle(&directory) {
                tracing::error!(directory = %directory.display(), %error,
                    "the config is live, but the disk does not take it: after a loss of power it is another one");
            }
        }));
        Ok(digest)
    }

    /// Starts from a config that was live before. What cannot be bound now is said in the status and
    /// tried again; the rest is served meanwhile.
    pub async fn resume(&self, config: GatewayConfig, mut inherited: Inherited) {
        let mut state = self.state.lock().await;
        if let Err(error) = self.ready_for_tls(&config).await {
            tracing::error!(%error, "HTTPS cannot be served");
        }
        let mut bound = Vec::new();
        for listener in &config.listeners {
            match inherited.listeners.remove(&listener.address) {
                Some(ready) => bound.push(ready),
                None if is_covered(&config, listener) => {}
                None => match BoundListener::bind(listener.address, listener.kind.clone()) {
                    Ok(ready) => bound.push(ready),
                    Err(error) => state.say(&error),
                },
            }
        }
        let mut dns = Vec::new();
        for responder in config.responders() {
            match inherited.dns.remove(&responder.address) {
                Some(ready) => dns.push(ready),
                None => match BoundDns::bind(responder) {
                    Ok(ready) => dns.push(ready),
                    Err(error) => state.say(&error),
                },
            }
        }
        let digest = wire::digest_of(&config);
        self.commit(&mut state, config, digest, bound, dns).await;
    }

    /// Tries again to bind what the live config wants and could not have.
    pub async fn bind_missing(&self) {
        let mut state = self.state.lock().await;
        if state.frozen || state.problem.is_none() {
            return;
        }
        let config = state.config.clone();
        let mut problem = None;
        for listener in &config.listeners {
            if state.listeners.contains_key(&listener.address) || is_covered(&config, listener) {
                continue;
            }
            match BoundListener::bind(listener.address, listener.kind.clone()) {
                Ok(bound) => {
                    tracing::info!(address = %listener.address, "listening");
                    state.listeners.insert(listener.address, bound.start(&self.shared));
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
        for responder in config.responders() {
            if state.dns.contains_key(&responder.address) {
                continue;
            }
            match BoundDns::bind(responder) {
                Ok(bound) => {
                    state.dns.insert(responder.address, bound.start(&config, &self.shared.limits));
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
        state.problem = problem;
    }

    pub async fn status(&self) -> GatewayObserved {
        let state = self.state.lock().await;
        let table = self.shared.table.load();
        let mut active: Vec<_> =
            table.services().flat_map(|service| &service.active).map(|u| u.instance_id.clone()).collect();
        active.sort();
        active.dedup();
        let mut open: BTreeMap<_, u64> = BTreeMap::new();
        for upstream in state.registry.upstreams() {
            let requests = upstream.open();
            if requests > 0 || upstream.is_retired() {
                *open.entry(upstream.instance_id.clone()).or_default() += requests;
            }
        }
        let mut services: Vec<_> = table.services().map(|service| service.traffic()).collect();
        services.sort_by(|a, b| a.service_id.cmp(&b.service_id));
        GatewayObserved {
            running: true,
            pid: Some(std::process::id()),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            digest: state.digest.clone(),
            listening: state.listeners.values().map(|listener| listener.identity.local).collect(),
            active,
            open: open.into_iter().map(|(instance_id, requests)| OpenRequests { instance_id, requests }).collect(),
            problem: state.problem.clone().or_else(|| state.doubt.clone()),
            challenges: state.config.tls.challenges.iter().map(|answer| answer.token.clone()).collect(),
            certificates: self.shared.tls.certificates().count() as u64,
            services,
            dns: state.dns.values().map(Dns::address).find(|address| address.ip().is_loopback()),
            access_log_dropped: self.shared.access_log.dropped(),
        }
    }

    /// Closes resting connections that are too old or closed by the other end, and forgets instances
    /// that are gone.
    pub async fn sweep(&self) {
        let upstreams: Vec<_> = {
            let mut state = self.state.lock().await;
            let config = state.config.clone();
            state.registry.forget_ended(&config.services);
            state.registry.upstreams().cloned().collect()
        };
        for upstream in upstreams {
            upstream.connections_sweep(self.shared.limits.upstream_rest_time);
        }
    }

    /// Binds what is wanted and not there. Where an own socket that is to go stands in the way
    /// (loopback and every interface on one port), it goes first and is returned.
    async fn bind_new(&self, state: &mut State, config: &GatewayConfig) -> Result<Sockets, BindError> {
        let Sockets { mut bound, mut displaced, mut missing } = Sockets::default();
        let wanted: Vec<SocketAddr> = config.listeners.iter().map(|listener| listener.address).collect();
        for listener in &config.listeners {
            if state.listeners.contains_key(&listener.address) || is_covered(config, listener) {
                continue;
            }
            let mut attempt = BoundListener::bind(listener.address, listener.kind.clone());
            if attempt.as_ref().is_err_and(BindError::is_in_use) {
                let in_the_way =
                    |address: &&SocketAddr| address.port() == listener.address.port() && !wanted.contains(address);
                let going: Vec<SocketAddr> = state.listeners.keys().filter(in_the_way).copied().collect();
                for address in &going {
                    if let Some(old) = state.listeners.remove(address) {
                        old.close(&self.shared).await;
                    }
                }
                displaced.extend(going);
                attempt = BoundListener::bind(listener.address, listener.kind.clone());
            }
            match attempt {
                Ok(ready) => bound.push(ready),
                // What is served without HTTPS should not stand still because another program has its port.
                Err(error) if is_spared(&listener.kind) => missing.push(error),
                Err(error) => {
                    drop(bound);
                    self.restore(state, displaced);
                    return Err(error);
                }
            }
        }
        Ok(Sockets { bound, displaced, missing })
    }

    /// Puts sockets back that had gone for a config that was then refused.
    fn restore(&self, state: &mut State, displaced: Vec<SocketAddr>) {
        let config = state.config.clone();
        for listener in config.listeners.iter().filter(|listener| displaced.contains(&listener.address)) {
            match BoundListener::bind(listener.address, listener.kind.clone()) {
                Ok(bound) => {
                    state.listeners.insert(listener.address, bound.start(&self.shared));
                }
                Err(error) => state.say(&error),
            }
        }
    }

    async fn save(&self, state: &mut State, text: Vec<u8>) -> Result<(), ApplyError> {
        state.settled().await;
        let directory = self.directory.clone();
        let saved = tokio::task::spawn_blocking(move || config::write(&directory, &text)).await;
        let saved = saved.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        saved.map_err(|error| ApplyError::Save { path: self.directory.join(config::FILE), error })
    }

    /// From here on nothing fails.
    async fn commit(
        &self,
        state: &mut State,
        config: GatewayConfig,
        digest: String,
        bound: Vec<BoundListener>,
        dns: Vec<BoundDns>,
    ) -> Replaced {
        let shared = &self.shared;
        self.swap_certificates(state, &config);
        let table = self.swap_routes(state, &config);
        for listener in &config.listeners {
            if let Some(running) = state.listeners.get(&listener.address) {
                running.identity.kind.store(Arc::new(listener.kind.clone()));
            }
        }
        for listener in bound {
            let running = listener.start(shared);
            state.listeners.insert(running.identity.configured, running);
        }
        let unwanted: Vec<SocketAddr> = state
            .listeners
            .keys()
            .filter(|address| !config.listeners.iter().any(|l| l.address == **address))
            .copied()
            .collect();
        for address in unwanted {
            if let Some(listener) = state.listeners.remove(&address) {
                listener.close(shared).await;
            }
        }
        state.dns.retain(|address, _| config.responders().any(|responder| responder.address == *address));
        state.dns.values().for_each(|dns| dns.set_zone(&config));
        for fresh in dns {
            state.dns.insert(fresh.configured(), fresh.start(&config, &shared.limits));
        }
        if config.access_log != state.config.access_log {
            let path = config.access_log.as_ref().map(PathBuf::from);
            let log = shared.access_log.clone();
            // The log's channel may be full for a moment; that wait is not for an async thread.
            let _ = tokio::task::spawn_blocking(move || log.set_path(path)).await;
        }
        state.doubt = state.unusable.iter().cloned().chain(config::contested_internal_names(&config)).next();
        tracing::info!(
            services = config.services.len(),
            routes = config.routes.len(),
            listeners = state.listeners.len(),
            digest,
            "config is live"
        );
        state.digest = Some(digest);
        Replaced { _table: table, _config: std::mem::replace(&mut state.config, Arc::new(config)) }
    }

    /// What takes a moment the first time, before it is needed.
    async fn ready_for_tls(&self, config: &GatewayConfig) -> Result<(), ApplyError> {
        if !config.listeners.iter().any(|listener| listener.kind == ListenerKind::PublicTls) {
            return Ok(());
        }
        let shared = self.shared.clone();
        let prepared = tokio::task::spawn_blocking(move || shared.tls.prepare()).await;
        Ok(prepared.unwrap_or_else(|panic| Err(TlsError::StandIn(panic.to_string())))?)
    }

    /// Takes a certificate in that a later config may name.
    pub async fn certificate_put(&self, digest: String, material: CertificateMaterial) -> Result<(), VaultError> {
        let vault = self.vault.clone();
        let put = move || lock(&vault).put(&digest, &material);
        match tokio::task::spawn_blocking(put).await {
            Ok(put) => put,
            Err(panic) => Err(VaultError::Write { path: self.directory.clone(), source: io::Error::other(panic) }),
        }
    }

    /// Which certificates need not be brought again.
    pub fn certificate_list(&self) -> Vec<String> {
        self.vault().digests()
    }

    fn vault(&self) -> std::sync::MutexGuard<'_, Vault> {
        lock(&self.vault)
    }

    /// Mostly there is nothing to do: what changes from one config to the next is who is healthy. A certificate that
    /// is not here is no reason to refuse the rest; the status counts those that are, and the agent brings it again.
    fn swap_certificates(&self, state: &mut State, config: &GatewayConfig) {
        if state.config.tls == config.tls && state.unusable.is_empty() {
            return;
        }
        let mut vault = self.vault();
        let named: BTreeSet<&str> = config.tls.certificates.iter().map(|c| c.digest.as_str()).collect();
        vault.load(named.iter().copied());
        let (certificates, unusable) = Certificates::of(&config.tls, &vault);
        self.shared.tls.replace(certificates);
        vault.keep_only(&named);
        state.unusable = unusable;
    }

    fn swap_routes(&self, state: &mut State, config: &GatewayConfig) -> Arc<RouteTable> {
        let services: Vec<Arc<Service>> =
            config.services.iter().map(|service| Arc::new(state.registry.service(service))).collect();
        let table = build_table(config, &services);
        state.registry.admit(&services);
        let before = self.shared.table.swap(Arc::new(table));
        state.registry.settle(&services, &config.services);
        before
    }
}

/// What was live before.
struct Replaced {
    _table: Arc<RouteTable>,
    _config: Arc<GatewayConfig>,
}

/// New sockets for DNS responders, unless those that are there are right; and what the config is live without.
fn prepare_dns(state: &State, config: &GatewayConfig) -> Result<(Vec<BoundDns>, Vec<BindError>), BindError> {
    let (mut bound, mut missing) = (Vec::new(), Vec::new());
    for responder in config.responders().filter(|responder| !state.dns.contains_key(&responder.address)) {
        match BoundDns::bind(responder) {
            Ok(ready) => bound.push(ready),
            Err(error) if responder.only_from.is_some() => missing.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((bound, missing))
}

/// Whether a config is live though this could not be bound.
fn is_spared(kind: &ListenerKind) -> bool {
    matches!(kind, ListenerKind::PublicTls | ListenerKind::Containers { .. })
}

/// One that listens on every address has the port of the containers' address, too.
fn is_covered(config: &GatewayConfig, listener: &api::gateway::Listener) -> bool {
    let covers = |other: &api::gateway::Listener| {
        other.address.ip().is_unspecified() && other.address.port() == listener.address.port()
    };
    matches!(listener.kind, ListenerKind::Containers { .. }) && config.listeners.iter().any(covers)
}

/// What came of binding for a config.
#[derive(Default)]
struct Sockets {
    bound: Vec<BoundListener>,
    /// Own sockets that had to go first.
    displaced: Vec<SocketAddr>,
    /// What the config is live without.
    missing: Vec<BindError>,
}

/// A panic while it was held leaves it as it was before or after one step, which is as good.
fn lock(vault: &std::sync::Mutex<Vault>) -> std::sync::MutexGuard<'_, Vault> {
    vault.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl State {
    /// Waits until the live config is on disk for good.
    pub async fn settled(&mut self) {
        if let Some(settling) = self.settling.take()
            && let Err(error) = settling.await
        {
            tracing::error!(%error, "the config was not flushed");
        }
    }

    fn say(&mut self, error: &BindError) {
        tracing::error!(%error, "not everything of the config is live; trying again");
        self.problem = Some(error.to_string());
    }
}

fn build_table(config: &GatewayConfig, services: &[Arc<Service>]) -> RouteTable {
    let by_id: BTreeMap<_, _> = services.iter().map(|service| (&service.service_id, service)).collect();
    let domain = config.responders().next().map_or(config::INTERNAL_DOMAIN, |dns| dns.domain.as_str());
    let timeouts = [config.response_timeout_ms, config.connect_timeout_ms, config.idle_timeout_ms];
    let mut table = RouteTable::new(domain, timeouts.map(Duration::from_millis));
    table.set_containers(config.containers());
    for service in services {
        table.add_service(service.clone());
    }
    table.expect_routes(config.routes.len());
    for route in &config.routes {
        if let Some(service) = by_id.get(&route.service_id) {
            table.add_route(route, (*service).clone());
        }
    }
    for internal in &config.internal {
        if let Some(service) = by_id.get(&internal.service_id) {
            table.add_internal(internal.name.as_str(), (*service).clone());
        }
    }
    table.https_port = config.tls.port;
    for answer in config.tls.challenges.iter().filter(|answer| answer.kind == ChallengeKind::Http01) {
        table.add_challenge(answer.host.as_str(), &answer.token, &answer.key_authorization);
    }
    table
}
