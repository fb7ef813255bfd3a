//! "Look again": how the parts of the control plane tell each other that there is news.
//!
//! No message carries the news itself. Whoever wakes reads the store after what it saw last, so a
//! lost, doubled or late wake-up costs time and never truth, and a restart needs no replay. Each
//! channel is therefore a `watch`, which never lags and never fills: many changes in a row are one.
//!
//! Absent: channels between processes. There is one control plane per database; a second one would
//! need the database to wake it (`LISTEN` on Postgres) and this is the one place to add that.

use api::ids::{ServerId, ServiceId};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// All channels, shared by handlers and tasks.
pub struct Wakeups {
    events: watch::Sender<u64>,
    logs: watch::Sender<u64>,
    credentials: watch::Sender<u64>,
    servers: Mutex<HashMap<ServerId, watch::Sender<u64>>>,
    fleet: watch::Sender<u64>,
    fleet_changed: Notify,
    services: Mutex<BTreeSet<ServiceId>>,
    all_services: AtomicBool,
    services_changed: Notify,
}

impl Default for Wakeups {
    fn default() -> Self {
        Self {
            events: watch::Sender::new(0),
            logs: watch::Sender::new(0),
            credentials: watch::Sender::new(0),
            servers: Mutex::default(),
            fleet: watch::Sender::new(0),
            fleet_changed: Notify::new(),
            services: Mutex::default(),
            all_services: AtomicBool::new(false),
            services_changed: Notify::new(),
        }
    }
}

impl Wakeups {
    /// Fires whenever an event was stored.
    pub fn events(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }

    pub fn events_stored(&self) {
        self.events.send_modify(|count| *count += 1);
    }

    /// Fires whenever log lines were stored.
    pub fn logs(&self) -> watch::Receiver<u64> {
        self.logs.subscribe()
    }

    pub fn logs_stored(&self) {
        self.logs.send_modify(|count| *count += 1);
    }

    /// Fires whenever a session ended or a token was revoked: open streams look whether it was theirs.
    pub fn credentials(&self) -> watch::Receiver<u64> {
        self.credentials.subscribe()
    }

    pub fn credentials_revoked(&self) {
        self.credentials.send_modify(|count| *count += 1);
    }

    /// Fires with the newest generation of one server's desired state.
    pub fn server(&self, id: &ServerId) -> watch::Receiver<u64> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.entry(id.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    pub fn server_changed(&self, id: &ServerId, generation: u64) {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = servers.get(id) {
            sender.send_modify(|newest| *newest = generation.max(*newest));
        }
    }

    /// Forgets a removed server; whoever waits for it wakes.
    pub fn server_removed(&self, id: &ServerId) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Fires with the newest generation of the fleet state.
    pub fn fleet(&self) -> watch::Receiver<u64> {
        self.fleet.subscribe()
    }

    pub fn fleet_told(&self, generation: u64) {
        self.fleet.send_modify(|newest| *newest = generation.max(*newest));
    }

    /// Asks for the fleet state to be put together anew.
    pub fn change_fleet(&self) {
        self.fleet_changed.notify_one();
    }

    /// For the fleet task: waits until [`Self::change_fleet`] was called since the last time.
    pub async fn fleet_changed(&self) {
        self.fleet_changed.notified().await;
    }

    /// Asks the rollout task to look at a service again.
    pub fn service_changed(&self, id: &ServiceId) {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        self.services_changed.notify_one();
    }

    /// Asks the rollout task to look at every service when it has nothing more urgent: a server came.
    pub fn all_services_changed(&self) {
        self.all_services.store(true, Ordering::Release);
        self.services_changed.notify_one();
    }

    /// For the rollout task: whether all services were asked for since the last time.
    pub fn take_all_services(&self) -> bool {
        self.all_services.swap(false, Ordering::AcqRel)
    }

    /// For the rollout task: waits until [`Self::service_changed`] was called since the last time.
    pub async fn services_changed(&self) {
        self.services_changed.notified().await;
    }

    /// Takes the services to look at, leaving none.
    pub fn take_services(&self) -> BTreeSet<ServiceId> {
        std::mem::take(&mut self.services.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wakeup_before_the_wait_is_not_lost_and_many_are_one() {
        let wakeups = Wakeups::default();
        let id = ServiceId::from_uuid(uuid::Uuid::from_u128(1));
        wakeups.service_changed(&id);
        wakeups.service_changed(&id);
        tokio::time::timeout(std::time::Duration::from_secs(1), wakeups.services_changed()).await.unwrap();
        assert_eq!(wakeups.take_services().len(), 1);
        assert!(wakeups.take_services().is_empty());
    }

    #[tokio::test]
    async fn a_generation_never_falls_for_a_waiter() {
        let wakeups = Wakeups::default();
        let id = ServerId::from_uuid(uuid::Uuid::from_u128(1));
        let receiver = wakeups.server(&id);
        wakeups.server_changed(&id, 3);
        wakeups.server_changed(&id, 2);
        assert_eq!(*receiver.borrow(), 3);
    }
}
