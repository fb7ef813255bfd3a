//! Conditions as words and tones, the same in every table.

use crate::printer::{Text, Tone};
use crate::progress::stage_words;
use api::deployments::{Deployment, Stage};
use api::desired::Traffic;
use api::observed::{InstanceState, StackCondition};
use api::services::{InstanceView, ServiceCondition, ServiceView};

pub fn service_condition(service: &ServiceView) -> Text {
    match service.condition {
        ServiceCondition::Running => Text("running".into(), Tone::Good),
        ServiceCondition::Deploying => {
            let stage = service.deployment.as_ref().filter(|deployment| deployment.stage.in_flight());
            Text(
                stage.map_or("deploying".into(), |deployment| format!("deploying: {}", stage_words(deployment.stage))),
                Tone::Busy,
            )
        }
        ServiceCondition::Degraded => Text("degraded".into(), Tone::Warning),
        ServiceCondition::Down if service.is_starting() => Text("starting".into(), Tone::Busy),
        ServiceCondition::Down => Text("down".into(), Tone::Bad),
        ServiceCondition::Stopped => Text("stopped".into(), Tone::Faint),
        ServiceCondition::Unknown => Text("unknown".into(), Tone::Warning),
    }
}

pub fn stack_condition(condition: StackCondition) -> (&'static str, Tone) {
    match condition {
        StackCondition::Applying => ("applying", Tone::Busy),
        StackCondition::Applied => ("applied", Tone::Good),
        StackCondition::Degraded => ("degraded", Tone::Bad),
    }
}

pub fn stage(deployment: &Deployment) -> Text {
    let tone = match deployment.stage {
        Stage::Running => Tone::Good,
        Stage::Failed => Tone::Bad,
        Stage::RolledBack | Stage::Unknown => Tone::Warning,
        Stage::Stopped | Stage::Cancelled | Stage::Superseded => Tone::Faint,
        _ => Tone::Busy,
    };
    Text(stage_words(deployment.stage), tone)
}

pub fn instance_state(instance: &InstanceView) -> Text {
    let Some(observed) = &instance.observed else { return Text("not reported".into(), Tone::Faint) };
    let word = if observed.crash_looping {
        "crash-looping".to_owned()
    } else if observed.stopping {
        "stopping".to_owned()
    } else {
        observed.state.as_str().to_owned()
    };
    let tone = match observed.state {
        _ if observed.crash_looping => Tone::Bad,
        InstanceState::Healthy => Tone::Good,
        InstanceState::Running | InstanceState::Transient => Tone::Busy,
        InstanceState::Unhealthy => Tone::Bad,
        InstanceState::Absent | InstanceState::Exited => Tone::Faint,
    };
    Text(word, tone)
}

pub fn traffic(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Candidate => "candidate",
        Traffic::Active => "active",
        Traffic::Draining => "draining",
        Traffic::Out => "out",
    }
}

/// Healthy instances with traffic, of those that are wanted: `1/2`.
pub fn replicas(service: &ServiceView) -> String {
    let healthy = |instance: &&InstanceView| {
        instance.traffic == Traffic::Active
            && instance.observed.as_ref().is_some_and(|observed| observed.state == InstanceState::Healthy)
    };
    format!("{}/{}", service.instances.iter().filter(healthy).count(), service.replicas)
}

/// `512 MiB`, `23.5 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        // A tenth is as exact as anybody wants; whole numbers need none.
        Some((name, unit)) if bytes % unit < unit / 10 => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        assert_eq!(super::size(24_684_096 * 1024), "23.5 GiB");
        assert_eq!(super::size(512 << 20), "512 MiB");
        assert_eq!(super::size(12), "12 B");
    }
}
