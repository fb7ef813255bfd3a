//! Images: which one, whether it is here, and getting it, with its progress said in the deployment's log.

use super::answers::{ImageInspect, PullProgress};
use super::api::{Api, ApiError, JsonStream, escaped};
use super::engine::{Engine, EngineKind};
use api::desired::ResolvedImage;
use api::images::{ImageDigest, RegistryCredential};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A registry that sends nothing for so long is not going to.
const SILENCE: Duration = Duration::from_secs(120);
/// How often the progress of what is on its way is said.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// What is known of an image once it is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub service_id: api::ids::ServiceId,
    /// What the engine knows it by: name and digest.
    pub reference: String,
    /// The engine's own id of it.
    pub id: String,
    /// It was not here before Mainstay pulled it: only then it is Mainstay's to remove.
    pub pulled: bool,
    pub ready_at_ms: api::UnixMillis,
    pub size_bytes: u64,
    /// TCP ports that it says it listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Its own health check.
    #[serde(default)]
    pub check: Option<Vec<String>>,
}

/// The name under which the engine has or gets it.
pub fn reference(image: &ResolvedImage) -> String {
    match &image.digest {
        Some(digest) => image.image.at(digest),
        None => image.image.full(),
    }
}

/// An image that is here, under one of its names. Podman keeps an image that was made on the machine as `localhost/…`.
pub async fn find(engine: &Engine, image: &ResolvedImage) -> Result<Option<(String, ImageInspect)>, ApiError> {
    let mut names = vec![reference(image)];
    if image.digest.is_none() {
        names.push(image.image.to_string());
        names.push(format!("localhost/{}", image.image));
    }
    for name in names {
        let call = format!("/images/{}/json", path(&name));
        let Some(mut found) = engine.api.find::<ImageInspect>(&call).await? else { continue };
        if let Some(libpod) = engine.libpod() {
            // Podman's Docker-like answer leaves the health check out.
            found.healthcheck = libpod.find::<ImageInspect>(&call).await?.and_then(|found| found.healthcheck);
        }
        return Ok(Some((name, found)));
    }
    Ok(None)
}

/// An image's name as part of a path: its slashes stay.
pub fn path(name: &str) -> String {
    name.split('/').map(escaped).collect::<Vec<_>>().join("/")
}

/// How a pull went wrong.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("{message}")]
    Registry { message: String, retryable: bool },
    #[error("the registry sent nothing for {} s", SILENCE.as_secs())]
    Silent,
}

impl PullError {
    pub fn retryable(&self) -> bool {
        match self {
            Self::Api(error) => {
                !matches!(error, ApiError::Refused { status: 400 | 404, .. }) || !is_final(&error.to_string())
            }
            Self::Registry { retryable, .. } => *retryable,
            Self::Silent => true,
        }
    }
}

/// Get it. `say` hears a line for people now and then.
pub async fn pull(
    api: &Api,
    image: &ResolvedImage,
    digest: &ImageDigest,
    mut say: impl FnMut(&str),
) -> Result<(), PullError> {
    let name = image.image.at(digest);
    let call = format!("/images/create?fromImage={}", escaped(&name));
    let headers: Vec<_> =
        image.credential.iter().map(|credential| ("x-registry-auth", authorization(credential))).collect();
    let body = api.stream(http::Method::POST, &call, &headers, None).await.map_err(refused)?;
    let mut lines = JsonStream::new(body);
    let mut progress = Progress::default();
    loop {
        let next = tokio::time::timeout(SILENCE, lines.next::<PullProgress>()).await.map_err(|_| PullError::Silent)?;
        let Some(line) = next? else { return Ok(()) };
        if let Some(message) = line.error {
            return Err(registry_error(message));
        }
        if let Some(text) = progress.hear(&line) {
            say(&text);
        }
    }
}

fn refused(error: ApiError) -> PullError {
    match error {
        ApiError::Refused { message, .. } => registry_error(message),
        other => PullError::Api(other),
    }
}

fn registry_error(message: String) -> PullError {
    let retryable = !is_final(&message);
    let hint = if message.contains("HTTP response to HTTPS client") || message.contains("server gave HTTP response") {
        "; the registry speaks no TLS: tell the container engine that it may be used so (Podman: `insecure = true` for it \
         in /etc/containers/registries.conf, Docker: `insecure-registries` in /etc/docker/daemon.json)"
    } else if message.contains("unauthorized")
        || message.contains("authentication required")
        || message.contains("denied")
    {
        "; store user and token with `mainstay credentials add` and name them as `credential`"
    } else {
        ""
    };
    PullError::Registry { message: format!("{}{hint}", message.trim()), retryable }
}

/// Asking again would be answered the same.
fn is_final(message: &str) -> bool {
    [
        "manifest unknown",
        "not found",
        "unauthorized",
        "authentication required",
        "denied",
        "no matching manifest",
        "invalid reference",
    ]
    .iter()
    .any(|words| message.contains(words))
}

fn authorization(credential: &RegistryCredential) -> String {
    let document = serde_json::json!({ "username": credential.user, "password": credential.password.expose() });
    base64::engine::general_purpose::URL_SAFE.encode(document.to_string())
}

/// Makes lines of the many steps of a pull: each layer once when it is there, and what is on its way every few seconds.
#[derive(Default)]
struct Progress {
    layers: BTreeMap<String, (u64, u64)>,
    said_at: Option<Instant>,
}

impl Progress {
    fn hear(&mut self, line: &PullProgress) -> Option<String> {
        let status = line.status.as_deref().or(line.stream.as_deref())?.trim();
        let Some(id) = line.id.as_deref().filter(|id| !id.is_empty()) else {
            return (!status.is_empty()).then(|| status.to_owned());
        };
        let detail = line.detail.clone().unwrap_or_default();
        if let (Some(current), Some(total)) = (detail.current, detail.total.filter(|total| *total > 0)) {
            self.layers.insert(id.to_owned(), (current, total));
            if self.said_at.is_some_and(|at| at.elapsed() < PROGRESS_EVERY) {
                return None;
            }
            let first = self.said_at.replace(Instant::now()).is_none();
            let (current, total) = self.layers.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            return (!first).then(|| format!("{} of {} MB", current / 1_000_000, total / 1_000_000));
        }
        let done =
            ["Pull complete", "Already exists", "Download complete"].iter().any(|words| status.starts_with(words));
        done.then(|| {
            format!(
                "layer {}: {}",
                id.trim_start_matches("sha256:").chars().take(12).collect::<String>(),
                status.to_lowercase()
            )
        })
    }
}

/// What of an image decides how it is run.
pub fn record(
    service_id: api::ids::ServiceId,
    reference: String,
    found: &ImageInspect,
    pulled: bool,
    now_ms: api::UnixMillis,
) -> ImageRecord {
    let config = found.config.clone().unwrap_or_default();
    let ports = config.exposed_ports.iter().flatten();
    let ports = ports.filter_map(|(port, _)| match port.split_once('/') {
        Some((port, "tcp")) => port.parse().ok(),
        Some(_) => None,
        None => port.parse().ok(),
    });
    ImageRecord {
        service_id,
        reference,
        id: found.id.clone(),
        pulled,
        ready_at_ms: now_ms,
        size_bytes: found.size,
        ports: ports.collect(),
        user: config.user.filter(|user| !user.is_empty()),
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        check: config
            .healthcheck
            .or_else(|| found.healthcheck.clone())
            .and_then(|check| check.test)
            .filter(|test| is_check(test)),
    }
}

fn is_check(test: &[String]) -> bool {
    matches!(test.first().map(String::as_str), Some("CMD" | "CMD-SHELL")) && test.len() > 1
}

/// The argument vector of an image's own check. `CMD-SHELL` is for the image's shell.
pub fn check_command(test: &[String]) -> Vec<String> {
    match test {
        [kind, command @ ..] if kind == "CMD-SHELL" => {
            ["/bin/sh".to_owned(), "-c".to_owned()].into_iter().chain(command.iter().cloned()).collect()
        }
        [_, command @ ..] => command.to_vec(),
        [] => Vec::new(),
    }
}

/// Whether an image that we pulled has become somebody else's as well: it was given a name.
pub fn has_other_names(found: &ImageInspect, record: &ImageRecord) -> bool {
    let repository = record.reference.split('@').next().unwrap_or_default();
    let tags = found.repo_tags.iter().flatten().filter(|tag| *tag != "<none>:<none>");
    let digests = found.repo_digests.iter().flatten();
    tags.count() > 0 || digests.into_iter().any(|name| name.split('@').next() != Some(repository))
}

/// Remove one; what a container uses stays, as the engine refuses that. Answers whether it is gone.
pub async fn remove(api: &Api, kind: EngineKind, record: &ImageRecord) -> Result<bool, ApiError> {
    let found = match api.find::<ImageInspect>(&format!("/images/{}/json", path(&record.reference))).await? {
        Some(found) => found,
        None => return Ok(true),
    };
    if found.id != record.id || has_other_names(&found, record) {
        return Ok(true);
    }
    // By its name, so that with Docker only that name is taken away if there is another after all.
    let name = if kind == EngineKind::Docker { &record.reference } else { &record.id };
    match api.order(http::Method::DELETE, &format!("/images/{}?force=false", path(name))).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) if error.is_away() => Err(error),
        Err(error) => {
            tracing::debug!(image = %record.reference, %error, "an image is still used and stays");
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> PullProgress {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn of_the_many_steps_of_a_pull_each_layer_is_said_once() {
        let mut progress = Progress::default();
        assert_eq!(
            progress.hear(&line(r#"{"status":"Pulling from library/nginx","id":""}"#)).unwrap(),
            "Pulling from library/nginx"
        );
        assert_eq!(progress.hear(&line(r#"{"status":"Pulling fs layer","id":"a1"}"#)), None);
        let downloading = r#"{"status":"Downloading","id":"a1","progressDetail":{"current":5000000,"total":9000000}}"#;
        assert_eq!(progress.hear(&line(downloading)), None);
        assert_eq!(progress.hear(&line(downloading)), None);
        progress.said_at = Some(Instant::now() - PROGRESS_EVERY);
        assert_eq!(progress.hear(&line(downloading)).unwrap(), "5 of 9 MB");
        assert_eq!(progress.hear(&line(r#"{"status":"Pull complete","id":"a1"}"#)).unwrap(), "layer a1: pull complete");
    }

    #[test]
    fn an_answer_that_would_be_the_same_again_is_not_asked_for_again() {
        assert!(!registry_error("manifest unknown: manifest unknown".into()).retryable());
        assert!(registry_error("dial tcp 10.0.0.1:443: connect: connection refused".into()).retryable());
        let told = registry_error("http: server gave HTTP response to HTTPS client".into()).to_string();
        assert!(told.contains("insecure"), "{told}");
        let told = registry_error("unauthorized: authentication required".into()).to_string();
        assert!(told.contains("mainstay credentials add"), "{told}");
    }

    #[test]
    fn what_an_image_says_of_itself_is_kept() {
        let found: ImageInspect = serde_json::from_value(serde_json::json!({
            "Id": "sha256:1", "Size": 5,
            "Config": { "ExposedPorts": { "8080/tcp": {}, "53/udp": {} }, "User": "", "StopSignal": "SIGQUIT",
                        "Healthcheck": { "Test": ["CMD-SHELL", "curl -f localhost"] } },
        }))
        .unwrap();
        let service = api::ids::ServiceId::from_uuid(uuid::Uuid::nil());
        let record = record(service, "r".into(), &found, true, 0);
        assert_eq!((record.ports.as_slice(), record.user.as_deref()), ([8080].as_slice(), None));
        assert_eq!(record.stop_signal.as_deref(), Some("SIGQUIT"));
        assert_eq!(check_command(&record.check.unwrap()), ["/bin/sh", "-c", "curl -f localhost"]);
    }

    #[test]
    fn an_image_that_somebody_named_is_not_ours_alone_any_more() {
        let found = |tags: &[&str], digests: &[&str]| {
            let inspect = serde_json::json!({ "Id": "x", "RepoTags": tags, "RepoDigests": digests });
            serde_json::from_value::<ImageInspect>(inspect).unwrap()
        };
        let service = api::ids::ServiceId::from_uuid(uuid::Uuid::nil());
        let ours = record(service, "docker.io/library/a@sha256:1".into(), &found(&[], &[]), true, 0);
        assert!(!has_other_names(&found(&[], &["docker.io/library/a@sha256:1"]), &ours));
        assert!(!has_other_names(&found(&["<none>:<none>"], &[]), &ours));
        assert!(has_other_names(&found(&["localhost/mine:1"], &[]), &ours));
        assert!(has_other_names(&found(&[], &["quay.io/b@sha256:1"]), &ours));
    }
}
