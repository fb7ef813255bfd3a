//! A manifest becomes services, revisions and deployments in one piece, against the version it was
//! worked out from.

use crate::database::Database;
use crate::fixtures::*;
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::services::ServiceIntent;
use store::{Error, InstanceChange, RolloutWrite, ServiceDeploy, ServiceRemoval, Stack, StackDeploy, Store};

on_every_database![
    a_stack_is_made_with_version_1_and_rises,
    stacks_and_servers_are_paged_and_found_by_a_part_of_their_name,
    a_stale_version_is_refused_and_changes_nothing,
    two_deploys_of_one_version_have_one_winner,
    a_deploy_that_fails_halfway_changes_nothing,
    a_service_that_did_not_change_stays_as_it_is,
    the_same_but_scaled_stays_on_the_revision_in_use_and_a_deploy_takes_the_newest,
    a_removed_service_stops_and_can_be_added_again,
    a_removal_of_a_service_of_another_stack_is_refused,
    a_removed_stack_is_forgotten_when_its_services_are,
    a_stack_stays_when_one_of_its_services_is_forgotten,
    a_stack_without_services_is_gone_as_soon_as_it_is_removed,
    a_stack_that_is_being_removed_can_be_deployed_again,
];

fn removal(of: &Deployment) -> ServiceRemoval {
    ServiceRemoval { service_id: of.service_id.clone(), deployment_id: deployment_id() }
}

async fn a_stack_is_made_with_version_1_and_rises(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (stack, deployment) = shop(&store, &tenant).await;
    assert_eq!((stack.version, stack.manifest.as_str(), stack.removing), (1, "# shop", false));
    assert_eq!(store.stack_find(&tenant.scope, &name("shop")).await.unwrap().as_ref(), Some(&stack));
    let next = stack_deploy(&tenant, "shop", 1, vec![deployed("web")]);
    let next = store.stack_deploy(&tenant.scope, &next, NOW + 1).await.unwrap();
    assert_eq!((&next.stack.id, next.stack.version, next.stack.updated_at_ms), (&stack.id, 2, NOW + 1));
    assert_eq!(next.deployments[0].service_id, deployment.service_id, "the service of that name is the same one");
    assert_eq!(next.deployments[0].revision_number, 2);
    assert_eq!(store.stack_list(&tenant.scope).await.unwrap(), [next.stack]);
}

async fn stacks_and_servers_are_paged_and_found_by_a_part_of_their_name(database: Database) {
    let store = database.open().await;
    let (tenant, other) = (tenant(&store, "acme").await, tenant(&store, "other").await);
    for (owner, called) in [(&tenant, "shop"), (&tenant, "blog"), (&tenant, "sh-op"), (&other, "shops")] {
        store.stack_deploy(&owner.scope, &stack_deploy(owner, called, 0, vec![deployed("web")]), NOW).await.unwrap();
        joined(&store, &owner.scope, &format!("on-{called}")).await;
    }
    let stacks = async |after: &str, limit| -> Vec<String> {
        let page = store.stack_page(&tenant.scope, after, limit).await.unwrap();
        page.into_iter().map(|stack| stack.name.to_string()).collect()
    };
    assert_eq!(stacks("", 2).await.len(), 2);
    let (all, first) = (stacks("", 9).await, stacks("", 2).await);
    assert_eq!([first.clone(), stacks(&first[1], 2).await].concat(), all, "without a gap");
    assert_eq!(all.len(), 3);
    let servers = async |after, limit| -> Vec<String> {
        let page = store.server_page(&tenant.scope, after, limit).await.unwrap();
        page.into_iter().map(|server| server.name.to_string()).collect()
    };
    assert_eq!(
        (servers(0, 2).await, servers(2, 2).await),
        (vec!["on-shop".into(), "on-blog".into()], vec!["on-sh-op".into()])
    );
    let found = |text: &'static str| store.stack_names_with(&tenant.scope, text, 9);
    assert_eq!(found("SHO").await.unwrap(), ["shop"]);
    assert_eq!(found("h_o").await.unwrap(), [""; 0], "no pattern of the database's");
    assert_eq!(found("").await.unwrap().len(), 3);
    assert_eq!(store.server_names_with(&tenant.scope, "on-s", 9).await.unwrap().len(), 2);
    assert_eq!(store.server_names_with(&tenant.scope, "on-s", 1).await.unwrap().len(), 1);
}

/// Everything that a deploy could have changed.
async fn trace(store: &Store, tenant: &Tenant) -> (Vec<Stack>, Vec<store::Service>, Vec<Vec<Deployment>>) {
    let services = store.service_list(&tenant.scope, None).await.unwrap();
    let mut deployments = Vec::new();
    for service in &services {
        deployments.push(store.deployment_list(&tenant.scope, &service.id, 10).await.unwrap());
    }
    (store.stack_list(&tenant.scope).await.unwrap(), services, deployments)
}

async fn a_stale_version_is_refused_and_changes_nothing(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    shop(&store, &tenant).await;
    let before = trace(&store, &tenant).await;
    for stale in [0, 2] {
        let deploy = stack_deploy(&tenant, "shop", stale, vec![deployed("web"), deployed("worker")]);
        let error = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap_err();
        assert!(matches!(&error, Error::Stale { found, .. } if found == "version 1"), "{error:?}");
    }
    assert_eq!(trace(&store, &tenant).await, before);
}

async fn two_deploys_of_one_version_have_one_winner(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    for version in 0..5 {
        let race = ["first", "second"].map(|manifest| {
            let deploy = StackDeploy {
                manifest: manifest.into(),
                ..stack_deploy(&tenant, "shop", version, vec![deployed("web")])
            };
            let (store, scope) = (store.clone(), tenant.scope.clone());
            tokio::spawn(async move { store.stack_deploy(&scope, &deploy, NOW).await })
        });
        let mut won = Vec::new();
        for task in race {
            match task.await.unwrap() {
                Ok(deployed) => won.push(deployed.stack),
                Err(error) => assert!(matches!(error, Error::Stale { .. }), "{error:?}"),
            }
        }
        assert_eq!(won.len(), 1);
        assert_eq!(store.stack_list(&tenant.scope).await.unwrap(), won);
    }
}

async fn a_deploy_that_fails_halfway_changes_nothing(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let before = trace(&store, &tenant).await;
    // The first two are good; the third starts a revision that does not exist.
    let broken = ServiceDeploy { change: Some((deployment_id(), DeploymentKind::Start, None)), ..deployed("late") };
    let deploy = StackDeploy {
        removals: vec![removal(&first)],
        ..stack_deploy(&tenant, "shop", 1, vec![deployed("worker"), deployed("web"), broken])
    };
    let error = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    // And one whose removal names nothing.
    let nothing = ServiceRemoval { service_id: service_id(), deployment_id: deployment_id() };
    let deploy = StackDeploy { removals: vec![nothing], ..stack_deploy(&tenant, "shop", 1, vec![deployed("worker")]) };
    let error = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { noun: "service", .. }), "{error:?}");
    assert_eq!(trace(&store, &tenant).await, before);
}

async fn a_service_that_did_not_change_stays_as_it_is(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let same = ServiceDeploy { replicas: 9, change: None, ..deployed("web") };
    let deploy = stack_deploy(&tenant, "shop", 1, vec![same, deployed("worker")]);
    let made = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap();
    assert_eq!(made.deployments.iter().map(|d| d.service.as_str()).collect::<Vec<_>>(), ["worker"]);
    assert_eq!(store.service_get(&tenant.scope, &first.service_id).await.unwrap().replicas, 1);
    assert_eq!(store.deployment_newest(&tenant.scope, &first.service_id).await.unwrap(), Some(first));
}

async fn the_same_but_scaled_stays_on_the_revision_in_use_and_a_deploy_takes_the_newest(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let scaled = || ServiceDeploy { change: Some((deployment_id(), DeploymentKind::Scale, None)), ..deployed("web") };
    let second = stack_deploy(&tenant, "shop", 1, vec![deployed("web")]);
    let second = store.stack_deploy(&tenant.scope, &second, NOW).await.unwrap().deployments.remove(0);

    // The second is on its way: that is the one to scale.
    let deploy = stack_deploy(&tenant, "shop", 2, vec![scaled()]);
    let third = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments.remove(0);
    assert_eq!(third.revision_id, second.revision_id);

    // It failed, and the first still serves: then that is.
    let failed = Deployment { stage: Stage::Failed, ..third.clone() };
    let write = RolloutWrite {
        deployment: Some((failed, Stage::Pending)),
        current: Some((Some(first.revision_id.clone()), None)),
        ..tick(&third, vec![])
    };
    store.rollout_apply(&tenant.scope, &write, NOW).await.unwrap();
    let deploy = stack_deploy(&tenant, "shop", 3, vec![scaled()]);
    let fourth = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments.remove(0);
    assert_eq!((fourth.revision_id, fourth.previous_revision_id), (first.revision_id.clone(), Some(first.revision_id)));

    // The manifest still says the second: a deploy tries that one again, not what serves.
    let again = ServiceDeploy { change: Some((deployment_id(), DeploymentKind::Deploy, None)), ..deployed("web") };
    let deploy = stack_deploy(&tenant, "shop", 4, vec![again]);
    let fifth = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments.remove(0);
    assert_eq!(fifth.revision_id, second.revision_id);
}

async fn a_removed_service_stops_and_can_be_added_again(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let deploy = StackDeploy { removals: vec![removal(&first)], ..stack_deploy(&tenant, "shop", 1, vec![]) };
    let stop = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments.remove(0);
    assert_eq!((stop.kind, stop.replicas, &stop.service_id), (DeploymentKind::Stop, 0, &first.service_id));
    let service = store.service_get(&tenant.scope, &first.service_id).await.unwrap();
    assert_eq!((service.removing, service.intent), (true, ServiceIntent::Stop));

    let deploy = stack_deploy(&tenant, "shop", 2, vec![deployed("web")]);
    let back = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments.remove(0);
    assert_eq!((&back.service_id, back.revision_number), (&first.service_id, 2));
    let service = store.service_get(&tenant.scope, &first.service_id).await.unwrap();
    assert_eq!((service.removing, service.intent), (false, ServiceIntent::Run));
    assert_eq!(store.deployment_get(&tenant.scope, &stop.id).await.unwrap().stage, Stage::Superseded);
}

async fn a_removal_of_a_service_of_another_stack_is_refused(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let deploy = StackDeploy { removals: vec![removal(&first)], ..stack_deploy(&tenant, "blog", 0, vec![]) };
    let error = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { noun: "service", .. }), "{error:?}");
    assert!(store.stack_find(&tenant.scope, &name("blog")).await.unwrap().is_none());
    assert_eq!(store.deployment_newest(&tenant.scope, &first.service_id).await.unwrap(), Some(first));
}

async fn a_removed_stack_is_forgotten_when_its_services_are(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (stack, first) = shop(&store, &tenant).await;
    let kept = store.service_delete(&tenant.scope, &first.service_id, &[]).await.unwrap_err();
    assert!(matches!(kept, Error::Conflict(_)), "{kept:?}");
    let last = instance(&first, &server);
    let create = tick(&first, vec![InstanceChange::Create(last.clone())]);
    store.rollout_apply(&tenant.scope, &create, NOW).await.unwrap();

    let stops = store.stack_remove(&tenant.scope, &stack_remove(&stack.id, vec![removal(&first)]), NOW).await.unwrap();
    let removing = store.stack_get(&tenant.scope, &stack.id).await.unwrap();
    assert_eq!((removing.removing, removing.version), (true, 2));
    let early = store.service_delete(&tenant.scope, &first.service_id, &[]).await.unwrap_err();
    assert!(matches!(&early, Error::Conflict(text) if text.contains("an instance")), "{early:?}");

    let delete = tick(&stops[0], vec![InstanceChange::Delete { id: last.id }]);
    store.rollout_apply(&tenant.scope, &delete, NOW).await.unwrap();
    assert!(store.service_delete(&tenant.scope, &first.service_id, &[]).await.unwrap(), "its stack goes with it");
    assert!(store.stack_list(&tenant.scope).await.unwrap().is_empty());
    let (again, _) = shop(&store, &tenant).await;
    assert_eq!(again.version, 1);
}

async fn a_stack_stays_when_one_of_its_services_is_forgotten(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (stack, first) = shop(&store, &tenant).await;
    // The last service of a stack that is not being removed, and one of two of a stack that is.
    let deploy = StackDeploy { removals: vec![removal(&first)], ..stack_deploy(&tenant, "shop", 1, vec![]) };
    store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap();
    assert!(!store.service_delete(&tenant.scope, &first.service_id, &[]).await.unwrap());
    let deploy = stack_deploy(&tenant, "shop", 2, vec![deployed("web"), deployed("worker")]);
    let two = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().deployments;
    let both = two.iter().map(removal).collect();
    store.stack_remove(&tenant.scope, &stack_remove(&stack.id, both), NOW).await.unwrap();
    assert!(!store.service_delete(&tenant.scope, &two[0].service_id, &[]).await.unwrap());
    assert!(store.stack_get(&tenant.scope, &stack.id).await.unwrap().removing);
    assert!(store.service_delete(&tenant.scope, &two[1].service_id, &[]).await.unwrap());
}

async fn a_stack_without_services_is_gone_as_soon_as_it_is_removed(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let stack = store.stack_deploy(&tenant.scope, &stack_deploy(&tenant, "shop", 0, vec![]), NOW).await.unwrap().stack;
    store.stack_remove(&tenant.scope, &stack_remove(&stack.id, vec![]), NOW).await.unwrap();
    assert!(store.stack_list(&tenant.scope).await.unwrap().is_empty());
}

async fn a_stack_that_is_being_removed_can_be_deployed_again(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (stack, first) = shop(&store, &tenant).await;
    store.stack_remove(&tenant.scope, &stack_remove(&stack.id, vec![removal(&first)]), NOW).await.unwrap();
    let blind = stack_deploy(&tenant, "shop", 1, vec![deployed("web")]);
    let error = store.stack_deploy(&tenant.scope, &blind, NOW).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "a plan from before the removal is stale: {error:?}");
    let deploy = stack_deploy(&tenant, "shop", 2, vec![deployed("web")]);
    let made = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap();
    assert!(!made.stack.removing);
}
