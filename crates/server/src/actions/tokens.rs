//! Making and revoking tokens. The text is shown once; the store keeps its hash.

use crate::auth::{Caller, hash_of};
use crate::clock;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event, fresh};
use api::cause::Cause;
use api::events::{EventKind, EventLevel};
use api::ids::TokenId;
use api::secret::Secret;
use api::tokens::{TokenCreated, TokenPurpose, TokenRequest, TokenView};
use store::{Scope, TokenCreate};

const JOIN_LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
const LIFETIME_LIMIT_MS: u64 = 10 * 365 * 24 * 60 * 60 * 1000;

pub async fn list(state: &AppState, caller: &Caller) -> Result<Vec<TokenView>> {
    Ok(state.store().token_list(caller.scope(), clock::now_ms()).await?)
}

pub async fn create(state: &AppState, caller: &Caller, request: &TokenRequest) -> Result<TokenCreated> {
    make(state, caller.scope(), caller.cause("make a token"), request).await
}

/// For callers inside the control plane as well: the first start, and `mainstay up`.
pub async fn make(state: &AppState, scope: &Scope, cause: Cause, request: &TokenRequest) -> Result<TokenCreated> {
    let name = request.name.trim();
    if name.is_empty() || name.chars().count() > 80 || name.chars().any(char::is_control) {
        return Err(HttpError::invalid("name", "a token needs a name of 1 to 80 printable characters")
            .help("say what it is for, for example `ci` or `web-3`"));
    }
    check_binding(state, scope, &request.purpose).await?;
    let (prefix, default_lifetime_ms) = match request.purpose {
        TokenPurpose::Join { .. } => ("mst_join_", Some(JOIN_LIFETIME_MS)),
        TokenPurpose::Api => ("mst_", None),
    };
    let lifetime_ms = request.lifetime_ms.or(default_lifetime_ms);
    if lifetime_ms.is_some_and(|ms| ms == 0 || ms > LIFETIME_LIMIT_MS) {
        return Err(HttpError::invalid(
            "lifetime_ms",
            "a token is good for at least a millisecond and at most ten years",
        ));
    }
    let now_ms = clock::now_ms();
    let token = Secret::new(format!("{prefix}{}", wire::random_token()));
    let row = TokenCreate {
        id: fresh(TokenId::from_uuid),
        hash: hash_of(&token),
        name: name.to_owned(),
        purpose: request.purpose.clone(),
        expires_at_ms: lifetime_ms.map(|ms| now_ms + ms as i64),
    };
    let what = if row.purpose == TokenPurpose::Api { "API" } else { "join" };
    let happened = event(EventKind::TokenCreated, EventLevel::Info, format!("the {what} token {name} was made"), cause);
    let view = state.store().token_create(scope, &row, &[happened], now_ms).await?;
    state.wakeups().events_stored();
    Ok(TokenCreated { token, view })
}

async fn check_binding(state: &AppState, scope: &Scope, purpose: &TokenPurpose) -> Result<()> {
    let TokenPurpose::Join { project, stack } = purpose else { return Ok(()) };
    if let Some(project) = project
        && state.store().project_find(scope, project).await?.is_none()
    {
        return Err(HttpError::not_found("project", project.as_str()));
    }
    if let Some(stack) = stack {
        state.store().stack_get(scope, stack).await?;
    }
    Ok(())
}

pub async fn revoke(state: &AppState, caller: &Caller, id: &str) -> Result<()> {
    let parsed: TokenId = id.parse().map_err(|_| HttpError::not_found("token", id))?;
    let message = format!("the token {} was revoked", parsed.short());
    let happened = event(EventKind::TokenRevoked, EventLevel::Info, message, caller.cause("revoke a token"));
    state.store().token_revoke(caller.scope(), &parsed, &[happened], clock::now_ms()).await?;
    state.wakeups().credentials_revoked();
    state.wakeups().events_stored();
    Ok(())
}
