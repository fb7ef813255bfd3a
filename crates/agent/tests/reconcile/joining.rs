//! The one-time token.

use crate::control_plane::FakeControlPlane;
use agent::identity::{self, Identity, RegisterError};
use api::secret::Secret;
use api::servers::ServerFacts;
use std::os::unix::fs::PermissionsExt;

async fn register(url: &str, token: &str, directory: &std::path::Path) -> Result<Identity, RegisterError> {
    let path = directory.join("agent/identity.json");
    let name = Some("web-1".parse().unwrap());
    identity::register(&path, url, Secret::new(token), name, ServerFacts::default(), 7).await
}

#[tokio::test]
async fn a_good_token_becomes_an_identity_that_is_kept_privately() {
    let control_plane = FakeControlPlane::start().await;
    let directory = tempfile::tempdir().unwrap();
    let joined = register(&format!("{}/", control_plane.url), "good", directory.path()).await.unwrap();
    let path = directory.path().join("agent/identity.json");
    assert_eq!(Identity::load(&path).unwrap(), Some(joined.clone()));
    assert_eq!(joined.control_plane_url, control_plane.url);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_used_expired_or_unknown_token_is_one_clear_sentence_and_changes_nothing_on_disk() {
    let control_plane = FakeControlPlane::start().await;
    for (token, expected) in
        [("used", "was used already"), ("expired", "has expired"), ("made up", "does not know this join token")]
    {
        let directory = tempfile::tempdir().unwrap();
        let error = register(&control_plane.url, token, directory.path()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{token}: something was written");
    }
}

#[tokio::test]
async fn an_address_where_nothing_answers_is_named_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = register(&url, "good", directory.path()).await.unwrap_err().to_string();
    assert!(error.contains(&url) && error.contains("refused"), "{error}");
    let error = register("ftp://example.com", "good", directory.path()).await.unwrap_err().to_string();
    assert!(error.contains("use http:// or https://"), "{error}");
}
