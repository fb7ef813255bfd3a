//! What each deployment in flight waits for, as the last look at it found.
//!
//! A person who watches a deployment stand still wants to know why, and the rollout knows at each look. It
//! follows from rows and reports and is never a reason for anything, so it is kept in memory: after a
//! restart the first look at a service says it again. One entry per service at most.

use api::deployments::Deployment;
use api::ids::{DeploymentId, ServiceId};
use api::observed::Blocked;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub struct Waits(Mutex<HashMap<ServiceId, (DeploymentId, Vec<String>)>>);

impl Waits {
    fn entries(&self) -> MutexGuard<'_, HashMap<ServiceId, (DeploymentId, Vec<String>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest deployment of a service was looked at and does not move. Answers whether this is news.
    pub fn note(&self, service_id: &ServiceId, newest: Option<&Deployment>, blocked: &[Blocked]) -> bool {
        let Some(deployment) = newest.filter(|deployment| deployment.stage.in_flight()) else {
            return self.entries().remove(service_id).is_some();
        };
        let reasons = blocked.iter().map(|blocked| blocked.reason.clone()).collect();
        let now = (deployment.id.clone(), reasons);
        let mut entries = self.entries();
        let news = entries.get(service_id) != Some(&now);
        if news {
            entries.insert(service_id.clone(), now);
        }
        news
    }

    /// The deployment as people see it.
    pub fn shown(&self, mut deployment: Deployment) -> Deployment {
        if deployment.stage.in_flight()
            && let Some((id, reasons)) = self.entries().get(&deployment.service_id)
            && id == &deployment.id
        {
            deployment.waits_for.clone_from(reasons);
        }
        deployment
    }
}
