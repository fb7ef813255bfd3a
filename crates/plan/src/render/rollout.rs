//! What a tick of a rollout would write down.

use super::{Mark, Text, changes_and_held_back, moment, shown};
use crate::rollout::{RolloutChange, RolloutPlan};
use api::UnixMillis;
use api::deployments::Stage;
use api::desired::{InstanceIntent, Traffic};
use api::ids::RevisionId;

/// A tick's plan: changes, what is waited for, and when to look again.
pub fn rollout_plan(plan: &RolloutPlan, now_ms: UnixMillis) -> Text {
    let mut text = Text::default();
    for change in &plan.changes {
        change_lines(change, now_ms, &mut text);
    }
    text.held_back(&plan.blocked, now_ms);
    match (plan.changes.is_empty() && plan.blocked.is_empty(), plan.changes.is_empty(), plan.wake_at_ms) {
        (true, _, None) => text.line("No differences: the service is as wanted."),
        (true, _, Some(at_ms)) => {
            text.line(format!("No differences: the service is as wanted. Look again {}.", moment(at_ms, now_ms)));
        }
        (false, true, Some(at_ms)) => text.line(format!(
            "{}. Look again {}.",
            changes_and_held_back(0, plan.blocked.len()),
            moment(at_ms, now_ms)
        )),
        // After changes one looks again at once.
        _ => text.line(changes_and_held_back(plan.changes.len(), plan.blocked.len())),
    }
    text
}

fn change_lines(change: &RolloutChange, now_ms: UnixMillis, text: &mut Text) {
    match change {
        RolloutChange::CreateInstance { revision_id, server_id, ordinal, intent, .. } => {
            let started = match intent {
                InstanceIntent::Run => "",
                InstanceIntent::Stop => ", not to be started yet",
            };
            text.marked(
                Mark::Create,
                format!(
                    "create instance number {ordinal} of revision {} on server {}{started}",
                    revision_id.short(),
                    server_id.short()
                ),
            );
        }
        RolloutChange::SetTraffic { instance_id, traffic } => {
            let words = match traffic {
                Traffic::Candidate => "is a candidate: no traffic until it is healthy",
                Traffic::Active => "takes traffic",
                Traffic::Draining => "drains: no new requests",
                Traffic::Out => "is out of traffic",
            };
            text.marked(Mark::Change, format!("instance {} {words}", instance_id.short()));
        }
        RolloutChange::SetIntent { instance_id, intent } => match intent {
            InstanceIntent::Run => text.marked(Mark::Create, format!("start instance {}", instance_id.short())),
            InstanceIntent::Stop => text.marked(Mark::Remove, format!("stop instance {}", instance_id.short())),
        },
        RolloutChange::DeleteInstance { instance_id } => {
            text.marked(Mark::Remove, format!("forget instance {}", instance_id.short()));
        }
        RolloutChange::SetStage { stage, failure, bake_until_ms, warm_until_ms, .. } => {
            text.marked(
                Mark::Change,
                format!("stage {stage}{}", terms(*stage, *bake_until_ms, *warm_until_ms, now_ms)),
            );
            if let Some(failure) = failure {
                text.line(format!("      {}", shown(&failure.message)));
                for line in &failure.log_tail {
                    text.line(format!("      | {}", shown(line)));
                }
            }
        }
        RolloutChange::SetCurrent { revision_id, previous_revision_id } => {
            let name = |id: &Option<RevisionId>| id.as_ref().map_or("nothing".to_owned(), |id| id.short().to_owned());
            text.marked(
                Mark::Change,
                format!(
                    "traffic belongs to revision {}, before it to {}",
                    name(revision_id),
                    name(previous_revision_id)
                ),
            );
        }
    }
}

/// `, bakes until in 30s, the release before stays warm until in 5m`
fn terms(stage: Stage, bake: Option<UnixMillis>, warm: Option<UnixMillis>, now_ms: UnixMillis) -> String {
    let length = |until_ms: UnixMillis| crate::stack::duration(u64::try_from(until_ms - now_ms).unwrap_or(0));
    match (stage, bake, warm) {
        (Stage::Running, Some(bake), Some(warm)) => {
            format!(": bakes for {}, the release before stays warm for {}", length(bake), length(warm))
        }
        _ => String::new(),
    }
}
