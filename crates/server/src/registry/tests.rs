use super::*;
use api::secret::Secret;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap as Headers;
use axum::response::{IntoResponse, Response as Answer};
use axum::routing::get;
use std::collections::BTreeMap;

/// A registry on loopback that knows one image, `team/shop:2`, and wants a token for it.
struct Registry {
    address: String,
}

const MANIFEST: &str = "{\"schemaVersion\":2}";

#[derive(Clone, Copy)]
struct Manner {
    /// Whether its answers name the digest.
    says_digest: bool,
    /// Whether a token is given to anybody, or for `robot` and `secret` only.
    open: bool,
}

async fn manifest(State((manner, address)): State<(Manner, String)>, headers: Headers) -> Answer {
    if headers.get("authorization").is_none_or(|value| value != "Bearer good") {
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"a, b\",scope=\"x\"");
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    let digest = format!("sha256:{}", "d".repeat(64));
    match manner.says_digest {
        true => ([("docker-content-digest", digest)], MANIFEST).into_response(),
        false => MANIFEST.into_response(),
    }
}

async fn token(
    State((manner, _)): State<(Manner, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: Headers,
) -> Answer {
    let allowed = headers.get("authorization").is_some_and(|value| value == "Basic cm9ib3Q6c2VjcmV0");
    let asked = query["service"] == "a, b" && query["scope"] == "repository:team/shop:pull";
    match asked && (manner.open || allowed) {
        true => "{\"token\":\"good\"}".into_response(),
        false => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn only_shop(Path(tag): Path<String>, state: State<(Manner, String)>, headers: Headers) -> Answer {
    let answer = manifest(state, headers).await;
    if answer.status().is_success() && tag != "2" { StatusCode::NOT_FOUND.into_response() } else { answer }
}

impl Registry {
    async fn start(manner: Manner) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let routes = Router::new().route("/v2/team/shop/manifests/{tag}", get(only_shop)).route("/token", get(token));
        let router = routes.with_state((manner, address.clone()));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address }
    }

    async fn ask(&self, name: &str, credential: Option<(&str, &str)>) -> Result<ImageDigest, RegistryError> {
        let image = format!("{}/{name}", self.address).parse().unwrap();
        let credential = credential
            .map(|(user, password)| RegistryCredential { user: user.into(), password: Secret::new(password) });
        HttpRegistries::new(Vec::new()).resolve(&image, credential.as_ref()).await
    }
}

#[tokio::test]
async fn a_tag_leads_to_the_digest_that_the_registry_says_after_it_was_given_a_token() {
    let registry = Registry::start(Manner { says_digest: true, open: true }).await;
    assert_eq!(registry.ask("team/shop:2", None).await.unwrap().short(), "dddddddddddd");
}

#[tokio::test]
async fn a_registry_that_does_not_say_the_digest_has_it_worked_out_from_what_it_sends() {
    let registry = Registry::start(Manner { says_digest: false, open: true }).await;
    let expected = format!("sha256:{}", wire::sha256_hex(MANIFEST.as_bytes()));
    assert_eq!(registry.ask("team/shop:2", None).await.unwrap().as_str(), expected);
}

#[tokio::test]
async fn a_private_image_needs_the_right_user_and_password() {
    let registry = Registry::start(Manner { says_digest: true, open: false }).await;
    assert!(registry.ask("team/shop:2", Some(("robot", "secret"))).await.is_ok());
    for wrong in [None, Some(("robot", "guess"))] {
        let error = registry.ask("team/shop:2", wrong).await.unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
        assert!(!error.to_string().contains("guess"), "{error}");
    }
}

#[tokio::test]
async fn an_image_that_is_not_there_and_a_registry_that_is_not_there_are_told_apart() {
    let registry = Registry::start(Manner { says_digest: true, open: true }).await;
    let error = registry.ask("team/shop:3", None).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoSuchImage { .. }), "{error}");
    let nobody = Registry { address: "127.0.0.1:1".into() };
    let error = nobody.ask("team/shop:2", None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_password_is_not_sent_in_the_open_to_whoever_a_registry_names() {
    let question = Question {
        client: &reqwest::Client::new(),
        image: &"registry.example.com/a:1".parse().unwrap(),
        credential: None,
        registry: "registry.example.com".into(),
        insecure: false,
    };
    let challenge = Challenge { realm: "http://tokens.example.com/".into(), service: None };
    let error = question.token(&challenge).await.unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
}

#[test]
fn a_challenge_is_read_with_and_without_quotes_and_another_scheme_is_none() {
    let read = Challenge::parse("Bearer realm=\"https://a/t\", service=reg,scope=\"repository:x:pull\"").unwrap();
    assert_eq!(read, Challenge { realm: "https://a/t".into(), service: Some("reg".into()) });
    for bad in ["Basic realm=\"x\"", "Bearer", "Bearer service=\"x\"", "Bearer realm", "Bearer realm=\"x"] {
        assert_eq!(Challenge::parse(bad), None, "{bad}");
    }
}
