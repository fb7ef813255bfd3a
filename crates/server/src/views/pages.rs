//! Services where there are very many: a page of them, and how many there are in which condition.
//!
//! Names, order and cut are the database's. The condition of a service is not in the database: it follows from
//! what its machines last reported, which is in memory. So a page of one condition looks at the services in the
//! database's order, some hundreds at a time and with few columns each, until it is full; only the services
//! that it shows are read whole.

use super::conditions::{self, Part};
use super::rows::Rows;
use crate::error::Result;
use crate::state::AppState;
use api::ids::{InstanceId, ServerId, ServiceId, StackId};
use api::observed::{InstanceState, ObservedState};
use api::services::{ServiceCondition, ServiceView};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use store::{Instance, Scope, Service, ServiceCursor, ServiceFilter};

/// How many services are looked at together while looking for those of a condition.
const LOOKED_AT_ONCE: u32 = 500;

/// Which services, and which page of them.
#[derive(Debug, Clone, Default)]
pub struct ServiceQuery {
    pub filter: ServiceFilter,
    pub condition: Option<ServiceCondition>,
    pub cursor: Option<ServiceCursor>,
    pub limit: u32,
}

/// A page of services, ordered by the name of their stack and their own.
#[derive(Debug, Clone, Default)]
pub struct ServicePage {
    pub services: Vec<ServiceView>,
    /// How many the filter lets through on all pages; not known of one condition.
    pub total: Option<u64>,
    /// Whether there are more in the direction in which it was read.
    pub more: bool,
}

/// How many services there are in which condition, and those to be shown first.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub services: usize,
    pub stacks: u64,
    pub running: usize,
    pub deploying: usize,
    pub degraded: usize,
    pub down: usize,
    pub stopped: usize,
    pub unknown: usize,
    /// What needs attention, then what moves, then the rest; as many as were asked for.
    pub first: Vec<ServiceView>,
}

impl Tally {
    /// How many need attention.
    pub fn troubled(&self) -> usize {
        self.degraded + self.down + self.unknown
    }

    fn count(&mut self, condition: ServiceCondition) {
        self.services += 1;
        *match condition {
            ServiceCondition::Running => &mut self.running,
            ServiceCondition::Deploying => &mut self.deploying,
            ServiceCondition::Degraded => &mut self.degraded,
            ServiceCondition::Down => &mut self.down,
            ServiceCondition::Stopped => &mut self.stopped,
            ServiceCondition::Unknown => &mut self.unknown,
        } += 1;
    }
}

/// What is looked at first.
fn urgency(condition: ServiceCondition) -> u8 {
    match condition {
        ServiceCondition::Down => 0,
        ServiceCondition::Unknown => 1,
        ServiceCondition::Degraded => 2,
        ServiceCondition::Deploying => 3,
        ServiceCondition::Running => 4,
        ServiceCondition::Stopped => 5,
    }
}

pub async fn service_page(state: &AppState, scope: &Scope, query: &ServiceQuery) -> Result<ServicePage> {
    let store = state.store();
    let limit = query.limit.max(1);
    let backwards = matches!(query.cursor, Some(ServiceCursor::Before(..)));
    let (mut found, total) = match query.condition {
        None => {
            let page = store.service_page(scope, &query.filter, query.cursor.as_ref(), limit + 1).await?;
            let found: Vec<Service> = page.into_iter().map(|(_, service)| service).collect();
            (found, Some(store.service_count(scope, &query.filter).await?))
        }
        Some(condition) => (those_in(state, scope, query, condition, limit as usize + 1).await?, None),
    };
    let more = found.len() > limit as usize;
    if more && backwards {
        found.remove(0);
    }
    found.truncate(limit as usize);
    Ok(ServicePage { services: whole(state, scope, found).await?, total, more })
}

/// The services of one condition, `wanted` at most, nearest to the cursor, in their order.
async fn those_in(
    state: &AppState,
    scope: &Scope,
    query: &ServiceQuery,
    condition: ServiceCondition,
    wanted: usize,
) -> Result<Vec<Service>> {
    let backwards = matches!(query.cursor, Some(ServiceCursor::Before(..)));
    let servers = Servers::read(state, scope).await?;
    let in_flight = state.store().service_ids_in_flight(scope).await?;
    let mut cursor = query.cursor.clone();
    let mut found = Vec::new();
    loop {
        let page = state.store().service_page(scope, &query.filter, cursor.as_ref(), LOOKED_AT_ONCE).await?;
        let end = if backwards { page.first() } else { page.last() };
        let Some((stack, service)) = end else { break };
        let place = (stack.clone(), service.name.to_string());
        cursor = Some(if backwards {
            ServiceCursor::Before(place.0, place.1)
        } else {
            ServiceCursor::After(place.0, place.1)
        });
        let last = page.len() < LOOKED_AT_ONCE as usize;
        let services: Vec<Service> = page.into_iter().map(|(_, service)| service).collect();
        let instances = state.store().instance_list_of_services(scope, services.iter().map(|s| &s.id)).await?;
        let conditions = servers.conditions(&services, &instances, &in_flight);
        let fitting = services.into_iter().zip(conditions).filter(|(_, one)| *one == condition).map(|(s, _)| s);
        if backwards {
            found.splice(0..0, fitting);
        } else {
            found.extend(fitting);
        }
        if last || found.len() >= wanted {
            break;
        }
    }
    let beyond = found.len().saturating_sub(wanted);
    if backwards {
        found.drain(..beyond);
    } else {
        found.truncate(wanted);
    }
    Ok(found)
}

/// Counts all services by their condition; `show`: how many are read whole.
pub async fn tally(state: &AppState, scope: &Scope, show: usize) -> Result<Tally> {
    let store = state.store();
    let services = store.service_list(scope, None).await?;
    let instances = store.instance_list(scope).await?;
    let in_flight = store.service_ids_in_flight(scope).await?;
    let conditions = Servers::read(state, scope).await?.conditions(&services, &instances, &in_flight);
    let mut tally = Tally { stacks: store.stack_count(scope).await?, ..Tally::default() };
    conditions.iter().for_each(|condition| tally.count(*condition));
    let mut order: Vec<(ServiceCondition, Service)> = conditions.into_iter().zip(services).collect();
    order.sort_by_key(|(condition, _)| urgency(*condition));
    order.truncate(show);
    tally.first = whole(state, scope, order.into_iter().map(|(_, service)| service).collect()).await?;
    Ok(tally)
}

/// Their views, in the same order.
async fn whole(state: &AppState, scope: &Scope, services: Vec<Service>) -> Result<Vec<ServiceView>> {
    let ids: BTreeSet<&StackId> = services.iter().map(|service| &service.stack_id).collect();
    let stacks = state.store().stack_list_of(scope, ids).await?;
    let rows = Rows::of(state, scope, stacks, services).await?;
    Ok(rows.services.iter().filter_map(|service| rows.service_view(service)).collect())
}

/// What is known of the machines, for a look at many services.
struct Servers {
    online: HashSet<ServerId>,
    reports: Vec<Arc<ObservedState>>,
}

impl Servers {
    async fn read(state: &AppState, scope: &Scope) -> Result<Self> {
        let servers = state.store().server_list(scope).await?;
        let reports = servers.iter().filter_map(|server| state.heard(&server.id)?.observed).collect();
        Ok(Self { online: servers.into_iter().filter(|s| s.online).map(|s| s.id).collect(), reports })
    }

    /// One word for each of the services, in their order.
    fn conditions(
        &self,
        services: &[Service],
        instances: &[Instance],
        in_flight: &BTreeSet<ServiceId>,
    ) -> Vec<ServiceCondition> {
        let seen = self.reports.iter().flat_map(|report| &report.instances);
        let healthy: HashSet<&InstanceId> =
            seen.filter(|seen| seen.state == InstanceState::Healthy).map(|seen| &seen.instance_id).collect();
        let mut parts: BTreeMap<&ServiceId, Vec<Part<'_>>> = BTreeMap::new();
        for instance in instances {
            parts.entry(&instance.service_id).or_default().push(Part {
                revision_id: &instance.revision_id,
                traffic: instance.traffic,
                healthy: healthy.contains(&instance.id),
                online: self.online.contains(&instance.server_id),
            });
        }
        let own = |service: &Service| parts.get(&service.id).into_iter().flatten().copied();
        services.iter().map(|s| conditions::of_service(s, in_flight.contains(&s.id), own(s))).collect()
    }
}
