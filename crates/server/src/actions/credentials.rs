//! Git credentials.

use crate::auth::Caller;
use crate::clock;
use crate::error::{HttpError, Result};
use crate::state::AppState;
use api::desired::{CredentialRequest, CredentialView, GitCredential};
use api::name::Name;

const SECRET_LIMIT_BYTES: usize = 64 * 1024;

pub async fn list(state: &AppState, caller: &Caller) -> Result<Vec<CredentialView>> {
    Ok(state.store().credential_view_list(caller.scope()).await?)
}

pub async fn store(state: &AppState, caller: &Caller, request: &CredentialRequest) -> Result<()> {
    check(&request.credential)?;
    state.store().credential_put(caller.scope(), &request.name, &request.credential, clock::now_ms()).await?;
    // Revisions name credentials, so what servers hold may have changed.
    crate::desired::refresh_all(state, caller.scope()).await?;
    tracing::info!(credential = %request.name, by = caller.actor().label(), "stored a git credential");
    Ok(())
}

fn check(credential: &GitCredential) -> Result<()> {
    match credential {
        GitCredential::DeployKey { private_key } => {
            let text = private_key.expose();
            if text.len() > SECRET_LIMIT_BYTES
                || !text.trim_start().starts_with("-----BEGIN ")
                || !text.contains("PRIVATE KEY-----")
            {
                return Err(HttpError::invalid(
                    "credential.private_key",
                    "this is not a private key in OpenSSH's text form",
                )
                .help(
                    "give the content of the private key file, which begins with `-----BEGIN OPENSSH PRIVATE KEY-----`",
                ));
            }
            if text.contains("ENCRYPTED") {
                return Err(HttpError::invalid(
                    "credential.private_key",
                    "this private key has a passphrase, which no machine could type",
                )
                .help("make a key without one: ssh-keygen -t ed25519 -N \"\" -f deploy-key"));
            }
        }
        GitCredential::Token { user, token } => {
            let bad =
                |text: &str| text.is_empty() || text.len() > SECRET_LIMIT_BYTES || text.chars().any(|c| c.is_control());
            if bad(user) {
                return Err(HttpError::invalid(
                    "credential.user",
                    "the user must not be empty or hold a newline or control character",
                ));
            }
            if bad(token.expose()) {
                return Err(HttpError::invalid(
                    "credential.token",
                    "the token must not be empty or hold a newline or control character",
                ));
            }
        }
    }
    Ok(())
}

pub async fn delete(state: &AppState, caller: &Caller, name: &str) -> Result<()> {
    let parsed: Name = name.parse().map_err(|_| HttpError::not_found("credential", name))?;
    state.store().credential_delete(caller.scope(), &parsed).await?;
    crate::desired::refresh_all(state, caller.scope()).await?;
    tracing::info!(credential = %parsed, by = caller.actor().label(), "removed a git credential");
    Ok(())
}
