//! What one tick of a rollout never does and always does, whatever the rows and reports say.

use crate::rollout_worlds::{NOW_MS, fixed, flying, gone, handing_over, healthy, input, shuffled, superseding};
use crate::samples::{cases, id};
use api::deployments::{DeploymentKind, Stage, StageEntry};
use api::desired::{InstanceIntent, Traffic};
use api::ids::InstanceId;
use api::services::{PortSpec, RolloutSpec, ServiceIntent};
use plan::rollout::{RolloutChange, RolloutInput, RolloutInstance, RolloutPlan};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The rows after the changes, created ones apart.
fn after(input: &RolloutInput, plan: &RolloutPlan) -> BTreeMap<InstanceId, RolloutInstance> {
    let mut rows: BTreeMap<_, _> = input.instances.iter().map(|i| (i.id.clone(), i.clone())).collect();
    for change in &plan.changes {
        match change {
            RolloutChange::SetTraffic { instance_id, traffic } => {
                rows.get_mut(instance_id).expect("a change names what is there, and not after it is deleted").traffic =
                    *traffic;
            }
            RolloutChange::SetIntent { instance_id, intent } => {
                rows.get_mut(instance_id).expect("a change names what is there, and not after it is deleted").intent =
                    *intent;
            }
            RolloutChange::DeleteInstance { instance_id } => {
                rows.remove(instance_id).expect("what is deleted is there, once");
            }
            RolloutChange::CreateInstance { .. }
            | RolloutChange::SetStage { .. }
            | RolloutChange::SetCurrent { .. } => {}
        }
    }
    rows
}

/// Whether a release is taken back in this tick.
fn goes_back(plan: &RolloutPlan) -> bool {
    let ended =
        |c: &RolloutChange| matches!(c, RolloutChange::SetStage { stage: Stage::RolledBack | Stage::Failed, .. });
    plan.changes.iter().any(ended)
}

/// How many instances the service is to have, at most.
fn wanted(input: &RolloutInput) -> usize {
    input.replicas.max(flying(input).map_or(0, |deployment| deployment.replicas)) as usize
}

fn is_to_run(instance: &RolloutInstance) -> bool {
    instance.server_exists && instance.intent == InstanceIntent::Run
}

/// Whether an instance lost its traffic because there were too many that may serve: gateways have had
/// their time, as many as are wanted stay, and none of these is known to serve less than it did.
fn made_way(input: &RolloutInput, rows: &BTreeMap<InstanceId, RolloutInstance>, before: &RolloutInstance) -> bool {
    let active = |i: &&RolloutInstance| i.traffic == Traffic::Active && is_to_run(i);
    let known = |i: &RolloutInstance| {
        let listens = input.revisions.iter().any(|r| r.id == i.revision_id && r.port != PortSpec::None);
        healthy(i) && (i.routed || !listens)
    };
    let time = input.instances.iter().filter(active).all(|i| NOW_MS >= i.traffic_changed_at_ms + 60_000);
    let stay: Vec<_> = rows.values().filter(active).collect();
    time && stay.len() >= wanted(input) && (!known(before) || stay.iter().all(|i| known(i)))
}

/// Time goes by, and what is planned is written down; nobody says a word. Answers how many are to run
/// after each tick, and the last world.
fn in_silence(mut input: RolloutInput, for_ms: i64) -> Result<(Vec<usize>, RolloutInput), TestCaseError> {
    let (end_ms, mut running) = (input.now_ms + for_ms, Vec::new());
    for tick in 0.. {
        prop_assert!(tick < 200, "it never rests");
        let plan = plan::rollout::plan(&input);
        let rows = after(&input, &plan);
        for instance in &mut input.instances {
            let changed = rows.get(&instance.id).is_some_and(|now| now.traffic != instance.traffic);
            instance.traffic_changed_at_ms = if changed { input.now_ms } else { instance.traffic_changed_at_ms };
        }
        input.instances.retain(|instance| rows.contains_key(&instance.id));
        for instance in &mut input.instances {
            (instance.traffic, instance.intent) = (rows[&instance.id].traffic, rows[&instance.id].intent);
        }
        for change in &plan.changes {
            if let (RolloutChange::SetStage { stage, .. }, Some(deployment)) = (change, &mut input.deployment) {
                deployment.stage = *stage;
                deployment.stages.push(StageEntry { stage: *stage, at_ms: input.now_ms });
            }
        }
        running.push(input.instances.iter().filter(|i| is_to_run(i)).count());
        let wake_at_ms = plan.wake_at_ms.unwrap_or(end_ms);
        if wake_at_ms >= end_ms || flying(&input).is_none() {
            break;
        }
        input.now_ms = wake_at_ms;
    }
    Ok((running, input))
}

proptest! {
    #![proptest_config(cases(800))]

    #[test]
    fn the_order_of_rows_and_reports_does_not_change_a_rollout((one, other) in input().prop_flat_map(shuffled)) {
        prop_assert_eq!(plan::rollout::plan(&one), plan::rollout::plan(&other));
    }

    #[test]
    fn only_an_instance_that_is_out_of_traffic_is_stopped_and_only_one_that_is_gone_is_forgotten(
        input in prop_oneof![input(), handing_over()]
    ) {
        let plan = plan::rollout::plan(&input);
        let rows = after(&input, &plan);
        for before in &input.instances {
            let Some(now) = rows.get(&before.id) else {
                let out = before.traffic == Traffic::Out && before.intent == InstanceIntent::Stop && gone(before);
                prop_assert!(out || !before.server_exists, "forgotten: {before:?}");
                continue;
            };
            if before.intent == InstanceIntent::Run && now.intent == InstanceIntent::Stop {
                prop_assert_eq!(now.traffic, Traffic::Out, "stopped with traffic: {:?}", before);
                prop_assert!(before.traffic != Traffic::Active, "stopped in the tick that took its traffic: {before:?}");
                let drained = now.open_requests == 0 && !now.routed && now.caught_up
                    || gone(before)
                    || NOW_MS >= before.traffic_changed_at_ms + RolloutSpec::default().drain_ms as i64;
                prop_assert!(before.traffic != Traffic::Draining || drained, "stopped before it drained: {before:?}");
            }
        }
    }

    #[test]
    fn traffic_is_given_only_to_healthy_instances(input in input()) {
        let plan = plan::rollout::plan(&input);
        let rows = after(&input, &plan);
        for before in &input.instances {
            let takes = before.traffic != Traffic::Active
                && rows.get(&before.id).is_some_and(|now| now.traffic == Traffic::Active);
            // A deployment that stands at the switch was healthy in the tick before.
            let at_switch = flying(&input).is_some_and(|d| matches!(d.stage, Stage::Healthy | Stage::DnsUpdating));
            prop_assert!(!takes || at_switch || healthy(before), "{before:?}");
            prop_assert!(!takes || before.server_exists, "{before:?}");
        }
    }

    #[test]
    fn traffic_is_taken_only_when_somebody_healthy_has_it_afterwards(
        input in prop_oneof![input(), handing_over()]
    ) {
        let plan = plan::rollout::plan(&input);
        let rows = after(&input, &plan);
        let serves = |instance: &&RolloutInstance| {
            // An active instance that is to be stopped is no state that the planner brings about.
            instance.traffic == Traffic::Active && instance.intent == InstanceIntent::Run && healthy(instance)
        };
        let taken = input.instances.iter().filter(serves).any(|before| rows.get(&before.id).is_none_or(|now| !serves(&now)));
        let none_wanted = match flying(&input) {
            Some(deployment) => deployment.replicas == 0,
            None => input.intent == ServiceIntent::Stop || input.current_revision_id.is_none(),
        };
        // On a fixed port whoever holds it leaves first: there the gap is announced.
        let next = flying(&input).map(|d| &d.revision_id).or(input.current_revision_id.as_ref());
        let makes_room = next.is_some_and(|revision| fixed(&input, revision).is_some());
        let at_switch = flying(&input).is_some_and(|d| matches!(d.stage, Stage::Healthy | Stage::DnsUpdating));
        // Everybody else has left traffic before this stage is entered.
        let stopping = flying(&input).is_some_and(|d| d.stage == Stage::StoppingOld);
        if taken && !none_wanted && !makes_room && !at_switch && !stopping {
            prop_assert!(rows.values().any(|now| serves(&now)), "{:?}", plan.changes);
        }
    }

    #[test]
    fn a_settled_service_takes_traffic_only_from_what_has_been_replaced(input in input()) {
        let none_wanted = input.intent == ServiceIntent::Stop || input.current_revision_id.is_none();
        let on_fixed_port = input.current_revision_id.as_ref().is_some_and(|current| fixed(&input, current).is_some());
        let plan = plan::rollout::plan(&input);
        if flying(&input).is_some() || none_wanted || on_fixed_port || goes_back(&plan) {
            return Ok(());
        }
        let rows = after(&input, &plan);
        let serves = |i: &RolloutInstance| i.traffic == Traffic::Active && is_to_run(i);
        // Not yet asked by its gateway, though it may serve.
        let awaited = |now: &RolloutInstance| {
            let listens = input.revisions.iter().any(|r| r.id == now.revision_id && r.port != PortSpec::None);
            let hopes = healthy(now) || now.observed.is_none() && !now.caught_up;
            Some(&now.revision_id) == input.current_revision_id.as_ref() && serves(now) && hopes && listens && !now.routed
        };
        for before in input.instances.iter().filter(|before| serves(before)) {
            let taken = rows.get(&before.id).is_none_or(|now| now.traffic != Traffic::Active);
            let replaced = !rows.values().any(awaited) || made_way(&input, &rows, before);
            prop_assert!(!taken || replaced, "{before:?} lost its traffic: {:?}", plan.changes);
        }
    }

    #[test]
    fn before_a_new_release_is_healthy_the_old_one_keeps_all_its_traffic(
        input in prop_oneof![input(), superseding()]
    ) {
        let Some(deployment) = flying(&input) else { return Ok(()) };
        let early = deployment.stage < Stage::Healthy || deployment.stage == Stage::Unknown;
        if !early || deployment.replicas == 0 || fixed(&input, &deployment.revision_id).is_some() {
            return Ok(());
        }
        let plan = plan::rollout::plan(&input);
        let switches = plan.changes.iter().any(|c| matches!(c, RolloutChange::SetStage { stage: Stage::Healthy, .. }));
        let rows = after(&input, &plan);
        let mut targets = 0;
        for before in &input.instances {
            let now = rows.get(&before.id);
            // An active instance that is to be stopped is no state that the planner brings about.
            let serves = before.traffic == Traffic::Active && before.intent == InstanceIntent::Run;
            let kept = !serves || now.is_some_and(|now| now.traffic == Traffic::Active);
            // What a superseded deployment left serving beside those that replaced it may go.
            let current = input.current_revision_id.as_ref();
            let acknowledged = |now: &&RolloutInstance| {
                let listens = input.revisions.iter().any(|r| r.id == now.revision_id && r.port != PortSpec::None);
                Some(&now.revision_id) == current && now.traffic == Traffic::Active && healthy(now) && (now.routed || !listens)
            };
            let successors = rows.values().filter(acknowledged).count();
            let another = Some(&before.revision_id) != current;
            let enough = if another { 1 } else { wanted(&input) };
            // One of which nothing is known may be about to serve, and what it replaces be all there is.
            let awaited = |now: &&RolloutInstance| {
                let serves = now.traffic == Traffic::Active && now.intent == InstanceIntent::Run && now.server_exists;
                let hopes = healthy(now) || now.observed.is_none() && !now.caught_up;
                // A worker has nothing to acknowledge.
                let listens = input.revisions.iter().any(|r| r.id == now.revision_id && r.port != PortSpec::None);
                Some(&now.revision_id) == current && serves && hopes && listens && !now.routed
            };
            let replaced = successors >= enough && (!another || !rows.values().any(|now| awaited(&now)));
            let kept = kept || replaced || made_way(&input, &rows, before);
            let back = goes_back(&plan);
            prop_assert!(kept || switches || back || !before.server_exists, "{before:?} lost its traffic");
            targets += usize::from(now.is_some_and(|now| now.traffic == Traffic::Active && healthy(now)));
        }
        if switches {
            prop_assert!(targets >= deployment.replicas as usize, "switched with {targets} healthy instances");
        }
    }

    #[test]
    fn there_are_never_more_instances_than_asked_for(input in input()) {
        let plan = plan::rollout::plan(&input);
        let created = plan.changes.iter().filter(|c| matches!(c, RolloutChange::CreateInstance { .. })).count();
        let rows = after(&input, &plan);
        let asked = match flying(&input) {
            Some(deployment) => deployment.replicas,
            None if input.intent == ServiceIntent::Stop => 0,
            None => input.replicas,
        };
        let own = |i: &RolloutInstance| match flying(&input) {
            Some(d) if d.kind == DeploymentKind::Restart => i.deployment_id == d.id,
            Some(d) => i.revision_id == d.revision_id,
            None => Some(&i.revision_id) == input.current_revision_id.as_ref(),
        };
        let runs = |i: &RolloutInstance| i.server_exists && i.intent == InstanceIntent::Run;
        let had = rows.values().filter(|i| own(i) && runs(i)).count();
        if created > 0 {
            prop_assert!(had + created <= (asked as usize).max(had), "{had} and {created} more of {asked}");
        }
        for change in &plan.changes {
            if let RolloutChange::CreateInstance { server_id, revision_id, deployment_id, .. } = change {
                prop_assert!(input.candidates.iter().any(|candidate| &candidate.server_id == server_id));
                let newest = input.deployment.as_ref().map(|d| &d.id);
                prop_assert_eq!(Some(deployment_id), newest);
                let wanted = flying(&input).map(|d| &d.revision_id).or(input.current_revision_id.as_ref());
                prop_assert_eq!(Some(revision_id), wanted);
            }
        }
    }

    #[test]
    fn nothing_is_started_beside_more_than_are_wanted(
        input in prop_oneof![input(), handing_over(), superseding()]
    ) {
        let plan = plan::rollout::plan(&input);
        let rows = after(&input, &plan);
        let created = |c: &&RolloutChange| {
            matches!(c, RolloutChange::CreateInstance { intent: InstanceIntent::Run, .. })
        };
        let created = plan.changes.iter().filter(created).count();
        let started = |now: &&RolloutInstance| {
            let before = input.instances.iter().find(|before| before.id == now.id);
            is_to_run(now) && before.is_some_and(|before| before.intent == InstanceIntent::Stop)
        };
        let started = rows.values().filter(started).count();
        let running = created + rows.values().filter(|now| is_to_run(now)).count();
        let room = created + started == 0 || running <= 2 * wanted(&input);
        prop_assert!(room, "{running} are to run, {} are wanted: {:?}", wanted(&input), plan.changes);
    }

    /// A server that never answers again: the next release comes all the same. A gateway that never lets go: it
    /// comes, or it fails, and does not wait for ever.
    #[test]
    fn whatever_is_in_the_way_of_the_next_release_leaves_in_time(input in superseding()) {
        let limit = 2 * wanted(&input);
        let before = input.instances.iter().filter(|i| is_to_run(i)).count();
        let fixed = fixed(&input, &id("rev", 3)).is_some();
        // To drain, to acknowledge that it is out, and before that to acknowledge what came in its place;
        // to get healthy, which is as long as a fixed port on a silent server is waited for.
        let spec = RolloutSpec::default();
        let (running, end) = in_silence(input, (spec.drain_ms + spec.healthy_within_ms) as i64 + 2 * 60_000 + 5_000)?;
        let next: Vec<_> = end.instances.iter().filter(|i| i.revision_id == id("rev", 3)).collect();
        let started = next.iter().all(|i| i.intent == InstanceIntent::Run) || flying(&end).is_none();
        // A server that reports, and never that a process has ended, still holds the port.
        let held = fixed && end.instances.iter().any(|i| i.server_online && i.revision_id != id("rev", 3));
        prop_assert!(started || held, "{:?} still waits beside {:?}", end.deployment, end.instances);
        prop_assert!(running.iter().all(|&count| count <= limit.max(before)), "{running:?} of {limit}");
        let begun = next.iter().any(|i| i.intent == InstanceIntent::Run);
        prop_assert!(!begun || running.last().is_some_and(|&count| count <= limit), "{running:?} of {limit}");
    }

    #[test]
    fn two_instances_are_never_started_on_one_fixed_port(input in input()) {
        let plan = plan::rollout::plan(&input);
        let rows = after(&input, &plan);
        let started = rows.values().filter(|now| {
            let before = input.instances.iter().find(|before| before.id == now.id);
            now.intent == InstanceIntent::Run && before.is_some_and(|before| before.intent == InstanceIntent::Stop)
        });
        for now in started {
            let Some(port) = fixed(&input, &now.revision_id) else { continue };
            let rival = rows.values().find(|other| {
                other.id != now.id
                    && other.server_id == now.server_id
                    && fixed(&input, &other.revision_id) == Some(port)
                    && !gone(other)
            });
            prop_assert!(rival.is_none(), "{rival:?} holds the port of {now:?}");
        }
        for change in &plan.changes {
            let RolloutChange::CreateInstance { server_id, revision_id, intent: InstanceIntent::Run, .. } = change else { continue };
            let Some(port) = fixed(&input, revision_id) else { continue };
            let rival = rows.values().find(|other| {
                &other.server_id == server_id && fixed(&input, &other.revision_id) == Some(port) && !gone(other)
            });
            prop_assert!(rival.is_none(), "{rival:?} holds the port of {change:?}");
        }
    }

    #[test]
    fn a_deployment_moves_only_forward_only_while_in_flight_and_ends_once(
        input in prop_oneof![input(), handing_over()]
    ) {
        let plan = plan::rollout::plan(&input);
        let mut stage = input.deployment.as_ref().map(|d| d.stage);
        for change in &plan.changes {
            let RolloutChange::SetStage { deployment_id, stage: next, failure, .. } = change else { continue };
            prop_assert_eq!(Some(deployment_id), input.deployment.as_ref().map(|d| &d.id));
            let from = stage.unwrap();
            let baked = from == Stage::Running && *next == Stage::RolledBack;
            prop_assert!(from.in_flight() || baked, "{from} → {next}");
            // Servers that went away are made up for by building again.
            let again = *next == Stage::Building && from <= Stage::Starting;
            prop_assert!(from == Stage::Unknown || from < *next || again, "{from} → {next}");
            let failed = matches!(next, Stage::Failed | Stage::RolledBack);
            prop_assert_eq!(failed, failure.as_ref().is_some_and(|f| !f.message.is_empty()));
            stage = Some(*next);
        }
    }

    #[test]
    fn the_old_leave_traffic_only_after_every_gateway_has_acknowledged_the_new(
        input in prop_oneof![input(), handing_over()]
    ) {
        let Some(deployment) = flying(&input) else { return Ok(()) };
        let plan = plan::rollout::plan(&input);
        let entered_at_ms = deployment.stages[0].at_ms;
        let late = NOW_MS >= entered_at_ms + 60_000;
        let rows = after(&input, &plan);
        if deployment.stage != Stage::RoutesUpdating || deployment.replicas == 0 || goes_back(&plan) {
            return Ok(());
        }
        let listens = |i: &RolloutInstance| {
            input.revisions.iter().any(|revision| revision.id == i.revision_id && revision.port != PortSpec::None)
        };
        let own = |i: &&RolloutInstance| match deployment.kind {
            DeploymentKind::Restart => i.deployment_id == deployment.id,
            _ => i.revision_id == deployment.revision_id,
        };
        let mut new = input.instances.iter().filter(own).filter(|i| i.traffic == Traffic::Active && i.server_exists);
        // What had traffic before may have lost it since it said that it is asked.
        let answers = |i: &RolloutInstance| i.caught_up || i.deployment_id == deployment.id || late;
        let acknowledged = new.all(|i| i.routed && answers(i) || !listens(i) || i.intent == InstanceIntent::Stop);
        let enough = input.instances.iter().filter(own).filter(|i| i.traffic == Traffic::Active && i.server_exists);
        // More than are wanted leave like any other.
        if enough.count() > deployment.replicas as usize {
            return Ok(());
        }
        let leaves = |stage: Stage| plan.changes.iter().any(|c| matches!(c, RolloutChange::SetStage { stage: s, .. } if *s == stage));
        prop_assert!(acknowledged || !leaves(Stage::StoppingOld), "left before the new were in: {:?}", plan.changes);
        let old_routed = input.instances.iter().filter(|i| !own(i) && i.server_online && i.routed);
        let deleted = |i: &RolloutInstance| !rows.contains_key(&i.id);
        prop_assert!(
            late || !leaves(Stage::StoppingOld) || old_routed.clone().all(deleted),
            "left while gateways still send requests to the old: {:?}", plan.changes
        );
        let current = input.current_revision_id.as_ref();
        // An active instance that is to be stopped is no state that the planner brings about.
        let old = |i: &&RolloutInstance| !own(i) && i.server_exists && i.intent == InstanceIntent::Run;
        for before in input.instances.iter().filter(old) {
            let current_serves = input.instances.iter().any(|i| {
                Some(&i.revision_id) == current && i.traffic == Traffic::Active && healthy(i) && (i.routed || !listens(i))
            });
            let now = rows.get(&before.id);
            let drained = before.traffic == Traffic::Active && now.is_none_or(|now| now.traffic != Traffic::Active);
            prop_assert!(!drained || acknowledged || current_serves, "drained too early: {before:?}");
        }
    }

    /// On one server a switch is one step of its gateway. Elsewhere what serves stays, until a report says that
    /// it is asked who comes in its stead, and says it of the traffic that those have now.
    #[test]
    fn a_switch_takes_from_a_server_only_what_is_asked_there_or_has_been_acknowledged_elsewhere(
        input in prop_oneof![input(), handing_over()]
    ) {
        let Some(deployment) = flying(&input) else { return Ok(()) };
        let plan = plan::rollout::plan(&input);
        let switched =
            |c: &RolloutChange| matches!(c, RolloutChange::SetStage { stage: Stage::RoutesUpdating, .. });
        let on_fixed_port = fixed(&input, &deployment.revision_id).is_some();
        if !plan.changes.iter().any(switched) || goes_back(&plan) || on_fixed_port {
            return Ok(());
        }
        let own = |i: &RolloutInstance| match deployment.kind {
            DeploymentKind::Restart => i.deployment_id == deployment.id,
            DeploymentKind::Stop => false,
            _ => i.revision_id == deployment.revision_id,
        };
        let rows = after(&input, &plan);
        let serves = |i: &RolloutInstance| i.traffic == Traffic::Active && is_to_run(i);
        let targets: Vec<_> = rows.values().filter(|now| own(now) && serves(now)).collect();
        if targets.len() > deployment.replicas as usize {
            return Ok(());
        }
        let awaited = |now: &&&RolloutInstance| {
            let listens = input.revisions.iter().any(|r| r.id == now.revision_id && r.port != PortSpec::None);
            let had_it = input.instances.iter().any(|i| i.id == now.id && i.traffic == Traffic::Active);
            let new = now.deployment_id == deployment.id;
            listens && !(now.routed && (new || now.caught_up && had_it))
        };
        for server in input.instances.iter().map(|i| &i.server_id) {
            let here = |i: &&RolloutInstance| &i.server_id == server;
            // Healthy or not: what was last heard of them may be over.
            let old = |i: &&RolloutInstance| !own(i) && serves(i);
            let served = input.instances.iter().filter(here).filter(old).count();
            let serve = rows.values().filter(here).filter(old).count();
            let gained = targets.iter().filter(|now| here(now)).count();
            let awaited = targets.iter().filter(|now| !here(now)).filter(awaited).count();
            let needed = served.saturating_sub(gained).min(awaited);
            prop_assert!(serve >= needed, "{serve} of {served} stay on {server}, {needed} must: {:?}", plan.changes);
        }
    }

    /// Otherwise it would stand still until somebody has news.
    #[test]
    fn a_service_at_rest_changes_nothing_before_the_moment_at_which_it_asks_to_be_woken(
        input in input(), later_ms in prop_oneof![0..70_000_i64, 0..10_000_000_i64]
    ) {
        let plan = plan::rollout::plan(&input);
        let until_ms = plan.wake_at_ms.map_or(i64::MAX, |at_ms| at_ms - NOW_MS);
        if plan.changes.is_empty() && later_ms < until_ms {
            let later = RolloutInput { now_ms: NOW_MS + later_ms, ..input };
            prop_assert_eq!(plan::rollout::plan(&later).changes, vec![]);
        }
    }

    #[test]
    fn a_service_in_flight_that_does_not_move_says_what_it_waits_for(
        input in prop_oneof![input(), handing_over()]
    ) {
        let plan = plan::rollout::plan(&input);
        if plan.changes.is_empty() && flying(&input).is_some() {
            prop_assert!(!plan.blocked.is_empty());
        }
        prop_assert!(plan.blocked.iter().all(|blocked| !blocked.reason.is_empty()));
        // Otherwise whoever waits would look again without end.
        let wake_at_ms = plan.wake_at_ms.unwrap_or(i64::MAX);
        prop_assert!(wake_at_ms > NOW_MS || !plan.changes.is_empty(), "wakes at {wake_at_ms}, now is {NOW_MS}");
    }

    #[test]
    fn a_settled_service_that_is_not_as_wanted_says_why(input in input()) {
        let plan = plan::rollout::plan(&input);
        if flying(&input).is_some() || !plan.changes.is_empty() {
            return Ok(());
        }
        let wanted = match (input.intent, &input.current_revision_id) {
            (ServiceIntent::Run, Some(_)) => input.replicas as usize,
            _ => 0,
        };
        let current = |i: &&RolloutInstance| Some(&i.revision_id) == input.current_revision_id.as_ref();
        let serves = |i: &&RolloutInstance| i.traffic == Traffic::Active && i.intent == InstanceIntent::Run && healthy(i);
        let serving = input.instances.iter().filter(current).filter(serves).count();
        let warm = |i: &&RolloutInstance| i.traffic == Traffic::Out && i.intent == InstanceIntent::Run && !i.routed;
        let warm = input.instances.iter().filter(|i| !current(i)).filter(warm).count();
        let as_wanted = serving == wanted && serving + warm == input.instances.len();
        prop_assert!(as_wanted || !plan.blocked.is_empty(), "{serving} of {wanted} serve, {warm} are warm: {:?}", input.instances);
        prop_assert!(warm == 0 || plan.wake_at_ms.is_some(), "a warm release stays for ever");
    }
}
