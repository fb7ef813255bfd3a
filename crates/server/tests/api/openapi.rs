//! `/api/v1/openapi.json`, and what follows from it: every address asks who is there.

use crate::harness::World;
use reqwest::Method;
use serde_json::Value;

/// Addresses that answer without a credential, and why.
const OPEN: [&str; 3] = [
    // A probe has no token; the answer says nothing but "ok".
    "GET /healthz",
    // The password is the credential.
    "POST /api/v1/session",
    // The one-time token in the body is the credential.
    "POST /api/v1/agent/register",
];

async fn document(world: &World) -> Value {
    let answer = world.http.get(format!("{}/api/v1/openapi.json", world.base)).send().await.unwrap();
    answer.json().await.unwrap()
}

#[tokio::test]
async fn every_address_refuses_a_caller_without_credential_except_those_listed() {
    let world = World::new().await;
    let document = document(&world).await;
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let label = format!("{} {path}", method.to_uppercase());
            if OPEN.contains(&label.as_str()) {
                continue;
            }
            let filled = path.replace("{stack}", "shop").replace("{service}", "web").replace("{server}", "a");
            let filled = filled.replace("{id}", "x").replace("{name}", "x");
            let method: Method = method.to_uppercase().parse().unwrap();
            let bare = world.http.request(method.clone(), format!("{}{filled}", world.base));
            let answer = world.send(bare).await;
            assert_eq!(answer.status.as_u16(), 401, "{label} answered {} {}", answer.status, answer.text);
            assert!(answer.error(401).request_id.is_some(), "{label}");
            let wrong = world.http.request(method, format!("{}{filled}", world.base)).bearer_auth("mst_wrong");
            assert_eq!(world.send(wrong).await.status.as_u16(), 401, "{label} with a wrong token");
            asked += 1;
        }
    }
    assert!(asked > 30, "only {asked} addresses are in the document");
}

#[tokio::test]
async fn the_document_is_openapi_3_1_whose_references_all_lead_somewhere() {
    let world = World::new().await;
    let document = document(&world).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads outside"));
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut names = std::collections::BTreeSet::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(
                operation["summary"].is_string() || operation["description"].is_string(),
                "{name} is not explained"
            );
            assert!(operation["responses"].as_object().is_some_and(|r| !r.is_empty()), "{name} has no answers");
            names.insert(format!("{}.{name}", operation["tags"][0]));
        }
    }
    assert!(names.len() > 30);
}

fn collect_references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, inner) in object {
                match (key.as_str(), inner) {
                    ("$ref", Value::String(text)) => out.push(text.clone()),
                    _ => collect_references(inner, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, out)),
        _ => {}
    }
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_method_are_answered_in_the_one_shape_of_errors() {
    let world = World::new().await;
    let missing = world.get("/api/v1/nonsense").await;
    assert!(missing.error(404).message.contains("/api/v1/nonsense"));
    let wrong = world.delete("/api/v1/info").await;
    assert!(wrong.error(405).message.contains("DELETE"));
    let id = wrong.headers["x-request-id"].to_str().unwrap();
    assert_eq!(wrong.error(405).request_id.unwrap().as_str(), id);
    assert_eq!(wrong.headers["x-content-type-options"], "nosniff");
    assert!(wrong.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
}

#[tokio::test]
async fn a_body_that_is_not_json_or_too_large_is_refused_with_the_place() {
    let world = World::new().await;
    let broken = world.request(Method::POST, "/api/v1/plan").body("{\"manifest\": \n 1}");
    let error = world.send(broken).await.error(400);
    assert_eq!(error.details[0].line, Some(2), "{error:?}");
    let huge = world.request(Method::POST, "/api/v1/plan").body(vec![b' '; 3 * 1024 * 1024]);
    world.send(huge).await.error(413);
    assert_eq!(world.get("/healthz").await.text, "ok\n");
}
