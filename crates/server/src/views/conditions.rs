//! One word for how a service is, worked out from three facts per instance and never guessed.

use api::deployments::{Deployment, Stage};
use api::desired::Traffic;
use api::ids::ServerId;
use api::observed::InstanceState;
use api::services::{InstanceView, ServiceCondition, ServiceIntent, ServiceView};
use store::Service;

pub fn of_service(
    service: &Service,
    deployment: Option<&Deployment>,
    instances: &[InstanceView],
    online: impl Fn(&ServerId) -> bool,
) -> ServiceCondition {
    if deployment.is_some_and(|deployment| deployment.stage.in_flight()) {
        return ServiceCondition::Deploying;
    }
    if service.intent == ServiceIntent::Stop {
        return ServiceCondition::Stopped;
    }
    let serving = || {
        let current = service.current_revision_id.as_ref();
        instances.iter().filter(move |i| Some(&i.revision_id) == current && i.traffic == Traffic::Active)
    };
    let healthy = |i: &&InstanceView| i.observed.as_ref().is_some_and(|seen| seen.state == InstanceState::Healthy);
    let well = serving().filter(|i| online(&i.server_id)).filter(healthy).count();
    if well > 0 && well >= service.replicas as usize {
        return ServiceCondition::Running;
    }
    if well > 0 {
        return ServiceCondition::Degraded;
    }
    if serving().any(|i| !online(&i.server_id)) { ServiceCondition::Unknown } else { ServiceCondition::Down }
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
    use api::desired::InstanceIntent;
    use api::ids::{DeploymentId, InstanceId, RevisionId, ServiceId, StackId};
    use api::observed::InstanceObserved;
    use uuid::Uuid;

    fn instance(state: InstanceState, traffic: Traffic, server: u128) -> InstanceView {
        let id = InstanceId::from_uuid(Uuid::from_u128(1));
        let revision_id = RevisionId::from_uuid(Uuid::from_u128(1));
        let service_id = ServiceId::from_uuid(Uuid::from_u128(1));
        let seen = serde_json::json!({"instance_id": id, "service_id": service_id, "revision_id": revision_id, "state": state});
        InstanceView {
            id,
            server_id: ServerId::from_uuid(Uuid::from_u128(server)),
            server: "a".parse().unwrap(),
            revision_id,
            revision_number: 1,
            deployment_id: DeploymentId::from_uuid(Uuid::from_u128(1)),
            ordinal: 0,
            intent: InstanceIntent::Run,
            traffic,
            observed: Some(serde_json::from_value::<InstanceObserved>(seen).unwrap()),
        }
    }

    fn condition(intent: ServiceIntent, instances: &[InstanceView]) -> ServiceCondition {
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
        let online = |id: &ServerId| id == &ServerId::from_uuid(Uuid::from_u128(1));
        of_service(&service, None, instances, online)
    }

    #[test]
    fn a_service_is_as_well_as_its_serving_instances_and_unknown_where_nobody_reports() {
        use InstanceState::{Healthy, Unhealthy};
        let well = instance(Healthy, Traffic::Active, 1);
        let ill = instance(Unhealthy, Traffic::Active, 1);
        let warm = instance(Healthy, Traffic::Out, 1);
        let lost = instance(Healthy, Traffic::Active, 2);
        let run = |instances: &[InstanceView]| condition(ServiceIntent::Run, instances);
        assert_eq!(run(&[well.clone(), well.clone()]), ServiceCondition::Running);
        assert_eq!(run(&[well.clone(), ill.clone()]), ServiceCondition::Degraded);
        assert_eq!(run(&[well.clone(), lost.clone()]), ServiceCondition::Degraded);
        assert_eq!(run(&[ill, warm]), ServiceCondition::Down);
        assert_eq!(run(&[lost]), ServiceCondition::Unknown);
        assert_eq!(run(&[]), ServiceCondition::Down);
        assert_eq!(condition(ServiceIntent::Stop, &[well]), ServiceCondition::Stopped);
    }
}
