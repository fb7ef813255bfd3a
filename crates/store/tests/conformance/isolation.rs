//! Another tenant's row does not exist: it is not seen, not changed and not deleted, noun by noun.

use crate::database::Database;
use crate::fixtures::*;
use api::deployments::{Deployment, DeploymentKind, Stage};
use api::desired::{GitCredential, SecurityMode, Traffic};
use api::secret::Secret;
use std::collections::BTreeMap;
use std::fmt::Debug;
use store::*;

on_every_database![
    nothing_of_another_tenant_is_seen,
    nothing_of_another_tenant_is_changed,
    nothing_of_another_tenant_is_deleted,
    nothing_of_another_tenant_is_built_upon,
    names_and_numbers_are_each_tenants_own,
];

/// A tenant that owns one of everything, and a stranger.
struct World {
    store: Store,
    owner: Tenant,
    stranger: Tenant,
    server: Server,
    stack: Stack,
    deployment: Deployment,
    instance: Instance,
    user: api::ids::UserId,
    token: api::ids::TokenId,
}

impl World {
    async fn new(database: &Database) -> World {
        let store = database.open().await;
        let (owner, stranger) = (tenant(&store, "owner").await, tenant(&store, "stranger").await);
        let scope = &owner.scope;
        let server = joined(&store, scope, "web").await;
        let (stack, deployment) = shop(&store, &owner).await;
        let instance = instance(&deployment, &server);
        let create = tick(&deployment, vec![InstanceChange::Create(instance.clone())]);
        store.rollout_apply(scope, &create, NOW).await.unwrap();
        let (user, token) = (user_id(), store.token_create(scope, &token("t", None), &[], NOW).await.unwrap().id);
        store.user_create(scope, &user, "admin", "hash", NOW).await.unwrap();
        store.session_create(scope, "session", &user, NOW, NOW + 10).await.unwrap();
        store.credential_put(scope, &name("github"), &credential("secret"), NOW).await.unwrap();
        store.certificate_put(scope, &certificate("shop.example.com"), &[]).await.unwrap();
        let host = "shop.example.com".parse().unwrap();
        store.certificate_orders_begin(scope, std::slice::from_ref(&host), NOW, &[]).await.unwrap();
        store.certificate_order_failed(scope, &host, "why", NOW, &[]).await.unwrap();
        store.challenges_set(scope, &[challenge("shop.example.com", "token")]).await.unwrap();
        store.acme_account_put(scope, "https://authority", "sealed:1:x", NOW).await.unwrap();
        store.service_env_patch(scope, &deployment.service_id, &variable("1"), &[]).await.unwrap();
        store.desired_state_put(scope, &server.id, &desired(1)).await.unwrap();
        store.report_take(scope, &server.id, &saw(&observed(&server.id, 1)), NOW).await.unwrap();
        store.event_append(scope, &[event("mine")]).await.unwrap();
        let log = batch(&build_of(&deployment), &deployment.service_id, 0, 10, &["mine"]);
        store.log_append(scope, &server.id, &[log]).await.unwrap();
        World { store, owner, stranger, server, stack, deployment, instance, user, token }
    }

    /// Everything that the owner has.
    async fn everything(&self) -> String {
        let (store, scope) = (&self.store, &self.owner.scope);
        let service = &self.deployment.service_id;
        fn all<T: Debug>(found: Result<T>) -> String {
            format!("{:#?}\n", found.unwrap())
        }
        [
            all(store.project_list(scope).await),
            all(store.server_list(scope).await),
            all(store.stack_list(scope).await),
            all(store.service_list(scope, None).await),
            all(store.service_env_list(scope, service).await),
            all(store.revision_list(scope, service, 10).await),
            all(store.deployment_list(scope, service, 10).await),
            all(store.instance_list(scope).await),
            all(store.token_list(scope, NOW).await),
            all(store.credential_list(scope).await),
            all(store.credential_view_list(scope).await),
            all(store.certificate_list(scope).await),
            all(store.certificate_order_list(scope).await),
            all(store.certificate_order_log(scope).await),
            all(store.challenge_list(scope).await),
            all(store.acme_account_get(scope, "https://authority").await),
            all(store.desired_state_get(scope, &self.server.id).await),
            all(store.observed_list(scope).await),
            all(store.session_find("session", NOW).await),
            all(store.event_list(scope, &every_event()).await),
            all(store.log_list(scope, &every_line()).await),
        ]
        .concat()
    }
}

fn credential(text: &str) -> GitCredential {
    GitCredential::DeployKey { private_key: Secret::new(text) }
}

fn variable(value: &str) -> BTreeMap<String, Option<Secret>> {
    BTreeMap::from([("A".into(), Some(Secret::new(value)))])
}

fn every_event() -> EventFilter {
    EventFilter { limit: 100, ..EventFilter::default() }
}

fn every_line() -> LogFilter {
    LogFilter { limit: 100, ..LogFilter::default() }
}

#[track_caller]
fn not_there<T: Debug>(found: Result<T>) {
    assert!(matches!(found, Err(Error::NotFound { .. })), "{found:?}");
}

#[track_caller]
fn empty<T: Debug>(found: Result<Vec<T>>) {
    assert!(found.as_ref().is_ok_and(Vec::is_empty), "{found:?}");
}

async fn nothing_of_another_tenant_is_seen(database: Database) {
    let world = World::new(&database).await;
    let (store, scope) = (&world.store, &world.stranger.scope);
    let (server, service) = (&world.server.id, &world.deployment.service_id);
    assert_eq!(store.project_list(scope).await.unwrap().len(), 1, "only its own");
    empty(store.server_list(scope).await);
    not_there(store.server_get(scope, server).await);
    empty(store.stack_list(scope).await);
    not_there(store.stack_get(scope, &world.stack.id).await);
    assert_eq!(store.stack_find(scope, &world.stack.name).await.unwrap(), None);
    empty(store.service_list(scope, None).await);
    empty(store.service_list(scope, Some(&world.stack.id)).await);
    not_there(store.service_get(scope, service).await);
    assert!(store.service_env_list(scope, service).await.unwrap().is_empty());
    empty(store.revision_list(scope, service, 10).await);
    not_there(store.revision_get(scope, &world.deployment.revision_id).await);
    assert_eq!(store.revision_by_number(scope, service, 1).await.unwrap(), None);
    empty(store.deployment_list(scope, service, 10).await);
    not_there(store.deployment_get(scope, &world.deployment.id).await);
    assert_eq!(store.deployment_newest(scope, service).await.unwrap(), None);
    empty(store.instance_list(scope).await);
    empty(store.instance_list_of_service(scope, service).await);
    empty(store.instance_list_on_server(scope, server).await);
    empty(store.server_list_of(scope, [server]).await);
    empty(store.server_heads(scope, [server]).await);
    empty(store.instance_list_on_servers(scope, [server]).await);
    empty(store.service_list_of(scope, [service]).await);
    empty(store.revision_list_of(scope, [&world.deployment.revision_id]).await);
    assert!(store.desired_state_heads_of(scope, [server]).await.unwrap().is_empty());
    empty(store.token_list(scope, NOW).await);
    empty(store.credential_list(scope).await);
    empty(store.credential_view_list(scope).await);
    assert_eq!(store.desired_state_get(scope, server).await.unwrap(), None);
    assert_eq!(store.desired_state_head(scope, server).await.unwrap(), None);
    assert_eq!(store.observed_get(scope, server).await.unwrap(), None);
    empty(store.observed_list(scope).await);
    empty(store.event_list(scope, &every_event()).await);
    assert_eq!(store.event_newest(scope).await.unwrap(), 0);
    assert_eq!(store.log_newest(scope).await.unwrap(), 0);
    assert!(!store.log_stream_exists(scope, &build_of(&world.deployment), server).await.unwrap());
    for filter in [
        every_line(),
        LogFilter { service_ids: Some(vec![service.clone()]), ..every_line() },
        LogFilter { deployment_id: Some(world.deployment.id.clone()), ..every_line() },
        LogFilter { instance_id: Some(world.instance.id.clone()), ..every_line() },
    ] {
        empty(store.log_list(scope, &filter).await);
    }
}

async fn nothing_of_another_tenant_is_changed(database: Database) {
    let world = World::new(&database).await;
    let before = world.everything().await;
    let (store, scope) = (&world.store, &world.stranger.scope);
    let (server, service) = (&world.server.id, &world.deployment.service_id);
    store.report_take(scope, server, &seen("9.9.9"), NOW + 9).await.unwrap();
    assert!(!store.server_online_set(scope, server, false, &[]).await.unwrap());
    not_there(store.server_security_mode_set(scope, server, SecurityMode::Open).await);
    not_there(store.service_env_patch(scope, service, &variable("2"), &[]).await);
    not_there(store.desired_state_put(scope, server, &desired(2)).await);
    store.report_take(scope, server, &saw(&observed(server, 2)), NOW + 9).await.unwrap();
    not_there(store.token_revoke(scope, &world.token, &[], NOW).await);
    not_there(store.session_create(scope, "theirs", &world.user, NOW, NOW + 10).await);
    store.credential_put(scope, &name("github"), &credential("other"), NOW).await.unwrap();
    not_there(store.deployment_create(scope, &again(&world.deployment, DeploymentKind::Stop), NOW).await);
    let healthy = Deployment { stage: Stage::Healthy, ..world.deployment.clone() };
    not_there(store.deployment_update(scope, &healthy, Stage::Pending, &[]).await);
    let drain = InstanceChange::SetTraffic { id: world.instance.id.clone(), traffic: Traffic::Draining };
    let write = RolloutWrite {
        current: Some((Some(world.deployment.revision_id.clone()), None)),
        deployment: Some((healthy, Stage::Pending)),
        ..tick(&world.deployment, vec![drain])
    };
    not_there(store.rollout_apply(scope, &write, NOW).await);
    not_there(store.rollout_apply(scope, &RolloutWrite { newest: None, deployment: None, ..write }, NOW).await);
    let removal = ServiceRemoval { service_id: service.clone(), deployment_id: deployment_id() };
    not_there(store.stack_remove(scope, &stack_remove(&world.stack.id, vec![]), NOW).await);
    let deploy = StackDeploy { removals: vec![removal], ..stack_deploy(&world.stranger, "theirs", 0, vec![]) };
    not_there(store.stack_deploy(scope, &deploy, NOW).await);
    store.event_append(scope, &[event("theirs")]).await.unwrap();
    let log = batch(&build_of(&world.deployment), service, 10, 20, &["theirs"]);
    store.log_append(scope, server, &[log]).await.unwrap();
    empty(store.log_list(scope, &every_line()).await);
    assert_eq!(world.everything().await, before);
}

async fn nothing_of_another_tenant_is_deleted(database: Database) {
    let world = World::new(&database).await;
    let before = world.everything().await;
    let (store, scope) = (&world.store, &world.stranger.scope);
    not_there(store.server_delete(scope, &world.server.id, &[]).await);
    not_there(store.service_delete(scope, &world.deployment.service_id, &[]).await);
    not_there(store.credential_delete(scope, &name("github")).await);
    store.session_delete(scope, "session").await.unwrap();
    let delete = InstanceChange::Delete { id: world.instance.id.clone() };
    not_there(store.rollout_apply(scope, &tick(&world.deployment, vec![delete.clone()]), NOW).await);

    // Nor through a service of one's own.
    let (_, own) = shop(store, &world.stranger).await;
    store.rollout_apply(scope, &tick(&own, vec![delete]), NOW).await.unwrap();
    assert_eq!(world.everything().await, before);
}

/// Rows that refer to another tenant's would be a way in.
async fn nothing_of_another_tenant_is_built_upon(database: Database) {
    let world = World::new(&database).await;
    let (store, scope) = (&world.store, &world.stranger.scope);
    let deploy =
        StackDeploy { project_id: world.owner.project.clone(), ..stack_deploy(&world.stranger, "shop", 0, vec![]) };
    not_there(store.stack_deploy(scope, &deploy, NOW).await);
    let (_, own) = shop(store, &world.stranger).await;
    let theirs =
        DeploymentCreate { revision_id: world.deployment.revision_id.clone(), ..again(&own, DeploymentKind::Rollback) };
    not_there(store.deployment_create(scope, &theirs, NOW).await);
    let on_their_server = tick(&own, vec![InstanceChange::Create(instance(&own, &world.server))]);
    let refused = store.rollout_apply(scope, &on_their_server, NOW).await.unwrap_err();
    assert!(matches!(refused, Error::Stale { .. }), "{refused:?}");
    let server = joined(store, scope, "own").await;
    let their_revision = Instance { revision_id: world.deployment.revision_id.clone(), ..instance(&own, &server) };
    let refused = store.rollout_apply(scope, &tick(&own, vec![InstanceChange::Create(their_revision)]), NOW).await;
    assert!(matches!(refused, Err(Error::Stale { .. })), "{refused:?}");
}

async fn names_and_numbers_are_each_tenants_own(database: Database) {
    let world = World::new(&database).await;
    let (store, scope) = (&world.store, &world.stranger.scope);
    let server = joined(store, scope, "web").await;
    assert_eq!((server.name.as_str(), server.index), ("web", 1));
    let (stack, deployment) = shop(store, &world.stranger).await;
    assert_eq!((stack.version, deployment.revision_number), (1, 1));
    assert_ne!(stack.id, world.stack.id);
    store.event_append(scope, &[event("first")]).await.unwrap();
    assert_eq!(store.event_newest(scope).await.unwrap(), 1);
    store.credential_put(scope, &name("github"), &credential("theirs"), NOW).await.unwrap();
    assert_eq!(store.credential_list(scope).await.unwrap()[0].credential, credential("theirs"));
}
