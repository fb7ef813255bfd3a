//! What machines and services use, worked out from the reports that agents send anyway.
//!
//! A report carries sums since a start: CPU time of an instance, requests of a gateway. A rate is the difference of
//! two reports over the time between them, so there is none before the second, and none after a sum
//! began anew (a restart). What is not known is absent here and `–` in a table: never 0, which is a figure.
//!
//! Requests are counted by gateways, per service and not per instance; of an instance, a report knows
//! the requests that are open now.

use api::UnixMillis;
use api::gateway::ServiceTraffic;
use api::ids::{InstanceId, ServerId, ServiceId};
use api::observed::{InstanceObserved, ObservedState};
use api::servers::{ServerCondition, ServerView};
use api::services::ServiceView;
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that `mainstay top` shows at one moment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Usage {
    pub at_ms: UnixMillis,
    pub servers: Vec<ServerUsage>,
    pub services: Vec<ServiceUsage>,
}

/// One machine, as it reported last.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ServerUsage {
    pub server: String,
    pub condition: ServerCondition,
    /// When it reported last.
    pub observed_at_ms: Option<UnixMillis>,
    pub cpu_count: Option<u32>,
    /// Processes that run or wait to, on average over a minute.
    pub load_1m: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub disk_available_bytes: Option<u64>,
    pub disk_total_bytes: Option<u64>,
    pub instances: Option<usize>,
    /// Through its gateway.
    pub requests_per_second: Option<f64>,
    /// Answers with status 500 to 599.
    pub errors_per_second: Option<f64>,
}

/// One service on all machines.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ServiceUsage {
    pub service_id: ServiceId,
    /// `shop/web`
    pub service: String,
    /// 100 is one core; the sum of its instances as far as they are known.
    pub cpu_percent: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub requests_per_second: Option<f64>,
    pub errors_per_second: Option<f64>,
    /// Until the first byte of an answer, on average between the last two reports.
    pub latency_ms: Option<f64>,
    pub instances: Vec<InstanceUsage>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct InstanceUsage {
    pub instance_id: InstanceId,
    pub server: String,
    pub state: Option<api::observed::InstanceState>,
    pub cpu_percent: Option<f64>,
    pub memory_bytes: Option<u64>,
    pub restarts: Option<u32>,
    /// Requests that it has not answered yet; `None` where its server has not reported.
    pub open_requests: Option<u64>,
}

/// The last two reports of each machine.
#[derive(Debug, Default)]
pub struct Reports {
    of: BTreeMap<ServerId, (Option<ObservedState>, ObservedState)>,
}

impl Reports {
    /// Takes what is reported now; whether anything of it is new.
    pub fn take(&mut self, servers: &[ServerView]) -> bool {
        let mut news = false;
        for server in servers {
            let Some(observed) = server.observed.clone() else { continue };
            match self.of.remove(&server.id) {
                Some((before, last)) if last.observed_at_ms == observed.observed_at_ms => {
                    self.of.insert(server.id.clone(), (before, last));
                }
                last => {
                    news = true;
                    self.of.insert(server.id.clone(), (last.map(|(_, last)| last), observed));
                }
            }
        }
        self.of.retain(|id, _| servers.iter().any(|server| server.id == *id));
        news
    }

    /// Whether rates are known of every machine that reports.
    pub fn complete(&self, servers: &[ServerView]) -> bool {
        let online = servers.iter().filter(|server| server.condition == ServerCondition::Online);
        online.into_iter().all(|server| self.of.get(&server.id).is_some_and(|(before, _)| before.is_some()))
    }

    pub fn usage(&self, servers: &[ServerView], services: &[ServiceView], at_ms: UnixMillis) -> Usage {
        let mut services: Vec<ServiceUsage> = services.iter().map(|service| self.of_service(service)).collect();
        services.sort_by(|a, b| a.service.cmp(&b.service));
        let mut servers: Vec<ServerUsage> = servers.iter().map(|server| self.of_server(server)).collect();
        servers.sort_by(|a, b| a.server.cmp(&b.server));
        Usage { at_ms, servers, services }
    }

    fn of_server(&self, server: &ServerView) -> ServerUsage {
        let last = self.of.get(&server.id).map(|(_, last)| last);
        let resources = last.map(|last| &last.resources).filter(|resources| resources.memory_total_bytes > 0);
        let traffic = Traffic::sum(self.traffic(&server.id).into_iter());
        ServerUsage {
            server: server.name.to_string(),
            condition: server.condition,
            observed_at_ms: last.map(|last| last.observed_at_ms),
            cpu_count: resources.map(|r| r.cpu_count),
            load_1m: resources.map(|r| r.load_1m),
            memory_used_bytes: resources.map(|r| r.memory_total_bytes.saturating_sub(r.memory_available_bytes)),
            memory_total_bytes: resources.map(|r| r.memory_total_bytes),
            disk_available_bytes: resources.map(|r| r.disk_available_bytes),
            disk_total_bytes: resources.map(|r| r.disk_total_bytes),
            instances: last.map(|last| last.instances.len()),
            requests_per_second: traffic.as_ref().map(|traffic| traffic.requests),
            errors_per_second: traffic.as_ref().map(|traffic| traffic.errors),
        }
    }

    fn of_service(&self, service: &ServiceView) -> ServiceUsage {
        let instances: Vec<InstanceUsage> = service
            .instances
            .iter()
            .map(|view| self.of_instance(&view.id, &view.server_id, view.server.as_str()))
            .collect();
        let traffic = self.of.keys().filter_map(|server| self.traffic(server)?.remove(&service.id));
        let traffic = Traffic::sum(traffic.map(|traffic| BTreeMap::from([(service.id.clone(), traffic)])));
        ServiceUsage {
            service_id: service.id.clone(),
            service: crate::address::full_name(service),
            cpu_percent: sum(instances.iter().map(|instance| instance.cpu_percent)),
            memory_bytes: instances.iter().filter_map(|instance| instance.memory_bytes).reduce(|a, b| a + b),
            requests_per_second: traffic.as_ref().map(|traffic| traffic.requests),
            errors_per_second: traffic.as_ref().map(|traffic| traffic.errors),
            latency_ms: traffic.as_ref().and_then(Traffic::latency_ms),
            instances,
        }
    }

    fn of_instance(&self, id: &InstanceId, server_id: &ServerId, server: &str) -> InstanceUsage {
        let reports = self.of.get(server_id);
        let seen = reports.and_then(|(_, last)| instance_in(last, id));
        let open = |last: &ObservedState| {
            let open = last.gateway.open.iter().find(|open| open.instance_id == *id);
            open.map_or(0, |open| open.requests)
        };
        InstanceUsage {
            instance_id: id.clone(),
            server: server.to_owned(),
            state: seen.map(|seen| seen.state),
            cpu_percent: reports.and_then(|(before, last)| cpu_percent(before.as_ref()?, last, id)),
            memory_bytes: seen.and_then(|seen| seen.memory_bytes),
            restarts: seen.map(|seen| seen.restarts),
            open_requests: reports.filter(|(_, last)| last.gateway.running).map(|(_, last)| open(last)),
        }
    }

    /// Between the last two reports of a machine, per service; `None` where there are no two.
    fn traffic(&self, server: &ServerId) -> Option<BTreeMap<ServiceId, Traffic>> {
        let (before, last) = self.of.get(server)?;
        let before = before.as_ref()?;
        let passed_s = seconds_between(before, last)?;
        // A gateway that began anew counts from zero: nothing can be said about the time between.
        if before.gateway.pid != last.gateway.pid {
            return None;
        }
        let mut all = BTreeMap::new();
        for now in &last.gateway.services {
            let nothing = ServiceTraffic { requests: 0, errors: 0, latency_sum_micros: 0, ..now.clone() };
            let was = before.gateway.services.iter().find(|was| was.service_id == now.service_id).unwrap_or(&nothing);
            all.insert(now.service_id.clone(), Traffic::between(was, now, passed_s)?);
        }
        Some(all)
    }
}

/// Of one service or several, per second.
#[derive(Debug, Clone, Default)]
struct Traffic {
    requests: f64,
    errors: f64,
    latency_micros: f64,
}

impl Traffic {
    fn between(was: &ServiceTraffic, now: &ServiceTraffic, passed_s: f64) -> Option<Self> {
        let rate = |was: u64, now: u64| Some(now.checked_sub(was)? as f64 / passed_s);
        Some(Self {
            requests: rate(was.requests, now.requests)?,
            errors: rate(was.errors, now.errors)?,
            latency_micros: rate(was.latency_sum_micros, now.latency_sum_micros)?,
        })
    }

    fn sum(parts: impl Iterator<Item = BTreeMap<ServiceId, Self>>) -> Option<Self> {
        let mut parts = parts.peekable();
        parts.peek()?;
        Some(parts.flat_map(BTreeMap::into_values).fold(Self::default(), |a, b| Self {
            requests: a.requests + b.requests,
            errors: a.errors + b.errors,
            latency_micros: a.latency_micros + b.latency_micros,
        }))
    }

    fn latency_ms(&self) -> Option<f64> {
        (self.requests > 0.0).then(|| self.latency_micros / self.requests / 1000.0)
    }
}

fn instance_in<'a>(report: &'a ObservedState, id: &InstanceId) -> Option<&'a InstanceObserved> {
    report.instances.iter().find(|instance| instance.instance_id == *id)
}

fn cpu_percent(before: &ObservedState, last: &ObservedState, id: &InstanceId) -> Option<f64> {
    let (was, now) = (instance_in(before, id)?.cpu_ms?, instance_in(last, id)?.cpu_ms?);
    Some(now.checked_sub(was)? as f64 / seconds_between(before, last)? / 10.0)
}

fn seconds_between(before: &ObservedState, last: &ObservedState) -> Option<f64> {
    let passed_ms = last.observed_at_ms - before.observed_at_ms;
    (passed_ms > 0).then(|| passed_ms as f64 / 1000.0)
}

/// Of what is known; `None` if nothing is.
fn sum(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    figures.flatten().reduce(|a, b| a + b)
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
