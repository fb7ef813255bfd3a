//! The first start and every other: directory, key, database, and what must be in it.
//!
//! Every step looks before it makes, so a start that was cut off in the middle is finished by the
//! next one. The password is the one thing that cannot be made again later: it is written to its file
//! before the user exists, and a user that exists is never touched.

use crate::actions::sources::{GitRepositories, Repositories};
use crate::auth::{hash_of, password};
use crate::options::ServerOptions;
use crate::presence::Heard;
use crate::recovery::Recoveries;
use crate::registry::{HttpRegistries, Registries};
use crate::state::{AppState, Shared, fresh};
use crate::{certificates, clock, files};
use anyhow::{Context, Result};
use api::ids::{OrganizationId, ProjectId, TokenId, UserId};
use api::name::Name;
use api::secret::Secret;
use api::tokens::TokenPurpose;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{Scope, Store, TokenCreate};

pub const ORGANIZATION: &str = "default";
pub const PROJECT: &str = "default";
pub const USER: &str = "admin";
pub const PASSWORD_FILE: &str = "initial-password";
pub const CLI_TOKEN_FILE: &str = "cli-token";

/// A control plane that is ready to serve.
pub struct Begun {
    pub state: AppState,
    /// Set at the first start.
    pub initial_password: Option<Secret>,
}

/// What a control plane meets outside of itself, where it is not the real thing: the simulation
/// (`crates/sim`) answers for repositories and registries, lets writes fail, and does its waiting in virtual time.
pub struct Edges {
    pub repositories: Arc<dyn Repositories>,
    /// `None`: the registries themselves.
    pub registries: Option<Arc<dyn Registries>>,
    pub gate: Option<Arc<dyn store::Gate>>,
    /// The longest that one poll of an agent may wait.
    pub poll_limit: Duration,
}

impl Default for Edges {
    fn default() -> Self {
        Self {
            repositories: Arc::new(GitRepositories::default()),
            registries: None,
            gate: None,
            poll_limit: Duration::from_secs(60),
        }
    }
}

pub async fn begin(options: ServerOptions, address: SocketAddr, edges: Edges) -> Result<Begun> {
    let directory = options.directory();
    files::make_directory(&directory)?;
    let signing_key = files::signing_key(&directory)?;
    let sealing_key = files::sealing_key(&directory)?;
    let git = git::Environment::prepare(&directory.join("git"), &options.mainstay_binary).context("prepare for git")?;
    let store = open(&options).await?;
    let store = match edges.gate {
        Some(gate) => store.gated(gate),
        None => store,
    };
    let now_ms = clock::now_ms();
    let organization = store
        .organization_ensure(&fresh(OrganizationId::from_uuid), ORGANIZATION, now_ms)
        .await
        .context("make the organization")?;
    let scope = Scope::system(organization.clone(), "start");
    let project: Name = PROJECT.parse().expect("the name is valid");
    store.project_ensure(&scope, &fresh(ProjectId::from_uuid), &project, now_ms).await.context("make the project")?;
    let initial_password = ensure_user(&store, &scope, &directory).await?;
    ensure_cli_token(&store, &scope, &directory).await?;
    let heard = last_reports(&store, &scope).await?;
    let registries =
        edges.registries.unwrap_or_else(|| Arc::new(HttpRegistries::new(options.insecure_registries.clone())));
    let recoveries = Recoveries::load(&store, &scope).await.context("read what is left of a restore")?;
    let fleet =
        crate::fleet::load(&store, &scope).await.map_err(|error| anyhow::anyhow!("read the fleet state: {error}"))?;
    let state = AppState::new(Shared {
        recoveries,
        fleet,
        steady: Default::default(),
        wrong_clocks: Default::default(),
        waits: Default::default(),
        metrics: Default::default(),
        disk: crate::disk::DiskGuard::new(&options),
        store,
        options,
        address,
        signing_key,
        sealing_key,
        certificates: Default::default(),
        wanted_hosts: Default::default(),
        git,
        organization,
        wakeups: Default::default(),
        limiter: Default::default(),
        stopping: Default::default(),
        deciding: Default::default(),
        placing: Default::default(),
        refreshing: Default::default(),
        heard: Mutex::new(heard),
        repositories: edges.repositories,
        registries,
        poll_limit: edges.poll_limit,
    });
    certificates::reload(&state, &scope).await.map_err(|e| anyhow::anyhow!("read the certificates: {e:#?}"))?;
    Ok(Begun { state, initial_password })
}

async fn open(options: &ServerOptions) -> Result<Store> {
    let shown = without_password(&options.database_url());
    let opened = match &options.database_url {
        Some(url) => Store::open(url).await,
        None => {
            let path = options.directory().join("mainstay.db");
            // Made closed to others before SQLite opens it: it holds secrets.
            files::make_private_file(&path)?;
            Store::open_sqlite(&path).await
        }
    };
    opened.with_context(|| format!("open the database {shown}"))
}

/// A database URL as it may be shown.
fn without_password(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return "given with --database".into() };
    if url.password().is_some() {
        let _ = url.set_password(None);
    }
    url.set_query(None);
    url.to_string()
}

async fn ensure_user(store: &Store, scope: &Scope, directory: &Path) -> Result<Option<Secret>> {
    if store.user_find(USER).await.context("look for the first user")?.is_some() {
        return Ok(None);
    }
    let made = password::generate();
    files::write_secret(&directory.join(PASSWORD_FILE), &made)?;
    let hash = password::hash(made.clone()).await?;
    store
        .user_create(scope, &fresh(UserId::from_uuid), USER, &hash, clock::now_ms())
        .await
        .context("make the first user")?;
    tracing::info!(file = %directory.join(PASSWORD_FILE).display(), "made the user admin with a generated password");
    Ok(Some(made))
}

/// The token of the command line on this machine. One that is gone or no longer good is replaced.
async fn ensure_cli_token(store: &Store, scope: &Scope, directory: &Path) -> Result<()> {
    let path = directory.join(CLI_TOKEN_FILE);
    if let Ok(text) = std::fs::read_to_string(&path) {
        let known = store.token_api_find(&hash_of(&Secret::new(text.trim())), clock::now_ms()).await;
        if known.context("look for the command line's token")?.is_some() {
            return Ok(());
        }
    }
    let token = Secret::new(format!("mst_{}", wire::random_token()));
    let row = TokenCreate {
        id: fresh(TokenId::from_uuid),
        hash: hash_of(&token),
        name: "cli".into(),
        purpose: TokenPurpose::Api,
        expires_at_ms: None,
    };
    store.token_create(scope, &row, &[], clock::now_ms()).await.context("make the command line's token")?;
    files::write_secret(&path, &token)
}

/// What every server last said. Each gets the full patience again before it counts as offline: it
/// could not report while nobody listened.
async fn last_reports(store: &Store, scope: &Scope) -> Result<HashMap<api::ids::ServerId, Heard>> {
    let now_ms = clock::now_ms();
    let mut heard = HashMap::new();
    for server in store.server_list(scope).await.context("read the servers")? {
        heard.insert(
            server.id,
            Heard { at_ms: now_ms, reported_at_ms: 0, observed: None, digest: String::new(), stored_at_ms: 0 },
        );
    }
    for row in store.observed_list(scope).await.context("read the last reports")? {
        let digest = crate::presence::essence(&row.observed);
        let known = Heard {
            at_ms: now_ms,
            reported_at_ms: row.received_at_ms,
            observed: Some(Arc::new(row.observed)),
            digest,
            stored_at_ms: row.received_at_ms,
        };
        heard.insert(row.server_id, known);
    }
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_address_is_shown_without_its_password() {
        assert_eq!(without_password("postgres://me:hunter2@db:5432/x?sslpassword=y"), "postgres://me@db:5432/x");
        assert!(!without_password("nonsense hunter2").contains("hunter2"));
    }
}
