//! Every call of the API, one method each, in the order of the address space.

use crate::client::{Call, Client, SLOW_REQUEST_TIMEOUT};
use crate::error::ClientError;
use crate::follow::Follow;
use crate::lines::Lines;
use api::deployments::{Deployment, RollbackRequest};
use api::desired::{CredentialRequest, CredentialView};
use api::domains::{AcmeSettings, CertificateRequest, DomainView};
use api::events::{EventKind, EventLevel, EventRecord, EventTopic};
use api::ids::{DeploymentId, InstanceId, RequestId, TokenId};
use api::logs::LogRecord;
use api::metrics::{MetricsRange, ServerMetrics, ServiceMetrics};
use api::plans::{DeployAnswer, DeployRequest, PlanRequest, StackPlan};
use api::servers::{AcceptRestoreRequest, ServerView};
use api::services::{EnvPatch, EnvVariable, Revision, ScaleRequest, ServiceView};
use api::stacks::StackView;
use api::tls::CertificateName;
use api::tokens::{Info, SignInRequest, TokenCreated, TokenRequest, TokenView};
use reqwest::Method;
use serde::de::DeserializeOwned;

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct EventQuery {
    /// Only those after this sequence number.
    pub after: Option<i64>,
    /// Only those before this sequence number.
    pub before: Option<i64>,
    /// At most so many, the newest; [`EVENTS_AT_ONCE`] are answered at most.
    pub limit: Option<u32>,
    pub stack: Option<String>,
    pub service: Option<String>,
    pub deployment: Option<DeploymentId>,
    pub server: Option<String>,
    pub about: Option<EventTopic>,
    pub kind: Option<EventKind>,
    /// This level and worse.
    pub level: Option<EventLevel>,
    /// Who asked: a name, or the label of an actor.
    pub by: Option<String>,
    pub request: Option<RequestId>,
}

/// How many of each one answer holds.
pub const EVENTS_AT_ONCE: u32 = 1_000;
const STACKS_AT_ONCE: u32 = 50;
const SERVICES_AT_ONCE: u32 = 500;
const SERVERS_AT_ONCE: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    Build,
    Run,
}

/// Which log lines.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    pub stack: Option<String>,
    pub service: Option<String>,
    pub deployment: Option<DeploymentId>,
    pub instance: Option<InstanceId>,
    pub kind: Option<LogKind>,
    /// Only those after this sequence number.
    pub after: Option<i64>,
    /// The last so many.
    pub tail: Option<u32>,
}

/// Which lines of all that are kept.
#[derive(Debug, Clone, Default)]
pub struct LogFileQuery {
    /// Whose; its places and its number say nothing here.
    pub of: LogQuery,
    pub since_ms: Option<i64>,
    pub until_ms: Option<i64>,
    /// Only lines that hold this, in any case.
    pub search: Option<String>,
}

type Pairs = Vec<(&'static str, String)>;

fn push(pairs: &mut Pairs, key: &'static str, value: Option<impl ToString>) {
    pairs.extend(value.map(|value| (key, value.to_string())));
}

impl EventQuery {
    fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        push(&mut pairs, "after", self.after);
        push(&mut pairs, "before", self.before);
        push(&mut pairs, "limit", self.limit);
        push(&mut pairs, "stack", self.stack.as_ref());
        push(&mut pairs, "service", self.service.as_ref());
        push(&mut pairs, "deployment", self.deployment.as_ref());
        push(&mut pairs, "server", self.server.as_ref());
        push(&mut pairs, "about", self.about);
        push(&mut pairs, "kind", self.kind.map(EventKind::as_str));
        push(&mut pairs, "level", self.level.map(EventLevel::as_str));
        push(&mut pairs, "by", self.by.as_ref());
        push(&mut pairs, "request", self.request.as_ref());
        pairs
    }
}

impl LogQuery {
    fn pairs(&self) -> Pairs {
        let mut pairs = Pairs::new();
        push(&mut pairs, "stack", self.stack.as_ref());
        push(&mut pairs, "service", self.service.as_ref());
        push(&mut pairs, "deployment", self.deployment.as_ref());
        push(&mut pairs, "instance", self.instance.as_ref());
        let kind = self.kind.map(|kind| match kind {
            LogKind::Build => "build",
            LogKind::Run => "run",
        });
        push(&mut pairs, "kind", kind);
        push(&mut pairs, "after", self.after);
        push(&mut pairs, "tail", self.tail);
        pairs
    }
}

impl LogFileQuery {
    fn pairs(&self) -> Pairs {
        let mut pairs = LogQuery { after: None, tail: None, ..self.of.clone() }.pairs();
        push(&mut pairs, "since_ms", self.since_ms);
        push(&mut pairs, "until_ms", self.until_ms);
        push(&mut pairs, "search", self.search.as_ref());
        pairs
    }
}

const NOTHING: Option<&()> = None;

fn get<'a>(path: &[&'a str], action: &'a str) -> Call<'a> {
    Call { body: NOTHING, ..Call::new(Method::GET, path, action) }
}

fn post<'a, B: serde::Serialize>(path: &[&'a str], body: &'a B, action: &'a str) -> Call<'a, B> {
    Call { body: Some(body), ..Call::new(Method::POST, path, action) }
}

fn put<'a, B: serde::Serialize>(path: &[&'a str], body: &'a B, action: &'a str) -> Call<'a, B> {
    Call { body: Some(body), ..Call::new(Method::PUT, path, action) }
}

fn delete<'a>(path: &[&'a str], action: &'a str) -> Call<'a> {
    Call { body: NOTHING, ..Call::new(Method::DELETE, path, action) }
}

fn of_service<'a>(stack: &'a str, service: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let mut path = vec!["api", "v1", "stacks", stack, "services", service];
    path.extend(rest);
    path
}

/// The control plane itself, tokens and credentials.
impl Client {
    /// Whether the control plane is up and its database answers.
    pub async fn healthy(&self) -> Result<(), ClientError> {
        self.send_for_nothing(get(&["healthz"], "say whether it is well")).await
    }

    pub async fn info(&self) -> Result<Info, ClientError> {
        self.send(get(&["api", "v1", "info"], "say what it is")).await
    }

    /// Signs in as a person and makes an API token for this machine out of the session, which ends with it.
    pub async fn sign_in(&self, request: &SignInRequest, token_name: &str) -> Result<TokenCreated, ClientError> {
        let Some(cookie) = self.session_cookie(request).await? else {
            return Err(self.not_mainstay("it gave no session cookie".into()));
        };
        let session = self.with_cookie(&cookie)?;
        let wanted =
            TokenRequest { name: token_name.to_owned(), purpose: api::tokens::TokenPurpose::Api, lifetime_ms: None };
        let created = session.token_create(&wanted).await;
        if let Err(error) = session.send_for_nothing(delete(&["api", "v1", "session"], "sign out")).await {
            tracing::debug!(%error, "could not end the session after signing in");
        }
        created
    }

    pub async fn tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        self.send(get(&["api", "v1", "tokens"], "list tokens")).await
    }

    pub async fn token_create(&self, request: &TokenRequest) -> Result<TokenCreated, ClientError> {
        self.send(post(&["api", "v1", "tokens"], request, "make a token")).await
    }

    pub async fn token_revoke(&self, id: &TokenId) -> Result<(), ClientError> {
        self.send_for_nothing(delete(&["api", "v1", "tokens", id.as_str()], "revoke a token")).await
    }

    pub async fn credentials(&self) -> Result<Vec<CredentialView>, ClientError> {
        self.send(get(&["api", "v1", "credentials"], "list credentials")).await
    }

    pub async fn credential_add(&self, request: &CredentialRequest) -> Result<(), ClientError> {
        self.send_for_nothing(post(&["api", "v1", "credentials"], request, "store a credential")).await
    }

    pub async fn credential_remove(&self, name: &str) -> Result<(), ClientError> {
        self.send_for_nothing(delete(&["api", "v1", "credentials", name], "remove a credential")).await
    }
}

/// Hosts and their certificates.
impl Client {
    pub async fn domains(&self) -> Result<Vec<DomainView>, ClientError> {
        self.send(get(&["api", "v1", "domains"], "list hosts")).await
    }

    pub async fn certificate_give(
        &self,
        host: &CertificateName,
        request: &CertificateRequest,
    ) -> Result<DomainView, ClientError> {
        let path = ["api", "v1", "domains", host.as_str(), "certificate"];
        self.send(put(&path, request, "store a certificate")).await
    }

    pub async fn certificate_take_back(&self, host: &CertificateName) -> Result<(), ClientError> {
        let path = ["api", "v1", "domains", host.as_str(), "certificate"];
        self.send_for_nothing(delete(&path, "remove a certificate")).await
    }

    pub async fn domain_renew(&self, host: &CertificateName) -> Result<DomainView, ClientError> {
        self.send(post(&["api", "v1", "domains", host.as_str(), "renew"], &(), "order a certificate")).await
    }

    pub async fn acme(&self) -> Result<AcmeSettings, ClientError> {
        self.send(get(&["api", "v1", "acme"], "say how automatic HTTPS is set up")).await
    }

    pub async fn acme_set(&self, settings: &AcmeSettings) -> Result<AcmeSettings, ClientError> {
        self.send(put(&["api", "v1", "acme"], settings, "set up automatic HTTPS")).await
    }
}

/// Plans, stacks and services.
impl Client {
    pub async fn plan(&self, request: &PlanRequest) -> Result<StackPlan, ClientError> {
        self.send(Call { timeout: SLOW_REQUEST_TIMEOUT, ..post(&["api", "v1", "plan"], request, "plan") }).await
    }

    pub async fn deploy(&self, request: &DeployRequest) -> Result<DeployAnswer, ClientError> {
        self.send(Call { timeout: SLOW_REQUEST_TIMEOUT, ..post(&["api", "v1", "deploy"], request, "deploy") }).await
    }

    pub async fn stacks(&self) -> Result<Vec<StackView>, ClientError> {
        self.all_pages("stacks", "list stacks", STACKS_AT_ONCE, Pairs::new(), |stack: &StackView| {
            stack.name.to_string()
        })
        .await
    }

    pub async fn stack(&self, stack: &str) -> Result<StackView, ClientError> {
        self.send(get(&["api", "v1", "stacks", stack], "show a stack")).await
    }

    pub async fn stack_remove(&self, stack: &str) -> Result<(), ClientError> {
        self.send_for_nothing(delete(&["api", "v1", "stacks", stack], "remove a stack")).await
    }

    pub async fn services(&self) -> Result<Vec<ServiceView>, ClientError> {
        self.services_with("").await
    }

    /// The services that have this in `stack/service`.
    pub async fn services_with(&self, text: &str) -> Result<Vec<ServiceView>, ClientError> {
        let mut query = Pairs::new();
        push(&mut query, "search", Some(text).filter(|text| !text.is_empty()));
        self.all_pages("services", "list services", SERVICES_AT_ONCE, query, |service: &ServiceView| {
            format!("{}/{}", service.stack, service.name)
        })
        .await
    }

    /// Everything of a list, page by page: an answer has a bound, and a list of everything has none.
    async fn all_pages<T: DeserializeOwned>(
        &self,
        noun: &str,
        action: &str,
        limit: u32,
        query: Pairs,
        name: impl Fn(&T) -> String,
    ) -> Result<Vec<T>, ClientError> {
        let mut all: Vec<T> = Vec::new();
        loop {
            let mut query = query.clone();
            push(&mut query, "limit", Some(limit));
            push(&mut query, "after", all.last().map(&name));
            let page: Vec<T> = self.send(Call { query, ..get(&["api", "v1", noun], action) }).await?;
            // Also a control plane that knows no pages ends this: it answers with more.
            let last = page.len() != limit as usize;
            all.extend(page);
            if last {
                return Ok(all);
            }
        }
    }

    pub async fn service(&self, stack: &str, service: &str) -> Result<ServiceView, ClientError> {
        self.send(get(&of_service(stack, service, &[]), "show a service")).await
    }

    pub async fn rollback(
        &self,
        stack: &str,
        service: &str,
        request: &RollbackRequest,
    ) -> Result<Deployment, ClientError> {
        self.send(post(&of_service(stack, service, &["rollback"]), request, "roll back")).await
    }

    pub async fn restart(&self, stack: &str, service: &str) -> Result<Deployment, ClientError> {
        self.send(post(&of_service(stack, service, &["restart"]), &serde_json::json!({}), "restart a service")).await
    }

    pub async fn stop(&self, stack: &str, service: &str) -> Result<Deployment, ClientError> {
        self.send(post(&of_service(stack, service, &["stop"]), &serde_json::json!({}), "stop a service")).await
    }

    pub async fn start(&self, stack: &str, service: &str) -> Result<Deployment, ClientError> {
        self.send(post(&of_service(stack, service, &["start"]), &serde_json::json!({}), "start a service")).await
    }

    pub async fn scale(&self, stack: &str, service: &str, request: &ScaleRequest) -> Result<Deployment, ClientError> {
        let path = of_service(stack, service, &["scale"]);
        self.send(Call { method: Method::PUT, ..post(&path, request, "scale a service") }).await
    }

    /// Values are in the answer only with `reveal`.
    pub async fn env(&self, stack: &str, service: &str, reveal: bool) -> Result<Vec<EnvVariable>, ClientError> {
        let query = vec![("reveal", reveal.to_string())];
        self.send(Call { query, ..get(&of_service(stack, service, &["env"]), "list environment variables") }).await
    }

    pub async fn env_patch(
        &self,
        stack: &str,
        service: &str,
        patch: &EnvPatch,
    ) -> Result<Option<Deployment>, ClientError> {
        let path = of_service(stack, service, &["env"]);
        self.send(Call { method: Method::PATCH, ..post(&path, patch, "change environment variables") }).await
    }

    /// Newest first.
    pub async fn deployments(&self, stack: &str, service: &str, limit: u32) -> Result<Vec<Deployment>, ClientError> {
        let query = vec![("limit", limit.to_string())];
        self.send(Call { query, ..get(&of_service(stack, service, &["deployments"]), "list deployments") }).await
    }

    /// Newest first.
    pub async fn revisions(&self, stack: &str, service: &str, limit: u32) -> Result<Vec<Revision>, ClientError> {
        let query = vec![("limit", limit.to_string())];
        self.send(Call { query, ..get(&of_service(stack, service, &["revisions"]), "list revisions") }).await
    }

    pub async fn service_metrics(
        &self,
        stack: &str,
        service: &str,
        range: MetricsRange,
    ) -> Result<ServiceMetrics, ClientError> {
        let query = vec![("range", range.to_string())];
        self.send(Call { query, ..get(&of_service(stack, service, &["metrics"]), "show what a service used") }).await
    }

    pub async fn deployment(&self, id: &DeploymentId) -> Result<Deployment, ClientError> {
        self.send(get(&["api", "v1", "deployments", id.as_str()], "show a deployment")).await
    }

    pub async fn cancel(&self, id: &DeploymentId) -> Result<Deployment, ClientError> {
        self.send(post(
            &["api", "v1", "deployments", id.as_str(), "cancel"],
            &serde_json::json!({}),
            "cancel a deployment",
        ))
        .await
    }
}

/// What happened, and machines.
impl Client {
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<EventRecord>, ClientError> {
        self.send(Call { query: query.pairs(), ..get(&["api", "v1", "events"], "list events") }).await
    }

    /// The newest that the query lets through, oldest first: as many as it says, page by page.
    pub async fn newest_events(&self, query: &EventQuery) -> Result<Vec<EventRecord>, ClientError> {
        let mut wanted = query.limit.unwrap_or(EVENTS_AT_ONCE);
        let mut page = query.clone();
        let mut found: Vec<EventRecord> = Vec::new();
        while wanted > 0 {
            let at_once = wanted.min(EVENTS_AT_ONCE);
            page.limit = Some(at_once);
            let mut older = self.events(&page).await?;
            let more = older.len() >= at_once as usize;
            wanted -= at_once;
            page.before = older.first().map(|record| record.sequence);
            older.append(&mut found);
            found = older;
            if !more {
                break;
            }
        }
        Ok(found)
    }

    /// Events as they happen, from `query.after` on.
    pub fn follow_events(&self, query: &EventQuery) -> Follow<EventRecord> {
        Follow::new(self.clone(), "events", query.pairs(), |record| record.sequence)
    }

    pub async fn logs(&self, query: &LogQuery) -> Result<Vec<LogRecord>, ClientError> {
        self.send(Call { query: query.pairs(), ..get(&["api", "v1", "logs"], "show logs") }).await
    }

    /// Log lines as they come, after the last `query.tail` ones.
    pub fn follow_logs(&self, query: &LogQuery) -> Follow<LogRecord> {
        Follow::new(self.clone(), "logs", query.pairs(), |record| record.sequence)
    }

    /// All lines that are kept of a choice, the newest first. Nothing is read that is not asked for.
    pub async fn log_lines_back(&self, query: &LogFileQuery) -> Result<Lines<LogRecord>, ClientError> {
        let mut pairs = query.pairs();
        pairs.push(("newest_first", "true".to_owned()));
        let answer = self.open_stream(&["api", "v1", "logs", "file"], &pairs).await?;
        Ok(Lines::new(self.clone(), answer, "log"))
    }

    pub async fn servers(&self) -> Result<Vec<ServerView>, ClientError> {
        self.all_pages("servers", "list servers", SERVERS_AT_ONCE, Pairs::new(), |server: &ServerView| {
            server.name.to_string()
        })
        .await
    }

    pub async fn server(&self, server: &str) -> Result<ServerView, ClientError> {
        self.send(get(&["api", "v1", "servers", server], "show a server")).await
    }

    pub async fn server_metrics(&self, server: &str, range: MetricsRange) -> Result<ServerMetrics, ClientError> {
        let query = vec![("range", range.to_string())];
        self.send(Call { query, ..get(&["api", "v1", "servers", server, "metrics"], "show what a server used") }).await
    }

    /// Agrees that a machine becomes what a restored control plane says; `held_generation` as it was shown.
    pub async fn server_accept_restore(&self, server: &str, held_generation: u64) -> Result<ServerView, ClientError> {
        let request = AcceptRestoreRequest { held_generation };
        self.send(post(&["api", "v1", "servers", server, "accept-restore"], &request, "accept a restore")).await
    }

    pub async fn server_remove(&self, server: &str) -> Result<(), ClientError> {
        self.send_for_nothing(delete(&["api", "v1", "servers", server], "remove a server")).await
    }
}
