//! The control plane: what people ask of it, what machines tell it, and what follows from both.
//!
//! ```text
//!  people, programs ──► routes ──► actions ──┐                 ┌──► desired ──► agents (long-poll)
//!  dashboard ─────────► web ─────► actions ──┤                 │
//!                                            ▼                 │
//!                                          store ◄──── tasks/rollout (plan::rollout)
//!                                            ▲                 ▲
//!  agents (signed) ───► routes/agent ────────┴──── wakeups ────┘
//! ```
//!
//! Everything that lasts is in the store. Tasks hold no state of their own: they are woken with "look
//! again", read rows, ask the pure `plan` crate what to do and write the answer in one transaction.
//! A control plane that is killed at any point therefore goes on where it was, and one that is down
//! takes nothing with it: machines keep running what they were last told.
//!
//! Invariants: a handler reaches the store only with a scope that authentication made. The desired
//! state of a server changes only through [`desired`], and its generation only rises. The worker
//! writes a stage and its event in one transaction; a request writes its events right after the change,
//! so a crash in between can lose the sentence about it, never the change.

mod acme;
pub mod actions;
pub mod auth;
pub mod backup;
pub mod bootstrap;
pub mod certificates;
pub mod clock;
pub mod desired;
mod disk;
pub mod error;
pub mod events;
pub mod extract;
mod files;
pub mod fleet;
pub mod follow;
mod listen;
mod log_file;
pub mod metrics;
mod options;
pub mod presence;
pub mod recovery;
pub mod registry;
pub mod reports;
pub mod requests;
pub mod rollouts;
pub mod router;
pub mod routes;
#[cfg(test)]
mod samples;
pub mod state;
mod store_error;
pub mod tasks;
mod urls;
pub mod views;
mod waits;
pub mod wakeups;
pub mod web;
mod wrong_clocks;

pub use bootstrap::Edges;
pub use listen::ListenError;
pub use options::ServerOptions;
pub use router::openapi;
pub use state::AppState;

use anyhow::{Context, Result};
use api::cause::Cause;
use api::desired::SecurityMode;
use api::ids::ServerId;
use api::secret::Secret;
use api::tokens::{TokenPurpose, TokenRequest};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long open requests may take to finish when the control plane stops.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(10);

/// A control plane with everything but its tasks and its port: what a start does before it serves.
pub async fn prepare(options: ServerOptions, address: SocketAddr, edges: Edges) -> Result<bootstrap::Begun> {
    let begun = bootstrap::begin(options, address, edges).await?;
    let scope = begun.state.system_scope("start");
    desired::refresh_all(&begun.state, &scope).await.map_err(|e| anyhow::anyhow!("{e:#?}"))?;
    Ok(begun)
}

/// A running control plane.
pub struct Server {
    state: AppState,
    initial_password: Option<Secret>,
    serving: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the database, makes what the first start makes, binds the port and serves.
    pub async fn start(options: ServerOptions) -> Result<Self> {
        // The port first: a second control plane must not touch the database of the first.
        let listener = listen::bind(options.listen).await?;
        let address = listener.local_addr().context("read the address that was bound")?;
        let begun = prepare(options, address, Edges::default()).await?;
        let state = begun.state;
        let tasks = tasks::spawn(&state);
        let router = router::router(state.clone()).into_make_service_with_connect_info::<SocketAddr>();
        let stopping = state.stopping().clone();
        let serving = tokio::spawn(async move {
            let server = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned());
            if let Err(error) = server.await {
                tracing::error!(%error, "the control plane stopped serving");
            }
        });
        tracing::info!(%address, "the control plane is up");
        Ok(Self { state, initial_password: begun.initial_password, serving, tasks })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.state.address
    }

    /// The generated password of the user `admin`, if this was the first start.
    pub fn initial_password(&self) -> Option<&Secret> {
        self.initial_password.as_ref()
    }

    /// The token that the command line on this machine uses.
    pub fn cli_token_file(&self) -> std::path::PathBuf {
        self.state.options().directory().join(bootstrap::CLI_TOKEN_FILE)
    }

    /// A one-time token for the agent in the same process (`mainstay up`).
    pub async fn create_join_token(&self, name: &str, lifetime: Duration) -> Result<Secret> {
        let scope = self.state.system_scope("up");
        let request = TokenRequest {
            name: name.to_owned(),
            purpose: TokenPurpose::Join { project: None, stack: None },
            lifetime_ms: u64::try_from(lifetime.as_millis()).ok(),
        };
        let cause = Cause::system("up", "make a join token");
        let made = actions::tokens::make(&self.state, &scope, cause, &request).await;
        made.map(|created| created.token).map_err(|e| anyhow::anyhow!("make a join token: {}", e.to_answer().1.message))
    }

    /// Sets how far one server may be reached from outside: what `mainstay up` was told this time.
    pub async fn set_security_mode(&self, server_id: &ServerId, mode: SecurityMode) -> Result<()> {
        let scope = self.state.system_scope("up");
        self.state.store().server_security_mode_set(&scope, server_id, mode).await?;
        desired::refresh_all(&self.state, &scope).await.map_err(|e| anyhow::anyhow!("{e:#?}"))
    }

    /// Stops taking requests, lets open ones finish, and closes the database.
    pub async fn shutdown(self) {
        self.state.stopping.cancel();
        let finish = async {
            let _ = self.serving.await;
            for task in self.tasks {
                let _ = task.await;
            }
        };
        if tokio::time::timeout(SHUTDOWN_LIMIT, finish).await.is_err() {
            tracing::warn!("requests were still open after {} s and were cut off", SHUTDOWN_LIMIT.as_secs());
        }
        self.state.store.close().await;
    }

    /// Ends when the control plane was told to stop or cannot serve any longer.
    pub async fn stopped(&self) {
        self.state.stopping.cancelled().await;
    }

    /// For whoever embeds the control plane and has a signal to pass on.
    pub fn stopping(&self) -> CancellationToken {
        self.state.stopping.clone()
    }
}
