//! Nothing is in flight: the current revision has its instances, and nothing else stays longer than
//! it should.

use super::{InstanceIntent, RolloutChange, RolloutInstance, Tick, Traffic, broken_since};
use api::deployments::{Deployment, DeploymentFailure, DeploymentKind, Stage};
use api::ids::{RevisionId, ServerId};
use api::observed::InstanceState;
use api::services::{ServiceIntent, Sole};
use std::collections::BTreeMap;

impl Tick<'_> {
    pub(super) fn settle(&mut self) {
        let deployment = self.input.deployment.as_ref();
        if let Some(deployment) = deployment
            && deployment.stage == Stage::Running
            && self.breaks_while_baking(deployment)
        {
            return;
        }
        let wanted = self.wanted();
        let kept = self.keep(wanted);
        let others: Vec<usize> = (0..self.instances.len()).filter(|index| !kept.contains(index)).collect();
        let complete = kept.len() as u32 == wanted
            && kept.iter().all(|&index| self.instances[index].intent == InstanceIntent::Run);
        let room = complete || self.make_room_beside(&others, wanted, wanted);
        for &index in &kept {
            self.bring_up(index, room);
        }
        self.replace_missing(wanted, &kept, room);
        // Traffic leaves the others only when somebody is there to take it; unless they hold a fixed
        // port or volumes, without which nobody ever will be.
        let on_sole = self.input.current_revision_id.as_ref().is_some_and(|id| self.sole_of(id).is_some());
        let served = wanted == 0 || on_sole || self.is_served_by(&kept);
        let awaited = self.awaits(&kept);
        for index in others {
            let instance = &self.instances[index];
            // Those of the same release that are kept are no worse, once they get its requests.
            let same = Some(&instance.revision_id) == self.input.current_revision_id.as_ref();
            let surplus = same && !instance.healthy() && !awaited;
            if served || surplus || instance.traffic != Traffic::Active || !instance.server_exists {
                let asked = !served && !surplus && instance.routed && instance.intent == InstanceIntent::Run;
                let warm = self.is_warm(index);
                self.retire(index, warm || asked);
                if asked {
                    self.block("the gateway has not acknowledged the new routes yet");
                }
            } else if same {
                self.block("an instance serves until the gateway sends its requests to those that replace it");
            } else {
                self.block("another release serves until the current one is healthy and gets its requests");
            }
        }
    }

    /// Whether one of these is healthy, and each that is or may become so gets its requests. One on a
    /// server that does not report may be healthy, and what serves in its stead there be nothing: as
    /// long as its gateway has not said that it asks it, it is waited for.
    pub(super) fn is_served_by(&self, kept: &[usize]) -> bool {
        kept.iter().any(|&i| self.serves(i) && self.instances[i].healthy()) && !self.awaits(kept)
    }

    /// Whether one of these may serve as soon as its gateway sends it requests.
    fn awaits(&self, kept: &[usize]) -> bool {
        let comes = |instance: &RolloutInstance| {
            let state = instance.state();
            let starts = matches!(state, InstanceState::Transient | InstanceState::Running | InstanceState::Healthy);
            starts || instance.unknown()
        };
        kept.iter().any(|&i| self.serves(i) && comes(&self.instances[i]) && !self.has_acknowledged(i))
    }

    /// Whether it is to have traffic and to go on running.
    pub(super) fn serves(&self, index: usize) -> bool {
        let instance = &self.instances[index];
        instance.traffic == Traffic::Active && instance.intent == InstanceIntent::Run
    }

    fn wanted(&self) -> u32 {
        match (self.input.intent, &self.input.current_revision_id) {
            (ServiceIntent::Run, Some(_)) => self.input.replicas,
            _ => 0,
        }
    }

    /// The instances of the current revision that stay: those that serve first, then those that
    /// could serve soonest.
    fn keep(&self, wanted: u32) -> Vec<usize> {
        let Some(current) = &self.input.current_revision_id else { return Vec::new() };
        let mut own: Vec<usize> = (0..self.instances.len())
            .filter(|&i| &self.instances[i].revision_id == current && self.instances[i].server_exists)
            .collect();
        own.sort_by_key(|&i| {
            let instance = &self.instances[i];
            let traffic_rank = match instance.traffic {
                Traffic::Active => 0,
                Traffic::Draining => 1,
                Traffic::Out => 2,
                Traffic::Candidate => 3,
            };
            (instance.intent == InstanceIntent::Stop, !instance.healthy(), traffic_rank, instance.ordinal)
        });
        own.truncate(wanted as usize);
        own
    }

    /// One step towards serving.
    fn bring_up(&mut self, index: usize, room: bool) {
        let instance = &self.instances[index];
        if instance.intent == InstanceIntent::Stop {
            if !room {
                return;
            }
            if self.sole_is_taken(index) {
                self.block(match self.sole_of(&self.instances[index].revision_id) {
                    Some(Sole::Volumes) => "its volumes are still held by another instance",
                    _ => "its fixed port is still held by another instance",
                });
                return;
            }
            self.set_traffic(index, Traffic::Candidate);
            self.set_intent(index, InstanceIntent::Run);
        } else if instance.traffic != Traffic::Active {
            // A warm or draining instance that is well takes traffic back at once.
            if instance.healthy() {
                self.set_traffic(index, Traffic::Active);
            } else {
                self.block("an instance is not healthy yet");
            }
        } else if !instance.server_online {
            self.block("an instance is on a server that does not report; it is counted as running there");
        } else if !instance.healthy() {
            let reason = match (instance.state(), instance.observed.as_ref().and_then(|o| o.last_probe.as_ref())) {
                (InstanceState::Unhealthy, Some(probe)) => format!("an instance is not healthy: {}", probe.message),
                _ if instance.unknown() => "nothing has been heard of an instance yet".to_owned(),
                (InstanceState::Exited, _) => "an instance has ended; its server starts it again".to_owned(),
                _ => "an instance is not healthy yet".to_owned(),
            };
            self.block(reason);
        }
    }

    /// Whether another instance on the same server still holds the fixed port or the volumes of this one.
    fn sole_is_taken(&self, index: usize) -> bool {
        let own = &self.instances[index];
        let Some(sole) = self.sole_of(&own.revision_id) else { return false };
        self.instances
            .iter()
            .enumerate()
            .any(|(i, other)| i != index && other.server_id == own.server_id && self.holds(other, sole))
    }

    fn holds(&self, instance: &RolloutInstance, sole: Sole) -> bool {
        self.sole_of(&instance.revision_id) == Some(sole)
            && (instance.intent == InstanceIntent::Run || !instance.gone())
    }

    fn replace_missing(&mut self, wanted: u32, kept: &[usize], room: bool) {
        let missing = wanted.saturating_sub(kept.len() as u32);
        let Some(current) = self.input.current_revision_id.clone() else { return };
        if missing == 0 || !room {
            return;
        }
        let Some(deployment) = &self.input.deployment else {
            self.block("it has no deployment that its instances could belong to; deploy it again");
            return;
        };
        let taken: Vec<u32> = kept.iter().map(|&i| self.instances[i].ordinal).collect();
        let id = deployment.id.clone();
        // On a fixed port, or with volumes, it is started only when nobody holds them any more.
        let sole = self.sole_of(&current);
        let held = sole.is_some_and(|sole| self.instances.iter().any(|other| self.holds(other, sole)));
        let intent = if held { InstanceIntent::Stop } else { InstanceIntent::Run };
        if !self.create(missing, &current, &id, &taken, intent) {
            self.block("no server that may run it reports; add one or bring one back");
        }
    }

    /// Whether an instance stays started though it serves nothing: the release before, for a while.
    fn is_warm(&mut self, index: usize) -> bool {
        let Some(deployment) = &self.input.deployment else { return false };
        let warm_until_ms = match (deployment.stage, deployment.warm_until_ms) {
            (Stage::Running, Some(until)) if until > self.input.now_ms => until,
            _ => return false,
        };
        let instance = &self.instances[index];
        let previous = self.input.previous_revision_id.as_ref() == Some(&instance.revision_id);
        // Nothing is guessed of one that has not been heard of, as after a restart of the control plane.
        let well = instance.unknown() || matches!(instance.state(), InstanceState::Running | InstanceState::Healthy);
        let runs = self.input.intent == ServiceIntent::Run && instance.intent == InstanceIntent::Run;
        if previous && well && runs {
            self.wake_at(warm_until_ms);
            return true;
        }
        false
    }

    /// A release that breaks soon after it took over is rolled back, if the one before is there.
    fn breaks_while_baking(&mut self, deployment: &Deployment) -> bool {
        let Some(bake_until_ms) = deployment.bake_until_ms.filter(|until| *until > self.input.now_ms) else {
            return false;
        };
        self.wake_at(bake_until_ms);
        self.roll_back_if_broken(deployment)
    }

    /// Ends the deployment and gives traffic back, if a target of it is broken and there is a
    /// release to go back to.
    pub(super) fn roll_back_if_broken(&mut self, deployment: &Deployment) -> bool {
        // Only a new release is taken back by itself: somebody who rolled back meant to leave the other one.
        if deployment.kind != DeploymentKind::Deploy {
            return false;
        }
        let Some(previous) = deployment.previous_revision_id.clone() else { return false };
        if previous == deployment.revision_id {
            return false;
        }
        let switched = deployment.stages.iter().rev().find(|s| s.stage == Stage::RoutesUpdating).map(|s| s.at_ms);
        let since_ms = switched.unwrap_or(deployment.created_at_ms);
        let broken = self.instances.iter().find_map(|instance| {
            let ours = instance.revision_id == deployment.revision_id && instance.traffic == Traffic::Active;
            ours.then(|| broken_since(instance, since_ms)).flatten().map(|why| (instance.clone(), why))
        });
        let Some((instance, why)) = broken else { return false };
        let number = self.revision(&previous).map_or_else(|| "before".into(), |r| r.number.to_string());
        let observed = instance.observed.as_ref();
        let failure = DeploymentFailure {
            stage: deployment.stage,
            message: format!(
                "{} broke after it took over: {why}. Traffic is back on revision {number}; mend it and deploy again.",
                self.input.service
            ),
            server_id: Some(instance.server_id.clone()),
            last_probe: observed.and_then(|o| o.last_probe.clone()),
            log_tail: observed.map(|o| o.log_tail.clone()).unwrap_or_default(),
        };
        self.plan.changes.push(RolloutChange::SetStage {
            deployment_id: deployment.id.clone(),
            stage: Stage::RolledBack,
            failure: Some(failure),
            bake_until_ms: None,
            warm_until_ms: None,
        });
        self.switch_back(&previous);
        true
    }

    /// Gives traffic back to a revision whose instances are still there, in the same step.
    pub(super) fn switch_back(&mut self, previous: &RevisionId) {
        self.plan
            .changes
            .push(RolloutChange::SetCurrent { revision_id: Some(previous.clone()), previous_revision_id: None });
        let ready: Vec<usize> = (0..self.instances.len())
            .filter(|&i| {
                let instance = &self.instances[i];
                &instance.revision_id == previous && instance.intent == InstanceIntent::Run && instance.healthy()
            })
            .collect();
        if !ready.is_empty() {
            let others: Vec<usize> =
                (0..self.instances.len()).filter(|i| !ready.contains(i) && !self.is_deleted(*i)).collect();
            self.hand_over(&others, &ready);
        }
    }

    /// Gives traffic from the active ones of `others` to `targets`. On one server that is one step of
    /// its gateway. Servers do not take that step together, so where targets are on other servers than
    /// what they replace, others serve on until the gateways of those have acknowledged.
    pub(super) fn hand_over(&mut self, others: &[usize], targets: &[usize]) {
        for &index in targets {
            self.set_traffic(index, Traffic::Active);
        }
        let mut leaving: BTreeMap<ServerId, Vec<usize>> = BTreeMap::new();
        for &index in others.iter().filter(|&&i| self.instances[i].traffic == Traffic::Active) {
            leaving.entry(self.instances[index].server_id.clone()).or_default().push(index);
        }
        for (server, mut leaving) in leaving {
            let (here, elsewhere): (Vec<usize>, Vec<usize>) =
                targets.iter().copied().partition(|&i| self.instances[i].server_id == server);
            let awaited = elsewhere.into_iter().filter(|&i| !self.has_acknowledged(i)).count();
            let stays = leaving.len().saturating_sub(here.len()).min(awaited);
            // Those stay who most likely serve. What was last heard of the others may be over: a process that ended
            // is started again, and the report of that is late.
            leaving.sort_by_key(|&i| (!self.instances[i].healthy(), !self.instances[i].unknown()));
            for index in leaving.into_iter().skip(stays) {
                self.set_traffic(index, Traffic::Draining);
            }
        }
    }
}
