//! What a page is about, and reading all that it shows through the API's own views.
//!
//! A page and its live stream read the same subject with the same function, so they cannot differ.

use super::deployments::DeploymentPage;
use super::events::{EventFilter, EventsPage, PAGE_SIZE};
use super::frame::{Fragment, Frame};
use super::names::Names;
use super::overview::{EVENTS_SHOWN, OverviewPage};
use super::reads::{self, EventQuery, LogQuery};
use super::servers::{Arrival, ServerPage, ServersPage};
use super::services::ServicePage;
use super::stacks::StackPage;
use crate::actions;
use crate::auth::Caller;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use crate::views;
use api::events::{EventLevel, EventRecord};
use api::gateway::ServiceTraffic;
use api::ids::{ServiceId, TokenId};
use api::servers::ServerView;
use maud::Markup;

/// How many revisions and deployments a service's page lists.
const HISTORY: u32 = 8;

/// What a page or a stream is about.
#[derive(Debug, Clone)]
pub enum Subject {
    Overview,
    Stack(String),
    Service {
        stack: String,
        service: String,
        filter: String,
    },
    Deployment {
        id: String,
        filter: String,
    },
    Servers,
    Server(String),
    Events(EventFilter),
    /// A machine that was told to join with this token.
    Join(TokenId),
}

/// Everything that the page of a subject shows.
pub enum Page {
    Overview(OverviewPage),
    Stack(StackPage),
    Service(Box<ServicePage>),
    Deployment(Box<DeploymentPage>),
    Servers(ServersPage),
    Server(Box<ServerPage>),
    Events(EventsPage),
    Join(Box<Arrival>),
}

impl Page {
    pub fn render(&self, frame: &Frame) -> Markup {
        match self {
            Self::Overview(page) => page.render(frame),
            Self::Stack(page) => page.render(frame),
            Self::Service(page) => page.render(frame),
            Self::Deployment(page) => page.render(frame),
            Self::Servers(page) => page.render(frame),
            Self::Server(page) => page.render(frame),
            Self::Events(page) => page.render(frame),
            Self::Join(arrival) => arrival.state(frame),
        }
    }

    /// The parts that the live stream sends again when they change.
    pub fn fragments(&self, frame: &Frame) -> Vec<Fragment> {
        match self {
            Self::Overview(page) => page.fragments(frame),
            Self::Stack(page) => page.fragments(frame),
            Self::Service(page) => page.fragments(frame),
            Self::Deployment(page) => page.fragments(frame),
            Self::Servers(page) => page.fragments(frame),
            Self::Server(page) => page.fragments(frame),
            Self::Events(page) => page.fragments(frame),
            Self::Join(arrival) => arrival.fragments(frame),
        }
    }

    /// The log that the page follows, and whether its lines name their instance.
    pub fn log(&self) -> Option<(LogQuery, bool)> {
        match self {
            Self::Service(page) => Some((LogQuery::Service(page.service.id.clone()), true)),
            Self::Deployment(page) => Some((LogQuery::Build(page.deployment.id.clone()), false)),
            _ => None,
        }
    }
}

impl Subject {
    /// Reads the page. `with_log`: also the tail of its log, which a stream does not need.
    pub async fn read(&self, state: &AppState, caller: &Caller, with_log: bool) -> Result<Page> {
        let scope = caller.scope();
        Ok(match self {
            Self::Overview => Page::Overview(OverviewPage {
                stacks: views::stacks(state, scope).await?,
                servers: views::servers(state, scope).await?,
                events: noteworthy(reads::latest_events(state, scope, &EventQuery::default(), None, PAGE_SIZE).await?),
            }),
            Self::Stack(stack) => Page::Stack(StackPage { stack: views::stack(state, scope, stack).await? }),
            Self::Service { stack, service, filter } => {
                Page::Service(Box::new(read_service(state, caller, stack, service, filter, with_log).await?))
            }
            Self::Deployment { id, filter } => {
                Page::Deployment(Box::new(read_deployment(state, caller, id, filter, with_log).await?))
            }
            Self::Servers => Page::Servers(ServersPage { servers: views::servers(state, scope).await? }),
            Self::Server(server) => Page::Server(Box::new(ServerPage {
                server: views::server(state, scope, server).await?,
                names: Names::of(&views::stacks(state, scope).await?, &[]),
            })),
            Self::Events(filter) => Page::Events(read_events(state, caller, filter).await?),
            Self::Join(id) => Page::Join(Box::new(read_arrival(state, caller, id).await?)),
        })
    }
}

/// What a person wants to know first: not that documents travelled and were compared.
fn noteworthy(mut events: Vec<EventRecord>) -> Vec<EventRecord> {
    use api::events::EventKind::{ConfigApplied, ConfigReceived, DnsChanged, RoutesChanged};
    let ordinary = [ConfigApplied, ConfigReceived, DnsChanged, RoutesChanged];
    events.retain(|record| record.event.level > EventLevel::Info || !ordinary.contains(&record.event.kind));
    events.truncate(EVENTS_SHOWN);
    events
}

async fn read_service(
    state: &AppState,
    caller: &Caller,
    stack: &str,
    service: &str,
    filter: &str,
    with_log: bool,
) -> Result<ServicePage> {
    let scope = caller.scope();
    let view = views::service(state, scope, stack, service).await?;
    let logs = if with_log {
        reads::log_tail(state, scope, &LogQuery::Service(view.id.clone()), filter).await?
    } else {
        Vec::new()
    };
    Ok(ServicePage {
        revisions: views::revisions(state, scope, stack, service, HISTORY).await?,
        deployments: views::deployments(state, scope, stack, service, HISTORY).await?,
        env: actions::env::list(state, caller, stack, service, false).await?,
        logs,
        filter: filter.to_owned(),
        traffic: traffic(&views::servers(state, scope).await?, &view.id),
        service: view,
    })
}

/// Counters of all gateways together.
fn traffic(servers: &[ServerView], service_id: &ServiceId) -> Option<ServiceTraffic> {
    let all =
        servers.iter().filter_map(|server| server.observed.as_ref()).flat_map(|observed| &observed.gateway.services);
    all.filter(|one| &one.service_id == service_id).cloned().reduce(|sum, one| ServiceTraffic {
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
    let stack = views::stack(state, scope, deployment.stack_id.as_str()).await;
    let query = EventQuery { deployment_id: Some(deployment.id.clone()), ..EventQuery::default() };
    Ok(DeploymentPage {
        // The deployment outlives its stack; then the id has to do.
        stack: stack.map(|stack| stack.name.to_string()).unwrap_or_else(|_| deployment.stack_id.to_string()),
        events: reads::latest_events(state, scope, &query, None, PAGE_SIZE).await?,
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
    let (stacks, servers) = (views::stacks(state, scope).await?, views::servers(state, scope).await?);
    let page = |events, more| EventsPage {
        filter: filter.clone(),
        events,
        more,
        names: Names::of(&stacks, &servers),
        stacks: stacks.iter().map(|stack| stack.name.to_string()).collect(),
        servers: servers.iter().map(|server| server.name.to_string()).collect(),
    };
    let mut query = EventQuery { lowest_level: filter.lowest_level(), ..EventQuery::default() };
    if !filter.stack.is_empty() {
        let Some(stack) = stacks.iter().find(|stack| stack.name.as_str() == filter.stack) else {
            return Ok(page(Vec::new(), false));
        };
        query.stack_id = Some(stack.id.clone());
    }
    if !filter.server.is_empty() {
        let Some(server) = servers.iter().find(|server| server.name.as_str() == filter.server) else {
            return Ok(page(Vec::new(), false));
        };
        query.server_id = Some(server.id.clone());
    }
    if !filter.service.is_empty() {
        let mut candidates = stacks
            .iter()
            .filter(|stack| filter.stack.is_empty() || stack.name.as_str() == filter.stack)
            .flat_map(|stack| &stack.services);
        let Some(service) = candidates.find(|service| service.name.as_str() == filter.service) else {
            return Ok(page(Vec::new(), false));
        };
        query.service_id = Some(service.id.clone());
    }
    let mut events = reads::latest_events(state, scope, &query, filter.before, PAGE_SIZE + 1).await?;
    let more = events.len() > PAGE_SIZE;
    events.truncate(PAGE_SIZE);
    Ok(page(events, more))
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
