//! Forms that change something: each calls the action that the API's endpoint calls, and goes back.

use super::edit::{EditPage, TEXT_LIMIT};
use super::frame::Message;
use super::handlers::{join_page, sign_in_page, tokens_page};
use super::names::{server_path, service_path, stack_path};
use super::problems::sentence;
use super::servers::{Arrival, JoinMade};
use super::stacks::PlanPage;
use super::visitor::{Submitted, anonymous_frame, finish, form_fields, redirect, safe_next};
use super::words;
use crate::actions;
use crate::auth::{Caller, csrf, session};
use crate::error::{HttpError, Result};
use crate::extract::Path;
use crate::requests::CurrentRequest;
use crate::state::AppState;
use crate::views;
use api::deployments::{Deployment, RollbackRequest};
use api::error::ErrorCode;
use api::name::Name;
use api::plans::{DefaultSource, DeployRequest, PlanRequest};
use api::secret::Secret;
use api::services::{EnvPatch, SourceSpec};
use api::tokens::{PasswordChange, SignInRequest, TokenPurpose, TokenRequest};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::net::SocketAddr;

type ServicePath = Path<(String, String)>;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A number in a form.
fn number<T: std::str::FromStr>(form: &Submitted, field: &str) -> Result<T> {
    let text = form.text(field);
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        HttpError::invalid(field, format!("`{field}` must be a whole number; `{}` is none", shown.escape_debug()))
    })
}

/// What to say once a deployment was asked for.
fn began(deployment: Deployment) -> String {
    format!("{} of {} has begun.", words::deployment_kind(deployment.kind), deployment.service)
}

pub async fn restart(
    State(state): State<AppState>,
    Path((stack, service)): ServicePath,
    form: Submitted,
) -> Result<Response> {
    let asked = actions::services::restart(&state, &form.visitor.caller, &stack, &service).await;
    finish(asked, &service_path(&stack, &service), began)
}

pub async fn stop(
    State(state): State<AppState>,
    Path((stack, service)): ServicePath,
    form: Submitted,
) -> Result<Response> {
    let asked = actions::services::stop(&state, &form.visitor.caller, &stack, &service).await;
    let back = service_path(&stack, &service);
    finish(asked, &back, |deployment| Message::good(began(deployment)).undo("Start it again", format!("{back}/start")))
}

pub async fn start(
    State(state): State<AppState>,
    Path((stack, service)): ServicePath,
    form: Submitted,
) -> Result<Response> {
    let asked = actions::services::start(&state, &form.visitor.caller, &stack, &service).await;
    finish(asked, &service_path(&stack, &service), began)
}

pub async fn scale(
    State(state): State<AppState>,
    Path((stack, service)): ServicePath,
    form: Submitted,
) -> Result<Response> {
    let back = service_path(&stack, &service);
    let replicas = match number(&form, "replicas") {
        Ok(replicas) => replicas,
        Err(error) => return finish(Err::<Deployment, _>(error), &back, began),
    };
    let caller = &form.visitor.caller;
    let before = views::service(&state, caller.scope(), &stack, &service).await?.replicas;
    let asked = actions::services::scale(&state, caller, &stack, &service, replicas).await;
    finish(asked, &back, |deployment| {
        let undo = format!("Back to {}", api::words::count(before, "instance"));
        Message::good(began(deployment)).undo(undo, format!("{back}/scale?replicas={before}"))
    })
}

pub async fn rollback(
    State(state): State<AppState>,
    Path((stack, service)): ServicePath,
    form: Submitted,
) -> Result<Response> {
    let back = service_path(&stack, &service);
    let revision = match number(&form, "revision") {
        Ok(revision) => Some(revision),
        Err(error) => return finish(Err::<Deployment, _>(error), &back, began),
    };
    let caller = &form.visitor.caller;
    let before = views::service(&state, caller.scope(), &stack, &service).await?.current;
    let asked = actions::services::rollback(&state, caller, &stack, &service, &RollbackRequest { revision }).await;
    finish(asked, &back, |deployment| match before {
        Some(before) => Message::good(began(deployment))
            .undo(format!("Back to revision {}", before.number), format!("{back}/rollback?revision={}", before.number)),
        None => began(deployment).into(),
    })
}

pub async fn cancel(State(state): State<AppState>, Path(id): Path<String>, form: Submitted) -> Result<Response> {
    let asked = actions::services::cancel(&state, &form.visitor.caller, &id).await;
    finish(
        asked,
        &format!("/deployments/{id}"),
        |_| "The deployment is being cancelled; what served before keeps serving.",
    )
}

pub async fn remove_stack(
    State(state): State<AppState>,
    Path(stack): Path<String>,
    form: Submitted,
) -> Result<Response> {
    if let Err(refused) = form.confirm(&stack) {
        return finish(Err::<(), _>(refused), &stack_path(&stack), |()| "");
    }
    actions::stacks::remove(&state, &form.visitor.caller, &stack).await?;
    Ok(redirect("/", Some(Message::good(format!("The stack {stack} is being removed.")))))
}

pub async fn remove_server(
    State(state): State<AppState>,
    Path(server): Path<String>,
    form: Submitted,
) -> Result<Response> {
    let back = server_path(&server);
    if let Err(refused) = form.confirm(&server) {
        return finish(Err::<(), _>(refused), &back, |()| "");
    }
    match actions::servers::remove(&state, &form.visitor.caller, &server).await {
        Ok(()) => Ok(redirect("/servers", Some(Message::good(format!("The server {server} was removed."))))),
        Err(error) => finish(Err::<(), _>(error), &back, |()| ""),
    }
}

/// Exactly the plan that was shown, or nothing.
pub async fn deploy(State(state): State<AppState>, Path(stack): Path<String>, form: Submitted) -> Result<Response> {
    let caller = &form.visitor.caller;
    let plan = plan_request(&state, caller, &stack, edited(&form)).await?;
    let request = DeployRequest {
        plan,
        fingerprint: Some(form.text("fingerprint").to_owned()),
        services: Vec::new(),
        force: false,
    };
    let asked = actions::deploy::deploy(&state, caller, &request).await;
    finish(asked, &stack_path(&stack), |answer| match answer.deployments.len() {
        0 => "Nothing had to change.".into(),
        n => format!("{} begun.", words::count(n, "deployment has", "deployments have")),
    })
}

/// The manifest as it was changed on a page; `None`: the stack's own.
fn edited(form: &Submitted) -> Option<&str> {
    Some(form.text("manifest")).filter(|text| !text.is_empty())
}

/// What deploying a manifest that was changed here would do.
pub async fn plan_edited(
    State(state): State<AppState>,
    Path(stack): Path<String>,
    form: Submitted,
) -> Result<Response> {
    let text = edited(&form).unwrap_or_default().replace("\r\n", "\n");
    let caller = &form.visitor.caller;
    let planned = async {
        if text.len() > TEXT_LIMIT {
            let message = format!("the manifest has {} bytes; a page takes {TEXT_LIMIT}", text.len());
            return Err(HttpError::invalid("manifest", message));
        }
        let request = plan_request(&state, caller, &stack, Some(&text)).await?;
        actions::planning::plan(&state, caller, &request).await
    };
    match planned.await {
        Ok(plan) if plan.stack.as_str() != stack => {
            let message = format!("the manifest names another stack, {}; this page is about {stack}", plan.stack);
            edit_again(&state, &form, &stack, text, Some(HttpError::invalid("name", message))).await
        }
        Ok(plan) => Ok(PlanPage { plan, edited: Some(text) }.render(&form.visitor.frame).into_response()),
        Err(error @ HttpError::Answer(_)) if !error.is_not_found() => {
            edit_again(&state, &form, &stack, text, Some(error)).await
        }
        Err(error) => Err(error),
    }
}

/// Back from the plan to the text.
pub async fn edit(State(state): State<AppState>, Path(stack): Path<String>, form: Submitted) -> Result<Response> {
    let text = edited(&form).unwrap_or_default().to_owned();
    edit_again(&state, &form, &stack, text, None).await
}

async fn edit_again(
    state: &AppState,
    form: &Submitted,
    stack: &str,
    text: String,
    problem: Option<HttpError>,
) -> Result<Response> {
    let stack = views::find_stack(state, form.visitor.caller.scope(), stack).await?.name;
    let (status, problem) = match problem.map(|problem| problem.to_answer()) {
        Some((status, answer)) => (status, Some(answer)),
        None => (StatusCode::OK, None),
    };
    Ok((status, EditPage { stack, text, problem }.render(&form.visitor.frame)).into_response())
}

pub async fn set_variable(
    State(state): State<AppState>,
    Path((stack, service)): ServicePath,
    form: Submitted,
) -> Result<Response> {
    let value = Some(Secret::new(form.raw("value")));
    patch_variable(&state, &stack, &service, &form, value, "is set").await
}

pub async fn remove_variable(
    State(state): State<AppState>,
    Path((stack, service)): ServicePath,
    form: Submitted,
) -> Result<Response> {
    patch_variable(&state, &stack, &service, &form, None, "is removed").await
}

async fn patch_variable(
    state: &AppState,
    stack: &str,
    service: &str,
    form: &Submitted,
    value: Option<Secret>,
    done: &str,
) -> Result<Response> {
    let name = form.text("name").to_owned();
    let patch = EnvPatch { variables: [(name.clone(), value)].into(), deploy: form.text("deploy") == "yes" };
    let asked = actions::env::patch(state, &form.visitor.caller, stack, service, &patch).await;
    finish(asked, &service_path(stack, service), |deployment| match deployment {
        Some(deployment) => format!("{name} {done}. {}", began(deployment)),
        None => format!("{name} {done}; the next deployment takes it up."),
    })
}

pub async fn change_password(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    form: Submitted,
) -> Result<Response> {
    let change = PasswordChange { old: Secret::new(form.raw("old")), new: Secret::new(form.raw("new")) };
    let asked = if form.raw("new") == form.raw("again") {
        actions::sign_in::change_password(&state, &form.visitor.caller, &change, peer.ip()).await
    } else {
        Err(HttpError::invalid("again", "the new password was written in two ways; nothing was changed"))
    };
    finish(asked, "/settings", |()| "The password is changed; other sessions have ended.")
}

pub async fn make_token(State(state): State<AppState>, form: Submitted) -> Result<Response> {
    let days: Option<u64> = if form.text("days").is_empty() { None } else { Some(number(&form, "days")?) };
    let request = TokenRequest {
        name: form.text("name").to_owned(),
        purpose: TokenPurpose::Api,
        lifetime_ms: days.map(|days| days.saturating_mul(DAY_MS)),
    };
    match actions::tokens::create(&state, &form.visitor.caller, &request).await {
        // Shown in the answer itself: a token in a redirect would have to be kept somewhere.
        Ok(made) => {
            let mut page = tokens_page(&state, &form.visitor).await?;
            page.made = Some(made);
            Ok(page.render(&form.visitor.frame).into_response())
        }
        Err(error) => finish(Err::<(), _>(error), "/tokens", |()| ""),
    }
}

pub async fn revoke_token(State(state): State<AppState>, Path(id): Path<String>, form: Submitted) -> Result<Response> {
    let asked = actions::tokens::revoke(&state, &form.visitor.caller, &id).await;
    finish(asked, "/tokens", |()| "The token is revoked: it is not good any more from now on.")
}

pub async fn make_join_token(State(state): State<AppState>, form: Submitted) -> Result<Response> {
    let caller = &form.visitor.caller;
    let stack = match form.text("stack") {
        "" => None,
        name => Some(views::stack(&state, caller.scope(), name).await?.id),
    };
    let name = match form.text("name") {
        "" => None,
        name => match name.parse::<Name>() {
            Ok(name) => Some(name),
            Err(error) => {
                return finish(Err::<(), _>(HttpError::invalid("name", error.to_string())), "/servers/new", |()| "");
            }
        },
    };
    let request = TokenRequest {
        name: name.as_ref().map_or_else(|| "a machine".to_owned(), ToString::to_string),
        purpose: TokenPurpose::Join { project: None, stack },
        lifetime_ms: None,
    };
    match actions::tokens::create(&state, caller, &request).await {
        Ok(created) => {
            let made = JoinMade { name, token: created.token, arrival: Arrival { token: created.view, server: None } };
            Ok(join_page(&state, &form.visitor, Some(made)).await?.render(&form.visitor.frame).into_response())
        }
        Err(error) => finish(Err::<(), _>(error), "/servers/new", |()| ""),
    }
}

/// Signing in. There is no session yet that a token could belong to, so the browser has to show that
/// the form came from our own page; otherwise another site could sign a visitor in as somebody else.
pub async fn sign_in(
    State(state): State<AppState>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    CurrentRequest(request_id): CurrentRequest,
    request: Request,
) -> Result<Response> {
    if !csrf::is_meant(&Method::POST, request.headers()) {
        return Err(HttpError::new(ErrorCode::InvalidInput, "this sign-in does not come from Mainstay's own page")
            .help("open the sign-in page and try again"));
    }
    let (parts, body) = request.into_parts();
    let frame = anonymous_frame(&parts, &state);
    let headers = parts.headers.clone();
    let fields = form_fields(Request::from_parts(parts, body), &state).await?;
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let next = safe_next(&field("next")).to_owned();
    let asked = SignInRequest { user: field("user").trim().to_owned(), password: Secret::new(field("password")) };
    match actions::sign_in::sign_in(&state, &asked, peer.ip(), &request_id).await {
        Ok(signed_in) => {
            let mut response = redirect(&next, None);
            let cookie = session::cookie(&signed_in, session::is_secure(&state, &headers));
            let cookie = HeaderValue::from_str(&cookie).map_err(HttpError::internal)?;
            response.headers_mut().append(header::SET_COOKIE, cookie);
            Ok(response)
        }
        Err(HttpError::Internal(error)) => Err(HttpError::Internal(error)),
        Err(refused) => {
            let (status, answer) = refused.to_answer();
            let page = sign_in_page(&state, asked.user, Some(sentence(&answer.message)), next);
            Ok((status, page.render(&frame)).into_response())
        }
    }
}

pub async fn sign_out(State(state): State<AppState>, form: Submitted) -> Result<Response> {
    actions::sign_in::sign_out(&state, &form.visitor.caller).await?;
    let mut response = redirect("/login", None);
    let cookie = HeaderValue::from_str(&session::no_cookie()).map_err(HttpError::internal)?;
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(response)
}

/// Stands for "the repository that holds the manifest" while a stored manifest is read.
const PLACEHOLDER: &str = "https://manifest.invalid/own.git";

/// The request that plans a stack's own manifest again, from the source that it was deployed from.
pub async fn plan_request(state: &AppState, caller: &Caller, stack: &str, edited: Option<&str>) -> Result<PlanRequest> {
    let own = views::whole_manifest(state, caller.scope(), stack).await?;
    let default_source = default_source(state, caller, stack, &own).await?;
    let manifest = match edited {
        None => own,
        Some(text) => manifest::with_env_values(&text.replace("\r\n", "\n"), &own).map_err(|unknown| {
            let names = unknown.join("`, `");
            HttpError::invalid("manifest", format!("there is no value to keep for `{names}`; nothing was changed"))
                .help("write the value, or remove the variable")
        })?,
    };
    Ok(PlanRequest { manifest, manifest_path: None, default_source })
}

/// Where the manifest lies, worked out from a service that names no repository of its own: what the
/// manifest says of it, against what its newest revision was made from.
async fn default_source(state: &AppState, caller: &Caller, stack: &str, text: &str) -> Result<Option<DefaultSource>> {
    let Ok(git) = PLACEHOLDER.parse() else { return Ok(None) };
    let here = DefaultSource { git, reference: None, directory: String::new() };
    // A manifest that cannot be read is refused with its reasons when it is planned.
    let Ok(spec) = manifest::parse(text, Some(&here)) else { return Ok(None) };
    let mut own: Vec<_> =
        spec.services.values().filter_map(|service| Some((&service.name, service.source.git()?))).collect();
    own.retain(|(_, source)| source.git == here.git);
    // One that names a branch of its own tells less.
    own.sort_by_key(|(_, source)| source.reference.is_some());
    for (name, written) in own {
        let newest = views::revisions(state, caller.scope(), stack, name.as_str(), 1).await.unwrap_or_default();
        let Some(SourceSpec::Git(source)) = newest.into_iter().next().map(|revision| revision.spec.source) else {
            continue;
        };
        let reference = source.reference.filter(|_| written.reference.is_none());
        let directory = directory_of_manifest(&source.directory, &written.directory);
        return Ok(Some(DefaultSource { git: source.git, reference, directory }));
    }
    Ok(None)
}

/// `shop/web` for a service in `web` means that the manifest lies in `shop`.
fn directory_of_manifest(whole: &str, own: &str) -> String {
    whole.strip_suffix(own).unwrap_or(whole).trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_manifest_is_what_is_left_of_a_services_folder() {
        assert_eq!(directory_of_manifest("shop/web", "web"), "shop");
        assert_eq!(directory_of_manifest("web", "web"), "");
        assert_eq!(directory_of_manifest("shop", ""), "shop");
        assert_eq!(directory_of_manifest("", ""), "");
    }
}
