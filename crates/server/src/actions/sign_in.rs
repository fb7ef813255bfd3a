//! Signing in with a password, slowly for those who guess.

use crate::auth::session::{LIFETIME_MS, NewSession};
use crate::auth::{Caller, hash_of, password};
use crate::clock;
use crate::error::{HttpError, Result};
use crate::state::{AppState, event};
use api::cause::{Actor, Cause};
use api::error::{ApiError, ErrorCode};
use api::events::{EventKind, EventLevel};
use api::ids::RequestId;
use api::secret::Secret;
use api::tokens::{PasswordChange, SignInRequest};
use std::net::IpAddr;
use std::time::{Duration, Instant};
use store::Scope;

/// Shortest and longest password that is taken, in letters.
pub const PASSWORD_LENGTH: usize = 12;
const PASSWORD_LIMIT: usize = 200;

pub async fn sign_in(
    state: &AppState,
    request: &SignInRequest,
    peer: IpAddr,
    request_id: &RequestId,
) -> Result<NewSession> {
    state.limiter.take(&request.user, peer, Instant::now()).map_err(too_many)?;
    let user = state.store().user_find(&request.user).await?;
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let fits = password::verify(request.password.clone(), hash).await.map_err(HttpError::internal)?;
    let (true, Some(user)) = (fits, user) else {
        tracing::warn!(%peer, "a sign-in was refused");
        return Err(HttpError::new(ErrorCode::Unauthenticated, "the user or the password is wrong").help(
            "the first password is in the file `server/initial-password` of the control plane's data directory",
        ));
    };
    state.limiter.succeeded(&request.user, peer);
    let actor = Actor::User { name: user.name.clone() };
    let scope = Scope { organization: user.organization.clone(), actor: actor.clone() };
    let now_ms = clock::now_ms();
    let session = NewSession { token: Secret::new(wire::random_token()), expires_at_ms: now_ms + LIFETIME_MS };
    state.store().session_create(&scope, &hash_of(&session.token), &user.id, now_ms, session.expires_at_ms).await?;
    let cause = Cause { actor, action: "sign in".into(), request_id: Some(request_id.clone()), deployment_id: None };
    let message = format!("{} signed in from {peer}", user.name);
    crate::events::record(state, &scope, vec![event(EventKind::UserSignedIn, EventLevel::Info, message, cause)])
        .await?;
    Ok(session)
}

fn too_many(wait: Duration) -> HttpError {
    let seconds = wait.as_secs().max(1);
    let answer = ApiError::new(ErrorCode::TooManyRequests, format!("too many tries to sign in; wait {seconds} s"))
        .help("the user is not locked out: other addresses can sign in, and API tokens keep working");
    HttpError::Wait { answer: Box::new(answer), seconds }
}

/// Gives the caller another password; every other session of theirs ends.
pub async fn change_password(state: &AppState, caller: &Caller, change: &PasswordChange, peer: IpAddr) -> Result<()> {
    let (Some(session), Actor::User { name }) = (caller.session(), caller.actor()) else {
        return Err(HttpError::invalid("session", "only a person who signed in has a password")
            .help("sign in in the dashboard, under Settings"));
    };
    let letters = change.new.expose().chars().count();
    if !(PASSWORD_LENGTH..=PASSWORD_LIMIT).contains(&letters) {
        let message =
            format!("a password has {PASSWORD_LENGTH} to {PASSWORD_LIMIT} letters; the new one has {letters}");
        return Err(HttpError::invalid("new", message).help("nothing was changed"));
    }
    // Whoever sits at a forgotten screen may guess no faster than at the sign-in.
    state.limiter.take(name, peer, Instant::now()).map_err(too_many)?;
    let hash = state.store().user_find(name).await?.map(|user| user.password_hash);
    if !password::verify(change.old.clone(), hash).await.map_err(HttpError::internal)? {
        return Err(HttpError::invalid("old", "the password you have is another one; nothing was changed"));
    }
    state.limiter.succeeded(name, peer);
    let hash = password::hash(change.new.clone()).await.map_err(HttpError::internal)?;
    let message = format!("{name} changed their password");
    let told = event(EventKind::PasswordChanged, EventLevel::Info, message, caller.cause("change the password"));
    state.store().user_password_set(caller.scope(), name, &hash, &hash_of(session), &[told]).await?;
    state.wakeups().credentials_revoked();
    state.wakeups().events_stored();
    // The first password is no more; its file would only mislead.
    if let Some(file) = state.initial_password_file()
        && let Err(error) = std::fs::remove_file(&file)
    {
        tracing::warn!(file = %file.display(), %error, "the file with the first password could not be removed");
    }
    Ok(())
}

/// Ends the session that the caller came with.
pub async fn sign_out(state: &AppState, caller: &Caller) -> Result<()> {
    let Some(session) = caller.session() else {
        return Err(HttpError::invalid("session", "this caller came with a token, not with a session")
            .help("revoke a token with DELETE /api/v1/tokens/{id}"));
    };
    state.store().session_delete(caller.scope(), &hash_of(session)).await?;
    state.wakeups().credentials_revoked();
    Ok(())
}
