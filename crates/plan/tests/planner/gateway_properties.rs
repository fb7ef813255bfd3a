//! What a gateway is told, whatever its machine looks like.

use crate::host_worlds::{self, HostWorld, host_world};
use crate::samples::cases;
use api::desired::{InstanceIntent, Traffic};
use api::gateway::GatewayConfig;
use api::observed::InstanceState;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn rendered(world: &HostWorld) -> GatewayConfig {
    plan::gateway::render(&world.desired, &world.instances, &world.preparations, &Default::default())
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn requests_go_only_to_instances_that_are_to_have_them_and_run(world in host_world()) {
        let config = rendered(&world);
        for service in &config.services {
            let mut services = world.desired.services().map(|(_, s)| s);
            let desired = services.find(|s| s.service_id == service.service_id).unwrap();
            let addresses: BTreeSet<_> = service.upstreams.iter().map(|u| u.address).collect();
            prop_assert_eq!(addresses.len(), service.upstreams.len(), "two upstreams with one address");
            for upstream in &service.upstreams {
                let wanted = desired.instances.iter().find(|i| i.instance_id == upstream.instance_id);
                let seen = world.seen(&upstream.instance_id);
                let runs = seen.is_some_and(|seen| {
                    matches!(seen.state, InstanceState::Running | InstanceState::Healthy | InstanceState::Unhealthy)
                });
                prop_assert!(runs, "{upstream:?} does not run");
                let traffic = if upstream.draining { Traffic::Draining } else { Traffic::Active };
                prop_assert_eq!(wanted.map(|w| w.traffic), Some(traffic));
            }
        }
    }

    /// Otherwise live routes would let the machine stop what visitors are sent to.
    #[test]
    fn no_new_request_goes_to_an_instance_that_is_about_to_be_stopped(world in host_world()) {
        let config = rendered(&world);
        for upstream in config.services.iter().flat_map(|s| &s.upstreams).filter(|u| !u.draining) {
            let mut wanted = world.desired.services().flat_map(|(_, s)| &s.instances);
            let wanted = wanted.find(|i| i.instance_id == upstream.instance_id);
            let seen = world.seen(&upstream.instance_id);
            prop_assert_eq!(wanted.map(|w| w.intent), Some(InstanceIntent::Run));
            prop_assert_eq!(wanted.map(|w| &w.revision_id), seen.map(|s| &s.revision_id));
        }
    }

    #[test]
    fn a_service_with_an_instance_that_could_answer_has_one_that_is_asked(world in host_world()) {
        let config = rendered(&world);
        for service in &config.services {
            let mut services = world.desired.services().map(|(_, s)| s);
            let desired = services.find(|s| s.service_id == service.service_id).unwrap();
            let could = desired.instances.iter().any(|wanted| {
                wanted.traffic == Traffic::Active
                    && wanted.intent == InstanceIntent::Run
                    && world.seen(&wanted.instance_id).is_some_and(|seen| {
                        seen.revision_id == wanted.revision_id
                            && matches!(seen.state, InstanceState::Running | InstanceState::Healthy | InstanceState::Unhealthy)
                    })
            });
            prop_assert_eq!(service.upstreams.iter().any(|u| !u.draining), could);
            prop_assert!(!service.unavailable_reason.is_empty());
        }
    }

    #[test]
    fn the_order_of_what_is_seen_does_not_change_what_a_gateway_is_told(
        (world, other) in host_world().prop_flat_map(host_worlds::shuffled)
    ) {
        prop_assert_eq!(rendered(&world), rendered(&other));
    }
}
