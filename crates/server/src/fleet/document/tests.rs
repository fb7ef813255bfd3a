use super::*;
use crate::samples;
use api::services::PortSpec;
use std::net::Ipv4Addr;

fn id<T: std::str::FromStr>(prefix: &str, number: u32) -> T
where
    T::Err: std::fmt::Debug,
{
    format!("{prefix}_{number:032x}").parse().unwrap()
}

fn instance(number: u32, server: u32, traffic: Traffic) -> Instance {
    Instance {
        id: id("ins", number),
        service_id: id("svc", 2),
        revision_id: revision().id,
        deployment_id: id("dep", 1),
        server_id: id("srv", server),
        ordinal: number,
        intent: InstanceIntent::Run,
        traffic,
        traffic_changed_at_ms: 0,
        address: Some(address(number)),
    }
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 1, number as u8)
}

fn service() -> Service {
    Service {
        id: id("svc", 2),
        stack_id: id("stk", 1),
        name: "web".parse().unwrap(),
        intent: api::services::ServiceIntent::Run,
        replicas: 2,
        current_revision_id: Some(revision().id),
        previous_revision_id: None,
        removing: false,
    }
}

fn stack() -> Stack {
    Stack {
        id: id("stk", 1),
        project_id: id("prj", 1),
        name: "shop".parse().unwrap(),
        version: 1,
        manifest: String::new(),
        removing: false,
        created_at_ms: 0,
        updated_at_ms: 0,
    }
}

fn revision() -> Revision {
    let mut revision = samples::revision(1, "/shop");
    revision.spec.port = PortSpec::Fixed { port: 80 };
    revision
}

/// Everything that is reported, and where.
fn parts(instances: Vec<Instance>, seen: &[(u32, u32, InstanceState)]) -> Parts {
    let mut online: BTreeMap<ServerId, ObservedState> = BTreeMap::new();
    for (number, server, state) in seen {
        let observed = online.entry(id("srv", *server)).or_insert_with(samples::observed_nothing);
        let mut told = samples::observed_instance(1);
        told.instance_id = id("ins", *number);
        told.revision_id = revision().id;
        told.state = *state;
        told.port = Some(80);
        told.address = Some(address(*number));
        observed.instances.push(told);
    }
    Parts {
        organization_id: id("org", 1),
        peers: Vec::new(),
        online: online.into_iter().map(|(id, observed)| (id, ServerPart { observed: Arc::new(observed) })).collect(),
        services: vec![service()],
        revisions: vec![revision()],
        stacks: vec![stack()],
        projects: vec![Project { id: id("prj", 1), name: "default".parse().unwrap() }],
        instances,
    }
}

fn told(parts: Parts) -> Vec<(String, bool)> {
    let state = assemble(parts);
    let instances = state.services.into_iter().flat_map(|service| service.instances);
    instances.map(|instance| (instance.address.to_string(), instance.draining)).collect()
}

#[test]
fn an_instance_is_told_while_it_is_active_and_well_and_while_it_drains() {
    let instances = vec![
        instance(2, 1, Traffic::Active),
        instance(3, 2, Traffic::Active),
        instance(4, 2, Traffic::Draining),
        instance(5, 2, Traffic::Candidate),
        instance(6, 2, Traffic::Out),
    ];
    let seen = [
        (2, 1, InstanceState::Healthy),
        (3, 2, InstanceState::Unhealthy),
        (4, 2, InstanceState::Healthy),
        (5, 2, InstanceState::Healthy),
        (6, 2, InstanceState::Healthy),
    ];
    let expected = [("10.200.1.2:80".to_owned(), false), ("10.200.1.4:80".to_owned(), true)];
    assert_eq!(told(parts(instances, &seen)), expected);
}

#[test]
fn if_none_is_well_all_are_told_because_a_failing_check_is_weaker_than_a_visitors_own_answer() {
    let instances = vec![instance(2, 1, Traffic::Active), instance(3, 2, Traffic::Active)];
    let seen = [(2, 1, InstanceState::Unhealthy), (3, 2, InstanceState::Unhealthy)];
    assert_eq!(told(parts(instances, &seen)).len(), 2);
}

#[test]
fn a_silent_server_and_an_instance_that_does_not_run_are_not_told() {
    let instances = vec![instance(2, 1, Traffic::Active), instance(3, 2, Traffic::Active)];
    assert_eq!(told(parts(instances.clone(), &[(3, 2, InstanceState::Exited)])), []);
    let mut moved = parts(instances, &[(2, 1, InstanceState::Healthy)]);
    moved.instances[0].address = Some(address(9));
    assert_eq!(told(moved), [], "it has another address than it was given");
}

#[test]
fn the_digest_is_the_same_for_shuffled_parts() {
    let seen = [(2, 1, InstanceState::Healthy), (3, 2, InstanceState::Healthy)];
    let one = parts(vec![instance(2, 1, Traffic::Active), instance(3, 2, Traffic::Active)], &seen);
    let other = parts(vec![instance(3, 2, Traffic::Active), instance(2, 1, Traffic::Active)], &seen);
    assert_eq!(digest(&assemble(one)), digest(&assemble(other)));
}
