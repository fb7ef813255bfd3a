//! A rollout's tick is written whole, and only if it looked at what is still there.

use crate::database::Database;
use crate::fixtures::*;
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::desired::{InstanceIntent, Traffic};
use store::{Error, EventFilter, Instance, InstanceChange, RolloutWrite, Store};

on_every_database![
    a_tick_is_written_whole,
    a_tick_that_saw_another_stage_leaves_no_trace,
    a_tick_that_saw_another_newest_deployment_leaves_no_trace,
    the_events_of_a_tick_come_and_fail_with_it,
    a_tick_before_the_first_deployment_expects_none,
    an_instance_of_what_is_gone_is_refused,
    instances_are_listed_by_service_and_by_server,
    a_service_that_has_served_is_idle_while_it_has_no_instance,
    an_instance_outlives_its_server_until_it_is_forgotten,
    containers_get_addresses_of_their_server_that_no_other_has,
    a_fleet_state_is_kept_only_if_it_is_newer,
];

async fn containers_get_addresses_of_their_server_that_no_other_has(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (one, two) = (joined(&store, &tenant.scope, "one").await, joined(&store, &tenant.scope, "two").await);
    let (_, deployment) = shop(&store, &tenant).await;
    let on = |server: &store::Server| instance(&deployment, server);
    let (first, second, other, process) = (on(&one), on(&one), on(&two), on(&one));
    let mut changes: Vec<InstanceChange> =
        [&first, &second, &other].map(|i| InstanceChange::CreateWithAddress(i.clone())).into();
    changes.push(InstanceChange::Create(process.clone()));
    store.rollout_apply(&tenant.scope, &tick(&deployment, changes), NOW).await.unwrap();
    let addresses = async || {
        let all = store.instance_list(&tenant.scope).await.unwrap();
        let of = |id| all.iter().find(|i| &i.id == id).and_then(|i| i.address).map(|address| address.to_string());
        [of(&first.id), of(&second.id), of(&other.id), of(&process.id)]
    };
    let given = |text: &str| Some(text.to_owned());
    let (a, b) = (one.index, two.index);
    let expected =
        [given(&format!("10.200.{a}.2")), given(&format!("10.200.{a}.3")), given(&format!("10.200.{b}.2")), None];
    assert_eq!(addresses().await, expected);

    let third = on(&one);
    let changes =
        vec![InstanceChange::Delete { id: second.id.clone() }, InstanceChange::CreateWithAddress(third.clone())];
    store.rollout_apply(&tenant.scope, &tick(&deployment, changes), NOW).await.unwrap();
    let all = store.instance_list(&tenant.scope).await.unwrap();
    let third = all.iter().find(|i| i.id == third.id).unwrap();
    assert_eq!(third.address.unwrap().octets()[3], 4, "what was just given back waits for its turn");
}

async fn a_fleet_state_is_kept_only_if_it_is_newer(database: Database) {
    let store = database.open().await;
    let (tenant, stranger) = (tenant(&store, "acme").await, crate::fixtures::tenant(&store, "evil").await);
    let row = |generation: u64| store::DesiredRow {
        generation,
        digest: format!("digest {generation}"),
        signed: api::desired::SignedDesiredState {
            generation,
            document: "{}".into(),
            sha256: String::new(),
            signature: String::new(),
            key_id: String::new(),
        },
    };
    assert_eq!(store.fleet_state_get(&tenant.scope).await.unwrap(), None);
    store.fleet_state_put(&tenant.scope, &row(5)).await.unwrap();
    store.fleet_state_put(&tenant.scope, &row(7)).await.unwrap();
    for old in [7, 6] {
        let error = store.fleet_state_put(&tenant.scope, &row(old)).await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. }), "{error}");
    }
    assert_eq!(store.fleet_state_get(&tenant.scope).await.unwrap(), Some(row(7)));
    assert_eq!(store.fleet_state_get(&stranger.scope).await.unwrap(), None, "it is another organization's");
}

async fn a_tick_is_written_whole(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let (old, new) = (instance(&deployment, &server), instance(&deployment, &server));
    let create = |i: &Instance| InstanceChange::Create(i.clone());
    store.rollout_apply(&tenant.scope, &tick(&deployment, vec![create(&old), create(&new)]), NOW).await.unwrap();

    let healthy = Deployment { stage: Stage::Healthy, ..deployment.clone() };
    let write = RolloutWrite {
        deployment: Some((healthy.clone(), Stage::Pending)),
        instances: vec![
            InstanceChange::SetTraffic { id: new.id.clone(), traffic: Traffic::Active },
            InstanceChange::SetIntent { id: new.id.clone(), intent: InstanceIntent::Stop },
            InstanceChange::Delete { id: old.id.clone() },
        ],
        current: Some((Some(deployment.revision_id.clone()), None)),
        ..tick(&deployment, vec![])
    };
    store.rollout_apply(&tenant.scope, &write, NOW + 9).await.unwrap();

    assert_eq!(store.deployment_get(&tenant.scope, &deployment.id).await.unwrap(), healthy);
    let service = store.service_get(&tenant.scope, &deployment.service_id).await.unwrap();
    assert_eq!((service.current_revision_id, service.previous_revision_id), (Some(deployment.revision_id), None));
    let active =
        Instance { intent: InstanceIntent::Stop, traffic: Traffic::Active, traffic_changed_at_ms: NOW + 9, ..new };
    assert_eq!(store.instance_list(&tenant.scope).await.unwrap(), [active]);
}

/// Everything that a tick could have changed.
async fn trace(store: &Store, tenant: &Tenant, of: &Deployment) -> (Vec<Deployment>, Vec<Instance>, store::Service) {
    (
        store.deployment_list(&tenant.scope, &of.service_id, 10).await.unwrap(),
        store.instance_list(&tenant.scope).await.unwrap(),
        store.service_get(&tenant.scope, &of.service_id).await.unwrap(),
    )
}

async fn a_tick_that_saw_another_stage_leaves_no_trace(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let before = trace(&store, &tenant, &deployment).await;
    let next = Deployment { stage: Stage::Healthy, ..deployment.clone() };
    let write = RolloutWrite {
        deployment: Some((next, Stage::Starting)),
        current: Some((Some(deployment.revision_id.clone()), None)),
        ..tick(&deployment, vec![InstanceChange::Create(instance(&deployment, &server))])
    };
    let error = store.rollout_apply(&tenant.scope, &write, NOW).await.unwrap_err();
    assert!(matches!(error, Error::Stale { noun: "deployment", .. }), "{error:?}");
    assert_eq!(trace(&store, &tenant, &deployment).await, before);
}

async fn a_tick_that_saw_another_newest_deployment_leaves_no_trace(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    store.deployment_create(&tenant.scope, &again(&deployment, DeploymentKind::Restart), NOW).await.unwrap();
    let before = trace(&store, &tenant, &deployment).await;
    let write = RolloutWrite {
        current: Some((Some(deployment.revision_id.clone()), None)),
        ..tick(&deployment, vec![InstanceChange::Create(instance(&deployment, &server))])
    };
    for write in [RolloutWrite { newest: None, ..write.clone() }, write] {
        let error = store.rollout_apply(&tenant.scope, &write, NOW).await.unwrap_err();
        assert!(matches!(error, Error::Stale { noun: "newest deployment", .. }), "{error:?}");
        assert_eq!(trace(&store, &tenant, &deployment).await, before);
    }
}

async fn the_events_of_a_tick_come_and_fail_with_it(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let healthy = Deployment { stage: Stage::Healthy, ..deployment.clone() };
    let write = RolloutWrite { deployment: Some((healthy, Stage::Pending)), ..tick(&deployment, vec![]) };
    let events = [event("healthy")];
    store.rollout_apply_with_events(&tenant.scope, &write, &events, NOW).await.unwrap();
    // The stage is not pending any more: neither the tick nor its event comes.
    let late = [event("healthy again")];
    let error = store.rollout_apply_with_events(&tenant.scope, &write, &late, NOW).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
    let filter = EventFilter { limit: 10, ..EventFilter::default() };
    let kept = store.event_list(&tenant.scope, &filter).await.unwrap();
    assert_eq!(kept.into_iter().map(|record| record.event).collect::<Vec<_>>(), events);
}

async fn a_tick_before_the_first_deployment_expects_none(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let idle = store::ServiceDeploy { change: None, ..deployed("web") };
    let deploy = stack_deploy(&tenant, "shop", 0, vec![idle]);
    store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap();
    let idle = store.service_list(&tenant.scope, None).await.unwrap().remove(0);
    let write = RolloutWrite { service_id: idle.id, deployment: None, newest: None, instances: vec![], current: None };
    store.rollout_apply(&tenant.scope, &write, NOW).await.unwrap();
    let of_nobody = RolloutWrite { service_id: service_id(), ..write };
    let error = store.rollout_apply(&tenant.scope, &of_nobody, NOW).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { noun: "service", .. }), "{error:?}");
}

async fn an_instance_of_what_is_gone_is_refused(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let good = instance(&deployment, &server);
    for bad in [
        Instance { revision_id: revision_id(), ..good.clone() },
        Instance { deployment_id: deployment_id(), ..good.clone() },
        Instance { server_id: server_id(), ..good.clone() },
    ] {
        // Refused together with the good one: a tick is whole.
        let write = tick(&deployment, vec![InstanceChange::Create(good.clone()), InstanceChange::Create(bad)]);
        let error = store.rollout_apply(&tenant.scope, &write, NOW).await.unwrap_err();
        assert!(matches!(error, Error::Stale { .. }), "{error:?}");
    }
    assert_eq!(store.instance_list(&tenant.scope).await.unwrap(), []);
}

async fn instances_are_listed_by_service_and_by_server(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (one, two) = (joined(&store, &tenant.scope, "one").await, joined(&store, &tenant.scope, "two").await);
    let (_, deployment) = shop(&store, &tenant).await;
    let first = Instance { ordinal: 1, ..instance(&deployment, &one) };
    let second = Instance { ordinal: 0, ..instance(&deployment, &two) };
    let create = vec![InstanceChange::Create(first.clone()), InstanceChange::Create(second.clone())];
    store.rollout_apply(&tenant.scope, &tick(&deployment, create), NOW).await.unwrap();
    let of_service = store.instance_list_of_service(&tenant.scope, &deployment.service_id).await.unwrap();
    assert_eq!(of_service, [second, first.clone()], "by ordinal");
    assert_eq!(store.instance_list_on_server(&tenant.scope, &one.id).await.unwrap(), [first]);
    assert_eq!(store.instance_list_of_service(&tenant.scope, &service_id()).await.unwrap(), []);
    let many = [service_id(), deployment.service_id.clone()];
    assert_eq!(store.instance_list_of_services(&tenant.scope, &many).await.unwrap(), of_service);
    let stranger = crate::fixtures::tenant(&store, "other").await;
    assert_eq!(store.instance_list_of_services(&stranger.scope, &many).await.unwrap(), []);
}

async fn a_service_that_has_served_is_idle_while_it_has_no_instance(database: Database) {
    let store = database.open().await;
    let (tenant, stranger) = (tenant(&store, "acme").await, tenant(&store, "other").await);
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let idle = async || -> Vec<_> {
        let idle = store.service_list_idle(&tenant.scope).await.unwrap();
        idle.into_iter().map(|service| service.id).collect()
    };
    assert_eq!(idle().await, [], "it has never served");

    let served = instance(&deployment, &server);
    let current = Some((Some(deployment.revision_id.clone()), None));
    let start = RolloutWrite { current, ..tick(&deployment, vec![InstanceChange::Create(served.clone())]) };
    store.rollout_apply(&tenant.scope, &start, NOW).await.unwrap();
    assert_eq!(idle().await, []);

    let end = tick(&deployment, vec![InstanceChange::Delete { id: served.id }]);
    store.rollout_apply(&tenant.scope, &end, NOW).await.unwrap();
    assert_eq!(idle().await, std::slice::from_ref(&deployment.service_id));
    assert_eq!(store.service_list_idle(&stranger.scope).await.unwrap(), []);

    let again = tick(&deployment, vec![InstanceChange::Create(instance(&deployment, &server))]);
    store.rollout_apply(&tenant.scope, &again, NOW).await.unwrap();
    assert_eq!(idle().await, []);
}

async fn an_instance_outlives_its_server_until_it_is_forgotten(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (_, deployment) = shop(&store, &tenant).await;
    let lost = instance(&deployment, &server);
    let create = tick(&deployment, vec![InstanceChange::Create(lost.clone())]);
    store.rollout_apply(&tenant.scope, &create, NOW).await.unwrap();
    store.server_delete(&tenant.scope, &server.id, &[]).await.unwrap();
    assert_eq!(store.instance_list(&tenant.scope).await.unwrap(), std::slice::from_ref(&lost));
    let delete = tick(&deployment, vec![InstanceChange::Delete { id: lost.id }]);
    store.rollout_apply(&tenant.scope, &delete, NOW).await.unwrap();
    assert_eq!(store.instance_list(&tenant.scope).await.unwrap(), []);
}
