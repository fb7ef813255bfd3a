//! The variables set beside a manifest, and the end of a service.

use crate::database::Database;
use crate::fixtures::*;
use api::secret::Secret;
use std::collections::BTreeMap;
use store::{Error, LogFilter, ServiceCursor, ServiceFilter, ServiceRemoval};

on_every_database![
    variables_are_set_replaced_and_removed,
    a_variable_with_a_nul_is_refused_with_all_the_others,
    services_are_listed_by_stack,
    services_are_paged_and_searched_by_the_name_of_their_stack_and_their_own,
    a_forgotten_service_leaves_nothing_behind,
];

async fn variables_are_set_replaced_and_removed(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let service = shop(&store, &tenant).await.1.service_id;
    let patch = |pairs: &[(&str, Option<&str>)]| -> BTreeMap<String, Option<Secret>> {
        pairs.iter().map(|(name, value)| ((*name).into(), value.map(Secret::new))).collect()
    };
    let set = patch(&[("A", Some("1")), ("B", Some("2")), ("C", Some("ü 🚀\n"))]);
    store.service_env_patch(&tenant.scope, &service, &set, &[]).await.unwrap();
    let changed = patch(&[("A", Some("3")), ("B", None), ("NEVER", None)]);
    store.service_env_patch(&tenant.scope, &service, &changed, &[]).await.unwrap();
    let listed = store.service_env_list(&tenant.scope, &service).await.unwrap();
    assert_eq!(listed, BTreeMap::from([("A".into(), Secret::new("3")), ("C".into(), Secret::new("ü 🚀\n"))]));
    let nobody = store.service_env_patch(&tenant.scope, &service_id(), &set, &[]).await.unwrap_err();
    assert!(matches!(nobody, Error::NotFound { noun: "service", .. }), "{nobody:?}");
}

async fn a_variable_with_a_nul_is_refused_with_all_the_others(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let service = shop(&store, &tenant).await.1.service_id;
    let good = ("A".to_owned(), Some(Secret::new("1")));
    for bad in [("B".to_owned(), Some(Secret::new("a\0b"))), ("C\0".to_owned(), None)] {
        let patch = BTreeMap::from([good.clone(), bad]);
        let error = store.service_env_patch(&tenant.scope, &service, &patch, &[]).await.unwrap_err();
        assert!(matches!(&error, Error::Conflict(text) if text.contains("NUL") && !text.contains('\0')), "{error:?}");
    }
    assert!(store.service_env_list(&tenant.scope, &service).await.unwrap().is_empty());
}

async fn services_are_listed_by_stack(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let (shop, _) = shop(&store, &tenant).await;
    let blog = stack_deploy(&tenant, "blog", 0, vec![deployed("web"), deployed("api")]);
    let blog = store.stack_deploy(&tenant.scope, &blog, NOW).await.unwrap().stack;
    let names = async |stack| -> Vec<String> {
        store.service_list(&tenant.scope, stack).await.unwrap().iter().map(|s| s.name.to_string()).collect()
    };
    assert_eq!(names(None).await, ["api", "web", "web"]);
    assert_eq!(names(Some(&shop.id)).await, ["web"]);
    assert_eq!(names(Some(&blog.id)).await, ["api", "web"]);
}

async fn services_are_paged_and_searched_by_the_name_of_their_stack_and_their_own(database: Database) {
    let store = database.open().await;
    let (ours, theirs) = (tenant(&store, "acme").await, tenant(&store, "other").await);
    let mut blog_id = None;
    for (tenant, stack, services) in [
        (&ours, "blog", vec!["web", "api"]),
        (&ours, "shop", vec!["web", "api", "worker"]),
        (&ours, "a-shop", vec!["web"]),
        (&theirs, "blog", vec!["web"]),
    ] {
        let deploy = stack_deploy(tenant, stack, 0, services.into_iter().map(deployed).collect());
        let made = store.stack_deploy(&tenant.scope, &deploy, NOW).await.unwrap().stack;
        if stack == "blog" && tenant.scope == ours.scope {
            blog_id = Some(made.id);
        }
    }
    let all = ["a-shop/web", "blog/api", "blog/web", "shop/api", "shop/web", "shop/worker"];
    let page = async |text: &str, cursor: Option<ServiceCursor>, limit: u32| -> Vec<String> {
        let filter = ServiceFilter { text: text.into(), ..ServiceFilter::default() };
        let found = store.service_page(&ours.scope, &filter, cursor.as_ref(), limit).await.unwrap();
        found.iter().map(|(stack, service)| format!("{stack}/{}", service.name)).collect()
    };
    let after = |stack: &str, name: &str| Some(ServiceCursor::After(stack.into(), name.into()));
    let before = |stack: &str, name: &str| Some(ServiceCursor::Before(stack.into(), name.into()));
    assert_eq!(page("", None, 10).await, all);
    assert_eq!(page("", None, 2).await, all[..2]);
    assert_eq!(page("", after("blog", "api"), 2).await, all[2..4]);
    assert_eq!(page("", after("shop", "worker"), 2).await, [""; 0]);
    assert_eq!(page("", before("shop", "api"), 2).await, all[1..3], "the nearest ones, in their order");
    assert_eq!(page("", after("blog", "gone"), 1).await, all[2..3], "a place is one also where nothing lies any more");
    assert_eq!(page("SHOP/w", None, 10).await, ["a-shop/web", "shop/web", "shop/worker"]);
    assert_eq!(page("shop/w", after("a-shop", "web"), 1).await, ["shop/web"]);
    for wild in ["%", "_", "\\"] {
        assert_eq!(page(wild, None, 10).await, [""; 0], "{wild} is text");
    }
    let count = async |filter: ServiceFilter| store.service_count(&ours.scope, &filter).await.unwrap();
    assert_eq!(count(ServiceFilter::default()).await, 6);
    assert_eq!(count(ServiceFilter { text: "api".into(), ..ServiceFilter::default() }).await, 2);
    assert_eq!(count(ServiceFilter { stack_id: blog_id, ..ServiceFilter::default() }).await, 2);
    assert_eq!(store.service_ids_in_flight(&ours.scope).await.unwrap().len(), 6);
    assert_eq!(store.stack_names_with(&ours.scope, "", 2).await.unwrap(), ["a-shop", "blog"]);
    assert_eq!(store.stack_count(&ours.scope).await.unwrap(), 3);
    let latest = store.deployment_list_latest(&ours.scope, None, 4).await.unwrap();
    let older = store.deployment_list_latest(&ours.scope, latest.last().map(|d| &d.id), 4).await.unwrap();
    assert_eq!((latest.len(), older.len()), (4, 2));
    assert!(latest.iter().chain(&older).is_sorted_by(|a, b| a.id > b.id), "newest first, none twice");
    let again = store.deployment_list_of(&ours.scope, latest.iter().map(|d| &d.id)).await.unwrap();
    assert_eq!(again.len(), 4);
    assert!(store.deployment_list_of(&theirs.scope, [&latest[0].id]).await.unwrap().is_empty());
}

async fn a_forgotten_service_leaves_nothing_behind(database: Database) {
    let store = database.open().await;
    let tenant = tenant(&store, "acme").await;
    let server = joined(&store, &tenant.scope, "one").await;
    let (stack, deployment) = shop(&store, &tenant).await;
    let service = deployment.service_id.clone();
    let variables = BTreeMap::from([("A".to_owned(), Some(Secret::new("1")))]);
    store.service_env_patch(&tenant.scope, &service, &variables, &[]).await.unwrap();
    let log = batch(&build_of(&deployment), &service, 0, 10, &["one", "two"]);
    store.log_append(&tenant.scope, &server.id, std::slice::from_ref(&log)).await.unwrap();
    let removal = ServiceRemoval { service_id: service.clone(), deployment_id: deployment_id() };
    store.stack_remove(&tenant.scope, &stack_remove(&stack.id, vec![removal]), NOW).await.unwrap();

    store.service_delete(&tenant.scope, &service, &[]).await.unwrap();

    let mut connection = database.connect().await;
    for table in ["services", "service_env", "revisions", "deployments", "log_streams", "log_lines"] {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        let (left,) = sqlx::query_as::<_, (i64,)>(sqlx::AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        assert_eq!(left, 0, "{table}");
    }
    let again = store.service_delete(&tenant.scope, &service, &[]).await.unwrap_err();
    assert!(matches!(again, Error::NotFound { noun: "service", .. }), "{again:?}");
    // An agent that still has lines of it may let them go.
    let late = store.log_append(&tenant.scope, &server.id, &[log]).await.unwrap();
    assert_eq!(late[0].next_offset, 10);
    let filter = LogFilter { limit: 10, ..LogFilter::default() };
    assert!(store.log_list(&tenant.scope, &filter).await.unwrap().is_empty());
}
