//! The account at an authority: made at the first order, and kept sealed.

use crate::certificates::account_identity;
use crate::clock;
use crate::state::AppState;
use anyhow::{Context, Result};
use api::domains::AcmeSettings;
use instant_acme::{Account, AccountBuilder, AccountCredentials, NewAccount};
use std::path::PathBuf;
use store::Scope;

/// In the control plane's directory; the client reads roots from files alone.
const ROOT_FILE: &str = "acme-root.pem";

pub async fn open(state: &AppState, scope: &Scope, settings: &AcmeSettings) -> Result<Account> {
    let url = &settings.directory_url;
    let identity = account_identity(&scope.organization, url);
    if let Some(sealed) = state.store().acme_account_get(scope, url).await? {
        let opened = state.sealing_key.open(&identity, &sealed).context("open the credentials of the account")?;
        let credentials: AccountCredentials = serde_json::from_str(opened.expose()).context("read them")?;
        return Ok(builder(state, settings)?.from_credentials(credentials).await?);
    }
    let contact = settings.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let account = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder(state, settings)?.create(&account, url.clone(), None).await?;
    let text = serde_json::to_string(&credentials).context("write the credentials of the account")?;
    state.store().acme_account_put(scope, url, &state.sealing_key.seal(&identity, &text), clock::now_ms()).await?;
    tracing::info!(directory = url, "made an account at the certificate authority");
    Ok(account)
}

fn builder(state: &AppState, settings: &AcmeSettings) -> Result<AccountBuilder> {
    let Some(root) = &settings.root else { return Ok(Account::builder()?) };
    let path: PathBuf = state.options().directory().join(ROOT_FILE);
    std::fs::write(&path, root).with_context(|| format!("write {}", path.display()))?;
    Ok(Account::builder_with_root(&path)?)
}
