//! What a page is about, and reading all that it shows through the API's own views.
//!
//! A page and its live stream read the same subject with the same function, so they cannot differ.

use super::builds::{self, Build, BuildFilter, BuildsPage, build_of};
use super::deployments::DeploymentPage;
use super::events::{EventFilter, EventsPage, PAGE_SIZE};
use super::frame::{Fragment, Frame};
use super::logs::LineShape;
use super::map::SERVERS_SHOWN;
use super::overview::{EVENTS_SHOWN, OverviewPage, SERVICES_SHOWN};
use super::reads::{self, LogQuery};
use super::servers::{Arrival, SERVERS_LISTED, ServerFilter, ServerPage, ServersPage};
use super::service_list::{self, ServiceListFilter, ServiceListPage};
use super::services::ServicePage;
use super::stacks::StackPage;
use crate::actions;
use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use crate::views::{self, ServicePage as ServicePageView, ServiceQuery};
use api::cause::Actor;
use api::deployments::DeploymentKind;
use api::events::{EventLevel, EventRecord, EventTopic};
use api::gateway::ServiceTraffic;
use api::ids::{DeploymentId, ServerId, TokenId};
use api::metrics::MetricsRange;
use api::services::ServiceView;
use maud::Markup;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use store::{Scope, Server, ServiceFilter};

/// How many revisions and deployments a service's page lists.
const HISTORY: u32 = 8;

/// What a page or a stream is about.
#[derive(Debug, Clone)]
pub enum Subject {
    Overview,
    Services(ServiceListFilter),
    Stack(String),
    Service {
        stack: String,
        service: String,
        filter: String,
        /// Of its charts.
        range: MetricsRange,
    },
    Deployment {
        id: String,
        filter: String,
    },
    Servers(ServerFilter),
    Server {
        server: String,
        range: MetricsRange,
    },
    Events(EventFilter),
    Builds(BuildFilter),
    /// A machine that was told to join with this token.
    Join(TokenId),
}

/// Everything that the page of a subject shows.
pub enum Page {
    Overview(Box<OverviewPage>),
    Services(Box<ServiceListPage>),
    Stack(StackPage),
    Service(Box<ServicePage>),
    Deployment(Box<DeploymentPage>),
    Servers(ServersPage),
    Server(Box<ServerPage>),
    Events(Box<EventsPage>),
    Builds(BuildsPage),
    Join(Box<Arrival>),
}

impl Page {
    pub fn render(&self, frame: &Frame) -> Markup {
        match self {
            Self::Overview(page) => page.render(frame),
            Self::Services(page) => page.render(frame),
            Self::Stack(page) => page.render(frame),
            Self::Service(page) => page.render(frame),
            Self::Deployment(page) => page.render(frame),
            Self::Servers(page) => page.render(frame),
            Self::Server(page) => page.render(frame),
            Self::Events(page) => page.render(frame),
            Self::Builds(page) => page.render(frame),
            Self::Join(arrival) => arrival.state(frame),
        }
    }

    /// The parts that the live stream sends again when they change.
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        match self {
            Self::Overview(page) => page.fragments(frame),
            Self::Services(page) => page.fragments(frame),
            Self::Stack(page) => page.fragments(frame),
            Self::Service(page) => page.fragments(frame),
            Self::Deployment(page) => page.fragments(frame),
            Self::Servers(page) => page.fragments(frame),
            Self::Server(page) => page.fragments(frame),
            Self::Events(page) => page.fragments(frame),
            Self::Builds(page) => page.fragments(frame),
            Self::Join(arrival) => arrival.fragments(frame),
        }
    }

    /// The log that the page follows, and the shape of its lines there.
    pub fn log(&self) -> Option<(LogQuery, LineShape)> {
        match self {
            Self::Service(page) => Some((LogQuery::Service(page.service.id.clone()), page.line_shape())),
            Self::Deployment(page) => Some((LogQuery::Build(page.deployment.id.clone()), LineShape::default())),
            _ => None,
        }
    }
}

impl Subject {
    /// Reads the page. `with_log`: also the tail of its log, which a stream does not need.
    pub async fn read(&self, state: &AppState, caller: &Caller, with_log: bool) -> Result<Page> {
        let scope = caller.scope();
        Ok(match self {
            Self::Overview => Page::Overview(Box::new(read_overview(state, scope).await?)),
            Self::Services(filter) => Page::Services(Box::new(read_services(state, scope, filter).await?)),
            Self::Stack(stack) => Page::Stack(StackPage { stack: views::stack(state, scope, stack).await? }),
            Self::Service { stack, service, filter, range } => {
                Page::Service(Box::new(read_service(state, caller, stack, service, (filter, *range), with_log).await?))
            }
            Self::Deployment { id, filter } => {
                Page::Deployment(Box::new(read_deployment(state, caller, id, filter, with_log).await?))
            }
            Self::Servers(filter) => {
                let wanted = |server: &Server| server.name.as_str().contains(filter.search.trim());
                let servers = views::servers_first(state, scope, SERVERS_LISTED, wanted, |_| false).await?;
                Page::Servers(ServersPage { filter: filter.clone(), servers })
            }
            Self::Server { server, range } => Page::Server(Box::new(read_server(state, scope, server, *range).await?)),
            Self::Events(filter) => Page::Events(Box::new(read_events(state, caller, filter).await?)),
            Self::Builds(filter) => Page::Builds(read_builds(state, scope, filter).await?),
            Self::Join(id) => Page::Join(Box::new(read_arrival(state, caller, id).await?)),
        })
    }
}

/// What a person wants to know first: not that documents travelled and were compared.
fn noteworthy(mut events: Vec<EventRecord>) -> Vec<EventRecord> {
    use api::events::EventKind::{
        ConfigApplied, ConfigReceived, DeploymentCreated, DeploymentStageChanged, DnsChanged, RoutesChanged,
    };
    let ordinary = [ConfigApplied, ConfigReceived, DnsChanged, RoutesChanged];
    events.retain(|record| record.event.level > EventLevel::Info || !ordinary.contains(&record.event.kind));
    // Of the many steps of one deployment the newest is news.
    let mut told = HashSet::new();
    events.retain(|record| {
        let step = record.event.kind == DeploymentStageChanged || record.event.kind == DeploymentCreated;
        !step || record.event.deployment_id.as_ref().is_none_or(|id| told.insert(id.clone()))
    });
    events.truncate(EVENTS_SHOWN);
    events
}

/// How many names a filter offers to choose from.
const NAMES_OFFERED: u32 = 100;
/// How many deployments are read at once while looking for builds.
const BUILDS_AT_ONCE: u32 = 100;

async fn read_overview(state: &AppState, scope: &Scope) -> Result<OverviewPage> {
    let found = reads::latest_events(state, scope, Default::default(), "", PAGE_SIZE).await?;
    let events = noteworthy(found.records);
    let tally = views::tally(state, scope, SERVICES_SHOWN).await?;
    let few = tally.services <= SERVICES_SHOWN;
    let stacks = if few { views::stacks(state, scope).await? } else { Vec::new() };
    let in_stacks = stacks.iter().flat_map(|stack| &stack.services);
    let holders: HashSet<ServerId> = in_stacks
        .chain(&tally.first)
        .flat_map(|service| service.instances.iter().map(|instance| instance.server_id.clone()))
        .collect();
    Ok(OverviewPage {
        servers: views::servers_first(state, scope, SERVERS_SHOWN, |_| true, |id| holders.contains(id)).await?,
        names: reads::names_of_events(state, scope, &events).await?,
        tally,
        stacks,
        events,
    })
}

async fn read_services(state: &AppState, scope: &Scope, filter: &ServiceListFilter) -> Result<ServiceListPage> {
    let stacks = state.store().stack_names_with(scope, "", NAMES_OFFERED).await?;
    let nothing = ServiceListPage { filter: filter.clone(), found: ServicePageView::default(), stacks };
    let stack_id = match filter.stack.as_str() {
        "" => None,
        name => match views::find_stack(state, scope, name).await {
            Ok(stack) => Some(stack.id),
            Err(error) if error.is_not_found() => return Ok(nothing),
            Err(error) => return Err(error),
        },
    };
    let query = ServiceQuery {
        filter: ServiceFilter { stack_id, text: filter.search.trim().to_owned() },
        condition: filter.condition(),
        cursor: filter.cursor(),
        limit: service_list::PAGE_SIZE,
    };
    Ok(ServiceListPage { found: views::service_page(state, scope, &query).await?, ..nothing })
}

async fn read_server(state: &AppState, scope: &Scope, key: &str, range: MetricsRange) -> Result<ServerPage> {
    let server = views::server(state, scope, key).await?;
    let instances = server.observed.iter().flat_map(|observed| &observed.instances);
    let services = instances.map(|instance| &instance.service_id).collect();
    let names = reads::names(state, scope, BTreeSet::new(), services, BTreeSet::new()).await?;
    let metrics = crate::metrics::server_by_id(state, scope, server.id.clone(), range).await?;
    Ok(ServerPage { names, metrics, server })
}

async fn read_service(
    state: &AppState,
    caller: &Caller,
    stack: &str,
    service: &str,
    (filter, range): (&str, MetricsRange),
    with_log: bool,
) -> Result<ServicePage> {
    let scope = caller.scope();
    let view = views::service(state, scope, stack, service).await?;
    let logs = if with_log {
        reads::log_tail(state, scope, &LogQuery::Service(view.id.clone()), filter).await?
    } else {
        Vec::new()
    };
    // Read once, for what ran and for the newest of them, which are shown.
    let mut deployments = views::deployments(state, scope, stack, service, views::DEPLOYMENTS_KEPT).await?;
    let ran = views::numbers_that_ran(&deployments);
    deployments.truncate(HISTORY as usize);
    Ok(ServicePage {
        revisions: views::revisions(state, scope, stack, service, HISTORY).await?,
        ran,
        deployments,
        env: actions::env::list(state, caller, stack, service, false).await?,
        logs,
        filter: filter.to_owned(),
        traffic: traffic(state, &view),
        metrics: crate::metrics::service_by_id(state, scope, view.id.clone(), range).await?,
        service: view,
    })
}

/// Counters of the gateways that send to it, together.
fn traffic(state: &AppState, service: &ServiceView) -> Option<ServiceTraffic> {
    let holders: BTreeSet<&ServerId> = service.instances.iter().map(|instance| &instance.server_id).collect();
    let reports = holders.into_iter().filter_map(|id| state.heard(id)?.observed);
    let own =
        reports.filter_map(|report| report.gateway.services.iter().find(|one| one.service_id == service.id).cloned());
    own.reduce(|sum, one| ServiceTraffic {
        requests: sum.requests.saturating_add(one.requests),
        errors: sum.errors.saturating_add(one.errors),
        latency_sum_micros: sum.latency_sum_micros.saturating_add(one.latency_sum_micros),
        ..sum
    })
}

async fn read_deployment(
    state: &AppState,
    caller: &Caller,
    id: &str,
    filter: &str,
    with_log: bool,
) -> Result<DeploymentPage> {
    let scope = caller.scope();
    let deployment = views::deployment(state, scope, id).await?;
    let stack = views::find_stack(state, scope, deployment.stack_id.as_str()).await;
    let query = store::EventFilter { deployment_id: Some(deployment.id.clone()), ..Default::default() };
    Ok(DeploymentPage {
        // The deployment outlives its stack; then the id has to do.
        stack: stack.map(|stack| stack.name.to_string()).unwrap_or_else(|_| deployment.stack_id.to_string()),
        events: reads::latest_events(state, scope, query, "", PAGE_SIZE).await?.records,
        logs: if with_log {
            reads::log_tail(state, scope, &LogQuery::Build(deployment.id.clone()), filter).await?
        } else {
            Vec::new()
        },
        filter: filter.to_owned(),
        deployment,
    })
}

async fn read_events(state: &AppState, caller: &Caller, filter: &EventFilter) -> Result<EventsPage> {
    let scope = caller.scope();
    let mut page = EventsPage {
        filter: filter.clone(),
        events: Vec::new(),
        older_than: None,
        names: Default::default(),
        deployments: BTreeMap::new(),
        stacks: state.store().stack_names_with(scope, "", NAMES_OFFERED).await?,
        servers: state.store().server_names_with(scope, "", NAMES_OFFERED).await?,
    };
    let asked = match event_filter(state, scope, filter).await {
        Ok(asked) => asked,
        // A filter by something that is not there lets nothing through.
        Err(error) if error.is_not_found() => return Ok(page),
        Err(error) => return Err(error),
    };
    let found = reads::latest_events(state, scope, asked, filter.text.trim(), PAGE_SIZE).await?;
    let ids: BTreeSet<&DeploymentId> = found.records.iter().filter_map(|r| r.event.deployment_id.as_ref()).collect();
    let deployments = state.store().deployment_list_of(scope, ids).await?;
    page.deployments = deployments.into_iter().map(|deployment| (deployment.id.clone(), deployment)).collect();
    page.names = reads::names_of_events(state, scope, &found.records).await?;
    page.events = found.records;
    page.older_than = found.older_than;
    Ok(page)
}

/// Deployments of a kind that builds nothing are passed over, a bounded number of them.
async fn read_builds(state: &AppState, scope: &Scope, filter: &BuildFilter) -> Result<BuildsPage> {
    const READS: usize = 5;
    let mut before: Option<DeploymentId> = filter.before.parse().ok();
    let (mut found, mut older_than) = (Vec::new(), None);
    for _ in 0..READS {
        let read = state.store().deployment_list_latest(scope, before.as_ref(), BUILDS_AT_ONCE).await?;
        let more = read.len() >= BUILDS_AT_ONCE as usize;
        before = read.last().map(|deployment| deployment.id.clone());
        older_than = before.clone().filter(|_| more);
        found.extend(read.into_iter().filter(|d| d.kind == DeploymentKind::Deploy && build_of(d) != Build::Ended));
        if found.len() > builds::PAGE_SIZE || !more {
            break;
        }
    }
    if found.len() > builds::PAGE_SIZE {
        found.truncate(builds::PAGE_SIZE);
        older_than = found.last().map(|deployment| deployment.id.clone());
    }
    let services = found.iter().map(|deployment| &deployment.service_id).collect();
    let names = reads::names(state, scope, BTreeSet::new(), services, BTreeSet::new()).await?;
    let older_than = older_than.map(|id| id.to_string());
    Ok(BuildsPage { filter: filter.clone(), builds: found, older_than, names })
}

async fn event_filter(state: &AppState, scope: &Scope, filter: &EventFilter) -> Result<store::EventFilter> {
    let mut found = store::EventFilter {
        before: filter.before,
        kinds: EventTopic::kinds_wanted(filter.topic.parse().ok(), None),
        lowest_level: Some(filter.lowest_level()),
        people: Some(filter.by.trim()).filter(|name| !name.is_empty()).map(Actor::people_named),
        ..store::EventFilter::default()
    };
    if !filter.request.is_empty() {
        found.request_id = Some(views::parse("request", filter.request.trim())?);
    }
    // A service may be written with its stack, as it is everywhere else.
    let (stack, service) = match filter.service.split_once('/') {
        Some((stack, service)) => (stack, service),
        None => (filter.stack.as_str(), filter.service.as_str()),
    };
    if !stack.is_empty() {
        found.stack_id = Some(views::find_stack(state, scope, stack).await?.id);
    }
    if !filter.server.is_empty() {
        found.server_id = Some(views::find_server(state, scope, &filter.server).await?.id);
    }
    if !service.is_empty() {
        let stack = Some(stack).filter(|stack| !stack.is_empty());
        found.service_id = Some(views::find_service_anywhere(state, scope, stack, service).await?.id);
    }
    Ok(found)
}

/// The token, and the machine that joined after it was made.
async fn read_arrival(state: &AppState, caller: &Caller, id: &TokenId) -> Result<Arrival> {
    let tokens = actions::tokens::list(state, caller).await?;
    let token =
        tokens.into_iter().find(|token| &token.id == id).ok_or_else(|| HttpError::not_found("token", id.as_str()))?;
    let used_at_ms = token.used_at_ms;
    let servers = views::servers(state, caller.scope()).await?;
    let server = used_at_ms.and_then(|used| servers.into_iter().find(|server| server.registered_at_ms == used));
    Ok(Arrival { token, server })
}
