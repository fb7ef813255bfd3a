//! Who asks. A handler that takes a [`Caller`] or a [`SignedRequest`](agent::SignedRequest) is
//! reached by nobody else; a handler that takes neither cannot call the store, because every store
//! call takes the scope that only these two hold.

pub mod agent;
pub mod csrf;
pub mod limiter;
pub mod password;
pub mod session;

use crate::clock;
use crate::error::HttpError;
use crate::requests::CurrentRequest;
use crate::state::AppState;
use api::cause::{Actor, Cause};
use api::error::ErrorCode;
use api::ids::RequestId;
use api::secret::Secret;
use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use store::Scope;

/// A person or program that may use the API, and the request that it does so with.
#[derive(Debug, Clone)]
pub struct Caller {
    scope: Scope,
    request_id: RequestId,
    credential: Credential,
}

/// What the caller showed.
#[derive(Debug, Clone)]
enum Credential {
    Token(Secret),
    Session(Secret),
}

impl Caller {
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    pub fn actor(&self) -> &Actor {
        &self.scope.actor
    }

    /// Name of the person or token.
    pub fn name(&self) -> &str {
        match self.actor() {
            Actor::User { name } | Actor::Token { name } => name,
            Actor::Agent { server } => server,
            Actor::System { part } => part,
        }
    }

    /// The cause of what this request changes.
    pub fn cause(&self, action: impl Into<String>) -> Cause {
        Cause {
            actor: self.actor().clone(),
            action: action.into(),
            request_id: Some(self.request_id.clone()),
            deployment_id: None,
        }
    }

    /// The session's secret, if the caller came with a cookie.
    pub fn session(&self) -> Option<&Secret> {
        match &self.credential {
            Credential::Session(secret) => Some(secret),
            Credential::Token(_) => None,
        }
    }

    /// Whether the credential is still good; asked again and again by streams.
    pub async fn still_good(&self, state: &AppState) -> bool {
        authenticate(state, &self.credential).await.is_ok()
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = HttpError;
    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, HttpError> {
        let CurrentRequest(request_id) = CurrentRequest::from_request_parts(parts, state).await?;
        let credential = credential_of(parts)?;
        if matches!(credential, Credential::Session(_)) && !csrf::is_meant(&parts.method, &parts.headers) {
            return Err(HttpError::new(
                ErrorCode::Unauthenticated,
                "this request came with a session cookie, but not from Mainstay's own pages",
            )
            .help("programs use an API token; own pages send the header `x-mainstay-request: 1`"));
        }
        let scope = authenticate(state, &credential).await?;
        Ok(Self { scope, request_id, credential })
    }
}

fn credential_of(parts: &Parts) -> Result<Credential, HttpError> {
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        let text = value.to_str().unwrap_or_default();
        let token =
            text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, t)| t.trim());
        return match token {
            Some(token) if !token.is_empty() => Ok(Credential::Token(Secret::new(token))),
            _ => Err(HttpError::new(
                ErrorCode::Unauthenticated,
                "the header `Authorization` is not of the form `Bearer TOKEN`",
            )),
        };
    }
    session::of_request(&parts.headers).map(Credential::Session).ok_or_else(|| {
        HttpError::new(ErrorCode::Unauthenticated, "this needs an API token or a signed-in session")
            .help("send `Authorization: Bearer TOKEN`; `mainstay login` gets one")
    })
}

async fn authenticate(state: &AppState, credential: &Credential) -> Result<Scope, HttpError> {
    let now_ms = clock::now_ms();
    match credential {
        Credential::Token(token) => {
            let found = state.store().token_api_find(&hash_of(token), now_ms).await?;
            let (organization, name) = found.ok_or_else(|| {
                HttpError::new(ErrorCode::Unauthenticated, "the API token is not good: unknown, revoked or expired")
                    .help("make another in the dashboard under Tokens, or sign in with `mainstay login`")
            })?;
            Ok(Scope { organization, actor: Actor::Token { name } })
        }
        Credential::Session(secret) => {
            let found = state.store().session_find(&hash_of(secret), now_ms).await?;
            let (organization, name) = found.ok_or_else(|| {
                HttpError::new(ErrorCode::Unauthenticated, "the session has ended").help("sign in again")
            })?;
            Ok(Scope { organization, actor: Actor::User { name } })
        }
    }
}

/// The form in which the store keeps tokens and sessions: they hold 256 random bits, so a plain hash
/// cannot be turned back, and reading the database gives nobody a credential.
pub fn hash_of(secret: &Secret) -> String {
    wire::sha256_hex(secret.expose().as_bytes())
}
