//! What happens beside the calls: the engine's events, restarts and kills that are due, and the copying of logs.
//!
//! Events only say that it is worth looking; nothing is believed from them. Where they stop, every call looks for itself.

use super::Shared;
use super::answers::EngineEvent;
use super::api::{JsonStream, escaped};
use super::instances::Instances;
use super::record::OWNER_LABEL;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::task::AbortHandle;

const LOGS_EVERY: Duration = Duration::from_millis(200);
const SLEEPERS_EVERY: Duration = Duration::from_secs(20);
const CONNECT_AGAIN: Duration = Duration::from_secs(2);
/// The longest time without a turn though nothing happened.
const IDLE: Duration = Duration::from_secs(30);

/// Ends with the driver.
pub struct Watchers(Vec<AbortHandle>);

impl Watchers {
    pub fn begin(shared: &Arc<Shared>, instances: &Arc<Instances>) -> Self {
        let tasks = [
            tokio::spawn(follow_events(Arc::downgrade(shared), Arc::downgrade(instances))),
            tokio::spawn(keep(Arc::downgrade(instances))),
            tokio::spawn(copy_logs(Arc::downgrade(instances))),
            tokio::spawn(wake_sleepers(Arc::downgrade(instances))),
        ];
        Self(tasks.iter().map(tokio::task::JoinHandle::abort_handle).collect())
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn follow_events(shared: Weak<Shared>, instances: Weak<Instances>) {
    loop {
        let Some(now) = shared.upgrade() else { return };
        let engine = now.finder.engine().await;
        if let Ok(engine) = engine {
            let filter =
                serde_json::json!({ "type": ["container"], "label": [format!("{OWNER_LABEL}={}", now.owner)] });
            let path = format!("/events?filters={}", escaped(&filter.to_string()));
            drop(now);
            if let Ok(body) = engine.api.stream(http::Method::GET, &path, &[], None).await {
                hear(JsonStream::new(body), &instances).await;
            }
            let Some(instances) = instances.upgrade() else { return };
            instances.events_are_live(false);
        }
        let jitter = 0.75 + 0.5 * ambient::random_fraction();
        tokio::time::sleep(CONNECT_AGAIN.mul_f64(jitter)).await;
    }
}

async fn hear(mut events: JsonStream, instances: &Weak<Instances>) {
    if let Some(instances) = instances.upgrade() {
        instances.events_are_live(true);
    }
    while let Ok(Some(event)) = events.next::<EngineEvent>().await {
        let Some(instances) = instances.upgrade() else { return };
        // Checks are run by exec, and say nothing about the container.
        if !event.action.starts_with("exec") && event.action != "top" {
            instances.is_worth_a_look(&event.actor.id);
        }
    }
}

/// Restarts and kills, when they are due.
async fn keep(instances: Weak<Instances>) {
    loop {
        let Some(now) = instances.upgrade() else { return };
        let wait = now.next_due().await.unwrap_or(IDLE).min(IDLE);
        let woken = now.woken();
        drop(now);
        tokio::select! {
            () = woken.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        let Some(now) = instances.upgrade() else { return };
        now.turn().await;
    }
}

async fn copy_logs(instances: Weak<Instances>) {
    loop {
        tokio::time::sleep(LOGS_EVERY).await;
        let Some(now) = instances.upgrade() else { return };
        now.copy_logs().await;
    }
}

async fn wake_sleepers(instances: Weak<Instances>) {
    loop {
        tokio::time::sleep(SLEEPERS_EVERY).await;
        let Some(now) = instances.upgrade() else { return };
        now.wake_sleepers().await;
    }
}
