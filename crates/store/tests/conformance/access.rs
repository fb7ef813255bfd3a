//! Users, sessions, API tokens and git credentials.

use crate::database::Database;
use crate::fixtures::*;
use api::desired::GitCredential;
use api::secret::Secret;
use api::tokens::{TokenPurpose, TokenState};
use store::{Error, Retention, TokenCreate};

on_every_database![
    an_organization_is_made_once,
    a_project_is_made_once,
    a_user_name_is_taken_once,
    a_session_ends_by_time_and_by_signing_out,
    an_api_token_is_good_until_it_expires_or_is_revoked,
    a_credential_replaces_one_of_its_name,
    free_text_with_a_nul_is_kept_without_it,
];

async fn an_organization_is_made_once(database: Database) {
    let store = database.open().await;
    let first = tenant(&store, "acme").await;
    let second = tenant(&store, "acme").await;
    assert_eq!(first.scope.organization, second.scope.organization);
    tenant(&store, "other").await;
    assert_eq!(store.organization_list().await.unwrap().len(), 2);
}

async fn a_project_is_made_once(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let id = api::ids::ProjectId::from_uuid(uuid::Uuid::now_v7());
    let again = store.project_ensure(&tenant.scope, &id, &name("default"), NOW).await.unwrap();
    assert_eq!(again.id, tenant.project);
    assert_eq!(store.project_list(&tenant.scope).await.unwrap().len(), 1);
}

async fn a_user_name_is_taken_once(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    store.user_create(&tenant.scope, &user_id(), "admin", "hash", NOW).await.unwrap();
    let again = store.user_create(&tenant.scope, &user_id(), "admin", "other", NOW).await.unwrap_err();
    assert!(matches!(&again, Error::Conflict(text) if text.contains("admin")), "{again:?}");
    let found = store.user_find("admin").await.unwrap().unwrap();
    assert_eq!((found.organization, found.password_hash.as_str()), (tenant.scope.organization, "hash"));
    assert!(store.user_find("nobody").await.unwrap().is_none());
}

async fn a_session_ends_by_time_and_by_signing_out(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let user = user_id();
    store.user_create(&tenant.scope, &user, "admin", "hash", NOW).await.unwrap();
    store.session_create(&tenant.scope, "s", &user, NOW, NOW + 10).await.unwrap();
    let found = store.session_find("s", NOW + 9).await.unwrap();
    assert_eq!(found, Some((tenant.scope.organization.clone(), "admin".to_owned())));
    assert!(store.session_find("s", NOW + 10).await.unwrap().is_none());
    store.session_delete(&tenant.scope, "s").await.unwrap();
    assert!(store.session_find("s", NOW).await.unwrap().is_none());
    let nobody = store.session_create(&tenant.scope, "t", &user_id(), NOW, NOW + 10).await.unwrap_err();
    assert!(matches!(nobody, Error::NotFound { noun: "user", .. }), "{nobody:?}");
}

async fn an_api_token_is_good_until_it_expires_or_is_revoked(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let api = |hash: &str, expires| TokenCreate { purpose: TokenPurpose::Api, ..token(hash, expires) };
    let endless = store.token_create(&tenant.scope, &api("endless", None), &[], NOW).await.unwrap();
    store.token_create(&tenant.scope, &api("short", Some(NOW + 10)), &[], NOW).await.unwrap();
    assert!(store.token_api_find("short", NOW + 9).await.unwrap().is_some());
    assert!(store.token_api_find("short", NOW + 10).await.unwrap().is_none());
    assert_eq!(store.token_list(&tenant.scope, NOW + 10).await.unwrap()[0].state, TokenState::Expired);
    store.token_revoke(&tenant.scope, &endless.id, &[], NOW).await.unwrap();
    assert!(store.token_api_find("endless", NOW).await.unwrap().is_none());

    // Long after their end they are not even listed.
    let retention = Retention { events_ms: 100, ..Retention::default() };
    store.retention_apply(&retention, NOW + 100).await.unwrap();
    assert_eq!(store.token_list(&tenant.scope, NOW).await.unwrap().len(), 2);
    store.retention_apply(&retention, NOW + 1000).await.unwrap();
    assert!(store.token_list(&tenant.scope, NOW).await.unwrap().is_empty());
}

async fn a_credential_replaces_one_of_its_name(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let key = GitCredential::DeployKey { private_key: Secret::new("-----BEGIN\nÜ\n") };
    let pair = GitCredential::Token { user: "git".into(), token: Secret::new("t") };
    store.credential_put(&tenant.scope, &name("github"), &key, NOW).await.unwrap();
    assert_eq!(store.credential_list(&tenant.scope).await.unwrap()[0].credential, key);
    store.credential_put(&tenant.scope, &name("github"), &pair, NOW + 1).await.unwrap();
    let views = store.credential_view_list(&tenant.scope).await.unwrap();
    assert_eq!((views.len(), views[0].kind.as_str(), views[0].created_at_ms), (1, "token", NOW + 1));
    assert_eq!(store.credential_list(&tenant.scope).await.unwrap()[0].credential, pair);
    store.credential_delete(&tenant.scope, &name("github")).await.unwrap();
    let gone = store.credential_delete(&tenant.scope, &name("github")).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { noun: "credential", .. }), "{gone:?}");
}

/// PostgreSQL refuses a NUL in text; a sign-in with one must not look like a failure of ours.
async fn free_text_with_a_nul_is_kept_without_it(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    assert!(store.user_find("ad\0min").await.unwrap().is_none());
    let strange = TokenCreate { name: "a\0b".into(), ..token("hash", None) };
    let view = store.token_create(&tenant.scope, &strange, &[], NOW).await.unwrap();
    assert_eq!(view.name, "a\u{fffd}b");
    assert_eq!(store.token_list(&tenant.scope, NOW).await.unwrap(), [view]);
    let machine = store::ServerJoin { agent_version: "0\x001".into(), ..machine("web") };
    let (_, server) = store.server_join("hash", &machine, silently, NOW).await.unwrap();
    store.report_take(&tenant.scope, &server.id, &seen("1\x002"), NOW).await.unwrap();
    assert_eq!(store.server_get(&tenant.scope, &server.id).await.unwrap().agent_version, "1\u{fffd}2");
}
