//! One word for how a service is, worked out from three facts per instance and never guessed.

use api::deployments::Stage;
use api::desired::Traffic;
use api::ids::RevisionId;
use api::services::{ServiceCondition, ServiceIntent, ServiceView};
use store::Service;

/// What matters of one instance.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub revision_id: &'a RevisionId,
    pub traffic: Traffic,
    pub healthy: bool,
    /// Whether its server reports.
    pub online: bool,
}

pub fn of_service<'a>(
    service: &Service,
    in_flight: bool,
    instances: impl IntoIterator<Item = Part<'a>>,
) -> ServiceCondition {
    if in_flight {
        return ServiceCondition::Deploying;
    }
    if service.intent == ServiceIntent::Stop {
        return ServiceCondition::Stopped;
    }
    let current = service.current_revision_id.as_ref();
    let serving = instances.into_iter().filter(|i| Some(i.revision_id) == current && i.traffic == Traffic::Active);
    let (mut well, mut silent) = (0, false);
    for instance in serving {
        well += u32::from(instance.online && instance.healthy);
        silent |= !instance.online;
    }
    match well {
        0 if silent => ServiceCondition::Unknown,
        0 => ServiceCondition::Down,
        well if well >= service.replicas => ServiceCondition::Running,
        _ => ServiceCondition::Degraded,
    }
}

/// What is wrong with a service, in one sentence.
pub fn problem_of(service: &ServiceView) -> Option<String> {
    let name = &service.name;
    let failed = service.deployment.as_ref().filter(|d| matches!(d.stage, Stage::Failed | Stage::RolledBack));
    let why = failed.and_then(|d| d.failure.as_ref()).map(|failure| failure.message.clone());
    match service.condition {
        ServiceCondition::Running | ServiceCondition::Stopped | ServiceCondition::Deploying => why,
        ServiceCondition::Degraded => {
            let wanted = api::words::count(service.replicas, "instance");
            Some(format!("{name}: not all of its {wanted} are healthy"))
        }
        // The first minutes after a boot are no problem; one that lasts makes an instance unhealthy.
        ServiceCondition::Down if service.is_starting() => why,
        ServiceCondition::Down => Some(why.unwrap_or_else(|| format!("{name}: no instance is healthy"))),
        ServiceCondition::Unknown => Some(format!("{name}: its server does not report, so it is not known how it is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ids::{ServiceId, StackId};
    use uuid::Uuid;

    fn condition(intent: ServiceIntent, instances: &[Part<'_>]) -> ServiceCondition {
        let service = Service {
            id: ServiceId::from_uuid(Uuid::from_u128(1)),
            stack_id: StackId::from_uuid(Uuid::from_u128(1)),
            name: "web".parse().unwrap(),
            intent,
            replicas: 2,
            current_revision_id: Some(RevisionId::from_uuid(Uuid::from_u128(1))),
            previous_revision_id: None,
            removing: false,
        };
        assert_eq!(of_service(&service, true, instances.iter().copied()), ServiceCondition::Deploying);
        of_service(&service, false, instances.iter().copied())
    }

    #[test]
    fn a_service_is_as_well_as_its_serving_instances_and_unknown_where_nobody_reports() {
        let revision_id = &RevisionId::from_uuid(Uuid::from_u128(1));
        let older = &RevisionId::from_uuid(Uuid::from_u128(2));
        let well = Part { revision_id, traffic: Traffic::Active, healthy: true, online: true };
        let ill = Part { healthy: false, ..well };
        let warm = Part { traffic: Traffic::Out, ..well };
        let lost = Part { online: false, ..well };
        let run = |instances: &[Part<'_>]| condition(ServiceIntent::Run, instances);
        assert_eq!(run(&[well, well]), ServiceCondition::Running);
        assert_eq!(run(&[well, ill]), ServiceCondition::Degraded);
        assert_eq!(run(&[well, lost]), ServiceCondition::Degraded);
        assert_eq!(run(&[ill, warm]), ServiceCondition::Down);
        assert_eq!(run(&[Part { revision_id: older, ..well }]), ServiceCondition::Down);
        assert_eq!(run(&[lost]), ServiceCondition::Unknown);
        assert_eq!(run(&[]), ServiceCondition::Down);
        assert_eq!(condition(ServiceIntent::Stop, &[well]), ServiceCondition::Stopped);
    }
}
