use super::{
    BTreeMap, GatewayService, InstanceObserved, InstanceState, ListenerKind, RenderContext, SecurityMode, Traffic,
    render,
};
use crate::samples::*;
use api::desired::InstanceIntent::{Run, Stop};
use api::fleet::FleetState;
use api::observed::ExitStatus;

fn rendered(traffic: &[(u64, Traffic)], seen: &[InstanceObserved]) -> GatewayService {
    let instances = traffic.iter().map(|(n, t)| instance(*n, 1, Run, *t)).collect();
    let config = render(&desired(vec![service(1, instances)]), seen, &[], &RenderContext::default());
    config.services[0].clone()
}

fn upstreams(service: &GatewayService) -> Vec<(u16, bool)> {
    service.upstreams.iter().map(|u| (u.address.port(), u.draining)).collect()
}

#[test]
fn only_active_instances_that_are_not_known_to_be_unwell_get_requests() {
    let service = rendered(
        &[(1, Traffic::Active), (2, Traffic::Active), (3, Traffic::Active), (4, Traffic::Candidate), (5, Traffic::Out)],
        &[
            seen(1, 1, InstanceState::Healthy),
            seen(2, 1, InstanceState::Unhealthy),
            // The agent has just restarted and has not probed it yet.
            seen(3, 1, InstanceState::Running),
            seen(4, 1, InstanceState::Healthy),
            seen(5, 1, InstanceState::Healthy),
        ],
    );
    assert_eq!(upstreams(&service), [(20_001, false), (20_003, false)]);
}

#[test]
fn when_every_active_instance_is_unhealthy_they_all_stay_in() {
    let service = rendered(&[(1, Traffic::Active)], &[seen(1, 1, InstanceState::Unhealthy)]);
    assert_eq!(upstreams(&service), [(20_001, false)]);
}

#[test]
fn a_draining_instance_is_kept_to_count_its_open_requests() {
    let service = rendered(
        &[(1, Traffic::Draining), (2, Traffic::Active)],
        &[seen(1, 1, InstanceState::Healthy), seen(2, 1, InstanceState::Healthy)],
    );
    assert_eq!(upstreams(&service), [(20_001, true), (20_002, false)]);
}

#[test]
fn a_service_without_instances_says_why() {
    let mut crashed = seen(1, 1, InstanceState::Transient);
    crashed.crash_looping = true;
    crashed.last_exit = Some(ExitStatus { code: Some(3), signal: None, out_of_memory: false, at_ms: 0 });
    let reason = |seen: &[InstanceObserved]| rendered(&[(1, Traffic::Candidate)], seen).unavailable_reason;
    assert_eq!(reason(&[crashed]), "service-1 keeps crashing: its process exited with code 3");
    assert_eq!(reason(&[seen(1, 1, InstanceState::Running)]), "service-1 is starting");
    assert_eq!(reason(&[]), "service-1 has no running instance");
    let stopped = desired(vec![service(1, vec![instance(1, 1, Stop, Traffic::Out)])]);
    let config = render(&stopped, &[], &[], &RenderContext::default());
    assert_eq!(config.services[0].unavailable_reason, "service-1 is stopped");
}

#[test]
fn the_security_mode_decides_which_address_is_public() {
    let addresses = |mode, internal_port| {
        let mut state = desired(vec![]);
        state.security_mode = mode;
        state.gateway.internal_port = internal_port;
        let config = render(&state, &[], &[], &RenderContext::default());
        config.listeners.iter().map(|l| (l.address.to_string(), l.kind.clone())).collect::<Vec<_>>()
    };
    assert_eq!(
        addresses(SecurityMode::Closed, 8081),
        [("127.0.0.1:8080".to_string(), ListenerKind::Public), ("127.0.0.1:8081".to_string(), ListenerKind::Internal)]
    );
    assert_eq!(addresses(SecurityMode::Open, 8080), [("0.0.0.0:8080".to_string(), ListenerKind::PublicAndInternal)]);
}

#[test]
fn where_names_do_not_resolve_each_service_has_a_loopback_port() {
    let context = RenderContext { service_ports: BTreeMap::from([(id("svc", 1), 18_000)]), ..RenderContext::default() };
    let config = render(&desired(vec![service(1, vec![])]), &[], &[], &context);
    let listener = config.listeners.last().unwrap();
    assert_eq!(listener.address.to_string(), "127.0.0.1:18000");
    assert_eq!(listener.kind, ListenerKind::Service { service_id: id("svc", 1) });
}

#[test]
fn the_order_of_services_and_instances_does_not_matter() {
    let make = |reverse: bool| {
        let instances = |n: u64| vec![instance(n, n, Run, Traffic::Active), instance(n + 10, n, Run, Traffic::Active)];
        let mut services = vec![service(1, instances(1)), service(2, instances(2))];
        let mut observed: Vec<_> =
            [(1, 1), (11, 1), (2, 2), (12, 2)].map(|(n, r)| seen(n, r, InstanceState::Healthy)).to_vec();
        if reverse {
            services.reverse();
            services.iter_mut().for_each(|s| s.instances.reverse());
            observed.reverse();
        }
        render(&desired(services), &observed, &[], &RenderContext::default())
    };
    assert_eq!(make(false), make(true));
}

/// What is told of service 1 on this server (1) and another, and of service 2 elsewhere only.
fn fleet(instances: &[(u64, u64, bool)]) -> std::sync::Arc<FleetState> {
    let peer = |number: u64| api::mesh::MeshPeer {
        server_id: id("srv", number),
        name: format!("server-{number}").parse().unwrap(),
        public_key: api::mesh::PublicKey::from_bytes([number as u8; 32]),
        endpoints: Vec::new(),
        allowed: Vec::new(),
        keepalive_seconds: 25,
    };
    let told = |service: u64| api::fleet::FleetService {
        service_id: id("svc", service),
        project_id: id("prj", 1),
        project: "default".parse().unwrap(),
        name: format!("service-{service}").parse().unwrap(),
        routes: vec![api::services::RouteSpec {
            host: Some(format!("s{service}.example.com").parse().unwrap()),
            path: "/".parse().unwrap(),
            strip_prefix: false,
            tls: Default::default(),
        }],
        instances: instances
            .iter()
            .map(|(number, server, draining)| api::fleet::FleetInstance {
                instance_id: id("ins", *number),
                server_id: id("srv", *server),
                address: format!("10.200.{server}.{number}:80").parse().unwrap(),
                draining: *draining,
            })
            .collect(),
    };
    std::sync::Arc::new(FleetState {
        organization_id: id("org", 1),
        generation: 1,
        issued_at_ms: 0,
        peers: vec![peer(1), peer(2)],
        services: vec![told(1), told(2)],
    })
}

fn beside(fleet: std::sync::Arc<FleetState>, seen: &[InstanceObserved]) -> api::gateway::GatewayConfig {
    let here = service(1, vec![instance(1, 1, Run, Traffic::Active)]);
    let context = RenderContext { fleet: Some(fleet), ..RenderContext::default() };
    render(&desired(vec![here]), seen, &[], &context)
}

fn addresses(service: &GatewayService) -> Vec<String> {
    service.upstreams.iter().map(|u| format!("{}{}", u.address, if u.draining { " drains" } else { "" })).collect()
}

#[test]
fn instances_on_other_servers_get_requests_only_while_no_local_one_is_well() {
    let others = || fleet(&[(1, 1, false), (8, 2, false), (9, 2, true)]);
    let config = beside(others(), &[seen(1, 1, InstanceState::Healthy)]);
    assert_eq!(addresses(&config.services[0]), ["127.0.0.1:20001", "10.200.2.9:80 drains"]);
    let config = beside(others(), &[seen(1, 1, InstanceState::Unhealthy)]);
    assert_eq!(addresses(&config.services[0]), ["10.200.2.8:80", "10.200.2.9:80 drains"]);
    let config = beside(fleet(&[(9, 2, true)]), &[seen(1, 1, InstanceState::Unhealthy)]);
    assert_eq!(addresses(&config.services[0]), ["127.0.0.1:20001", "10.200.2.9:80 drains"], "better than nobody");
}

#[test]
fn what_runs_only_elsewhere_is_routed_and_named_here_as_well() {
    let config = beside(fleet(&[(8, 2, false)]), &[]);
    assert_eq!(addresses(&config.services[1]), ["10.200.2.8:80"]);
    let route = config.routes.iter().find(|route| route.service_id == id("svc", 2)).unwrap();
    assert_eq!(route.host.as_ref().unwrap().as_str(), "s2.example.com");
    assert!(config.internal.iter().any(|name| name.service_id == id("svc", 2)));
}

#[test]
fn a_server_that_is_not_in_the_mesh_sends_nothing_to_others() {
    let mut alone = FleetState::clone(&fleet(&[(8, 2, false)]));
    alone.peers.remove(0);
    let config = beside(std::sync::Arc::new(alone), &[]);
    assert_eq!(config.services.len(), 1);
    assert_eq!(addresses(&config.services[0]), [""; 0]);
}

#[test]
fn a_container_is_reached_at_its_own_address() {
    let mut container = seen(1, 1, InstanceState::Healthy);
    container.address = Some("10.200.1.2".parse().unwrap());
    let config = beside(fleet(&[]), &[container]);
    assert_eq!(addresses(&config.services[0]), ["10.200.1.2:20001"]);
}
