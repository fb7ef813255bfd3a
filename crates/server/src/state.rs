//! What every handler and task holds: the store, the settings, the key, and the ways to wake others.

use crate::auth::limiter::SignInLimiter;
use crate::options::ServerOptions;
use crate::wakeups::Wakeups;
use api::events::EventKind;
use api::ids::{OrganizationId, ServerId};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use store::{Scope, Store};
use tokio_util::sync::CancellationToken;

/// A handle; clones share everything.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

pub struct Shared {
    pub(crate) store: Store,
    pub(crate) options: ServerOptions,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) signing_key: wire::SigningKey,
    pub(crate) sealing_key: sealing::SealingKey,
    /// The certificates that there are, with their keys; see [`crate::certificates`].
    pub(crate) certificates: Mutex<Arc<crate::certificates::Book>>,
    pub(crate) wanted_hosts: crate::acme::WantedHosts,
    pub(crate) git: git::Environment,
    /// The organization of the first start; more come with tenancy.
    pub(crate) organization: OrganizationId,
    pub(crate) wakeups: Wakeups,
    pub(crate) limiter: SignInLimiter,
    pub(crate) stopping: CancellationToken,
    /// Held from reading rows to writing what follows from them: by a person's request alone, by the
    /// rollouts of several services together. One control plane writes to one database, so this puts
    /// deciders in line cheaply; the store's own checks are the proof.
    pub(crate) deciding: tokio::sync::RwLock<()>,
    /// Held in addition by a rollout that looks for servers, so that no two take the same one for the
    /// least loaded.
    pub(crate) placing: tokio::sync::Mutex<()>,
    pub(crate) refreshing: crate::desired::Turns,
    /// For how long something takes; see [`crate::clock`].
    pub(crate) steady: crate::clock::Steady,
    /// Servers that hold what a restored control plane does not know.
    pub(crate) recoveries: crate::recovery::Recoveries,
    /// When each server was last heard, newer than the store knows.
    pub(crate) heard: Mutex<HashMap<ServerId, crate::presence::Heard>>,
    pub(crate) disk: crate::disk::DiskGuard,
    pub(crate) metrics: crate::metrics::Recorder,
    pub(crate) waits: crate::waits::Waits,
    /// Servers that are refused because of their clock.
    pub(crate) wrong_clocks: crate::wrong_clocks::WrongClocks,
    pub(crate) fleet: crate::fleet::Fleet,
    pub(crate) repositories: Arc<dyn crate::actions::sources::Repositories>,
    pub(crate) registries: Arc<dyn crate::registry::Registries>,
    /// The longest that one poll of an agent may wait.
    pub(crate) poll_limit: std::time::Duration,
}

impl AppState {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn options(&self) -> &ServerOptions {
        &self.options
    }

    pub fn git(&self) -> &git::Environment {
        &self.git
    }

    pub fn wakeups(&self) -> &Wakeups {
        &self.wakeups
    }

    pub fn organization_name(&self) -> &'static str {
        crate::bootstrap::ORGANIZATION
    }

    pub fn certificates(&self) -> Arc<crate::certificates::Book> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_certificates(&self, book: crate::certificates::Book) {
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(book);
    }

    /// Ends when the control plane does.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Under which address this control plane is reached, as far as it knows.
    pub fn public_url(&self) -> String {
        match &self.options.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", self.address),
        }
    }

    /// A scope for what Mainstay does by itself.
    pub fn system_scope(&self, part: &str) -> Scope {
        Scope::system(self.organization.clone(), part)
    }

    /// File that holds the first password, while it is there.
    pub fn initial_password_file(&self) -> Option<std::path::PathBuf> {
        let path = self.options.directory().join(crate::bootstrap::PASSWORD_FILE);
        path.exists().then_some(path)
    }
}

impl Deref for AppState {
    type Target = Shared;
    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// A fresh id of any kind; the order of ids is the order in which they were made.
pub fn fresh<T>(from_uuid: impl FnOnce(uuid::Uuid) -> T) -> T {
    from_uuid(ambient::fresh_id())
}

/// An event about nothing in particular; the caller fills in what it is about.
pub fn event(
    kind: EventKind,
    level: api::events::EventLevel,
    message: impl Into<String>,
    cause: api::cause::Cause,
) -> api::events::Event {
    api::events::Event {
        id: fresh(api::ids::EventId::from_uuid),
        at_ms: crate::clock::now_ms(),
        kind,
        level,
        message: message.into(),
        cause,
        stack_id: None,
        service_id: None,
        deployment_id: None,
        instance_id: None,
        server_id: None,
    }
}
