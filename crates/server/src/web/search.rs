//! Finding anything by a few letters: services, stacks, servers, pages, and what can be done to a service.
//!
//! The same hits are a page (`/search?q=`, which needs no script) and the list of the command palette that the
//! script opens over any page. `restart web` finds the way to restart it: a page that asks first.

use super::frame::{Frame, Live, page};
use super::names::{server_path, service_path, stack_path};
use crate::error::Result;
use crate::state::AppState;
use api::ids::DeploymentId;
use maud::{Markup, html};
use store::{Scope, ServiceFilter};

/// Most hits of one kind.
const HITS: usize = 8;
/// Longest query.
pub const QUERY_LIMIT: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What it is: `Service`, `Page`.
    pub kind: &'static str,
    pub name: String,
    pub path: String,
}

impl Hit {
    fn new(kind: &'static str, name: impl Into<String>, path: impl Into<String>) -> Self {
        Self { kind, name: name.into(), path: path.into() }
    }
}

const PAGES: [(&str, &str); 12] = [
    ("Overview", "/"),
    ("Services", "/services"),
    ("Services that are down", "/services?condition=down"),
    ("Servers", "/servers"),
    ("Add a server", "/servers/new"),
    ("Events", "/events"),
    ("Errors among the events", "/events?level=error"),
    ("Builds", "/builds"),
    ("Domains and certificates", "/domains"),
    ("Tokens", "/tokens"),
    ("Settings and password", "/settings"),
    ("API reference", "/docs"),
];

/// What can be done to a service, by the word for it: its name and the end of its path.
const VERBS: [(&str, &str, &str); 8] = [
    ("restart", "Restart", "/restart"),
    ("stop", "Stop", "/stop"),
    ("start", "Start", "/start"),
    ("logs", "Logs of", "/logs"),
    ("compare", "Compare revisions of", "/revisions"),
    ("revisions", "Revisions of", "/revisions"),
    ("rollback", "Roll back", "/revisions"),
    ("scale", "Scale", ""),
];

/// What can be done to a stack.
const STACK_VERBS: [(&str, &str, &str); 3] = [
    ("deploy", "Plan and deploy", "/plan"),
    ("plan", "Plan", "/plan"),
    ("edit", "Change the configuration of", "/edit"),
];

pub async fn hits(state: &AppState, scope: &Scope, query: &str) -> Result<Vec<Hit>> {
    let query: String = query.trim().chars().take(QUERY_LIMIT).collect::<String>().to_lowercase();
    let mut found = Vec::new();
    if let Some((verb, rest)) = query.split_once(' ') {
        let rest = rest.trim();
        let begun = |(word, _, _): &&(&str, &str, &str)| word.starts_with(verb);
        let mut verbs = VERBS.iter().filter(begun).peekable();
        let of_services = if verbs.peek().is_some() { services(state, scope, rest).await? } else { Vec::new() };
        for (_, name, end) in verbs {
            for (stack, service) in &of_services {
                found.push(Hit::new("Do", format!("{name} {stack}/{service}"), service_path(stack, service) + end));
            }
        }
        let mut verbs = STACK_VERBS.iter().filter(begun).peekable();
        let of_stacks = if verbs.peek().is_some() { stacks(state, scope, rest).await? } else { Vec::new() };
        for (_, name, end) in verbs {
            for stack in &of_stacks {
                found.push(Hit::new("Do", format!("{name} {stack}"), stack_path(stack) + end));
            }
        }
        found.truncate(HITS);
    }
    if let Ok(id) = query.parse::<DeploymentId>() {
        found.push(Hit::new("Deployment", id.short(), format!("/deployments/{id}")));
    }
    if !query.is_empty() {
        for (stack, service) in services(state, scope, &query).await? {
            found.push(Hit::new("Service", format!("{stack}/{service}"), service_path(&stack, &service)));
        }
        found.extend(
            stacks(state, scope, &query).await?.into_iter().map(|s| Hit::new("Stack", s.clone(), stack_path(&s))),
        );
        let servers = state.store().server_names_with(scope, &query, HITS as u32).await?;
        found.extend(servers.into_iter().map(|name| Hit::new("Server", name.clone(), server_path(&name))));
    }
    let pages = PAGES.iter().filter(|(name, _)| name.to_lowercase().contains(&query));
    found.extend(pages.map(|(name, path)| Hit::new("Page", *name, *path)));
    Ok(found)
}

async fn services(state: &AppState, scope: &Scope, text: &str) -> Result<Vec<(String, String)>> {
    let filter = ServiceFilter { text: text.to_owned(), ..ServiceFilter::default() };
    let found = state.store().service_page(scope, &filter, None, HITS as u32).await?;
    Ok(found.into_iter().map(|(stack, service)| (stack, service.name.to_string())).collect())
}

async fn stacks(state: &AppState, scope: &Scope, text: &str) -> Result<Vec<String>> {
    Ok(state.store().stack_names_with(scope, text, HITS as u32).await?)
}

/// The hits alone, as the palette shows them.
pub fn list(hits: &[Hit]) -> Markup {
    html! {
        ul.hits #hits {
            @for (number, hit) in hits.iter().enumerate() {
                li id={ "hit-" (number) } { a href=(hit.path) { span.kind { (hit.kind) } " " span.name { (hit.name) } } }
            }
        }
    }
}

pub struct SearchPage {
    pub query: String,
    pub hits: Vec<Hit>,
}

impl SearchPage {
    pub fn render(&self, frame: &Frame) -> Markup {
        page(
            frame,
            "Search",
            Live::No,
            html! {
                div.title { h1 { "Search" } p.lead { "Services, stacks, servers and pages by a part of their name; “restart web” or “logs web” to do something." } }
                form.card.filters method="get" action="/search" role="search" aria-label="Search everything" {
                    label { span { "Find" } input type="search" name="q" value=(self.query) maxlength=(QUERY_LIMIT) autocomplete="off" autofocus; }
                    button type="submit" { "Search" }
                }
                section.card aria-labelledby="hits-title" {
                    h2 #hits-title { "Found" }
                    @if self.hits.is_empty() { p.empty { "Nothing has “" (self.query) "” in its name." } } @else { (list(&self.hits)) }
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn hits_are_links_and_what_was_typed_is_text() {
        let hits = vec![Hit::new("Service", "shop/web", "/stacks/shop/services/web")];
        let page = SearchPage { query: "\"><script>".into(), hits }.render(&samples::frame("/search")).into_string();
        assert!(page.contains("<a href=\"/stacks/shop/services/web\">") && !page.contains("\"><script>\""), "{page}");
        let nothing = SearchPage { query: "<b>".into(), hits: vec![] }.render(&samples::frame("/search")).into_string();
        assert!(nothing.contains("Nothing has “&lt;b&gt;” in its name."), "{nothing}");
    }

    #[test]
    fn every_page_of_the_list_is_an_address_of_its_own() {
        let paths: std::collections::BTreeSet<_> = PAGES.iter().map(|(_, path)| path).collect();
        assert_eq!(paths.len(), PAGES.len());
    }
}
