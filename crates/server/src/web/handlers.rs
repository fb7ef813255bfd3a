//! Pages that are looked at: each reads its subject and renders it.

use super::builds::BuildFilter;
use super::domains::DomainsPage;
use super::edit::EditPage;
use super::events::EventFilter;
use super::frame::Frame;
use super::history::{Comparison, HistoryPage, REVISIONS_SHOWN};
use super::log_page::{LogPage, LogPlace};
use super::reads::{self, LogQuery};
use super::reference::Reference;
use super::search::{self, SearchPage};
use super::servers::{JoinMade, JoinPage, ServerFilter};
use super::service_list::ServiceListFilter;
use super::settings::SettingsPage;
use super::sign_in::SignInPage;
use super::stacks::PlanPage;
use super::subject::Subject;
use super::tokens::TokensPage;
use super::visitor::{Visitor, anonymous_frame, safe_next};
use crate::actions;
use crate::error::{HttpError, Result};
use crate::extract::{Path, Query};
use crate::log_file::{self, LineForm, LogFile, Words};
use crate::state::AppState;
use crate::views;
use api::metrics::MetricsRange;
use api::tokens::TokenPurpose;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::CONTENT_DISPOSITION;
use axum::response::{IntoResponse, Response};
use maud::Markup;
use serde::Deserialize;
use std::sync::LazyLock;

/// How many stacks a form lets choose from.
const STACKS_OFFERED: u32 = 300;
/// Longest filter over log lines.
const FILTER_LIMIT: usize = 200;

#[derive(Debug, Default, Deserialize)]
pub struct LogFilter {
    #[serde(default)]
    filter: String,
    /// Of the charts.
    #[serde(default)]
    range: String,
}

impl LogFilter {
    /// Another word than those that are offered is the shortest of them.
    fn range(&self) -> MetricsRange {
        self.range.parse().unwrap_or_default()
    }

    fn text(&self) -> String {
        self.filter.chars().take(FILTER_LIMIT).collect()
    }
}

async fn show(state: &AppState, visitor: Visitor, subject: Subject) -> Result<Markup> {
    Ok(subject.read(state, &visitor.caller, true).await?.render(&visitor.frame))
}

pub async fn overview(State(state): State<AppState>, visitor: Visitor) -> Result<Markup> {
    show(&state, visitor, Subject::Overview).await
}

pub async fn services(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(filter): Query<ServiceListFilter>,
) -> Result<Markup> {
    show(&state, visitor, Subject::Services(filter)).await
}

pub async fn stack(State(state): State<AppState>, visitor: Visitor, Path(stack): Path<String>) -> Result<Markup> {
    show(&state, visitor, Subject::Stack(stack)).await
}

pub async fn service(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, service)): Path<(String, String)>,
    Query(query): Query<LogFilter>,
) -> Result<Markup> {
    let (filter, range) = (query.text(), query.range());
    show(&state, visitor, Subject::Service { stack, service, filter, range }).await
}

pub async fn deployment(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(query): Query<LogFilter>,
) -> Result<Markup> {
    show(&state, visitor, Subject::Deployment { id, filter: query.text() }).await
}

pub async fn servers(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(filter): Query<ServerFilter>,
) -> Result<Markup> {
    show(&state, visitor, Subject::Servers(filter)).await
}

pub async fn server(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(server): Path<String>,
    Query(query): Query<LogFilter>,
) -> Result<Markup> {
    show(&state, visitor, Subject::Server { server, range: query.range() }).await
}

pub async fn events(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(filter): Query<EventFilter>,
) -> Result<Markup> {
    show(&state, visitor, Subject::Events(filter)).await
}

/// What deploying the stack's manifest again would change.
pub async fn plan(State(state): State<AppState>, visitor: Visitor, Path(stack): Path<String>) -> Result<Markup> {
    let request = super::forms::plan_request(&state, &visitor.caller, &stack, None).await?;
    let plan = actions::planning::plan(&state, &visitor.caller, &request).await?;
    Ok(PlanPage { plan, edited: None }.render(&visitor.frame))
}

/// The stack's manifest as text, to be changed.
pub async fn edit(State(state): State<AppState>, visitor: Visitor, Path(stack): Path<String>) -> Result<Markup> {
    let found = views::find_stack(&state, visitor.caller.scope(), &stack).await?;
    let text = manifest::without_env_values(&found.manifest).unwrap_or_default();
    Ok(EditPage { stack: found.name, text, problem: None }.render(&visitor.frame))
}

pub async fn builds(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(filter): Query<BuildFilter>,
) -> Result<Markup> {
    show(&state, visitor, Subject::Builds(filter)).await
}

#[derive(Debug, Default, Deserialize)]
pub struct Compared {
    #[serde(default)]
    from: Option<u64>,
    #[serde(default)]
    to: Option<u64>,
}

/// All revisions of a service, and what differs between two of them.
pub async fn revisions(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, service)): Path<(String, String)>,
    Query(compared): Query<Compared>,
) -> Result<Markup> {
    let scope = visitor.caller.scope();
    let comparison = match (compared.from, compared.to) {
        (Some(from), Some(to)) => {
            let differences = views::revision_differences(&state, scope, &stack, &service, from, to).await?;
            Some(Comparison { from, to, differences })
        }
        _ => None,
    };
    let view = views::service(&state, scope, &stack, &service).await?;
    let page = HistoryPage {
        ran: views::revisions_that_ran(&state, scope, &view.id).await?,
        service: view,
        revisions: views::revisions(&state, scope, &stack, &service, REVISIONS_SHOWN).await?,
        comparison,
    };
    Ok(page.render(&visitor.frame))
}

/// All lines of a service's log.
pub async fn logs(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, service)): Path<(String, String)>,
    Query(mut place): Query<LogPlace>,
) -> Result<Markup> {
    place.filter = place.filter.chars().take(FILTER_LIMIT).collect();
    let scope = visitor.caller.scope();
    let (stack, service) = views::find_service(&state, scope, &stack, &service).await?;
    let chosen = place.chosen(service.id)?;
    let found = reads::log_page(&state, scope, &chosen, &place).await?;
    let page = LogPage {
        stack: stack.name,
        service: service.name,
        place,
        records: found.records,
        older_than: found.older_than,
    };
    Ok(page.render(&visitor.frame))
}

/// The whole log of a service as a file, or what the page of it was narrowed to.
pub async fn logs_file(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, service)): Path<(String, String)>,
    Query(place): Query<LogPlace>,
) -> Result<Response> {
    let scope = visitor.caller.scope();
    let (stack, service) = views::find_service(&state, scope, &stack, &service).await?;
    let filter = place.chosen(service.id)?;
    let name = format!("{}-{}.txt", stack.name, service.name);
    download(state, visitor, filter, &place.filter, &name).await
}

/// The whole log of a build as a file.
pub async fn build_log_file(
    State(state): State<AppState>,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(query): Query<LogFilter>,
) -> Result<Response> {
    let deployment = views::deployment(&state, visitor.caller.scope(), &id).await?;
    let filter = LogQuery::Build(deployment.id.clone()).filter(None, 0);
    let name = format!("{}-build-{}.txt", deployment.service, deployment.id.short());
    download(state, visitor, filter, &query.text(), &name).await
}

async fn download(
    state: AppState,
    visitor: Visitor,
    filter: store::LogFilter,
    words: &str,
    name: &str,
) -> Result<Response> {
    let file = LogFile { filter, words: Words::new(words), newest_first: false, form: LineForm::Text };
    let answer = log_file::answer(state, visitor.caller, file).await?;
    Ok(([(CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""))], answer).into_response())
}

pub async fn settings(State(state): State<AppState>, visitor: Visitor) -> Result<Markup> {
    let scope = visitor.caller.scope();
    let options = state.options();
    let place = options.database_url.is_none().then(|| options.directory().join("mainstay.db"));
    let page = SettingsPage {
        organization: state.organization_name().to_owned(),
        database: state.store().dialect_name().to_owned(),
        database_bytes: place.as_ref().and_then(|place| std::fs::metadata(place).ok()).map(|file| file.len()),
        place: place.map(|place| place.display().to_string()),
        disk_low: state.disk.problem(),
        disk_free_bytes: state.disk.free_bytes(),
        public_url: state.public_url(),
        local_sources: options.allow_local_sources,
        security_mode: options.security_mode,
        poll_interval_ms: options.poll_interval_ms,
        schema: store::NEWEST_SCHEMA,
        retention: store::Retention::default(),
        services: state.store().service_count(scope, &Default::default()).await?,
        servers: state.store().server_list(scope).await?.len(),
    };
    Ok(page.render(&visitor.frame))
}

#[derive(Debug, Default, Deserialize)]
pub struct Searched {
    #[serde(default)]
    q: String,
}

pub async fn search(State(state): State<AppState>, visitor: Visitor, Query(asked): Query<Searched>) -> Result<Markup> {
    let hits = search::hits(&state, visitor.caller.scope(), &asked.q).await?;
    let query = asked.q.chars().take(search::QUERY_LIMIT).collect();
    Ok(SearchPage { query, hits }.render(&visitor.frame))
}

/// The hits alone, for the palette.
pub async fn search_hits(
    State(state): State<AppState>,
    visitor: Visitor,
    Query(asked): Query<Searched>,
) -> Result<Markup> {
    Ok(search::list(&search::hits(&state, visitor.caller.scope(), &asked.q).await?))
}

pub async fn join(State(state): State<AppState>, visitor: Visitor) -> Result<Markup> {
    Ok(join_page(&state, &visitor, None).await?.render(&visitor.frame))
}

pub async fn join_page(state: &AppState, visitor: &Visitor, made: Option<JoinMade>) -> Result<JoinPage> {
    Ok(JoinPage { stacks: state.store().stack_names_with(visitor.caller.scope(), "", STACKS_OFFERED).await?, made })
}

pub async fn domains(State(state): State<AppState>, visitor: Visitor) -> Result<Markup> {
    let domains = actions::domains::list(&state, &visitor.caller).await?;
    let settings = actions::domains::settings(&state, &visitor.caller).await?;
    Ok(DomainsPage { domains, settings }.render(&visitor.frame))
}

pub async fn tokens(State(state): State<AppState>, visitor: Visitor) -> Result<Markup> {
    Ok(tokens_page(&state, &visitor).await?.render(&visitor.frame))
}

pub async fn tokens_page(state: &AppState, visitor: &Visitor) -> Result<TokensPage> {
    let tokens = actions::tokens::list(state, &visitor.caller).await?;
    let stacks = tokens.iter().filter_map(|token| match &token.purpose {
        TokenPurpose::Join { stack, .. } => stack.clone(),
        TokenPurpose::Api => None,
    });
    let names =
        reads::names(state, visitor.caller.scope(), stacks.collect(), Default::default(), Default::default()).await?;
    Ok(TokensPage { tokens, names, made: None })
}

#[derive(Debug, Default, Deserialize)]
pub struct Next {
    #[serde(default)]
    next: String,
}

/// The sign-in page; who is signed in already goes on.
pub async fn sign_in(State(state): State<AppState>, Query(query): Query<Next>, request: Request) -> Response {
    let next = safe_next(&query.next).to_owned();
    let (mut parts, _) = request.into_parts();
    if Visitor::from_request_parts(&mut parts, &state).await.is_ok() {
        return super::visitor::redirect(&next, None);
    }
    sign_in_page(&state, String::new(), None, next).render(&anonymous_frame(&parts, &state)).into_response()
}

pub fn sign_in_page(state: &AppState, user: String, problem: Option<String>, next: String) -> SignInPage {
    let password_file = state.initial_password_file().map(|path| path.display().to_string());
    SignInPage { user, problem, password_file, next }
}

/// Made once: the document does not change while the binary runs.
static REFERENCE: LazyLock<Reference> =
    LazyLock::new(|| Reference::new(&serde_json::to_value(crate::router::openapi()).unwrap_or_default()));

/// The frame for whoever reads the reference, signed in or not.
async fn reader(state: &AppState, request: Request) -> Frame {
    let (mut parts, _) = request.into_parts();
    match Visitor::from_request_parts(&mut parts, state).await {
        Ok(visitor) => visitor.frame,
        Err(_) => anonymous_frame(&parts, state),
    }
}

pub async fn docs(State(state): State<AppState>, request: Request) -> Markup {
    REFERENCE.index(&reader(&state, request).await)
}

pub async fn docs_endpoint(
    State(state): State<AppState>,
    Path(slug): Path<String>,
    request: Request,
) -> Result<Markup> {
    let operation = REFERENCE
        .operation(&slug)
        .ok_or_else(|| HttpError::not_found("endpoint", &slug).help("GET /docs lists what there is"))?;
    Ok(REFERENCE.endpoint(operation, &reader(&state, request).await))
}

pub async fn docs_schema(State(state): State<AppState>, Path(name): Path<String>, request: Request) -> Result<Markup> {
    let schema = REFERENCE
        .schemas
        .get(&name)
        .ok_or_else(|| HttpError::not_found("schema", &name).help("GET /docs lists what there is"))?;
    Ok(REFERENCE.schemas.page(&name, schema, &reader(&state, request).await))
}
