//! A deployment in flight, one stage after the other. A tick goes as far as it safely can, so a
//! rollback to a warm release passes every stage in one.

use super::{InstanceIntent, RolloutChange, RolloutInstance, Tick, Traffic};
use api::deployments::{Deployment, DeploymentFailure, DeploymentKind, Stage, StageEntry};
use api::observed::{InstanceState, PreparationObserved, PreparationState};
use api::services::Sole;

/// A process that ended this often before it was ever healthy is not waited for any longer.
const RESTARTS_BEFORE_FAILURE: u32 = 3;
/// How often fetching the source may fail before the deployment does.
const PREPARATION_ATTEMPTS: u32 = 3;
/// How long a server that does not report is waited for while it prepares: builds take their time.
const PREPARED_WITHIN_MS: i64 = 3_600_000;
/// How long gateways may take to acknowledge new routes.
pub(super) const ROUTES_WITHIN_MS: i64 = 60_000;

/// What one stage found.
enum Step {
    Next(Stage),
    Wait,
    /// The deployment ended, or its rows changed so that the next tick has to look first.
    Done,
}

impl Tick<'_> {
    pub(super) fn advance(&mut self, deployment: &Deployment) {
        let mut deployment = deployment.clone();
        self.discard_superseded(&deployment);
        loop {
            let step = match deployment.stage {
                Stage::Pending | Stage::Unknown => self.pending(&deployment),
                Stage::Building => self.building(&deployment),
                Stage::Pulling => self.pulling(&deployment),
                Stage::Starting => self.starting(&deployment),
                Stage::Healthy => Step::Next(Stage::DnsUpdating),
                // Internal names lead to the gateway whatever the release, so there is nothing to wait for.
                Stage::DnsUpdating => self.switch(&deployment),
                Stage::RoutesUpdating => self.routes_updating(&deployment),
                Stage::StoppingOld => self.stopping_old(&deployment),
                _ => Step::Done,
            };
            match step {
                Step::Next(stage) => self.enter(&mut deployment, stage),
                Step::Wait | Step::Done => return,
            }
        }
    }

    fn enter(&mut self, deployment: &mut Deployment, stage: Stage) {
        let spec = self.rollout_spec(&deployment.revision_id);
        let now_ms = self.input.now_ms;
        // A restart replaces like by like: there is nothing to go back to.
        let replaces = deployment.previous_revision_id.as_ref().is_some_and(|p| p != &deployment.revision_id);
        let running = stage == Stage::Running;
        self.plan.changes.push(RolloutChange::SetStage {
            deployment_id: deployment.id.clone(),
            stage,
            failure: None,
            bake_until_ms: (running && replaces).then_some(now_ms + spec.bake_ms as i64),
            warm_until_ms: (running && replaces).then_some(now_ms + spec.warm_ms.max(spec.bake_ms) as i64),
        });
        deployment.stage = stage;
        deployment.stages.push(StageEntry { stage, at_ms: now_ms });
    }

    pub(super) fn entered_at_ms(&self, deployment: &Deployment, stage: Stage) -> i64 {
        deployment.stages.iter().rev().find(|s| s.stage == stage).map_or(deployment.created_at_ms, |s| s.at_ms)
    }

    /// The instances that this deployment wants, at most as many as its replicas.
    pub(super) fn targets(&self, deployment: &Deployment) -> Vec<usize> {
        let mut targets: Vec<usize> = (0..self.instances.len())
            .filter(|&i| {
                let instance = &self.instances[i];
                let own = match deployment.kind {
                    DeploymentKind::Restart => instance.deployment_id == deployment.id,
                    DeploymentKind::Stop => false,
                    _ => instance.revision_id == deployment.revision_id,
                };
                own && instance.server_exists && !(instance.intent == InstanceIntent::Stop && self.leaves(instance))
            })
            .collect();
        targets.sort_by_key(|&i| {
            let instance = &self.instances[i];
            (instance.traffic != Traffic::Active, !instance.healthy(), instance.ordinal, instance.id.clone())
        });
        targets.truncate(deployment.replicas as usize);
        targets
    }

    /// Whether a stopped instance is on its way out rather than waiting for its start.
    fn leaves(&self, instance: &RolloutInstance) -> bool {
        instance.traffic != Traffic::Candidate
    }

    pub(super) fn others(&self, deployment: &Deployment) -> Vec<usize> {
        let targets = self.targets(deployment);
        (0..self.instances.len()).filter(|&i| !targets.contains(&i) && !self.is_deleted(i)).collect()
    }

    fn has_sole(&self, deployment: &Deployment) -> bool {
        self.sole_of(&deployment.revision_id).is_some()
    }

    fn pending(&mut self, deployment: &Deployment) -> Step {
        let targets = self.targets(deployment);
        let missing = deployment.replicas.saturating_sub(targets.len() as u32);
        if missing == 0 {
            return Step::Next(Stage::Building);
        }
        let taken: Vec<u32> = targets.iter().map(|&i| self.instances[i].ordinal).collect();
        // A target may be prepared but not started while others hold its port, its volumes or its room.
        let holds_sole = self.has_sole(deployment) && !self.others(deployment).is_empty();
        let waits = holds_sole || !self.has_room(deployment);
        let intent = if waits { InstanceIntent::Stop } else { InstanceIntent::Run };
        if !self.create(missing, &deployment.revision_id, &deployment.id, &taken, intent) {
            self.block("no server that may run it reports; add one with `mainstay tokens create` or bring one back");
            return Step::Wait;
        }
        self.plan.changes.push(RolloutChange::SetStage {
            deployment_id: deployment.id.clone(),
            stage: Stage::Building,
            failure: None,
            bake_until_ms: None,
            warm_until_ms: None,
        });
        Step::Done
    }

    /// Nothing is built for an image.
    fn building(&mut self, deployment: &Deployment) -> Step {
        if self.is_image(deployment) { Step::Next(Stage::Pulling) } else { self.prepared(deployment, Stage::Building) }
    }

    /// Nothing is pulled for a commit.
    fn pulling(&mut self, deployment: &Deployment) -> Step {
        if self.is_image(deployment) { self.prepared(deployment, Stage::Pulling) } else { Step::Next(Stage::Starting) }
    }

    fn is_image(&self, deployment: &Deployment) -> bool {
        self.revision(&deployment.revision_id).is_some_and(|revision| revision.is_image)
    }

    /// Whether every server has what it is to run; `stage` is the one that waits for it.
    fn prepared(&mut self, deployment: &Deployment, stage: Stage) -> Step {
        let targets = self.targets(deployment);
        if (targets.len() as u32) < deployment.replicas {
            return self.pending(deployment);
        }
        let mut waits = false;
        for &index in &targets {
            let instance = self.instances[index].clone();
            if instance.state() != InstanceState::Absent {
                continue;
            }
            let preparation = self.preparation(&instance);
            match preparation.map_or(PreparationState::Absent, |p| p.state) {
                PreparationState::Ready => {}
                PreparationState::Failed => {
                    let Some(preparation) = preparation.cloned() else { continue };
                    if !preparation.retryable || preparation.attempts >= PREPARATION_ATTEMPTS {
                        self.fail_preparation(deployment, &instance, &preparation, stage);
                        return Step::Done;
                    }
                    waits = true;
                }
                PreparationState::Absent | PreparationState::Working => waits = true,
            }
            let deadline_ms = self.entered_at_ms(deployment, stage) + PREPARED_WITHIN_MS;
            if waits && !instance.server_online {
                if self.input.now_ms >= deadline_ms {
                    let minutes = PREPARED_WITHIN_MS / 60_000;
                    let message = format!("it was not prepared within {minutes} min: its server does not report");
                    self.fail_at(deployment, &instance, stage, message);
                    return Step::Done;
                }
                self.wake_at(deadline_ms);
            }
        }
        if waits {
            self.block(if stage == Stage::Pulling {
                "its image is being pulled"
            } else {
                "its release is being prepared"
            });
            return Step::Wait;
        }
        if !self.has_sole(deployment) && !self.may_start(deployment, &targets) {
            return Step::Wait;
        }
        Step::Next(if stage == Stage::Building { Stage::Pulling } else { Stage::Starting })
    }

    /// Whether all targets run, or can run beside what is there.
    fn may_start(&mut self, deployment: &Deployment, targets: &[usize]) -> bool {
        targets.iter().all(|&i| self.instances[i].intent == InstanceIntent::Run) || self.make_room(deployment)
    }

    fn preparation(&self, instance: &RolloutInstance) -> Option<&PreparationObserved> {
        let own = |(server, p): &&(_, PreparationObserved)| {
            server == &instance.server_id && p.revision_id == instance.revision_id
        };
        self.input.preparations.iter().find(own).map(|(_, preparation)| preparation)
    }

    fn fail_preparation(
        &mut self,
        deployment: &Deployment,
        instance: &RolloutInstance,
        seen: &PreparationObserved,
        stage: Stage,
    ) {
        let error = seen.error.clone().unwrap_or_else(|| "it failed without a message".into());
        let failure = DeploymentFailure {
            stage,
            message: error,
            server_id: Some(instance.server_id.clone()),
            last_probe: None,
            log_tail: seen.log_tail.clone(),
        };
        self.fail(deployment, failure);
    }

    fn starting(&mut self, deployment: &Deployment) -> Step {
        let targets = self.targets(deployment);
        if (targets.len() as u32) < deployment.replicas {
            return self.pending(deployment);
        }
        let free = match self.has_sole(deployment) {
            true => self.free_sole(deployment),
            false => self.may_start(deployment, &targets),
        };
        if !free {
            return Step::Wait;
        }
        for &index in &targets {
            self.set_intent(index, InstanceIntent::Run);
        }
        if targets.iter().all(|&i| self.instances[i].healthy()) {
            return Step::Next(Stage::Healthy);
        }
        let deadline_ms = self.healthy_deadline_ms(deployment);
        for &index in &targets {
            let instance = self.instances[index].clone();
            if let Some(why) = hopeless(&instance, deployment.created_at_ms) {
                self.fail_start(deployment, &instance, &why);
                return Step::Done;
            }
            // Whatever became of it: a server that does not report is not waited for any longer either.
            if !instance.healthy() && self.input.now_ms >= deadline_ms {
                self.fail_start(deployment, &instance, "");
                return Step::Done;
            }
        }
        self.block("its instances are not healthy yet");
        self.wake_at(deadline_ms);
        Step::Wait
    }

    fn healthy_deadline_ms(&self, deployment: &Deployment) -> i64 {
        let spec = self.rollout_spec(&deployment.revision_id);
        self.entered_at_ms(deployment, Stage::Starting) + spec.healthy_within_ms as i64
    }

    /// A fixed port, or volumes: the others leave first. Answers whether they are gone. What is on a server that does
    /// not report may run on, and nobody asked for two copies: then the deployment fails after a while.
    fn free_sole(&mut self, deployment: &Deployment) -> bool {
        let mut held_by = None;
        for index in self.others(deployment) {
            self.retire(index, false);
            let other = &self.instances[index];
            if other.intent == InstanceIntent::Run || !other.gone() {
                held_by = held_by.filter(|&known: &usize| !self.instances[known].server_online).or(Some(index));
            }
        }
        let Some(index) = held_by else { return true };
        let holder = self.instances[index].clone();
        let drain_ms = self.rollout_spec(&holder.revision_id).drain_ms as i64;
        let deadline_ms = self.healthy_deadline_ms(deployment) + drain_ms;
        if !holder.server_online && self.input.now_ms >= deadline_ms {
            let where_ = match self.sole_of(&holder.revision_id) {
                Some(Sole::Volumes) => "with its volumes",
                _ => "on its fixed port",
            };
            let message = format!(
                "the server of the release before does not report, and may run it {where_}; bring it back, or remove it with `mainstay servers remove`"
            );
            self.fail_at(deployment, &holder, Stage::Starting, message);
            return false;
        }
        self.block(match self.sole_of(&holder.revision_id) {
            Some(Sole::Volumes) => "its volumes are freed: the release before drains and stops",
            _ => "its fixed port is freed: the release before drains and stops",
        });
        if !holder.server_online {
            self.wake_at(deadline_ms);
        }
        false
    }

    fn fail_start(&mut self, deployment: &Deployment, instance: &RolloutInstance, why: &str) {
        let observed = instance.observed.as_ref();
        let probe = observed.and_then(|o| o.last_probe.clone());
        let seconds = self.rollout_spec(&deployment.revision_id).healthy_within_ms / 1000;
        let reason = match (why, observed.and_then(|o| o.problem.clone()), &probe) {
            (why, _, _) if !why.is_empty() => why.to_owned(),
            _ if !instance.server_online => {
                format!("it was not healthy within {seconds} s: its server does not report")
            }
            (_, Some(problem), _) => format!("it was not healthy within {seconds} s: {problem}"),
            (_, None, Some(probe)) => format!("it was not healthy within {seconds} s: {}", probe.message),
            (_, None, None) => format!("it was not healthy within {seconds} s"),
        };
        let failure = DeploymentFailure {
            stage: Stage::Starting,
            message: reason,
            server_id: Some(instance.server_id.clone()),
            last_probe: probe,
            log_tail: observed.map(|o| o.log_tail.clone()).unwrap_or_default(),
        };
        self.fail(deployment, failure);
    }

    /// All targets are healthy: they take traffic and the others give it up.
    fn switch(&mut self, deployment: &Deployment) -> Step {
        if deployment.kind != DeploymentKind::Stop
            && self.input.current_revision_id.as_ref() != Some(&deployment.revision_id)
        {
            self.plan.changes.push(RolloutChange::SetCurrent {
                revision_id: Some(deployment.revision_id.clone()),
                previous_revision_id: self.input.current_revision_id.clone(),
            });
        }
        let targets = self.targets(deployment);
        let others = self.others(deployment);
        self.hand_over(&others, &targets);
        Step::Next(Stage::RoutesUpdating)
    }

    fn routes_updating(&mut self, deployment: &Deployment) -> Step {
        if self.instances.is_empty() {
            return Step::Next(Stage::StoppingOld);
        }
        if self.has_lost_its_targets(deployment) || self.roll_back_if_broken(deployment) {
            return Step::Done;
        }
        let deadline_ms = self.entered_at_ms(deployment, Stage::RoutesUpdating) + ROUTES_WITHIN_MS;
        let late = self.input.now_ms >= deadline_ms;
        if let Some(index) = self.awaited_target(deployment, late) {
            if late {
                self.fail_routes(deployment, index);
                return Step::Done;
            }
        } else {
            // The new instances are in, so what still served beside them may go.
            let mut others_routed = false;
            for index in self.others(deployment) {
                if self.instances[index].traffic == Traffic::Active {
                    self.set_traffic(index, Traffic::Draining);
                }
                others_routed |= self.instances[index].routed && self.instances[index].server_online;
            }
            // The machine itself does not stop what its gateway sends requests to, so after some time
            // the old ones may go their way.
            if late || !others_routed {
                return Step::Next(Stage::StoppingOld);
            }
        }
        self.block("the gateway has not acknowledged the new routes yet");
        self.wake_at(deadline_ms);
        Step::Wait
    }

    /// A target that has to take requests before what still serves beside the targets may go. A machine of
    /// which so much is wanted that no report ever answers the newest of it is believed when time is over.
    fn awaited_target(&self, deployment: &Deployment, late: bool) -> Option<usize> {
        let targets = self.targets(deployment);
        let acknowledged = |i: usize| self.has_acknowledged(i) || (late && self.takes_requests(i));
        let awaited = targets.iter().copied().find(|&i| !acknowledged(i));
        let serves = |i: &usize| self.serves(*i) && self.instances[*i].healthy();
        let alone = !targets.iter().any(serves) && self.others(deployment).iter().any(serves);
        awaited.or_else(|| targets.first().copied().filter(|_| alone))
    }

    fn fail_routes(&mut self, deployment: &Deployment, index: usize) {
        let instance = self.instances[index].clone();
        let why = match &instance.gateway_problem {
            _ if !instance.server_online => "its server does not report",
            Some(problem) => problem,
            None if self.takes_requests(index) => "its instances are no longer healthy",
            None => "its gateway has not acknowledged them",
        };
        let message = format!("the routes could not be switched within {} s: {why}", ROUTES_WITHIN_MS / 1000);
        self.fail_at(deployment, &instance, Stage::RoutesUpdating, message);
    }

    /// Fails if none of the instances that took the traffic is left, because their servers were
    /// removed: what served before them may still be there.
    fn has_lost_its_targets(&mut self, deployment: &Deployment) -> bool {
        let targets = self.targets(deployment);
        if deployment.replicas == 0 || targets.iter().any(|&i| self.serves(i)) {
            return false;
        }
        let message = "the servers of its instances were removed".into();
        let stage = deployment.stage;
        let failure = DeploymentFailure { stage, message, server_id: None, last_probe: None, log_tail: Vec::new() };
        self.fail(deployment, failure);
        true
    }

    fn stopping_old(&mut self, deployment: &Deployment) -> Step {
        if self.has_lost_its_targets(deployment) || self.roll_back_if_broken(deployment) {
            return Step::Done;
        }
        let mut drained = true;
        for index in self.others(deployment) {
            let stays_warm = deployment.kind != DeploymentKind::Stop
                && self.instances[index].revision_id != deployment.revision_id
                && self.instances[index].intent == InstanceIntent::Run;
            self.retire(index, stays_warm);
            let other = &self.instances[index];
            drained &= other.traffic == Traffic::Out;
            if deployment.kind == DeploymentKind::Stop {
                drained &= other.intent == InstanceIntent::Stop && other.gone();
            }
        }
        if !drained {
            return Step::Wait;
        }
        Step::Next(if deployment.kind == DeploymentKind::Stop { Stage::Stopped } else { Stage::Running })
    }

    /// Fails for something that is not the instance's own doing.
    pub(super) fn fail_at(
        &mut self,
        deployment: &Deployment,
        instance: &RolloutInstance,
        stage: Stage,
        message: String,
    ) {
        let server_id = Some(instance.server_id.clone());
        let failure = DeploymentFailure { stage, message, server_id, last_probe: None, log_tail: Vec::new() };
        self.fail(deployment, failure);
    }

    /// Ends the deployment. If traffic had moved already, it goes back.
    fn fail(&mut self, deployment: &Deployment, mut failure: DeploymentFailure) {
        let previous = deployment.previous_revision_id.clone();
        let switched = self.input.current_revision_id.as_ref() == Some(&deployment.revision_id)
            && previous.is_some()
            && previous.as_ref() != Some(&deployment.revision_id);
        let number = previous.as_ref().and_then(|p| self.revision(p)).map(|r| r.number);
        let consequence = match number {
            Some(number) => format!(" Revision {number} keeps serving."),
            None => " Nothing served before it.".into(),
        };
        failure.message =
            format!("{} was not deployed: {}.{consequence}", self.input.service, failure.message.trim_end_matches('.'));
        self.plan.changes.push(RolloutChange::SetStage {
            deployment_id: deployment.id.clone(),
            stage: Stage::Failed,
            failure: Some(failure),
            bake_until_ms: None,
            warm_until_ms: None,
        });
        if let (true, Some(previous)) = (switched, previous) {
            self.switch_back(&previous);
        }
    }
}

/// Why it makes no sense to wait for an instance any longer, if so.
fn hopeless(instance: &RolloutInstance, since_ms: i64) -> Option<String> {
    let observed = instance.observed.as_ref()?;
    // What an instance that is used again went through before this deployment does not count.
    if instance.healthy() || observed.last_exit.as_ref().is_none_or(|exit| exit.at_ms < since_ms) {
        return None;
    }
    let ends = observed.crash_looping
        || observed.restarts >= RESTARTS_BEFORE_FAILURE
        || observed.state == InstanceState::Exited;
    if !ends || instance.intent == InstanceIntent::Stop {
        return None;
    }
    let how = observed.last_exit.as_ref().map_or_else(|| "ended".into(), |exit| exit.describe());
    let times = observed.restarts + u32::from(observed.state == InstanceState::Exited);
    Some(match times {
        1 => format!("its process {how}"),
        times => format!("its process {how}, {times} times in a row"),
    })
}
