//! Certificates, and how ordering them goes.

use crate::database::Database;
use crate::fixtures::*;
use api::domains::CertificateSource;
use store::{Certificate, CertificateOrder, Error, OrderBegun};

on_every_database![
    a_certificate_takes_the_place_of_the_one_of_its_host_and_source,
    a_certificate_and_its_event_are_one_write,
    an_order_is_noted_before_it_begins_and_how_it_ended_after,
    the_challenges_of_the_moment_replace_those_before,
    an_account_is_kept_per_authority,
];

async fn a_certificate_takes_the_place_of_the_one_of_its_host_and_source(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let own = Certificate { source: CertificateSource::User, ..certificate("shop.example.com") };
    let (first, wild) = (certificate("shop.example.com"), certificate("*.example.com"));
    for row in [&own, &first, &wild] {
        store.certificate_put(&tenant.scope, row, &[]).await.unwrap();
    }
    let renewed = Certificate { digest: "2".into(), not_after_ms: NOW + 9, issuer: "R\u{1}\u{fc}".into(), ..first };
    store.certificate_put(&tenant.scope, &renewed, &[]).await.unwrap();
    assert_eq!(store.certificate_list(&tenant.scope).await.unwrap(), [wild, renewed.clone(), own.clone()]);
    store.certificate_delete(&tenant.scope, &own.host, CertificateSource::User, &[]).await.unwrap();
    let gone = store.certificate_delete(&tenant.scope, &own.host, CertificateSource::User, &[]).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { noun: "certificate", .. }), "{gone:?}");
    assert!(store.certificate_list(&tenant.scope).await.unwrap().contains(&renewed));
}

async fn a_certificate_and_its_event_are_one_write(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let told = event("stored");
    store.certificate_put(&tenant.scope, &certificate("a.example.com"), std::slice::from_ref(&told)).await.unwrap();
    let host = "b.example.com".parse().unwrap();
    let lost = event("removed");
    store.certificate_delete(&tenant.scope, &host, CertificateSource::Acme, &[lost]).await.unwrap_err();
    let filter = store::EventFilter { limit: 10, ..Default::default() };
    let events = store.event_list(&tenant.scope, &filter).await.unwrap();
    assert_eq!(events.iter().map(|record| &record.event.id).collect::<Vec<_>>(), [&told.id]);
}

async fn an_order_is_noted_before_it_begins_and_how_it_ended_after(database: Database) {
    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let scope = &tenant.scope;
    let [a, b]: [api::name::HostName; 2] = ["a.example.com", "b.example.com"].map(|host| host.parse().unwrap());
    store.certificate_order_force(scope, &a, &[event("asked for")]).await.unwrap();
    let forced = CertificateOrder { host: a.clone(), failures: 0, reason: None, next_at_ms: 0, forced: true };
    assert_eq!(store.certificate_order_list(scope).await.unwrap(), std::slice::from_ref(&forced));
    store.certificate_orders_begin(scope, &[a.clone(), b.clone()], NOW, &[]).await.unwrap();
    assert!(!store.certificate_order_list(scope).await.unwrap()[0].forced, "it is being done");
    store.certificate_order_failed(scope, &a, "no address", NOW + 5, &[event("failed")]).await.unwrap();
    store.certificate_orders_begin(scope, std::slice::from_ref(&a), NOW + 1, &[]).await.unwrap();
    store.certificate_order_failed(scope, &a, "still none", NOW + 9, &[]).await.unwrap();
    let failing = CertificateOrder { failures: 2, reason: Some("still none".into()), next_at_ms: NOW + 9, ..forced };
    let failing = CertificateOrder { forced: false, ..failing };
    assert_eq!(store.certificate_order_list(scope).await.unwrap(), [failing]);
    let begun =
        |host: &api::name::HostName, at: i64, failed| OrderBegun { host: host.clone(), began_at_ms: at, failed };
    let log = [begun(&a, NOW, true), begun(&b, NOW, false), begun(&a, NOW + 1, true)];
    assert_eq!(store.certificate_order_log(scope).await.unwrap(), log);
    store.certificate_order_done(scope, &a, &certificate("a.example.com"), &[event("issued")]).await.unwrap();
    assert!(store.certificate_order_list(scope).await.unwrap().is_empty());
    assert_eq!(store.certificate_list(scope).await.unwrap(), [certificate("a.example.com")]);
    store.certificate_orders_begin(scope, std::slice::from_ref(&b), NOW + 30 * DAY_MS, &[]).await.unwrap();
    assert_eq!(store.certificate_order_log(scope).await.unwrap(), [begun(&b, NOW + 30 * DAY_MS, false)]);
}

async fn the_challenges_of_the_moment_replace_those_before(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (one, two) = (challenge("a.example.com", "1"), challenge("b.example.com", "2"));
    store.challenges_set(&tenant.scope, &[two.clone(), one.clone()]).await.unwrap();
    assert_eq!(store.challenge_list(&tenant.scope).await.unwrap(), [one, two.clone()]);
    store.challenges_set(&tenant.scope, std::slice::from_ref(&two)).await.unwrap();
    assert_eq!(store.challenge_list(&tenant.scope).await.unwrap(), [two]);
    store.challenges_set(&tenant.scope, &[]).await.unwrap();
    assert!(store.challenge_list(&tenant.scope).await.unwrap().is_empty());
}

async fn an_account_is_kept_per_authority(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    for (url, sealed) in [("https://one", "a"), ("https://two", "b"), ("https://one", "c")] {
        store.acme_account_put(&tenant.scope, url, sealed, NOW).await.unwrap();
    }
    let get = async |url| store.acme_account_get(&tenant.scope, url).await.unwrap();
    assert_eq!(get("https://one").await.as_deref(), Some("c"));
    assert_eq!(get("https://two").await.as_deref(), Some("b"));
    assert_eq!(get("https://three").await, None);
}
