//! From an image's tag to its exact digest: one question to its registry, once per deployment.
//!
//! Only that is asked here. The image itself goes from the registry to the machines that run it. The
//! protocol is that of the OCI distribution specification (`HEAD /v2/NAME/manifests/TAG`) with the token
//! authentication that registries share: an answer 401 names who gives tokens, and for what.
//!
//! A registry on the control plane's own machine, and those that its administrator names
//! (`--insecure-registry`), are asked without TLS; every other must have a certificate that is trusted.

use api::images::{DEFAULT_REGISTRY, ImageDigest, ImageReference, RegistryCredential};
use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use std::time::Duration;

/// Where images of the default registry really are.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// Every kind of manifest that an engine can pull; without this, registries answer with the oldest kind.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// A manifest is some kilobytes; whatever is larger is none.
const MANIFEST_LIMIT_BYTES: usize = 4 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a registry did not say which image a tag is.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("the registry {registry} has no image {image}, or hides it from whoever may not see it")]
    NoSuchImage { registry: String, image: ImageReference },
    #[error("the registry {registry} does not let us see {image}: {reason}")]
    Denied { registry: String, image: ImageReference, reason: String },
    #[error("the registry {registry} has been asked too often; it wants to be left alone for a while")]
    TooMany { registry: String },
    #[error("the registry {registry} could not be reached: {reason}")]
    Unreachable { registry: String, reason: String },
    #[error("the registry {registry} gave an answer that it should not: {reason}")]
    Answer { registry: String, reason: String },
}

impl RegistryError {
    /// What to do next.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoSuchImage { .. } => Some(
                "see whether name and tag are right; a private image needs a `credential` with its user and token"
                    .into(),
            ),
            Self::Denied { .. } => {
                Some("store user and token with `mainstay credentials add NAME`, and name them in `credential`".into())
            }
            Self::TooMany { .. } => Some("deploy again later, or with a credential, which is allowed more".into()),
            Self::Unreachable { .. } => Some(
                "check whether it can be reached from the control plane's machine; one without TLS is named with \
                 --insecure-registry"
                    .into(),
            ),
            Self::Answer { .. } => None,
        }
    }
}

/// Who knows which image a tag is.
pub trait Registries: Send + Sync {
    fn resolve<'a>(
        &'a self,
        image: &'a ImageReference,
        credential: Option<&'a RegistryCredential>,
    ) -> BoxFuture<'a, Result<ImageDigest, RegistryError>>;
}

/// The registries themselves, over HTTP.
pub struct HttpRegistries {
    client: Option<reqwest::Client>,
    /// `HOST:PORT` of registries without TLS.
    insecure: Vec<String>,
}

impl HttpRegistries {
    pub fn new(insecure: Vec<String>) -> Self {
        let builder = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
        let client = builder.user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION"))).build();
        let client = client.inspect_err(|error| tracing::error!(%error, "no HTTP client for registries"));
        Self { client: client.ok(), insecure }
    }
}

impl Registries for HttpRegistries {
    fn resolve<'a>(
        &'a self,
        image: &'a ImageReference,
        credential: Option<&'a RegistryCredential>,
    ) -> BoxFuture<'a, Result<ImageDigest, RegistryError>> {
        Box::pin(async move {
            let registry = image.registry().to_owned();
            let Some(client) = &self.client else {
                return Err(RegistryError::Unreachable { registry, reason: "no HTTP client could be made".into() });
            };
            let insecure = is_loopback(&registry) || self.insecure.contains(&registry);
            Question { client, image, credential, registry, insecure }.digest().await
        })
    }
}

/// Whether the registry is on this machine, where nothing lies between.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// One question to one registry.
struct Question<'a> {
    client: &'a reqwest::Client,
    image: &'a ImageReference,
    credential: Option<&'a RegistryCredential>,
    registry: String,
    insecure: bool,
}

impl Question<'_> {
    async fn digest(&self) -> Result<ImageDigest, RegistryError> {
        let mut authorization = None;
        let mut answer = self.ask(Method::HEAD, None).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let header = self.authorize(answer.headers()).await?;
            answer = self.ask(Method::HEAD, Some(&header)).await?;
            authorization = Some(header);
        }
        self.check(answer.status())?;
        if let Some(digest) = answer.headers().get("docker-content-digest") {
            let text = digest.to_str().unwrap_or_default();
            return text.parse().map_err(|_| self.odd(format!("`{}` as digest", text.escape_debug())));
        }
        // Not every registry says the digest in the header; it is the hash of what it sends.
        let answer = self.ask(Method::GET, authorization.as_ref()).await?;
        self.check(answer.status())?;
        let manifest = self.read(answer, MANIFEST_LIMIT_BYTES).await?;
        let digest = format!("sha256:{}", wire::sha256_hex(&manifest));
        digest.parse().map_err(|_| self.odd("a manifest without a digest".into()))
    }

    async fn ask(&self, method: Method, authorization: Option<&Authorization>) -> Result<Response, RegistryError> {
        let scheme = if self.insecure { "http" } else { "https" };
        let host = if self.registry == DEFAULT_REGISTRY { DEFAULT_HOST } else { &self.registry };
        let repository = self.image.repository();
        let tag = self.image.tag().unwrap_or("latest");
        let url = format!("{scheme}://{host}/v2/{repository}/manifests/{tag}");
        let mut request = self.client.request(method, url).header(ACCEPT, MANIFESTS);
        request = match authorization {
            Some(Authorization::Bearer(token)) => request.bearer_auth(token),
            Some(Authorization::Basic) => self.basic(request),
            None => request,
        };
        request.send().await.map_err(|error| self.unreachable(error))
    }

    fn basic(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.credential {
            Some(credential) => request.basic_auth(&credential.user, Some(credential.password.expose())),
            None => request,
        }
    }

    /// What the registry's 401 asks for: a token from who it names, or user and password themselves.
    async fn authorize(&self, headers: &HeaderMap) -> Result<Authorization, RegistryError> {
        let challenges = headers.get_all(WWW_AUTHENTICATE);
        let challenges: Vec<&str> = challenges.iter().filter_map(|value| value.to_str().ok()).collect();
        if let Some(challenge) = challenges.iter().find_map(|text| Challenge::parse(text)) {
            return self.token(&challenge).await.map(Authorization::Bearer);
        }
        let basic = challenges.iter().any(|text| text.get(..5).is_some_and(|word| word.eq_ignore_ascii_case("basic")));
        match (basic, self.credential) {
            (true, Some(_)) => Ok(Authorization::Basic),
            _ => Err(self.denied("it wants to know who asks".into())),
        }
    }

    async fn token(&self, challenge: &Challenge) -> Result<String, RegistryError> {
        let mut realm: url::Url =
            challenge.realm.parse().map_err(|_| self.odd("it names no address that gives tokens".into()))?;
        // Whoever gives tokens is sent the password: not in the open, unless the registry itself is.
        if realm.scheme() != "https" && !(self.insecure && realm.scheme() == "http") {
            return Err(self.odd(format!("tokens come from {realm}, which is not encrypted")));
        }
        let scope = format!("repository:{}:pull", self.image.repository());
        realm.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = &challenge.service {
            realm.query_pairs_mut().append_pair("service", service);
        }
        let answer = self.basic(self.client.get(realm)).send().await.map_err(|error| self.unreachable(error))?;
        if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(self.denied("user or password are wrong".into()));
        }
        self.check(answer.status())?;
        let body = self.read(answer, 1 << 20).await?;
        let token: Token =
            serde_json::from_slice(&body).map_err(|_| self.odd("what should be a token is none".into()))?;
        token.token.or(token.access_token).ok_or_else(|| self.odd("an answer without a token".into()))
    }

    fn check(&self, status: StatusCode) -> Result<(), RegistryError> {
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => {
                Err(RegistryError::NoSuchImage { registry: self.registry.clone(), image: self.image.clone() })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(if self.credential.is_some() {
                "the credential is not enough".into()
            } else {
                "it wants to know who asks".into()
            })),
            StatusCode::TOO_MANY_REQUESTS => Err(RegistryError::TooMany { registry: self.registry.clone() }),
            status => Err(self.odd(format!("status {status}"))),
        }
    }

    async fn read(&self, mut answer: Response, limit: usize) -> Result<Vec<u8>, RegistryError> {
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + chunk.len() > limit {
                return Err(self.odd(format!("more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn denied(&self, reason: String) -> RegistryError {
        RegistryError::Denied { registry: self.registry.clone(), image: self.image.clone(), reason }
    }

    fn odd(&self, reason: String) -> RegistryError {
        RegistryError::Answer { registry: self.registry.clone(), reason }
    }

    fn unreachable(&self, error: reqwest::Error) -> RegistryError {
        // The address is in the message already; the innermost cause says what is the matter.
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            reason = inner.to_string();
            cause = inner.source();
        }
        RegistryError::Unreachable { registry: self.registry.clone(), reason }
    }
}

enum Authorization {
    Bearer(String),
    Basic,
}

#[derive(serde::Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// `Bearer realm="https://…",service="…"`
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let value = |name: &str| {
            let mut rest = rest;
            loop {
                let (key, after) = rest.split_once('=')?;
                let (value, after) = match after.strip_prefix('"') {
                    Some(quoted) => quoted.split_once('"')?,
                    None => after.split_at(after.find(',').unwrap_or(after.len())),
                };
                if key.trim_matches([',', ' ']).eq_ignore_ascii_case(name) {
                    return Some(value.to_owned());
                }
                rest = after;
            }
        };
        Some(Self { realm: value("realm")?, service: value("service") })
    }
}

#[cfg(test)]
mod tests;
