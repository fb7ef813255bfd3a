//! The questions before the forms: for each act that people would miss, what it would do now.

use super::confirm::{ConfirmPage, Number};
use super::history::differences_as;
use super::names::service_path;
use super::visitor::Visitor;
use crate::error::{HttpError, Result};
use crate::extract::{Path, Query};
use crate::state::AppState;
use crate::views;
use api::desired::Traffic;
use api::services::{REPLICAS_LIMIT, ServiceView, Sole};
use axum::extract::State;
use maud::{Markup, html};
use serde::Deserialize;
use std::str::FromStr;

type ServicePath = Path<(String, String)>;

/// A question about a service, without its particulars.
fn about(service: &ServiceView, verb: &str, action: &str) -> ConfirmPage {
    let back = service_path(&service.stack, &service.name);
    ConfirmPage {
        title: format!("{verb} {}?", service.name),
        action: format!("{back}/{action}"),
        button: format!("{verb} {}", service.name),
        back_name: service.name.to_string(),
        back,
        ..ConfirmPage::default()
    }
}

async fn read(state: &AppState, visitor: &Visitor, stack: &str, service: &str) -> Result<ServiceView> {
    views::service(state, visitor.caller.scope(), stack, service).await
}

pub async fn restart(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, name)): ServicePath,
) -> Result<Markup> {
    let service = read(&state, &visitor, &stack, &name).await?;
    let replicas = api::words::count(service.replicas, "new instance");
    let mut what = vec![format!("{replicas} of the release that runs now will be started beside the old ones.")];
    let scope = visitor.caller.scope();
    // What serves is restarted, and that may be another revision than the newest.
    let serving = match &service.current {
        Some(current) => Some(state.store().revision_get(scope, &current.id).await?),
        None => None,
    };
    let gap = "so the old one has to stop first: there is a short gap.";
    what.push(match serving.and_then(|revision| revision.spec.sole()) {
        Some(Sole::Port(_)) => format!("It listens on a fixed port, {gap}"),
        Some(Sole::Volumes) => format!("It writes to a volume, {gap}"),
        None => "Requests go to them once they are healthy; then the old ones stop. Visitors notice nothing.".into(),
    });
    Ok(ConfirmPage { what, ..about(&service, "Restart", "restart") }.render(&visitor.frame))
}

pub async fn stop(State(state): State<AppState>, visitor: Visitor, Path((stack, name)): ServicePath) -> Result<Markup> {
    let service = read(&state, &visitor, &stack, &name).await?;
    let mut what = vec![format!("{} will be stopped.", count_of(&service))];
    what.extend(service.urls.iter().take(4).map(|url| format!("`{url}` answers with an error from then on.")));
    what.push("Its configuration, history and logs stay.".into());
    let undo = Some("You can start it again at any time.".into());
    Ok(ConfirmPage { what, undo, hurts: true, ..about(&service, "Stop", "stop") }.render(&visitor.frame))
}

pub async fn start(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, name)): ServicePath,
) -> Result<Markup> {
    let service = read(&state, &visitor, &stack, &name).await?;
    let revision = service.current.as_ref().map(|current| format!(" of revision {}", current.number));
    let instances = api::words::count(service.replicas, "instance");
    let what = vec![format!("{instances}{} will be started.", revision.unwrap_or_default())];
    Ok(ConfirmPage { what, ..about(&service, "Start", "start") }.render(&visitor.frame))
}

fn count_of(service: &ServiceView) -> String {
    // An old release that is kept warm goes, too, and nobody misses it.
    match service.instances.iter().filter(|instance| instance.traffic == Traffic::Active).count() {
        1 => "Its one instance".into(),
        n => format!("Its {}", api::words::count(n, "instance")),
    }
}

/// A number in an address; people change addresses by hand, so it may be missing or be none.
fn number<T: FromStr>(text: &str) -> Option<T> {
    text.trim().parse().ok()
}

#[derive(Debug, Default, Deserialize)]
pub struct Revision {
    #[serde(default)]
    revision: String,
}

pub async fn rollback(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, name)): ServicePath,
    Query(query): Query<Revision>,
) -> Result<Markup> {
    let service = read(&state, &visitor, &stack, &name).await?;
    let nothing = || HttpError::conflict(format!("there is nothing that {name} could go back to"));
    let to =
        number(&query.revision).or(service.previous.as_ref().map(|previous| previous.number)).ok_or_else(nothing)?;
    let mut what = vec![format!("Revision {to} will serve instead of what serves now.")];
    let scope = visitor.caller.scope();
    if !views::revisions_that_ran(&state, scope, &service.id).await?.contains(&to) {
        what.push(
            "No release of it was ever healthy here. If it is not this time either, what serves now goes on.".into(),
        );
    }
    what.push("If it is still warm, that is a switch of routes; otherwise it is started and checked first. Visitors notice nothing.".into());
    let mut page = ConfirmPage {
        title: format!("Go back to revision {to} of {}?", service.name),
        button: format!("Go back to revision {to}"),
        fields: vec![("revision", to.to_string())],
        ..about(&service, "Roll back", "rollback")
    };
    if let Some(current) = &service.current {
        let from = current.number;
        page.undo = Some(format!("You can go back to revision {from} in the same way."));
        let differences = views::revision_differences(&state, scope, &stack, &name, from, to).await?;
        if !differences.is_empty() {
            let (from, to) = (format!("Revision {from}"), format!("Revision {to}"));
            page.more = Some(html! { h2 { "What changes with it" } (differences_as(&differences, &from, &to)) });
        }
    }
    Ok(ConfirmPage { what, ..page }.render(&visitor.frame))
}

#[derive(Debug, Default, Deserialize)]
pub struct Replicas {
    #[serde(default)]
    replicas: String,
}

pub async fn scale(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, name)): ServicePath,
    Query(query): Query<Replicas>,
) -> Result<Markup> {
    let service = read(&state, &visitor, &stack, &name).await?;
    let page = about(&service, "Scale", "scale");
    let now = format!("{} has {} now", service.name, api::words::count(service.replicas, "instance"));
    let page = match number::<u32>(&query.replicas) {
        Some(then) => ConfirmPage {
            what: vec![format!("{now} and will have {then}.")],
            fields: vec![("replicas", then.to_string())],
            hurts: then == 0,
            ..page
        },
        None => {
            let label = format!("How many instances (0 to {REPLICAS_LIMIT})");
            let choice = Number { name: "replicas", label, most: REPLICAS_LIMIT, value: service.replicas };
            ConfirmPage { what: vec![format!("{now}.")], choice: Some(choice), ..page }
        }
    };
    Ok(page.render(&visitor.frame))
}

#[derive(Debug, Default, Deserialize)]
pub struct Variable {
    #[serde(default)]
    name: String,
}

pub async fn remove_variable(
    State(state): State<AppState>,
    visitor: Visitor,
    Path((stack, name)): ServicePath,
    Query(query): Query<Variable>,
) -> Result<Markup> {
    let service = read(&state, &visitor, &stack, &name).await?;
    let variable: String = query.name.chars().take(255).collect();
    let what = vec![
        format!("The value of `{variable}` that was set here is forgotten, and cannot be shown again."),
        "If the manifest gives it a value, that one holds; otherwise it is not set.".into(),
        "It is deployed at once, without an interruption.".into(),
    ];
    let page = ConfirmPage {
        title: format!("Remove {variable}?"),
        button: format!("Remove {variable}"),
        fields: vec![("name", variable), ("deploy", "yes".into())],
        ..about(&service, "Remove", "env/remove")
    };
    Ok(ConfirmPage { what, hurts: true, ..page }.render(&visitor.frame))
}

pub async fn cancel(State(state): State<AppState>, visitor: Visitor, Path(id): Path<String>) -> Result<Markup> {
    let deployment = views::deployment(&state, visitor.caller.scope(), &id).await?;
    let path = format!("/deployments/{}", deployment.id);
    let kind = deployment.kind;
    let page = ConfirmPage {
        title: format!("Cancel the {kind} of {}?", deployment.service),
        what: vec!["What it has started so far is stopped again.".into(), "What served before keeps serving.".into()],
        action: format!("{path}/cancel"),
        button: format!("Cancel the {kind}"),
        hurts: true,
        back: path,
        back_name: format!("{kind} of {}", deployment.service),
        ..ConfirmPage::default()
    };
    Ok(page.render(&visitor.frame))
}

pub async fn revoke_token(State(state): State<AppState>, visitor: Visitor, Path(id): Path<String>) -> Result<Markup> {
    let tokens = crate::actions::tokens::list(&state, &visitor.caller).await?;
    let token = tokens.into_iter().find(|token| token.id.as_str() == id);
    let token = token.ok_or_else(|| HttpError::not_found("token", &id))?;
    let page = ConfirmPage {
        title: format!("Revoke the token {}?", token.name),
        what: vec![
            "Whoever uses it is refused from that moment on: scripts, command lines, a machine that has not joined yet.".into(),
            "It cannot be made good again. What was done with it stays.".into(),
        ],
        action: format!("/tokens/{}/revoke", token.id),
        button: "Revoke the token".into(),
        hurts: true,
        back: "/tokens".into(),
        back_name: "Tokens".into(),
        ..ConfirmPage::default()
    };
    Ok(page.render(&visitor.frame))
}
