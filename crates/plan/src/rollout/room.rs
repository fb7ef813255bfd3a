//! Room for the next release: never are more instances to run than are wanted and as many again.
//!
//! That needs no thought as long as one release replaces one other. It does when people deploy faster
//! than releases hand over, or when a server in the middle of it stops answering: two earlier releases
//! are there, each of them may be what serves, and a third wants to come. Machines were measured for
//! two, so the third is prepared and waits until enough of the others are out of the way.
//!
//! Most of them leave by themselves: what drains, what was warm for a way back that no longer leads
//! there, what has been replaced. What has no end of its own gets one: a gateway has as long to
//! acknowledge as it has in any switch, and then those stay who are most likely to serve, as many as
//! are wanted. So a server that does not report holds up a deployment for a while, and not for ever. What a
//! gateway still asks, because it refuses the routes without it, is never stopped for room: it may be all
//! that serves. Then the deployment fails after that time and says why.

use super::advance::ROUTES_WITHIN_MS;
use super::{InstanceIntent, RolloutInstance, Tick, Traffic};
use api::deployments::{Deployment, DeploymentKind, Stage};
use std::cmp::Reverse;

/// When to look again whether earlier releases have left, if no report says so first.
const LOOK_AGAIN_MS: i64 = 5_000;

impl Tick<'_> {
    /// Candidates of a deployment that this one superseded never served: they go at once. So does
    /// what stayed warm for a way back that no longer leads there, before the new release comes
    /// beside it.
    pub(super) fn discard_superseded(&mut self, deployment: &Deployment) {
        for index in self.others(deployment) {
            let leaving = matches!(self.instances[index].traffic, Traffic::Candidate | Traffic::Draining);
            let stopped = self.instances[index].intent == InstanceIntent::Stop;
            let useless = self.is_useless(deployment, index) || self.has_been_replaced(deployment, index);
            if leaving || stopped || useless || !self.instances[index].server_exists {
                self.retire(index, false);
            }
        }
    }

    /// Whether an instance is started, without traffic, and of no release that traffic may go back to.
    fn is_useless(&self, deployment: &Deployment, index: usize) -> bool {
        let instance = &self.instances[index];
        let switched = (Stage::RoutesUpdating..Stage::Running).contains(&deployment.stage);
        if switched || instance.traffic != Traffic::Out || !instance.caught_up || instance.routed {
            return false;
        }
        instance.revision_id == deployment.revision_id || !self.may_return_to(deployment, instance)
    }

    /// Whether traffic may go back to an instance that has none: it is of the release that serves or
    /// served, and nobody of that release serves beside it.
    fn may_return_to(&self, deployment: &Deployment, instance: &RolloutInstance) -> bool {
        let serves = |other: &RolloutInstance| other.traffic == Traffic::Active && other.healthy();
        [&self.input.current_revision_id, &deployment.previous_revision_id]
            .contains(&&Some(instance.revision_id.clone()))
            && !self.instances.iter().any(|other| other.revision_id == instance.revision_id && serves(other))
    }

    /// Whether an instance serves beside those that replaced it: a deployment that was superseded in
    /// the middle of handing over left it so.
    fn has_been_replaced(&self, deployment: &Deployment, index: usize) -> bool {
        self.successors(deployment, index).is_some_and(|successors| self.is_served_by(&successors))
    }

    /// Who takes over from an active instance that neither this deployment nor the current release
    /// needs, if so: as many of the current release as are wanted. Instead of another release it is
    /// whoever there is of it, well or not, so that two releases do not serve beside each other for long.
    fn successors(&self, deployment: &Deployment, index: usize) -> Option<Vec<usize>> {
        let instance = &self.instances[index];
        let current = self.input.current_revision_id.as_ref()?;
        let restart = deployment.kind == DeploymentKind::Restart;
        let ours = [current, &instance.revision_id].contains(&&deployment.revision_id) && !restart;
        if instance.traffic != Traffic::Active || ours {
            return None;
        }
        let targets = self.targets(deployment);
        let serves = |i: &usize| self.serves(*i) && &self.instances[*i].revision_id == current && !targets.contains(i);
        let mut successors: Vec<usize> = (0..self.instances.len()).filter(serves).collect();
        let wanted = self.wanted_by(deployment) as usize;
        if &instance.revision_id != current {
            return (successors.len() >= wanted).then_some(successors);
        }
        successors.sort_by_key(|&i| {
            let other = &self.instances[i];
            (!other.healthy(), !self.takes_requests(i), Reverse(other.traffic_changed_at_ms), i)
        });
        let enough = successors.get(wanted.saturating_sub(1)).is_some_and(|&i| self.instances[i].healthy());
        successors.truncate(wanted);
        (enough && !successors.contains(&index)).then_some(successors)
    }

    fn wanted_by(&self, deployment: &Deployment) -> u32 {
        self.input.replicas.max(deployment.replicas)
    }

    /// Whether the targets can run beside what is there.
    pub(super) fn has_room(&self, deployment: &Deployment) -> bool {
        self.excess(&self.others(deployment), deployment.replicas, self.wanted_by(deployment)) == 0
    }

    /// Makes room for the targets. Answers whether it is there; fails when a gateway holds what is to leave.
    pub(super) fn make_room(&mut self, deployment: &Deployment) -> bool {
        let (others, wanted) = (self.others(deployment), self.wanted_by(deployment));
        let held = self.leaving(&others, deployment.replicas, wanted).into_iter().find(|&i| self.is_held(i));
        let room = self.make_room_beside(&others, deployment.replicas, wanted);
        let Some(index) = held.filter(|_| !room) else { return room };
        let entered_ms = self.entered_at_ms(deployment, deployment.stage);
        let since_ms = self.instances[index].traffic_changed_at_ms.max(entered_ms);
        if self.input.now_ms < since_ms + ROUTES_WITHIN_MS {
            self.wake_at(since_ms + ROUTES_WITHIN_MS);
        } else {
            self.fail_held(deployment, index);
        }
        false
    }

    fn fail_held(&mut self, deployment: &Deployment, index: usize) {
        let holder = self.instances[index].clone();
        let why = holder.gateway_problem.as_deref().unwrap_or("it has not acknowledged them");
        let message = format!(
            "a gateway still asks an earlier release and does not take the routes without it: {why}; deploy again when it does"
        );
        self.fail_at(deployment, &holder, deployment.stage, message);
    }

    /// Makes room for `next` instances beside `others`, of which those leave who serve least likely.
    /// Answers whether it is there.
    pub(super) fn make_room_beside(&mut self, others: &[usize], next: u32, wanted: u32) -> bool {
        for index in self.leaving(others, next, wanted) {
            self.make_way(index);
        }
        if self.excess(others, next, wanted) == 0 {
            return true;
        }
        self.block("its next instances are started once earlier releases have drained and left");
        self.wake_at(self.input.now_ms + LOOK_AGAIN_MS);
        false
    }

    /// Which of `others` are too many for `next` instances more, those first who serve least likely.
    fn leaving(&self, others: &[usize], next: u32, wanted: u32) -> Vec<usize> {
        let mut leaving: Vec<usize> = others.iter().copied().filter(|&i| self.is_to_run(i)).collect();
        leaving.sort_by_key(|&index| (Reverse(self.unlikeliness(index)), index));
        leaving.truncate(self.excess(others, next, wanted));
        leaving
    }

    /// Whether an instance is out of traffic, and its gateway asks it all the same: it refuses the routes
    /// without it, and what it asks may be all that serves.
    fn is_held(&self, index: usize) -> bool {
        let instance = &self.instances[index];
        instance.traffic == Traffic::Out && instance.server_online && instance.routed
    }

    /// How many of `others` are too many for `next` instances more to run beside them.
    fn excess(&self, others: &[usize], next: u32, wanted: u32) -> usize {
        let running = others.iter().filter(|&&i| self.is_to_run(i)).count();
        (running + next as usize).saturating_sub(2 * wanted as usize)
    }

    fn is_to_run(&self, index: usize) -> bool {
        let instance = &self.instances[index];
        instance.server_exists && instance.intent == InstanceIntent::Run
    }

    /// How unlikely it is that requests go to an instance and are answered, the least likely last. Of
    /// those of which nothing is known, what had its traffic earlier has shown that it can serve.
    fn unlikeliness(&self, index: usize) -> (u8, bool, i64) {
        let instance = &self.instances[index];
        let rank = match instance.traffic {
            Traffic::Active if instance.healthy() && self.takes_requests(index) => 0,
            Traffic::Active if instance.unknown() => 1,
            Traffic::Active => 2,
            Traffic::Out => 3,
            Traffic::Draining => 4,
            Traffic::Candidate => 5,
        };
        let of_another_release = Some(&instance.revision_id) != self.input.current_revision_id.as_ref();
        (rank, rank == 0 && of_another_release, instance.traffic_changed_at_ms)
    }

    /// One step out of the way, if it is time for that.
    fn make_way(&mut self, index: usize) {
        if self.is_held(index) {
            return;
        }
        let instance = &self.instances[index];
        let since_ms = match instance.traffic {
            Traffic::Candidate | Traffic::Draining => None,
            // One that does not report does first as it is told when it is back.
            Traffic::Out if !instance.server_online || instance.caught_up => None,
            Traffic::Out => Some(instance.traffic_changed_at_ms),
            // Whoever got traffic last may be about to acknowledge it.
            Traffic::Active => {
                let active = (0..self.instances.len()).filter(|&i| self.serves(i));
                active.map(|i| self.instances[i].traffic_changed_at_ms).max()
            }
        };
        match since_ms.map(|since_ms| since_ms + ROUTES_WITHIN_MS) {
            Some(at_ms) if self.input.now_ms < at_ms => self.wake_at(at_ms),
            _ => self.retire(index, false),
        }
    }
}
