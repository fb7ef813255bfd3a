//! Services and their instances, as they live in the gateway across configs.
//!
//! A config says which instances a service has; what is counted and kept about an instance (open
//! requests, resting connections, a recent refusal) must survive the next config. So [`Upstream`]s
//! live in a [`Registry`] by instance and address, and each new route table points at them again.
//!
//! Draining is exact. A request is counted *before* it looks whether its instance is still to get
//! any; a config marks the instance *before* it is acknowledged. Whoever reads "not active, none
//! open" after that can stop the instance and loses nothing.

use crate::http1::wire::Resting;
use crate::limits::Limits;
use crate::proxy::connection::UpstreamConnection;
use api::gateway::{GatewayService, ServiceTraffic};
use api::ids::{InstanceId, ServiceId};
use api::latency::{LATENCY_CELLS, LatencyHistogram, latency_cell};
use api::name::Name;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// One service in one route table.
#[derive(Debug)]
pub struct Service {
    pub service_id: ServiceId,
    pub name: Name,
    pub unavailable_reason: String,
    /// Instances that get new requests.
    pub active: Vec<Arc<Upstream>>,
    pub counters: Arc<ServiceCounters>,
    rotation: AtomicUsize,
}

/// Counters of one service since the process began.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    requests: AtomicU64,
    client_errors: AtomicU64,
    errors: AtomicU64,
    sent_bytes: AtomicU64,
    latency_sum_micros: AtomicU64,
    /// How many answers took how long.
    latency: Latency,
}

#[derive(Debug)]
struct Latency([AtomicU64; LATENCY_CELLS]);

impl Default for Latency {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl ServiceCounters {
    /// One more answer, whose head came after this time.
    pub fn answered(&self, status: u16, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.latency_sum_micros.fetch_add(micros, Ordering::Relaxed);
        self.latency.0[latency_cell(micros)].fetch_add(1, Ordering::Relaxed);
        match status {
            400..=499 => _ = self.client_errors.fetch_add(1, Ordering::Relaxed),
            500.. => _ = self.errors.fetch_add(1, Ordering::Relaxed),
            _ => {}
        }
    }

    pub fn sent(&self, bytes: u64) {
        if bytes > 0 {
            self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn latency(&self) -> LatencyHistogram {
        let mut histogram = LatencyHistogram::default();
        for (cell, count) in self.latency.0.iter().enumerate() {
            histogram.count(cell, count.load(Ordering::Relaxed));
        }
        histogram
    }
}

/// Why no instance was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPicked {
    /// There is none that gets requests, or each was tried.
    NoneLeft,
    /// The config changed in this very moment: look the route up again.
    Stale,
}

impl Service {
    /// The instance with the fewest open requests that was not tried yet; of equals each in turn.
    /// Those that refused a connection a moment ago come last.
    pub fn pick(&self, tried: &[Arc<Upstream>]) -> Result<OpenRequest, NotPicked> {
        let chosen = match self.active.as_slice() {
            [only] if tried.is_empty() => only,
            all => self.least_requests(all, tried).ok_or(NotPicked::NoneLeft)?,
        };
        OpenRequest::begin(chosen).ok_or(NotPicked::Stale)
    }

    fn least_requests<'a>(&self, all: &'a [Arc<Upstream>], tried: &[Arc<Upstream>]) -> Option<&'a Arc<Upstream>> {
        let start = self.rotation.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        (0..all.len())
            .map(|step| &all[start.wrapping_add(step) % all.len()])
            .filter(|upstream| !tried.iter().any(|t| Arc::ptr_eq(t, upstream)))
            .min_by_key(|upstream| (upstream.refuses(now), upstream.open()))
    }

    pub fn traffic(&self) -> ServiceTraffic {
        ServiceTraffic {
            service_id: self.service_id.clone(),
            requests: self.counters.requests.load(Ordering::Relaxed),
            errors: self.counters.errors.load(Ordering::Relaxed),
            latency_sum_micros: self.counters.latency_sum_micros.load(Ordering::Relaxed),
            client_errors: self.counters.client_errors.load(Ordering::Relaxed),
            sent_bytes: self.counters.sent_bytes.load(Ordering::Relaxed),
            latency: self.counters.latency(),
        }
    }

    #[cfg(test)]
    pub fn for_test(number: u128, name: &str, active: &[Arc<Upstream>]) -> Self {
        Self {
            service_id: ServiceId::from_uuid(uuid::Uuid::from_u128(number)),
            name: name.parse().unwrap(),
            unavailable_reason: String::new(),
            active: active.to_vec(),
            counters: Arc::default(),
            rotation: AtomicUsize::new(0),
        }
    }
}

/// One instance at one address.
#[derive(Debug)]
pub struct Upstream {
    pub instance_id: InstanceId,
    pub address: SocketAddr,
    open: AtomicU64,
    /// Gets nothing new: draining, or gone from the config.
    retired: AtomicBool,
    #[expect(clippy::vec_box, reason = "a connection is large and moves between here and requests all the time")]
    resting: Mutex<Vec<Box<UpstreamConnection>>>,
    wires: Mutex<Resting>,
    refusals: AtomicU32,
    refused_until: Mutex<Option<Instant>>,
    refused: AtomicBool,
}

impl Upstream {
    pub fn new(instance_id: InstanceId, address: SocketAddr) -> Self {
        Self {
            instance_id,
            address,
            open: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            resting: Mutex::default(),
            wires: Mutex::default(),
            refusals: AtomicU32::new(0),
            refused_until: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    pub fn open(&self) -> u64 {
        self.open.load(Ordering::SeqCst)
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// Remembers that nothing listens there, for a while that doubles with each refusal.
    pub fn mark_refused(&self, limits: &Limits) {
        let (first, most) = limits.refusal_time;
        let doublings = self.refusals.fetch_add(1, Ordering::Relaxed).min(10);
        let pause = (first * 2u32.pow(doublings)).min(most).mul_f64(0.75 + fastrand::f64() / 2.0);
        *lock(&self.refused_until) = Some(Instant::now() + pause);
        self.refused.store(true, Ordering::Release);
    }

    pub fn mark_reached(&self) {
        if self.refused.swap(false, Ordering::AcqRel) {
            self.refusals.store(0, Ordering::Relaxed);
            *lock(&self.refused_until) = None;
        }
    }

    fn refuses(&self, now: Instant) -> bool {
        self.refused.load(Ordering::Acquire) && lock(&self.refused_until).is_some_and(|until| now < until)
    }

    /// A resting connection that rested no longer than `rest`, the last used first.
    pub fn connection_take(&self, rest: Duration) -> Option<Box<UpstreamConnection>> {
        loop {
            let mut connection = {
                let mut resting = lock(&self.resting);
                if resting.last()?.rested() > rest {
                    return None;
                }
                resting.pop()?
            };
            if connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub fn connection_rest(&self, mut connection: Box<UpstreamConnection>, limits: &Limits) {
        if self.is_retired() {
            return;
        }
        connection.rest();
        let mut resting = lock(&self.resting);
        if resting.len() < limits.upstream_rest_count {
            resting.push(connection);
        }
    }

    /// The same for a request in HTTP/1.1.
    pub fn wire_take(&self, rest: Duration) -> Option<TcpStream> {
        lock(&self.wires).take(rest)
    }

    pub fn wire_put(&self, stream: TcpStream, limits: &Limits) {
        if !self.is_retired() {
            lock(&self.wires).put(stream, limits);
        }
    }

    /// Closes connections that rested too long or that the instance has closed.
    pub fn connections_sweep(&self, rest: Duration) {
        let ended = lock(&self.wires).sweep(rest);
        drop(ended);
        let mut closing = Vec::new();
        let mut resting = lock(&self.resting);
        let all = std::mem::take(&mut *resting);
        for mut connection in all {
            let keep = connection.rested() <= rest && connection.is_usable();
            if keep { resting.push(connection) } else { closing.push(connection) }
        }
        drop(resting);
        // Closed here, outside the lock that requests wait for.
        drop(closing);
    }

    fn set_retired(&self, retired: bool) {
        self.retired.store(retired, Ordering::SeqCst);
        if retired {
            let closing = std::mem::take(&mut *lock(&self.resting));
            let wires = std::mem::take(&mut *lock(&self.wires));
            drop((closing, wires));
        }
    }
}

/// A request (or tunnel) that is open at an instance, counted until this is dropped.
#[derive(Debug)]
pub struct OpenRequest(Arc<Upstream>);

impl OpenRequest {
    /// Counts first and looks second; see the top of this file.
    fn begin(upstream: &Arc<Upstream>) -> Option<Self> {
        upstream.open.fetch_add(1, Ordering::SeqCst);
        let open = Self(upstream.clone());
        (!upstream.is_retired()).then_some(open)
    }

    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.0
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// All instances and counters that some config named and that still matter.
#[derive(Debug, Default)]
pub struct Registry {
    upstreams: HashMap<(InstanceId, SocketAddr), Arc<Upstream>>,
    counters: HashMap<ServiceId, Arc<ServiceCounters>>,
}

impl Registry {
    /// The service as a route table holds it. Nothing visible changes before [`Registry::settle`].
    pub fn service(&mut self, config: &GatewayService) -> Service {
        let mut active = Vec::new();
        for upstream in &config.upstreams {
            let key = (upstream.instance_id.clone(), upstream.address);
            let make = || Arc::new(Upstream::new(upstream.instance_id.clone(), upstream.address));
            let entry = self.upstreams.entry(key).or_insert_with(make);
            if !upstream.draining {
                active.push(entry.clone());
            }
        }
        Service {
            service_id: config.service_id.clone(),
            name: config.name.clone(),
            unavailable_reason: config.unavailable_reason.clone(),
            active,
            counters: self.counters.entry(config.service_id.clone()).or_default().clone(),
            rotation: AtomicUsize::new(fastrand::usize(..1 << 16)),
        }
    }

    /// Before a table is swapped in: its active instances may get requests (again).
    pub fn admit(&self, services: &[Arc<Service>]) {
        services.iter().flat_map(|service| &service.active).for_each(|upstream| upstream.set_retired(false));
    }

    /// After a table is swapped in: all other instances get nothing new, and those that no config
    /// names and that have nothing open are forgotten.
    pub fn settle(&mut self, services: &[Arc<Service>], configs: &[GatewayService]) {
        let active: HashSet<*const Upstream> =
            services.iter().flat_map(|service| &service.active).map(Arc::as_ptr).collect();
        for upstream in self.upstreams.values().filter(|upstream| !active.contains(&Arc::as_ptr(upstream))) {
            upstream.set_retired(true);
        }
        self.forget_ended(configs);
        let live: HashSet<&ServiceId> = configs.iter().map(|s| &s.service_id).collect();
        self.counters.retain(|service_id, _| live.contains(service_id));
    }

    /// Forgets instances that no config names and that have nothing open.
    pub fn forget_ended(&mut self, configs: &[GatewayService]) {
        let named: HashSet<(&InstanceId, SocketAddr)> =
            configs.iter().flat_map(|s| &s.upstreams).map(|u| (&u.instance_id, u.address)).collect();
        self.upstreams.retain(|(instance_id, address), u| u.open() > 0 || named.contains(&(instance_id, *address)));
    }

    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }
}

/// A panic while one of these short locks was held leaves nothing half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(number: u128) -> Arc<Upstream> {
        let instance_id = InstanceId::from_uuid(uuid::Uuid::from_u128(number));
        Arc::new(Upstream::new(instance_id, SocketAddr::from(([127, 0, 0, 1], 1))))
    }

    #[test]
    fn the_least_busy_instance_is_picked_and_equals_take_turns() {
        let all = [upstream(1), upstream(2), upstream(3)];
        let service = Service::for_test(1, "web", &all);
        let held: Vec<OpenRequest> = (0..3).map(|_| service.pick(&[]).unwrap()).collect();
        assert!(all.iter().all(|u| u.open() == 1));
        drop(held);
        let _two = [OpenRequest::begin(&all[0]), OpenRequest::begin(&all[2])];
        let picked: Vec<u128> = (0..4)
            .map(|_| service.pick(&[]).unwrap())
            .filter(|o| Arc::ptr_eq(o.upstream(), &all[1]))
            .map(|_| 1)
            .collect();
        assert_eq!(picked.len(), 4);
        let mut seen = HashSet::new();
        drop(_two);
        for _ in 0..3 {
            seen.insert(service.pick(&[]).unwrap().upstream().instance_id.clone());
        }
        assert_eq!(seen.len(), 3, "equals did not take turns");
    }

    #[test]
    fn an_instance_that_refused_is_avoided_until_it_is_all_there_is() {
        let all = [upstream(1), upstream(2)];
        let service = Service::for_test(1, "web", &all);
        all[0].mark_refused(&Limits::default());
        let _busy: Vec<OpenRequest> = (0..5).map(|_| OpenRequest::begin(&all[1]).unwrap()).collect();
        assert!(Arc::ptr_eq(service.pick(&[]).unwrap().upstream(), &all[1]));
        assert!(Arc::ptr_eq(service.pick(&[all[1].clone()]).unwrap().upstream(), &all[0]));
        assert_eq!(service.pick(&all).unwrap_err(), NotPicked::NoneLeft);
    }

    #[test]
    fn a_retired_instance_is_never_picked_not_even_from_an_old_table() {
        let all = [upstream(1)];
        let service = Service::for_test(1, "web", &all);
        all[0].set_retired(true);
        assert_eq!(service.pick(&[]).unwrap_err(), NotPicked::Stale);
        assert_eq!(all[0].open(), 0);
    }
}
