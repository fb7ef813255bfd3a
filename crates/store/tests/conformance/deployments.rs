//! One deployment in flight per service; a newer one supersedes it.

use crate::database::Database;
use crate::fixtures::*;
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::ids::ServiceId;
use api::services::ServiceIntent;
use store::{DeploymentCreate, Error};

on_every_database![
    a_deployment_says_what_it_deploys,
    a_newer_deployment_supersedes_the_one_in_flight,
    the_newest_of_many_services_are_read_together,
    an_ended_deployment_is_not_superseded,
    eight_deployments_at_once_leave_one_in_flight,
    the_database_itself_refuses_a_second_in_flight,
    a_stale_stage_is_refused,
    revisions_are_numbered_and_found_by_number,
    a_deployment_of_a_revision_of_another_service_is_refused,
    a_deployment_changes_what_is_asked_of_its_service,
    a_service_that_is_being_removed_only_stops,
];

async fn a_deployment_says_what_it_deploys(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (stack, deployment) = shop(&store, &tenant).await;
    assert_eq!((&deployment.stack_id, deployment.service.as_str()), (&stack.id, "web"));
    assert_eq!((deployment.revision_number, deployment.replicas, deployment.stage), (1, 1, Stage::Pending));
    assert_eq!(deployment.cause.deployment_id.as_ref(), Some(&deployment.id));
    assert_eq!(deployment.previous_revision_id, None);
    assert_eq!(store.deployment_get(&tenant.scope, &deployment.id).await.unwrap(), deployment);
}

async fn a_newer_deployment_supersedes_the_one_in_flight(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let second = again(&first, DeploymentKind::Restart);
    let second = store.deployment_create(&tenant.scope, &second, NOW + 5).await.unwrap();
    let first = store.deployment_get(&tenant.scope, &first.id).await.unwrap();
    assert_eq!((first.stage, first.ended_at_ms), (Stage::Superseded, Some(NOW + 5)));
    assert_eq!(first.stages.last().map(|entry| (entry.stage, entry.at_ms)), Some((Stage::Superseded, NOW + 5)));
    assert_eq!(store.deployment_newest(&tenant.scope, &first.service_id).await.unwrap(), Some(second.clone()));
    let listed = store.deployment_list(&tenant.scope, &first.service_id, 10).await.unwrap();
    assert_eq!(listed, [second, first]);
}

/// More of them than one statement may ask for.
async fn the_newest_of_many_services_are_read_together(database: Database) {
    let store = database.open().await;
    let (tenant, stranger) = (tenant(&store, "acme").await, tenant(&store, "other").await);
    let (_, first) = shop(&store, &tenant).await;
    let (_, strange) = shop(&store, &stranger).await;
    let second = again(&first, DeploymentKind::Restart);
    let second = store.deployment_create(&tenant.scope, &second, NOW + 5).await.unwrap();

    let nobodys = std::iter::repeat_with(service_id).take(70_000);
    let many: Vec<ServiceId> = nobodys.chain([first.service_id.clone(), strange.service_id.clone()]).collect();
    assert_eq!(store.deployment_list_newest(&tenant.scope, &many).await.unwrap(), [second]);
    assert_eq!(store.deployment_list_newest(&stranger.scope, &many).await.unwrap(), [strange]);
    assert_eq!(store.deployment_list_newest(&tenant.scope, []).await.unwrap(), []);
}

async fn an_ended_deployment_is_not_superseded(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let running = Deployment { stage: Stage::Running, ..first.clone() };
    store.deployment_update(&tenant.scope, &running, Stage::Pending, &[]).await.unwrap();
    store.deployment_create(&tenant.scope, &again(&first, DeploymentKind::Restart), NOW).await.unwrap();
    assert_eq!(store.deployment_get(&tenant.scope, &first.id).await.unwrap(), running);
}

async fn eight_deployments_at_once_leave_one_in_flight(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let creates: Vec<_> = (0..8)
        .map(|_| {
            let (store, scope, create) = (store.clone(), tenant.scope.clone(), again(&first, DeploymentKind::Restart));
            tokio::spawn(async move { store.deployment_create(&scope, &create, NOW).await })
        })
        .collect();
    for create in creates {
        create.await.unwrap().unwrap();
    }
    let all = store.deployment_list(&tenant.scope, &first.service_id, 100).await.unwrap();
    assert_eq!(all.len(), 9);
    assert_eq!(all[0].stage, Stage::Pending);
    assert!(all[1..].iter().all(|deployment| deployment.stage == Stage::Superseded));
}

async fn the_database_itself_refuses_a_second_in_flight(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    store.deployment_create(&tenant.scope, &again(&first, DeploymentKind::Restart), NOW).await.unwrap();
    let mut connection = database.connect().await;
    let refused = sqlx::query("UPDATE deployments SET in_flight = 1").execute(&mut connection).await.unwrap_err();
    assert!(matches!(&refused, sqlx::Error::Database(e) if e.is_unique_violation()), "{refused:?}");
}

async fn a_stale_stage_is_refused(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let next = Deployment { stage: Stage::Healthy, ..first.clone() };
    let error = store.deployment_update(&tenant.scope, &next, Stage::Starting, &[]).await.unwrap_err();
    assert!(matches!(&error, Error::Stale { found, .. } if found == "pending"), "{error:?}");
    assert_eq!(store.deployment_get(&tenant.scope, &first.id).await.unwrap(), first);
}

async fn revisions_are_numbered_and_found_by_number(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let new = revision("web");
    let create = DeploymentCreate {
        revision: Some(new.clone()),
        revision_id: new.id.clone(),
        ..again(&first, DeploymentKind::Deploy)
    };
    let second = store.deployment_create(&tenant.scope, &create, NOW).await.unwrap();
    assert_eq!((second.revision_number, &second.revision_id), (2, &new.id));
    let found = store.revision_by_number(&tenant.scope, &first.service_id, 2).await.unwrap().unwrap();
    assert_eq!(found, store.revision_get(&tenant.scope, &new.id).await.unwrap());
    assert_eq!(found.spec, spec("web"));
    assert!(store.revision_by_number(&tenant.scope, &first.service_id, u64::MAX).await.unwrap().is_none());
    let listed = store.revision_list(&tenant.scope, &first.service_id, 10).await.unwrap();
    assert_eq!(listed.iter().map(|r| r.number).collect::<Vec<_>>(), [2, 1]);
}

async fn a_deployment_of_a_revision_of_another_service_is_refused(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let other = stack_deploy(&tenant, "blog", 0, vec![deployed("web")]);
    let other = store.stack_deploy(&tenant.scope, &other, NOW).await.unwrap().deployments.remove(0);
    let create = DeploymentCreate { revision_id: other.revision_id, ..again(&first, DeploymentKind::Rollback) };
    let error = store.deployment_create(&tenant.scope, &create, NOW).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { noun: "revision", .. }), "{error:?}");
    assert_eq!(store.deployment_newest(&tenant.scope, &first.service_id).await.unwrap(), Some(first));
}

async fn a_deployment_changes_what_is_asked_of_its_service(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (_, first) = shop(&store, &tenant).await;
    let scale = DeploymentCreate { replicas: Some(3), ..again(&first, DeploymentKind::Scale) };
    assert_eq!(store.deployment_create(&tenant.scope, &scale, NOW).await.unwrap().replicas, 3);
    let stop = DeploymentCreate { intent: Some(ServiceIntent::Stop), ..again(&first, DeploymentKind::Stop) };
    assert_eq!(store.deployment_create(&tenant.scope, &stop, NOW).await.unwrap().replicas, 0);
    let service = store.service_get(&tenant.scope, &first.service_id).await.unwrap();
    assert_eq!((service.intent, service.replicas), (ServiceIntent::Stop, 3));
}

async fn a_service_that_is_being_removed_only_stops(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (stack, first) = shop(&store, &tenant).await;
    let removal = store::ServiceRemoval { service_id: first.service_id.clone(), deployment_id: deployment_id() };
    let stops = store.stack_remove(&tenant.scope, &stack_remove(&stack.id, vec![removal]), NOW).await.unwrap();
    let start = store.deployment_create(&tenant.scope, &again(&first, DeploymentKind::Start), NOW).await.unwrap_err();
    assert!(matches!(start, Error::Conflict(_)), "{start:?}");
    assert_eq!(store.deployment_newest(&tenant.scope, &first.service_id).await.unwrap().as_ref(), stops.first());
}
