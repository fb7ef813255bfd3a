//! What an agent would do to its machine next.

use super::{Mark, Text, changes_and_held_back};
use crate::host::{Change, HostPlan, StopReason};
use api::UnixMillis;

/// A machine's plan: the changes in the order to do them in, then what is held back and why.
pub fn host_plan(plan: &HostPlan, now_ms: UnixMillis) -> Text {
    let mut text = Text::default();
    for change in &plan.changes {
        let (mark, words) = change_line(change);
        text.marked(mark, words);
    }
    text.held_back(&plan.blocked, now_ms);
    match plan.is_empty() {
        true => text.line("No differences: the machine is as desired."),
        false => text.line(changes_and_held_back(plan.changes.len(), plan.blocked.len())),
    }
    text
}

fn change_line(change: &Change) -> (Mark, String) {
    match change {
        Change::Prepare { revision_id, .. } => (Mark::Create, format!("prepare revision {}", revision_id.short())),
        Change::StopInstance { instance_id, reason } => {
            let why = match reason {
                StopReason::Orphan => "nothing wants it",
                StopReason::Asked => "it is to stop",
                StopReason::WrongRevision => "it runs another revision than it should",
            };
            (Mark::Remove, format!("stop instance {}: {why}", instance_id.short()))
        }
        Change::RemoveInstance { instance_id } => (Mark::Remove, format!("remove instance {}", instance_id.short())),
        Change::StartInstance { instance_id, revision_id, .. } => {
            (Mark::Create, format!("start instance {} at revision {}", instance_id.short(), revision_id.short()))
        }
        Change::ApplyConfig { kind, .. } => (Mark::Change, format!("apply {}", kind.as_str())),
    }
}
