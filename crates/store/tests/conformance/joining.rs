//! A join token becomes a server, once, or nothing at all happens.

use crate::database::Database;
use crate::fixtures::*;
use api::desired::SecurityMode;
use api::ids::StackId;
use api::name::Name;
use api::tokens::{TokenPurpose, TokenState};
use store::{Error, Store};

on_every_database![
    a_token_lets_one_machine_in,
    what_the_token_was_bound_to_binds_the_server,
    an_unknown_token_changes_nothing,
    a_used_token_changes_nothing,
    an_expired_token_changes_nothing,
    a_revoked_token_is_as_one_that_never_was,
    an_api_token_lets_no_machine_in,
    eight_machines_with_one_token_make_one_server,
    machines_of_the_same_name_are_numbered,
    a_long_name_is_shortened_to_take_a_number,
    the_lowest_free_number_is_taken,
    numbers_stay_unique_when_machines_join_at_once,
    the_machine_after_the_last_number_is_refused_and_keeps_its_token,
    a_nonce_is_good_once,
    a_nonce_of_a_forgotten_server_is_refused,
    a_removed_server_takes_its_states_with_it,
];

async fn a_token_lets_one_machine_in(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let created = store.token_create(&tenant.scope, &token("hash", Some(NOW + 1)), &[], NOW).await.unwrap();
    assert_eq!(created.state, TokenState::Usable);
    let machine = machine("web");

    let (organization, server) = store.server_join("hash", &machine, silently, NOW).await.unwrap();

    assert_eq!(organization, tenant.scope.organization);
    assert_eq!((server.name.as_str(), server.index, server.online), ("web", 1, true));
    assert_eq!(store.server_get(&tenant.scope, &machine.id).await.unwrap(), server);
    assert_eq!(store.server_authenticate(&machine.id).await.unwrap().unwrap().1.secret.expose(), "secret");
    let token = store.token_list(&tenant.scope, NOW).await.unwrap().remove(0);
    assert_eq!((token.state, token.used_at_ms), (TokenState::Used, Some(NOW)));
}

async fn what_the_token_was_bound_to_binds_the_server(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let stack: StackId = stack_id();
    let purpose = TokenPurpose::Join { project: Some(name("default")), stack: Some(stack.clone()) };
    let bound = store::TokenCreate { purpose, ..token("hash", None) };
    store.token_create(&tenant.scope, &bound, &[], NOW).await.unwrap();
    let (_, server) = store.server_join("hash", &machine("web"), silently, NOW).await.unwrap();
    assert_eq!((server.binding.project, server.binding.stack), (Some(name("default")), Some(stack)));
}

/// Asks to join and asserts that it is refused so, and that nothing but that happened.
async fn refused(store: &Store, tenant: &Tenant, hash: &str, wanted: fn(&Error) -> bool) {
    let servers = store.server_list(&tenant.scope).await.unwrap();
    let tokens = store.token_list(&tenant.scope, NOW).await.unwrap();
    let error = store.server_join(hash, &machine("late"), silently, NOW).await.unwrap_err();
    assert!(wanted(&error), "{error:?}");
    assert_eq!(store.server_list(&tenant.scope).await.unwrap(), servers);
    assert_eq!(store.token_list(&tenant.scope, NOW).await.unwrap(), tokens);
}

async fn an_unknown_token_changes_nothing(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    store.token_create(&tenant.scope, &token("another", None), &[], NOW).await.unwrap();
    refused(&store, &tenant, "hash", |e| matches!(e, Error::TokenUnknown)).await;
}

async fn a_used_token_changes_nothing(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    store.token_create(&tenant.scope, &token("hash", None), &[], NOW).await.unwrap();
    store.server_join("hash", &machine("web"), silently, NOW).await.unwrap();
    refused(&store, &tenant, "hash", |e| matches!(e, Error::TokenUsed)).await;
}

async fn an_expired_token_changes_nothing(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    store.token_create(&tenant.scope, &token("hash", Some(NOW)), &[], NOW - 1000).await.unwrap();
    refused(&store, &tenant, "hash", |e| matches!(e, Error::TokenExpired)).await;
}

async fn a_revoked_token_is_as_one_that_never_was(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let created = store.token_create(&tenant.scope, &token("hash", None), &[], NOW).await.unwrap();
    store.token_revoke(&tenant.scope, &created.id, &[], NOW).await.unwrap();
    store.token_revoke(&tenant.scope, &created.id, &[], NOW + 5).await.unwrap();
    refused(&store, &tenant, "hash", |e| matches!(e, Error::TokenUnknown)).await;
    assert_eq!(store.token_list(&tenant.scope, NOW).await.unwrap()[0].state, TokenState::Revoked);
}

async fn an_api_token_lets_no_machine_in(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let api = store::TokenCreate { purpose: TokenPurpose::Api, ..token("hash", None) };
    store.token_create(&tenant.scope, &api, &[], NOW).await.unwrap();
    refused(&store, &tenant, "hash", |e| matches!(e, Error::TokenUnknown)).await;
    assert!(store.token_api_find("hash", NOW).await.unwrap().is_some());
}

async fn eight_machines_with_one_token_make_one_server(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    store.token_create(&tenant.scope, &token("hash", None), &[], NOW).await.unwrap();
    let joins: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.server_join("hash", &machine("web"), silently, NOW).await })
        })
        .collect();
    let mut joined = 0;
    for join in joins {
        match join.await.unwrap() {
            Ok(_) => joined += 1,
            Err(error) => assert!(matches!(error, Error::TokenUsed), "{error:?}"),
        }
    }
    assert_eq!(joined, 1);
    assert_eq!(store.server_list(&tenant.scope).await.unwrap().len(), 1);
}

async fn machines_of_the_same_name_are_numbered(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let mut names = Vec::new();
    for called in ["web", "web", "web", "web-2"] {
        names.push(joined(&store, &tenant.scope, called).await.name.to_string());
    }
    assert_eq!(names, ["web", "web-2", "web-3", "web-2-2"]);
}

async fn a_long_name_is_shortened_to_take_a_number(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let long = "a".repeat(Name::LENGTH_LIMIT);
    joined(&store, &tenant.scope, &long).await;
    let second = joined(&store, &tenant.scope, &long).await;
    assert_eq!(second.name.as_str(), format!("{}-2", "a".repeat(Name::LENGTH_LIMIT - 2)));
}

async fn the_lowest_free_number_is_taken(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    joined(&store, &tenant.scope, "a").await;
    let second = joined(&store, &tenant.scope, "b").await;
    joined(&store, &tenant.scope, "c").await;
    store.server_delete(&tenant.scope, &second.id, &[]).await.unwrap();
    assert_eq!(joined(&store, &tenant.scope, "d").await.index, 2);
    assert_eq!(joined(&store, &tenant.scope, "e").await.index, 4);
}

async fn numbers_stay_unique_when_machines_join_at_once(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let joins: Vec<_> = (0..16)
        .map(|_| {
            let (store, scope) = (store.clone(), tenant.scope.clone());
            tokio::spawn(async move { joined(&store, &scope, "web").await })
        })
        .collect();
    for join in joins {
        join.await.unwrap();
    }
    let servers = store.server_list(&tenant.scope).await.unwrap();
    assert_eq!(servers.iter().map(|s| s.index).collect::<Vec<_>>(), (1..=16).collect::<Vec<u16>>());
    let mut names: Vec<&str> = servers.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 16);
}

async fn the_machine_after_the_last_number_is_refused_and_keeps_its_token(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let first = joined(&store, &tenant.scope, "web").await;
    // The others are copies of the first: fourteen thousand joins would only take time.
    let mut connection = database.connect().await;
    sqlx::query(
        "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 14335)
         INSERT INTO servers (id, organization_id, name, number, public_key, secret, facts, agent_version,
                              security_mode, binding, registered_at_ms)
         SELECT 'srv_' || i, organization_id, 'web-' || i, i, public_key, secret, facts, agent_version,
                security_mode, binding, registered_at_ms FROM servers, n",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    store.token_create(&tenant.scope, &token("hash", None), &[], NOW).await.unwrap();

    let error = store.server_join("hash", &machine("web"), silently, NOW).await.unwrap_err();
    assert!(matches!(error, Error::ServersFull), "{error:?}");

    store.server_delete(&tenant.scope, &first.id, &[]).await.unwrap();
    let (_, server) = store.server_join("hash", &machine("web"), silently, NOW).await.unwrap();
    assert_eq!((server.index, server.name.as_str()), (1, "web"));
}

async fn a_nonce_is_good_once(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (one, other) = (joined(&store, &tenant.scope, "a").await.id, joined(&store, &tenant.scope, "b").await.id);
    let claims: Vec<_> = (0..8)
        .map(|_| {
            let (store, one) = (store.clone(), one.clone());
            tokio::spawn(async move { store.nonce_claim(&one, "n", NOW + 10).await.unwrap() })
        })
        .collect();
    let mut good = 0;
    for claim in claims {
        good += u32::from(claim.await.unwrap());
    }
    assert_eq!(good, 1);
    assert!(store.nonce_claim(&other, "n", NOW + 10).await.unwrap(), "another server's nonce is another nonce");
    store.retention_apply(&store::Retention::default(), NOW + 10).await.unwrap();
    assert!(!store.nonce_claim(&one, "n", NOW + 10).await.unwrap(), "it is kept as long as it was asked to be");
    store.retention_apply(&store::Retention::default(), NOW + 11).await.unwrap();
    assert!(store.nonce_claim(&one, "n", NOW + 20).await.unwrap(), "it is purged after that");
}

async fn a_nonce_of_a_forgotten_server_is_refused(database: Database) {
    let store = database.open().await;
    let error = store.nonce_claim(&server_id(), "n", NOW).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { noun: "server", .. }), "{error:?}");
}

async fn a_removed_server_takes_its_states_with_it(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "web").await;
    store.desired_state_put(&tenant.scope, &server.id, &desired(1)).await.unwrap();
    store.report_take(&tenant.scope, &server.id, &saw(&observed(&server.id, 1)), NOW).await.unwrap();
    store.nonce_claim(&server.id, "n", NOW).await.unwrap();
    store.server_security_mode_set(&tenant.scope, &server.id, SecurityMode::Open).await.unwrap();

    store.server_delete(&tenant.scope, &server.id, &[]).await.unwrap();

    assert!(store.server_authenticate(&server.id).await.unwrap().is_none());
    assert!(store.desired_state_get(&tenant.scope, &server.id).await.unwrap().is_none());
    assert!(store.observed_list(&tenant.scope).await.unwrap().is_empty());
    let again = store.server_delete(&tenant.scope, &server.id, &[]).await.unwrap_err();
    assert!(matches!(again, Error::NotFound { .. }), "{again:?}");
}
