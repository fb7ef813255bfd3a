//! `/api/v1/domains`, `/api/v1/acme`

use crate::harness::World;
use api::domains::{AcmeSettings, CertificateSource, DomainState, DomainView};
use api::error::ErrorCode;
use rcgen::{CertificateParams, KeyPair};
use reqwest::Method;
use serde_json::json;

fn own(names: &[&str]) -> (String, String) {
    let pair = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    (CertificateParams::new(names).unwrap().self_signed(&pair).unwrap().pem(), pair.serialize_pem())
}

/// A line out of the middle of a key.
fn line_of(key: &str) -> &str {
    key.lines().nth(1).unwrap()
}

impl World {
    async fn give(&self, host: &str, (chain, key): &(String, String)) -> crate::harness::Answer {
        let body = json!({"chain": chain, "private_key": key});
        let request = self.request(Method::PUT, &format!("/api/v1/domains/{host}/certificate"));
        self.send(request.json(&body)).await
    }

    async fn domain(&self, host: &str) -> DomainView {
        let domains: Vec<DomainView> = self.get("/api/v1/domains").await.json();
        domains.into_iter().find(|domain| domain.host.as_str() == host).unwrap_or_else(|| panic!("{host} is not there"))
    }
}

#[tokio::test]
async fn a_certificate_of_ones_own_reaches_the_server_with_its_key_and_nobody_else() {
    let world = World::new().await;
    let agent = world.agent().await;
    let repository = world.repository("shop");
    world.deploy_and_wait(&repository.manifest("").replace("\"/\"", "\"shop.example.com\"")).await;
    assert_eq!(world.domain("shop.example.com").await.state, DomainState::NotSetUp);
    assert!(agent.desired().certificates.is_empty());

    let (one, other) = (own(&["shop.example.com"]), own(&["unused.example.com"]));
    let given = world.give("shop.example.com", &one).await;
    assert_eq!(given.json::<DomainView>().state, DomainState::Secured);
    world.give("unused.example.com", &other).await.json::<DomainView>();
    let desired = agent.desired_until(|desired| !desired.certificates.is_empty()).await;
    assert_eq!(desired.certificates.len(), 1, "one that no route here needs stays where it is");
    assert_eq!(desired.certificates[0].material.private_key.expose().trim(), one.1.trim());
    assert_eq!(world.domain("unused.example.com").await.state, DomainState::Unused);
    let url = world.service("shop", "web").await.urls[0].clone();
    assert!(url.starts_with("http"), "{url}");

    // Neither in answers, nor in events, nor in the database, where the document is kept as well.
    let mut said = given.text;
    for path in ["/api/v1/domains", "/api/v1/events", "/api/v1/servers", "/api/v1/stacks"] {
        said += &world.get(path).await.text;
    }
    assert!(!said.contains(line_of(&one.1)));
    let world = world.restart().await;
    for entry in std::fs::read_dir(world.directory.path().join("server")).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        let found = String::from_utf8_lossy(&bytes).contains(line_of(&one.1));
        assert!(!found, "{} holds a private key", entry.path().display());
    }
    let domain = world.domain("shop.example.com").await;
    assert_eq!(domain.certificate.unwrap().source, CertificateSource::User);
}

#[tokio::test]
async fn what_a_gateway_could_not_use_is_refused_and_nothing_of_the_key_is_repeated() {
    let world = World::new().await;
    let (one, other) = (own(&["a.example.com"]), own(&["b.example.com"]));
    let wrong_host = world.give("c.example.com", &one).await.error(400);
    assert_eq!(wrong_host.message, "this certificate is not for c.example.com but for a.example.com");
    let wrong_key = world.give("a.example.com", &(one.0.clone(), other.1.clone())).await;
    assert!(!wrong_key.text.contains(line_of(&other.1)));
    assert!(wrong_key.error(400).message.contains("does not belong to the first certificate"));
    world.give("not a host", &one).await.error(400);
    assert_eq!(world.delete("/api/v1/domains/a.example.com/certificate").await.error(404).code, ErrorCode::NotFound);
    world.give("*.example.com", &one).await.error(400);
    assert!(world.get("/api/v1/domains").await.json::<Vec<DomainView>>().is_empty());
}

#[tokio::test]
async fn automatic_https_is_off_until_somebody_agrees_and_settings_that_cannot_work_are_refused() {
    let world = World::new().await;
    let settings: AcmeSettings = world.get("/api/v1/acme").await.json();
    assert_eq!(settings, AcmeSettings::default());
    assert!(!settings.terms_agreed);
    let put = async |body: serde_json::Value| world.send(world.request(Method::PUT, "/api/v1/acme").json(&body)).await;
    put(json!({"terms_agreed": true, "directory_url": "http://plain"})).await.error(400);
    let agreed: AcmeSettings = put(json!({"terms_agreed": true, "contact": "ops@example.com"})).await.json();
    assert_eq!(world.get("/api/v1/acme").await.json::<AcmeSettings>(), agreed);
    assert!(world.get("/api/v1/events").await.text.contains("automatic HTTPS was set up"));
    let renew = "/api/v1/domains/shop.example.com/renew";
    assert!(world.post(renew, json!(null)).await.error(404).help.unwrap().contains("route"));
}
